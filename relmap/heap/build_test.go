package heap

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"
)

// A row describes a tuple, or with state a line pointer without one.
type row struct {
	state, target int // if not a tuple: itemUnused (state -1), itemRedirect, itemDead
	xmin, xmax    uint32
	field3        uint32
	ctid          int // line pointer, on block 7
	mask, mask2   uint16
	data          []byte
	nulls         []byte
	otherBlock    bool
}

const testBlock = 7

// buildPage lays rows out as line pointers 1, 2, ...
func buildPage(rows ...row) []byte {
	page := make([]byte, PageSize)
	upper := PageSize
	for i, r := range rows {
		it := newItem(max(r.state, 0), r.target)
		if r.state == 0 {
			tuple := buildTuple(r)
			upper = (upper - len(tuple)) &^ 7
			copy(page[upper:], tuple)
			it = newItem(itemNormal, upper) | item(len(tuple))<<17
		}
		binary.LittleEndian.PutUint32(page[itemOffset(i+1):], uint32(it))
	}
	buildHeader(page, headerSize+len(rows)*itemSize, upper, PageSize)
	return page
}

func buildHeader(page []byte, lower, upper, special int) {
	putLSN(page, 0x1_0000_1234)
	binary.LittleEndian.PutUint16(page[offLower:], uint16(lower))
	binary.LittleEndian.PutUint16(page[offUpper:], uint16(upper))
	binary.LittleEndian.PutUint16(page[offSpecial:], uint16(special))
	binary.LittleEndian.PutUint16(page[offVersion:], layoutVersion)
}

func buildTuple(r row) []byte {
	hoff := (offNulls + len(r.nulls) + 7) &^ 7
	b := make([]byte, hoff, hoff+len(r.data))
	binary.LittleEndian.PutUint32(b[offXmin:], r.xmin)
	binary.LittleEndian.PutUint32(b[offXmax:], r.xmax)
	binary.LittleEndian.PutUint32(b[offField3:], r.field3)
	block := uint16(testBlock)
	if r.otherBlock {
		block++
	}
	binary.LittleEndian.PutUint16(b[offCtidBlock+2:], block)
	binary.LittleEndian.PutUint16(b[offCtidItem:], uint16(r.ctid))
	binary.LittleEndian.PutUint16(b[offInfomask2:], r.mask2)
	binary.LittleEndian.PutUint16(b[offInfomask:], r.mask)
	b[offHoff] = byte(hoff)
	copy(b[offNulls:], r.nulls)
	return append(b, r.data...)
}

// fates is a Status: listed transactions committed, multixact m was updated by
// m - 1000, none by multixact 1000.
type fates []uint32

func (f fates) Committed(xid uint32) (bool, error) {
	return xid == 1 || xid == 2 || slices.Contains(f, xid), nil
}

func (f fates) Updater(multi uint32) (uint32, error) {
	if multi < 1000 {
		return 0, errors.New("a multixact that must not be looked up")
	}
	return multi - 1000, nil
}

// items returns the line pointers of a page without lengths.
func items(t *testing.T, page []byte) []item {
	t.Helper()
	n, err := itemCount(page)
	if err != nil {
		t.Fatal(err)
	}
	var all []item
	for i := range n {
		all = append(all, itemAt(page, i+1)&0x1ffff)
	}
	return all
}
