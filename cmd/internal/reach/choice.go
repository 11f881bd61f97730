package reach

import (
	"strconv"
	"time"

	"github.com/fukanchik/pg0"
)

// A Choice is a target made definite: the backup to start from, the timeline
// to follow, and the record to stop at.
type Choice struct {
	Backup   pg0.PointInfo `json:"backup"`
	Target   Target        `json:"target"`   // as it was asked for
	Timeline uint32        `json:"timeline"` // recovery follows its history
	Stop     Stop          `json:"stop"`
	// Tablespaces are those that WAL creates on the way, in WAL order.
	Tablespaces []Tablespace `json:"tablespaces,omitempty"`
	// Notes say which newer backups were passed over, and why.
	Notes []string `json:"notes,omitempty"`

	examined bool // all WAL on the way was read
}

// A Stop is where replay ends. The zero value is the backup's own consistent
// end (recovery_target = 'immediate').
type Stop struct {
	// Record is where a record begins. Before says that it is not replayed
	// any more; otherwise it is the last one.
	Record pg0.LSN `json:"record"`
	Before bool    `json:"before,omitempty"`
	// LSN is the end of the last record that is replayed; for a backup's own
	// end, its stop LSN.
	LSN pg0.LSN `json:"lsn"`
	// Time and XID are of the last transaction that ends on the way from the
	// backup's start to here; zero when there is none.
	Time time.Time `json:"time,omitzero"`
	XID  uint32    `json:"xid,omitempty"`
	// Name is the restore point that the target named.
	Name string `json:"name,omitempty"`
}

// A Tablespace is created by WAL at a path outside of the cluster directory.
type Tablespace struct {
	LSN  pg0.LSN `json:"lsn"`
	OID  uint32  `json:"oid"`
	Path string  `json:"path"`
}

// A Setting is one line of postgresql.conf.
type Setting struct{ Name, Value string }

// Settings are the recovery settings that make PostgreSQL stop there, whatever
// WAL arrives later. Values are not quoted.
func (c *Choice) Settings() []Setting {
	timeline := "current"
	if c.Timeline != c.Backup.Timeline {
		timeline = strconv.FormatUint(uint64(c.Timeline), 10)
	}
	settings := []Setting{{"recovery_target_timeline", timeline}}
	if c.Stop.Record == 0 {
		return append(settings, Setting{"recovery_target", "immediate"})
	}
	return append(settings,
		Setting{"recovery_target_lsn", c.Stop.Record.String()},
		Setting{"recovery_target_inclusive", strconv.FormatBool(!c.Stop.Before)})
}

// Key names the moment for a cache of images: equal for equal cluster
// contents of one backup.
func (c *Choice) Key() string {
	key := "timeline " + strconv.FormatUint(uint64(c.Timeline), 10)
	switch {
	case c.Stop.Record == 0:
		return key + " immediate"
	case c.Stop.Before:
		return key + " before " + c.Stop.Record.String()
	}
	return key + " after " + c.Stop.Record.String()
}
