package mapping

import (
	"time"

	"github.com/fukanchik/pg0"
)

// A Spec is a mapping file that has been read and found well formed. What it
// names has not been looked for yet.
type Spec struct {
	File    string
	Sources map[string]Source
	Points  map[string]PointRef
	Base    string // the point that the mix wears; "" in a file that only names points
	Rules   []Rule
}

// A Source is a place where points come from.
type Source struct {
	Name     string
	Line     int
	Format   string // probackup
	Path     string // relative ones have been joined to the file's directory
	Instance string // "" means the only one
}

// Kind says what a PointRef's moment is.
type Kind string

// The kinds of moments. Their words are those of recovery targets.
const (
	KindBackup    Kind = "backup"    // a backup's own consistent end: Backup says which
	KindLatest    Kind = "latest"    // all the WAL there is
	KindImmediate Kind = "immediate" // as KindBackup, of the newest backup unless Backup is set
	KindNow       Kind = "now"       // a live server's present
	KindTime      Kind = "time"
	KindLSN       Kind = "lsn"
	KindXID       Kind = "xid"
	KindName      Kind = "name"
)

// A PointRef is a moment of a source.
type PointRef struct {
	Name   string
	Line   int
	Source string
	At     string // as it was written
	Kind   Kind
	// One of these is set by Kind.
	Time   time.Time // UTC
	LSN    pg0.LSN
	XID    uint64
	Target string // the restore point's name, for KindName

	Backup    string // start here; upper case; "" means the newest that can reach the target
	Inclusive bool
	Timeline  string // a number, current or latest
}

// A Rule says which relations come from which point.
type Rule struct {
	Line   int
	Name   Pattern // database.schema.relation
	From   string
	Except []Pattern
	// As is where the relations are shown instead of under their own name; nil
	// means there.
	As      *Target
	Indexes Indexes
}

// A Target is the name that a rule gives: schema.relation, or schema.* to keep
// each relation's own.
type Target struct {
	Schema string
	Name   string // "" keeps the name
}

// Indexes says what becomes of the indexes of an adopted relation.
type Indexes string

// What can become of indexes.
const (
	GraftIndexes   Indexes = "graft" // served from the donor; rebuilt where that cannot be exact
	RebuildIndexes Indexes = "rebuild"
	NoIndexes      Indexes = "none"
)
