package heap

import (
	"encoding/binary"
	"errors"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/internal/pagesum"
)

// Kind says what a page belongs to and so what must be done to it.
type Kind int

// The kinds of pages. Index is an index of any method but GiST. Plain is any
// other page with a standard header. Both have nothing that ties them to their
// cluster but LSN and checksum; transaction ids in index pages only delay the
// reuse of a page, and pd_prune_xid of a deleted GIN page must stay.
const (
	Heap Kind = iota // table, TOAST table, materialized view
	Index
	GiST
	Sequence
	VisibilityMap
	Plain
)

// Special areas of the kinds that have one to check.
const (
	gistSpecialSize = 16 // GISTPageOpaqueData: NSN, right link, flags, page id
	gistPageID      = 0xff81
	sequenceSpecial = 8
	sequenceMagic   = 0x1717
)

// A Transform turns pages of one fork of a donor's relation into pages that
// another cluster, the base, can hold. Its fields are fixed and it depends on
// nothing else, so equal pages give equal pages for ever. It is safe for
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
	Pointers int // TOAST pointers that were rewritten
	// NotAllVisible: the page claimed that all its tuples are visible, which
	// was not so; the visibility map is not to be trusted for it.
	NotAllVisible bool
}

var errNoLimit = errors.New("heap: transform without a limit for page LSNs")

// Page transforms a page in place. block is its number in the fork over all
// segments; frozen says that the donor's visibility map calls it all-frozen. On
// an error the page is as it was; damage wraps pg0.ErrCorrupt.
func (t *Transform) Page(page []byte, block uint32, frozen bool) (Result, error) {
	if t.Limit == 0 {
		return Result{}, errNoLimit
	}
	if err := Sane(page); err != nil {
		return Result{}, err
	}
	if u16(page, offUpper) == 0 {
		return Result{}, nil
	}
	done := frozen && t.nothingToDo(page)
	if done && t.Verify == t.SetChecksum {
		return Result{}, nil
	}
	if t.Verify {
		if got, want := u16(page, offChecksum), pagesum.Page(page, block); got != want {
			return Result{}, corrupt("page checksum is %#04x, its bytes give %#04x", got, want)
		}
	}
	e, result := edit{page: page}, Result{}
	if !done {
		var err error
		if result, err = t.apply(&e, block); err != nil {
			return Result{}, err
		}
	}
	if t.SetChecksum && (e.changed || !t.Verify) {
		e.put16(offChecksum, pagesum.Page(page, block))
	}
	result.Changed = e.changed
	return result, nil
}

// nothingToDo is the test for a heap page that its visibility map calls
// all-frozen. The page must agree with the map.
func (t *Transform) nothingToDo(page []byte) bool {
	return t.Kind == Heap && len(t.Toast) == 0 && LSN(page) <= t.Limit && u16(page, offFlags)&flagAllVisible != 0
}

func (t *Transform) apply(e *edit, block uint32) (result Result, err error) {
	switch t.Kind {
	case Heap:
		result, err = t.heap(e, block)
	case GiST:
		err = t.gist(e)
	case Sequence:
		err = checkSequence(e.page)
	case VisibilityMap:
		e.raiseMap()
	}
	if err == nil {
		e.clamp(offLSN, t.Limit)
	}
	return result, err
}

func (t *Transform) heap(e *edit, block uint32) (Result, error) {
	if result, done := t.plainPage(e, block); done {
		return result, nil
	}
	return t.planned(e, block)
}

// planned decides the fate of every line pointer before it writes.
func (t *Transform) planned(e *edit, block uint32) (Result, error) {
	var p plan
	if err := p.load(e.page, t.Status); err != nil {
		return Result{}, err
	}
	if err := p.decide(block); err != nil {
		return Result{}, err
	}
	if len(t.Toast) > 0 {
		if err := p.findPointers(t.Attrs, t.Toast); err != nil {
			return Result{}, err
		}
	}
	return p.write(e, block, t.Toast), nil
}

// gist lowers the page's NSN as its LSN. A child whose NSN is newer than its
// parent's LSN looks as if it had just been split: scans then return rows
// again and again and inserts never end.
func (t *Transform) gist(e *edit) error {
	special := int(u16(e.page, offSpecial))
	if special != PageSize-gistSpecialSize || u16(e.page, PageSize-2) != gistPageID {
		return corrupt("not a page of a GiST index: special area at %d", special)
	}
	e.clamp(special, t.Limit)
	return nil
}

// checkSequence: the one tuple of a sequence is written frozen.
func checkSequence(page []byte) error {
	special := int(u16(page, offSpecial))
	if special != PageSize-sequenceSpecial || u32(page, special) != sequenceMagic {
		return corrupt("not the page of a sequence: special area at %d", special)
	}
	return nil
}

// An edit writes into a page and notes whether that changed it.
type edit struct {
	page    []byte
	changed bool
}

func (e *edit) put16(off int, v uint16) {
	if u16(e.page, off) != v {
		binary.LittleEndian.PutUint16(e.page[off:], v)
		e.changed = true
	}
}

func (e *edit) put32(off int, v uint32) {
	if u32(e.page, off) != v {
		binary.LittleEndian.PutUint32(e.page[off:], v)
		e.changed = true
	}
}

// clamp makes the LSN at off no newer than limit.
func (e *edit) clamp(off int, limit pg0.LSN) {
	if getLSN(e.page[off:]) > limit {
		putLSN(e.page[off:], limit)
		e.changed = true
	}
}

// raiseMap turns all-visible into all-frozen, which the transform makes true.
// Each block has two bits, the lower one is all-visible.
func (e *edit) raiseMap() {
	for off := headerSize; off < PageSize; off += 8 {
		word := binary.LittleEndian.Uint64(e.page[off:])
		if raised := word | word&0x5555555555555555<<1; raised != word {
			binary.LittleEndian.PutUint64(e.page[off:], raised)
			e.changed = true
		}
	}
}
