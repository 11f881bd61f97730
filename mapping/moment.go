package mapping

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fukanchik/pg0"
)

// point reads one moment of [points].
func (p *parser) point(t table) {
	t.only("source", "at", "backup", "inclusive", "timeline")
	ref := PointRef{Name: t.name, Line: t.line(""), Inclusive: true, Timeline: "current"}
	ref.Source = t.text("source", required)
	p.spec.Points[ref.Name] = ref // named even when wrong, so that rules do not call it unknown
	if err := ref.readAt(t.values["at"]); err != nil {
		p.errorf(t.line("at"), "point %s: %v", ref.Name, err)
		return
	}
	p.options(&ref, t)
	p.pointSource(ref, t)
	p.spec.Points[ref.Name] = ref
}

// pointSource checks the source and that its format has such moments.
func (p *parser) pointSource(ref PointRef, t table) {
	source, ok := p.spec.Sources[ref.Source]
	if !ok && ref.Source != "" {
		var known []string
		for name := range p.spec.Sources {
			known = append(known, name)
		}
		p.errorf(t.line("source"), "source %q is not in [sources]%s", ref.Source, didYouMean(ref.Source, known))
	}
	format, ok := formats[source.Format]
	if !ok || slices.Contains(format.moments, ref.Kind) {
		return
	}
	words := make([]string, len(format.moments))
	for i, m := range format.moments {
		words[i] = string(m)
	}
	p.errorf(t.line("at"), "point %s: a source of format %s has no %s, only: %s", ref.Name, source.Format, ref.Kind, strings.Join(words, ", "))
}

// options reads what says how to get to the moment.
func (p *parser) options(ref *PointRef, t table) {
	if id := t.text("backup", optional); id != "" {
		switch {
		case ref.Kind == KindBackup:
			p.errorf(t.line("backup"), "point %s: at names a backup already; backup = is for recovery targets", ref.Name)
		case !isBackupID(id):
			p.errorf(t.line("backup"), "point %s: %q is not a backup id", ref.Name, id)
		}
		ref.Backup = strings.ToUpper(id)
	}
	if v, ok := t.values["inclusive"]; ok {
		if ref.Inclusive, ok = v.(bool); !ok {
			p.errorf(t.line("inclusive"), "inclusive must be true or false, not %s", describe(v))
		}
		if !slices.Contains([]Kind{KindTime, KindLSN, KindXID}, ref.Kind) {
			p.errorf(t.line("inclusive"), "point %s: inclusive is for times, LSNs and xids", ref.Name)
		}
	}
	switch v := t.values["timeline"].(type) {
	case nil:
	case int64:
		ref.Timeline = strconv.FormatInt(v, 10)
		p.timeline(ref, t)
	default:
		ref.Timeline = t.text("timeline", optional)
		p.timeline(ref, t)
	}
}

func (p *parser) timeline(ref *PointRef, t table) {
	n, err := strconv.ParseUint(ref.Timeline, 10, 32)
	if ref.Timeline != "current" && ref.Timeline != "latest" && (err != nil || n == 0) {
		p.errorf(t.line("timeline"), "point %s: timeline must be a number, \"current\" or \"latest\"", ref.Name)
	}
}

// readAt reads the moment itself.
func (r *PointRef) readAt(v any) error {
	switch v := v.(type) {
	case nil:
		return errors.New("at is missing")
	case time.Time:
		return r.readDatetime(v)
	case string:
		r.At = v
		return r.readWords(v)
	}
	return fmt.Errorf("at must be a string or an offset datetime, not %s", describe(v))
}

// readDatetime takes a TOML datetime. The library marks those without an
// offset by the name of their location.
func (r *PointRef) readDatetime(v time.Time) error {
	switch v.Location().String() {
	case "datetime-local", "date-local", "time-local":
		return fmt.Errorf("a moment needs its offset from UTC, as in %s", time.Date(v.Year(), v.Month(), v.Day(), v.Hour(), v.Minute(), v.Second(), v.Nanosecond(), time.UTC).Format(time.RFC3339Nano))
	}
	r.At, r.Kind, r.Time = v.Format(time.RFC3339Nano), KindTime, v.UTC()
	return nil
}

func (r *PointRef) readWords(s string) error {
	kind, value, prefixed := strings.Cut(s, ":")
	switch {
	case s == string(KindLatest) || s == string(KindImmediate) || s == string(KindNow):
		r.Kind = Kind(s)
		return nil
	case prefixed && slices.Contains([]string{"time", "lsn", "xid", "name"}, kind):
		r.Kind = Kind(kind)
		return r.readTarget(strings.TrimSpace(value))
	case isBackupID(s):
		r.Kind, r.Backup = KindBackup, strings.ToUpper(s)
		return nil
	case prefixed && s[0] >= '0' && s[0] <= '9':
		return fmt.Errorf("%q is no moment; write a time as time:... or as a TOML datetime without quotes", s)
	}
	return fmt.Errorf("%q is neither a backup id, nor latest or immediate, nor time:, lsn:, xid: or name: with a value", s)
}

func (r *PointRef) readTarget(value string) (err error) {
	switch r.Kind {
	case KindTime:
		r.Time, err = ParseTime(value)
	case KindLSN:
		r.LSN, err = pg0.ParseLSN(value)
	case KindXID:
		if r.XID, err = strconv.ParseUint(value, 10, 64); err != nil || r.XID < 3 {
			err = fmt.Errorf("xid:%s is not a transaction id", value)
		}
	case KindName:
		r.Target = value
		if value == "" || len(value) > nameDataLen {
			err = fmt.Errorf("name: needs the name of a restore point, of at most %d bytes", nameDataLen)
		}
	}
	return err
}

// isBackupID says whether s can be an id of pg_probackup: a time in base 36.
func isBackupID(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return len(s) >= 6 && len(s) <= 8
}

// timeLayouts are the ways PostgreSQL and pg_probackup print a time, blanks and
// the T of ISO 8601 apart; the time package takes fractions of seconds in all.
var timeLayouts = []string{
	"2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05Z0700", "2006-01-02 15:04:05Z07",
	"2006-01-02 15:04Z07:00", "2006-01-02 15:04Z0700", "2006-01-02 15:04Z07",
}

// ParseTime reads a time that says its offset from UTC: the zone of the machine
// that reads a backup means nothing for the backup. The result is UTC.
func ParseTime(s string) (time.Time, error) {
	text := strings.TrimSpace(s)
	date, clock := text, ""
	if between := strings.IndexAny(text, " T"); between >= 0 {
		date, clock = text[:between], text[between+1:]
	}
	for _, utc := range []string{"UTC", "utc", "GMT", "z"} {
		if rest, ok := strings.CutSuffix(clock, utc); ok {
			clock = rest + "Z"
		}
	}
	plain := date + " " + strings.ReplaceAll(clock, " ", "")
	for _, layout := range timeLayouts {
		if t, err := time.Parse(layout, plain); err == nil {
			return t.UTC(), nil
		}
	}
	for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02 "} {
		if _, err := time.Parse(layout, plain); err == nil {
			return time.Time{}, fmt.Errorf("time %q needs its offset from UTC, as in %sZ or %s+02:00", s, s, s)
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time such as 2026-05-06T14:00:02Z or 2026-05-06 14:00:02.5+02", s)
}
