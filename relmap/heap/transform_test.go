package heap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/internal/pagesum"
	"github.com/google/go-cmp/cmp"
)

// TestPrune is the table of what becomes of line pointers. 10 and 12 committed,
// 11 and 13 did not.
func TestPrune(t *testing.T) {
	const hot = uint16(hotUpdated)
	keep := row{xmin: 10, mask: xmaxInvalid}
	redirect := func(to int) row { return row{state: itemRedirect, target: to} }
	unused, dead := row{state: -1}, row{state: itemDead}
	member := func(xmin, xmax uint32, ctid int, mask2 uint16) row {
		return row{xmin: xmin, xmax: xmax, ctid: ctid, mask: updated, mask2: heapOnly | mask2}
	}
	const U, D, N = item(itemUnused << 15), item(itemDead << 15), item(itemNormal << 15)
	R := func(to int) item { return newItem(itemRedirect, to) }
	tests := []struct {
		name    string
		rows    []row
		want    []item
		orphans int
	}{
		{"plain", []row{keep, {xmin: 11}, {xmin: 10, xmax: 12}, unused, dead}, []item{N, D, D, U, D}, 0},
		{"HOT update", []row{{xmin: 10, xmax: 12, ctid: 2, mask2: hot}, member(12, 0, 2, 0)}, []item{R(2), N}, 0},
		{"HOT update aborted", []row{{xmin: 10, xmax: 11, ctid: 2, mask2: hot}, member(11, 0, 2, 0)}, []item{N, U}, 0},
		{"HOT update by multixact", []row{{xmin: 10, xmax: 1012, ctid: 2, mask: xmaxIsMulti, mask2: hot}, member(12, 0, 2, 0)}, []item{R(2), N}, 0},
		{"two HOT updates", []row{{xmin: 10, xmax: 12, ctid: 2, mask2: hot}, member(12, 12, 3, hot), member(12, 0, 3, 0)}, []item{R(3), U, N}, 0},
		{"two HOT updates, row deleted", []row{{xmin: 10, xmax: 12, ctid: 2, mask2: hot}, member(12, 12, 3, hot), member(12, 10, 3, 0)}, []item{D, U, U}, 0},
		{"redirect stays", []row{redirect(2), member(12, 0, 2, 0)}, []item{R(2), N}, 0},
		{"redirect moves", []row{redirect(2), member(10, 12, 3, hot), member(12, 0, 3, 0)}, []item{R(3), U, N}, 0},
		{"redirect to a dead row", []row{redirect(2), member(10, 12, 2, 0)}, []item{D, U}, 0},
		{"redirect to nothing", []row{redirect(2), unused, redirect(9), redirect(0)}, []item{D, U, D, D}, 0},
		{"redirect to a tuple with a root's bits", []row{redirect(2), keep}, []item{D, N}, 0},
		{"two redirects to one tuple", []row{redirect(3), redirect(3), member(12, 0, 3, 0)}, []item{R(3), D, N}, 0},
		{"chain to another block", []row{{xmin: 10, xmax: 12, ctid: 2, mask2: hot, otherBlock: true}, member(12, 0, 2, 0)}, []item{D, N}, 1},
		{"slot taken by another chain's tuple", []row{{xmin: 10, xmax: 12, ctid: 2, mask2: hot}, member(10, 0, 2, 0)}, []item{D, N}, 1},
		{"aborted tuple without a root", []row{member(11, 0, 1, 0)}, []item{U}, 0},
		{"chain ends at the update of another page", []row{{xmin: 10, xmax: 12, ctid: 2}, member(12, 0, 2, 0)}, []item{D, N}, 1},
		{"locked only, chain bits left over", []row{{xmin: 10, xmax: 12, ctid: 2, mask: xmaxLockOnly | xmaxExclLock, mask2: hot}, member(12, 0, 2, 0)}, []item{N, N}, 1},
		{"chain that is a ring", []row{{xmin: 10, xmax: 12, ctid: 2, mask2: hot}, member(12, 12, 2, hot)}, []item{D, U}, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			page := buildPage(test.rows...)
			tr := Transform{Status: fates{10, 12}, Limit: 1}
			result, err := tr.Page(page, testBlock, false)
			if err != nil {
				t.Fatal(err)
			}
			got := items(t, page)
			for i := range got {
				if got[i].state() == itemNormal {
					got[i] = N
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			if result.Orphans != test.orphans {
				t.Errorf("%d orphans, want %d", result.Orphans, test.orphans)
			}
		})
	}
}

// TestFreeze compares the header of a kept tuple, byte for byte.
func TestFreeze(t *testing.T) {
	page := buildPage(row{
		xmin: 10, xmax: 11, field3: 5, ctid: 9, otherBlock: true,
		mask:  hasNull | hasExternal | 2 | 0x0020 | updated | movedIn,
		mask2: 3 | keysUpdated | hotUpdated | heapOnly,
		nulls: []byte{5}, data: []byte("data"),
	})
	binary.LittleEndian.PutUint32(page[offPruneXID:], 99)
	binary.LittleEndian.PutUint16(page[offFlags:], flagAllVisible)
	tr := Transform{Status: fates{5}, Limit: 0x0_ffff_0000, SetChecksum: true}
	result, err := tr.Page(page, 0x1_0002, false)
	if err != nil {
		t.Fatal(err)
	}
	want := []byte{2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 1, 0, 3, 0x80, 7, 0x2b, 24, 5}
	if diff := cmp.Diff(want, page[PageSize-32:PageSize-8]); diff != "" {
		t.Error(diff)
	}
	if got := u16(page, offFlags); got != flagAllVisible {
		t.Errorf("flags %#x", got)
	}
	if LSN(page) != tr.Limit || u32(page, offPruneXID) != 0 || u16(page, offChecksum) != pagesum.Page(page, 0x1_0002) {
		t.Errorf("LSN %v, prune xid %d, checksum %#x", LSN(page), u32(page, offPruneXID), u16(page, offChecksum))
	}
	if diff := cmp.Diff(Result{Changed: true, Frozen: 1, Orphans: 1}, result); diff != "" {
		t.Error(diff)
	}
}

func TestAllVisibleWasWrong(t *testing.T) {
	page := buildPage(row{xmin: 10}, row{xmin: 11})
	binary.LittleEndian.PutUint16(page[offFlags:], flagAllVisible)
	tr := Transform{Status: fates{10}, Limit: 1}
	result, err := tr.Page(page, testBlock, false)
	if err != nil || !result.NotAllVisible || u16(page, offFlags) != 0 {
		t.Errorf("result %+v, flags %#x, error %v", result, u16(page, offFlags), err)
	}
}

func TestTwoVersionsValid(t *testing.T) {
	page := buildPage(row{xmin: 10, xmax: 11, ctid: 2, mask2: hotUpdated}, row{xmin: 11, ctid: 2, mask: xminCommitted, mask2: heapOnly})
	tr := Transform{Status: fates{10}, Limit: 1}
	if _, err := tr.Page(page, testBlock, false); !errors.Is(err, pg0.ErrCorrupt) {
		t.Errorf("error %v is not ErrCorrupt", err)
	}
}

func external(toast uint32) []byte {
	b := []byte{1, externalTag, 0, 0, 1, 0, 0, 0, 1, 0, 77, 0, 0, 0}
	return binary.LittleEndian.AppendUint32(b, toast)
}

func TestToast(t *testing.T) {
	attrs := []Attr{{Len: 4, Align: 'i'}, {Len: -1, Align: 'i'}, {Len: 8, Align: 'd', Dropped: true}, {Len: -1, Align: 'i'}, {Len: -2, Align: 'c'}, {Len: -1, Align: 'd'}}
	data := append([]byte{1, 0, 0, 0}, external(500)...)
	data = append(data, 7, 'a', 'b') // short varlena, then a C string
	data = append(data, "text\x00"...)
	data = append(data, external(500)...)
	rows := []row{
		{xmin: 10, mask: hasExternal | hasNull, mask2: 6, nulls: []byte{0b111011}, data: data},
		{xmin: 11, mask: hasExternal, mask2: 2, data: append([]byte{1, 0, 0, 0}, external(666)...)}, // pruned, so not looked at
	}
	tr := Transform{Status: fates{10}, Limit: 1, Toast: map[uint32]uint32{500: 900}, Attrs: attrs}
	page := buildPage(rows...)
	result, err := tr.Page(page, testBlock, false)
	if err != nil || result.Pointers != 2 {
		t.Fatalf("result %+v, error %v", result, err)
	}
	for tuple := range Tuples(page) {
		want := bytes.ReplaceAll(data, []byte{0xf4, 1, 0, 0}, []byte{0x84, 3, 0, 0})
		if diff := cmp.Diff(want, tuple.Bytes[tuple.hoff():]); diff != "" {
			t.Error(diff)
		}
	}
	for name, change := range map[string]func(){
		"unknown TOAST table": func() { tr.Toast = map[uint32]uint32{501: 900} },
		"too few columns":     func() { tr.Attrs = attrs[:5] },
	} {
		change()
		if _, err := tr.Page(buildPage(rows...), testBlock, false); !errors.Is(err, pg0.ErrCorrupt) {
			t.Errorf("%s: error %v is not ErrCorrupt", name, err)
		}
	}
}

func TestOtherKinds(t *testing.T) {
	gist := make([]byte, PageSize)
	buildHeader(gist, headerSize, PageSize-gistSpecialSize, PageSize-gistSpecialSize)
	putLSN(gist[PageSize-gistSpecialSize:], 0x1_0000_0000)
	binary.LittleEndian.PutUint16(gist[PageSize-2:], gistPageID)
	sequence := make([]byte, PageSize)
	buildHeader(sequence, headerSize, PageSize-sequenceSpecial, PageSize-sequenceSpecial)
	binary.LittleEndian.PutUint32(sequence[PageSize-sequenceSpecial:], sequenceMagic)
	vm := make([]byte, PageSize)
	buildHeader(vm, headerSize, PageSize, PageSize)
	vm[headerSize], vm[PageSize-1] = 0b01_11_00_01, 0b01_00_00_00
	index := make([]byte, PageSize)
	buildHeader(index, 4000, 4000, PageSize-16)
	binary.LittleEndian.PutUint32(index[offPruneXID:], 99)

	const limit = pg0.LSN(0x1000)
	tests := []struct {
		kind Kind
		page []byte
		want func([]byte)
	}{
		{GiST, gist, func(p []byte) { putLSN(p, limit); putLSN(p[PageSize-gistSpecialSize:], limit) }},
		{Sequence, sequence, func(p []byte) { putLSN(p, limit) }},
		{VisibilityMap, vm, func(p []byte) {
			putLSN(p, limit)
			p[headerSize], p[PageSize-1] = 0b11_11_00_11, 0b11_00_00_00
		}},
		{Index, index, func(p []byte) { putLSN(p, limit) }},
		{Plain, index, func(p []byte) { putLSN(p, limit) }},
		{Index, make([]byte, PageSize), func([]byte) {}},
	}
	for _, test := range tests {
		got, want := bytes.Clone(test.page), bytes.Clone(test.page)
		test.want(want)
		tr := Transform{Kind: test.kind, Limit: limit}
		if _, err := tr.Page(got, 0, false); err != nil {
			t.Errorf("kind %d: %v", test.kind, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("kind %d: %s", test.kind, diff)
		}
	}
	for _, kind := range []Kind{GiST, Sequence} {
		tr := Transform{Kind: kind, Limit: limit}
		if _, err := tr.Page(bytes.Clone(index), 0, false); !errors.Is(err, pg0.ErrCorrupt) {
			t.Errorf("kind %d takes another's page: %v", kind, err)
		}
	}
}

// TestUntouched says when a page that its visibility map calls all-frozen is
// shown as it is, and when its checksum is looked at.
func TestUntouched(t *testing.T) {
	const same, changed, refused = "same", "changed", "refused"
	tests := []struct {
		name        string
		verify, set bool
		lsn         pg0.LSN
		flags       uint16
		toast       map[uint32]uint32
		damaged     bool
		frozen      bool
		want        string
	}{
		{"no checksums", false, false, 5, flagAllVisible, nil, false, true, same},
		{"both have checksums", true, true, 5, flagAllVisible, nil, false, true, same},
		{"damage is left to the base's server to find", true, true, 5, flagAllVisible, nil, true, true, same},
		{"damage that the base could not find", true, false, 5, flagAllVisible, nil, true, true, refused},
		{"donor has checksums", true, false, 5, flagAllVisible, nil, false, true, same},
		{"base has checksums", false, true, 5, flagAllVisible, nil, false, true, changed},
		{"newer than the base", true, true, 50, flagAllVisible, nil, false, true, changed},
		{"page and map differ", true, true, 5, 0, nil, false, true, changed},
		{"map says nothing", true, true, 5, flagAllVisible, nil, false, false, changed},
		{"damaged and not in the map", true, true, 5, flagAllVisible, nil, true, false, refused},
	}
	for _, test := range tests {
		page := buildPage(row{xmin: 10, mask: xminFrozen | xmaxInvalid, ctid: 1})
		putLSN(page, test.lsn)
		binary.LittleEndian.PutUint16(page[offFlags:], test.flags)
		if test.verify {
			binary.LittleEndian.PutUint16(page[offChecksum:], pagesum.Page(page, testBlock))
		}
		if test.damaged {
			page[PageSize-100] ^= 1
		}
		before := bytes.Clone(page)
		tr := Transform{Status: fates{}, Limit: 10, Toast: test.toast, SetChecksum: test.set, Verify: test.verify}
		result, err := tr.Page(page, testBlock, test.frozen)
		got := same
		switch {
		case errors.Is(err, pg0.ErrCorrupt):
			got = refused
		case result.Changed != !bytes.Equal(page, before):
			t.Errorf("%s: says changed %v", test.name, result.Changed)
		case result.Changed:
			got = changed
		}
		if got != test.want {
			t.Errorf("%s: page is %s, want %s (%v)", test.name, got, test.want, err)
		}
	}
}

func TestNoLimit(t *testing.T) {
	if _, err := new(Transform).Page(make([]byte, PageSize), 0, false); err == nil {
		t.Error("transform without a limit works")
	}
}

// randomPage makes a page of tuples with every kind of bits.
func randomPage(r *rand.Rand) []byte {
	rows := make([]row, r.IntN(40))
	for i := range rows {
		if r.IntN(4) == 0 {
			rows[i] = row{state: []int{-1, itemRedirect, itemDead}[r.IntN(3)], target: r.IntN(len(rows) + 2)}
			continue
		}
		rows[i] = row{
			xmin: uint32(r.IntN(8)), xmax: uint32(1000 + r.IntN(8)), field3: uint32(r.IntN(8)), ctid: r.IntN(len(rows) + 2),
			mask: uint16(r.Uint32()) &^ (hasNull | hasExternal), mask2: uint16(r.Uint32()), otherBlock: r.IntN(8) == 0,
			data: make([]byte, r.IntN(60)),
		}
	}
	return buildPage(rows...)
}

func TestRandomPages(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	refused := 0
	for range 3000 {
		if !checkTransform(t, randomPage(r), Transform{Status: fates{3, 5, 7}, Limit: 10, SetChecksum: true}) {
			refused++
		}
	}
	if refused > 2000 {
		t.Errorf("%d of 3000 pages refused", refused)
	}
}

// checkTransform holds the promises of Page against a page, and reports whether
// it was accepted.
func checkTransform(t *testing.T, page []byte, tr Transform) bool {
	t.Helper()
	if tr.Kind == Heap {
		checkPlain(t, page, tr)
	}
	first, second := bytes.Clone(page), bytes.Clone(page)
	result, err := tr.Page(first, testBlock, false)
	if err != nil {
		if !bytes.Equal(first, page) {
			t.Error("a refused page was changed")
		}
		return false
	}
	if _, err := tr.Page(second, testBlock, false); err != nil || !bytes.Equal(first, second) {
		t.Errorf("a second run gives other bytes, error %v", err)
	}
	if err := Sane(first); err != nil {
		t.Errorf("result is not sane: %v", err)
	}
	if again, err := tr.Page(first, testBlock, false); err != nil || again.Changed && tr.Kind == Heap {
		t.Errorf("result is not final: %+v, %v", again, err)
	}
	if tr.Kind != Heap {
		return true
	}
	left := 0
	for tuple, err := range Tuples(first) {
		if err != nil {
			t.Fatalf("result has a bad tuple: %v", err)
		}
		if visible, err := tuple.Visible(nobody{}); err != nil || !visible {
			t.Errorf("line pointer %d is left and not visible, error %v", tuple.Offset, err)
		}
		left++
	}
	if left != result.Frozen {
		t.Errorf("%d tuples are left, result says %d", left, result.Frozen)
	}
	return true
}

// checkPlain holds the short way against the plan, and reports whether the page
// is one for it.
func checkPlain(t *testing.T, page []byte, tr Transform) bool {
	t.Helper()
	short, long := edit{page: bytes.Clone(page)}, edit{page: bytes.Clone(page)}
	got, plain := tr.plainPage(&short, testBlock)
	if !plain {
		if short.changed || !bytes.Equal(short.page, page) {
			t.Error("the short way gave up and changed the page")
		}
		return false
	}
	want, err := tr.planned(&long, testBlock)
	if err != nil || got != want || short.changed != long.changed || !bytes.Equal(short.page, long.page) {
		t.Errorf("the short way gives %+v, the plan %+v, %v", got, want, err)
	}
	return true
}

// TestPlainPages takes pages as inserts leave them, and now and then a row that
// is not so.
func TestPlainPages(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	tr, plain := Transform{Status: fates{3, 5}, Limit: 10}, 0
	for range 2000 {
		rows := make([]row, 1+r.IntN(60))
		for i := range rows {
			rows[i] = row{
				xmin: []uint32{3, 5}[r.IntN(2)], mask: xmaxInvalid | []uint16{0, xminCommitted, xminFrozen}[r.IntN(3)],
				mask2: 2, ctid: i + 1, data: make([]byte, r.IntN(60)),
			}
			switch r.IntN(600) {
			case 0:
				rows[i].xmin = 4
			case 1:
				rows[i].mask &^= xmaxInvalid
			case 2:
				rows[i].mask2 |= hotUpdated
			case 3:
				rows[i].mask2 |= heapOnly
			case 4:
				rows[i].mask |= xminInvalid
			case 5:
				rows[i] = row{state: itemDead}
			case 6:
				rows[i] = row{state: -1}
			case 7:
				rows[i] = row{state: itemRedirect, target: 1}
			}
		}
		if checkPlain(t, buildPage(rows...), tr) {
			plain++
		}
	}
	if plain < 1000 || plain > 1950 {
		t.Errorf("%d of 2000 pages took the short way", plain)
	}
}

// nobody knows no transaction: frozen tuples do not ask.
type nobody struct{}

func (nobody) Committed(uint32) (bool, error) { return false, errors.New("asked") }
func (nobody) Updater(uint32) (uint32, error) { return 0, errors.New("asked") }

// FuzzPage lays line pointers and tuples out on a page whose header is right,
// unless there is one to put over it.
func FuzzPage(f *testing.F) {
	seed := func(page []byte, kind Kind) {
		lower, upper := u16(page, offLower), u16(page, offUpper)
		f.Add([]byte(nil), page[headerSize:lower], page[upper:], uint8(kind), uint32(500))
	}
	r := rand.New(rand.NewPCG(3, 4))
	for kind := range Plain + 1 {
		seed(randomPage(r), kind)
	}
	pointer := append([]byte{1, 0, 0, 0}, external(500)...)
	seed(buildPage(row{xmin: 3, mask: hasExternal, mask2: 2, data: pointer}, row{xmin: 3, mask: hasExternal, mask2: 2, data: pointer}), Heap)
	f.Add(buildPage(row{xmin: 3})[:headerSize], []byte{}, []byte{}, uint8(Index), uint32(500))
	attrs := []Attr{{Len: 4, Align: 'i'}, {Len: -1, Align: 'i'}, {Len: -2, Align: 'c'}, {Len: 8, Align: 'd'}}
	f.Fuzz(func(t *testing.T, header, pointers, tuples []byte, kind uint8, toast uint32) {
		tuples = tuples[:min(len(tuples), 4000)&^7]
		pointers = pointers[:min(len(pointers), 4000)&^3]
		page := make([]byte, PageSize)
		buildHeader(page, headerSize+len(pointers), PageSize-len(tuples), PageSize)
		copy(page, header[:min(len(header), headerSize)])
		copy(page[headerSize:], pointers)
		copy(page[PageSize-len(tuples):], tuples)
		tr := Transform{Kind: Kind(kind % uint8(Plain+1)), Status: fates{3, 5, 7}, Limit: 10, Attrs: attrs}
		checkTransform(t, page, tr)
		tr.Toast = map[uint32]uint32{toast: toast} // equal, so that the result is final
		checkTransform(t, page, tr)
		binary.LittleEndian.PutUint16(page[offChecksum:], pagesum.Page(page, testBlock))
		tr.Verify, tr.SetChecksum = true, true
		checkTransform(t, page, tr)
	})
}

func BenchmarkPage(b *testing.B) {
	rows := make([]row, 100)
	for i := range rows {
		rows[i] = row{xmin: 3, mask: xmaxInvalid, data: make([]byte, 40)}
	}
	page, work := buildPage(rows...), make([]byte, PageSize)
	tr := Transform{Status: fates{3}, Limit: 1}
	b.SetBytes(PageSize)
	for b.Loop() {
		copy(work, page)
		if _, err := tr.Page(work, 1, false); err != nil {
			b.Fatal(err)
		}
	}
}
