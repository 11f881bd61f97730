// Package reach decides which backup a moment starts from, which WAL takes it
// there, and whether all of that exists - before anything is started.
package reach

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/mapping"
)

// Kind says what a target is measured by.
type Kind string

// Kinds of targets.
const (
	Latest    Kind = "latest"    // the end of all WAL there is
	Immediate Kind = "immediate" // the consistent end of the newest backup
	Backup    Kind = "backup"    // the consistent end of one named backup
	Time      Kind = "time"
	XID       Kind = "xid"
	LSN       Kind = "lsn"
	Name      Kind = "name" // a restore point
)

// A Target is the moment somebody asks for. Only the field of its kind counts.
type Target struct {
	Kind Kind
	Time time.Time
	XID  uint64
	LSN  pg0.LSN
	Name string
	// Inclusive: the transaction or record that the target names is in.
	Inclusive bool
	// Timeline is a number, "current" (that of the backup; also ""), or "latest".
	Timeline string
	// Backup is where to start; empty: the newest backup that reaches the target.
	Backup string
}

// ParseValue reads the value of a target of kind Time, LSN, XID or Name.
func ParseValue(kind Kind, value string) (Target, error) {
	t := Target{Kind: kind, Inclusive: true}
	var err error
	switch kind {
	case Time:
		t.Time, err = mapping.ParseTime(value)
	case LSN:
		t.LSN, err = pg0.ParseLSN(value)
	case XID:
		t.XID, err = parseXID(value)
	case Name:
		t.Name = value
		if value == "" || len(value) > 63 {
			err = fmt.Errorf("%q is not the name of a restore point: it has 1 to 63 bytes", value)
		}
	default:
		err = fmt.Errorf("a target of kind %q has no value", kind)
	}
	return t, err
}

func parseXID(s string) (uint64, error) {
	xid, err := strconv.ParseUint(s, 10, 64)
	if err != nil || uint32(xid) < 3 {
		return 0, fmt.Errorf("%q is not a transaction id: a decimal number from 3 on", s)
	}
	return xid, nil
}

// String gives the form that mapping files have, with what differs from the defaults.
func (t Target) String() string {
	var b strings.Builder
	switch t.Kind {
	case Time:
		b.WriteString("time:" + t.Time.UTC().Format("2006-01-02T15:04:05.999999999Z07:00"))
	case XID:
		b.WriteString("xid:" + strconv.FormatUint(t.XID, 10))
	case LSN:
		b.WriteString("lsn:" + t.LSN.String())
	case Name:
		b.WriteString("name:" + t.Name)
	case Backup:
		b.WriteString(t.Backup)
	default:
		b.WriteString(string(t.Kind))
	}
	if !t.Inclusive && (t.Kind == Time || t.Kind == XID || t.Kind == LSN) {
		b.WriteString(" (exclusive)")
	}
	if t.Timeline != "" && t.Timeline != "current" {
		b.WriteString(" on timeline " + t.Timeline)
	}
	return b.String()
}

// MarshalJSON leaves out what does not count for the kind.
func (t Target) MarshalJSON() ([]byte, error) {
	m := map[string]any{"kind": t.Kind}
	switch t.Kind {
	case Time:
		m["time"] = t.Time
	case XID:
		m["xid"] = t.XID
	case LSN:
		m["lsn"] = t.LSN
	case Name:
		m["name"] = t.Name
	}
	if t.Kind == Time || t.Kind == XID || t.Kind == LSN {
		m["inclusive"] = t.Inclusive
	}
	if t.Timeline != "" {
		m["timeline"] = t.Timeline
	}
	if t.Backup != "" {
		m["backup"] = t.Backup
	}
	return json.Marshal(m)
}

// UnmarshalJSON reads the form of MarshalJSON.
func (t *Target) UnmarshalJSON(text []byte) error {
	m := struct {
		Kind      Kind      `json:"kind"`
		Time      time.Time `json:"time"`
		XID       uint64    `json:"xid"`
		LSN       pg0.LSN   `json:"lsn"`
		Name      string    `json:"name"`
		Inclusive *bool     `json:"inclusive"`
		Timeline  string    `json:"timeline"`
		Backup    string    `json:"backup"`
	}{}
	if err := json.Unmarshal(text, &m); err != nil {
		return err
	}
	*t = Target{m.Kind, m.Time, m.XID, m.LSN, m.Name, m.Inclusive == nil || *m.Inclusive, m.Timeline, m.Backup}
	return nil
}
