// Package mapping turns a mapping file into a composed cluster directory. Parse
// reads the file, Resolve decides which files of which image stand in for which
// relation of the base and refuses what cannot be exact, Adopt says which empty
// twins the base needs first, and Compose serves the mix as a tree in which the
// donors' pages are frozen while they are read.
package mapping

import (
	"time"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/relmap"
)

// An Image is a recovered, cleanly shut down cluster directory that relations
// are taken from or grafted onto.
type Image struct {
	// Name is the point of the mapping file that the image stands for.
	Name    string
	Tree    pg0.Tree
	Cluster *relmap.Cluster
	// Defs is what a server printed while the image was made. Definitions of
	// indexes and bounds of partitions are compared by these texts.
	Defs *relmap.Definitions
	Info Origin
	// Adopted are the twins that were made in this image when it is a base.
	Adopted []Adoption
	// Partial says that relations without a file are no damage: they were not
	// taken.
	Partial bool
	// Foreign are the relations of a running server that rules show through a
	// foreign data wrapper. An image that has only these has no tree.
	Foreign []ForeignRelation
}

// An Origin says where an image comes from: it is what plan, status and
// provenance show of it. Times are UTC, zero when unknown.
type Origin struct {
	Point  string `json:"point"`
	Source string `json:"source,omitempty"`
	Backup string `json:"backup,omitempty"`
	// Target is what recovery was asked for, in the mapping file's words.
	Target string `json:"target,omitempty"`
	// Time, LSN and XID say where recovery really stopped: the last commit
	// that the image holds.
	Time time.Time `json:"recovered_to_time,omitzero"`
	LSN  pg0.LSN   `json:"recovered_to_lsn,omitempty"`
	XID  uint64    `json:"recovered_to_xid,omitempty"`
	// Key identifies the image's bytes: equal keys, equal trees.
	Key string `json:"image"`
}
