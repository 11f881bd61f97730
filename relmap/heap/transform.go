package heap

import "github.com/fukanchik/pg0"

// Kind says what a page belongs to and so what must be done to it.
type Kind int

// The kinds of pages. Plain is any page with a standard header that nothing
// but its LSN and checksum ties to its cluster; Index is an index of a method
// other than GiST, which is treated alike.
const (
	Heap Kind = iota // table, TOAST table, materialized view
	Index
	GiST
	Sequence
	VisibilityMap
	Plain
)

// A Transform turns pages of one fork of a donor's relation into pages that
// another cluster, the base, can hold. Its fields are fixed; it is safe for
// concurrent use if Status is.
type Transform struct {
	Kind   Kind
	Status Status  // how the donor's transactions ended; for Heap
	Limit  pg0.LSN // no page may claim to be newer; not 0

	// Toast maps the OIDs of TOAST tables in the donor's tuples to the base's.
	// Empty if they are equal; then tuples are not walked. A pointer to an OID
	// that is not in the map is an error. Attrs are the donor's columns.
	Toast map[uint32]uint32
	Attrs []Attr

	SetChecksum bool // the base has checksums
	Verify      bool // the donor has checksums
}

// Result says what Page did.
type Result struct {
	Changed  bool
	Frozen   int // tuples that stay
	Pruned   int // line pointers that became redirect, dead or unused
	Orphans  int // visible tuples that no root leads to, kept
	Pointers int // TOAST pointers rewritten
	// NotAllVisible: the page claimed that all its tuples are visible, which
	// was not so; the visibility map is not to be trusted for it.
	NotAllVisible bool
}
