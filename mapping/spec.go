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
	// Take limits what is taken of a running server that is the base; nil means
	// everything.
	Take  []Pattern
	Rules []Rule
}

// A Source is a place where points come from.
type Source struct {
	Name     string
	Line     int
	Format   string // probackup or live
	Path     string // relative ones have been joined to the file's directory
	Instance string // "" means the only one

	// Of a running server:
	DSN             string // of libpq; it may hold a password and is not to be printed
	PGData          string // its data directory, if that can be read here
	Rate            int64  // bytes a second that may be read; 0 is no limit
	Connections     int    // for copying; 0 is the default
	PasswordCommand string // prints the password
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
	// Via says how rows get here: by files, or at query time from the running
	// server. Writable lets the mix write there.
	Via      Via
	Writable bool
}

// Via is the way that a relation's rows come.
type Via string

// The ways.
const (
	ViaCopy Via = ""
	ViaFDW  Via = "fdw"
)

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
