package heap

import (
	"encoding/binary"
	"fmt"
	"iter"

	"github.com/fukanchik/pg0"
)

// PageSize is the only page size there is: BLCKSZ of every packaged server.
const PageSize = 8192

const (
	headerSize     = 24
	itemSize       = 4
	layoutVersion  = PageSize | 4 // pd_pagesize_version since PostgreSQL 8.3
	maxItems       = 291          // MaxHeapTuplesPerPage
	tupleAlignment = 8            // MAXALIGN
)

// Offsets of the page header's fields.
const (
	offLSN      = 0
	offChecksum = 8
	offFlags    = 10
	offLower    = 12
	offUpper    = 14
	offSpecial  = 16
	offVersion  = 18
	offPruneXID = 20
)

// Bits of pd_flags.
const (
	flagHasFreeLines = 1
	flagAllVisible   = 4
	validFlags       = 7
)

// States of a line pointer.
const (
	itemUnused = iota
	itemNormal
	itemRedirect
	itemDead
)

// Status says how transactions of the cluster that wrote a page ended. xid 0
// never committed, xids 1 and 2 always did. Updater gives the transaction that
// updated or deleted a tuple through a multixact, 0 if its members only lock.
type Status interface {
	Committed(xid uint32) (bool, error)
	Updater(multi uint32) (xid uint32, err error)
}

// IsNew reports whether a page was allocated but never written: all zeros.
func IsNew(page []byte) bool {
	for len(page) >= 8 {
		if binary.LittleEndian.Uint64(page) != 0 {
			return false
		}
		page = page[8:]
	}
	for _, b := range page {
		if b != 0 {
			return false
		}
	}
	return true
}

// Sane makes the test of a page's header that the server makes when it reads
// the page (bufpage.c, PageIsVerifiedExtended), and checks the layout version.
// A new page is sane. The error wraps pg0.ErrCorrupt.
func Sane(page []byte) error {
	if len(page) != PageSize {
		return corrupt("page has %d bytes, not %d", len(page), PageSize)
	}
	lower, upper, special := u16(page, offLower), u16(page, offUpper), u16(page, offSpecial)
	switch {
	case upper == 0 && IsNew(page):
		return nil
	case u16(page, offVersion) != layoutVersion:
		return corrupt("page has size and layout version %#x, not %#x", u16(page, offVersion), layoutVersion)
	case u16(page, offFlags)&^validFlags != 0:
		return corrupt("page has unknown flags %#x", u16(page, offFlags))
	case lower < headerSize || lower > upper || upper > special || special > PageSize || special%tupleAlignment != 0:
		return corrupt("page header is out of order: lower %d, upper %d, special %d", lower, upper, special)
	}
	return nil
}

// LSN returns the position after the last WAL record that changed the page.
func LSN(page []byte) pg0.LSN {
	return getLSN(page[offLSN:])
}

// getLSN reads two 32-bit halves, the high one first on every machine.
func getLSN(b []byte) pg0.LSN {
	return pg0.LSN(binary.LittleEndian.Uint32(b))<<32 | pg0.LSN(binary.LittleEndian.Uint32(b[4:]))
}

func putLSN(b []byte, lsn pg0.LSN) {
	binary.LittleEndian.PutUint32(b, uint32(lsn>>32))
	binary.LittleEndian.PutUint32(b[4:], uint32(lsn))
}

// Tuples yields the tuples of a heap page in the order of their line pointers,
// visible or not. Their bytes alias the page. An error ends the sequence and
// wraps pg0.ErrCorrupt; a new page has no tuples.
func Tuples(page []byte) iter.Seq2[Tuple, error] {
	return func(yield func(Tuple, error) bool) {
		n, err := itemCount(page)
		if err != nil {
			yield(Tuple{}, err)
			return
		}
		for i := range n {
			it := itemAt(page, i+1)
			if it.state() != itemNormal {
				continue
			}
			tuple, err := tupleAt(page, i+1, it)
			if !yield(tuple, err) || err != nil {
				return
			}
		}
	}
}

// itemCount checks a heap page's header and returns its number of line pointers.
func itemCount(page []byte) (int, error) {
	if err := Sane(page); err != nil {
		return 0, err
	}
	if u16(page, offUpper) == 0 {
		return 0, nil
	}
	n := (int(u16(page, offLower)) - headerSize) / itemSize
	if n > maxItems {
		return 0, corrupt("heap page has %d line pointers, at most %d fit", n, maxItems)
	}
	return n, nil
}

// An item is a line pointer: 15 bits of offset, 2 of state, 15 of length.
type item uint32

func newItem(state, offset int) item {
	return item(offset&0x7fff | state<<15)
}

func (it item) offset() int { return int(it & 0x7fff) }
func (it item) state() int  { return int(it >> 15 & 3) }
func (it item) length() int { return int(it >> 17) }

// itemAt returns line pointer number, counted from 1.
func itemAt(page []byte, number int) item {
	return item(binary.LittleEndian.Uint32(page[itemOffset(number):]))
}

func itemOffset(number int) int { return headerSize + (number-1)*itemSize }

// tupleAt checks that a normal line pointer holds a well-formed tuple.
func tupleAt(page []byte, number int, it item) (Tuple, error) {
	off, length := it.offset(), it.length()
	if off < int(u16(page, offUpper)) || off+length > int(u16(page, offSpecial)) || off%tupleAlignment != 0 {
		return Tuple{}, corrupt("line pointer %d: a tuple of %d bytes at %d is out of place", number, length, off)
	}
	t := Tuple{Offset: uint16(number), Bytes: page[off : off+length : off+length]}
	if err := t.check(); err != nil {
		return Tuple{}, fmt.Errorf("line pointer %d: %w", number, err)
	}
	return t, nil
}

func u16(b []byte, off int) uint16 { return binary.LittleEndian.Uint16(b[off:]) }

func u32(b []byte, off int) uint32 { return binary.LittleEndian.Uint32(b[off:]) }

func corrupt(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, pg0.ErrCorrupt)...)
}
