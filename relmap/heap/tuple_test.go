package heap

import (
	"errors"
	"fmt"
	"testing"

	"github.com/fukanchik/pg0"
)

// TestVisible is the table of decisions: 10 committed, 11 did not.
func TestVisible(t *testing.T) {
	const none, lock = 0, xmaxLockOnly
	tests := []struct {
		name       string
		xmin, xmax uint32
		field3     uint32
		mask       uint16
		want       bool
	}{
		{"inserted", 10, 0, 0, xmaxInvalid, true},
		{"inserted, hinted", 11, 0, 0, xminCommitted | xmaxInvalid, true},
		{"frozen", 11, 0, 0, xminFrozen | xmaxInvalid, true},
		{"frozen before 9.4", 2, 0, 0, xmaxInvalid, true},
		{"aborted", 11, 0, 0, xmaxInvalid, false},
		{"aborted, hinted", 10, 0, 0, xminInvalid | xmaxInvalid, false},
		{"cancelled speculative insert", 0, 0, 0, none, false},
		{"never deleted", 10, 0, 0, none, true},
		{"deleted", 10, 10, 0, none, false},
		{"deleted, hinted", 10, 11, 0, xmaxCommitted, false},
		{"delete aborted", 10, 11, 0, none, true},
		{"delete aborted, hinted", 10, 10, 0, xmaxInvalid, true},
		{"locked", 10, 10, 0, lock | xmaxExclLock, true},
		{"locked before 9.3", 10, 10, 0, xmaxExclLock, true},
		{"share-locked, then deleted", 10, 10, 0, 0x0010, false},
		{"multixact of lockers is not looked up", 10, 5, 0, xmaxIsMulti | lock, true},
		{"multixact of lockers, hinted as only a broken server does", 10, 5, 0, xmaxIsMulti | lock | xmaxCommitted, true},
		{"multixact, updater committed", 10, 1010, 0, xmaxIsMulti, false},
		{"multixact, updater committed, key-share lock", 10, 1010, 0, xmaxIsMulti | 0x0010, false},
		{"multixact, updater aborted", 10, 1011, 0, xmaxIsMulti, true},
		{"multixact, updater aborted, hint ignored", 10, 1011, 0, xmaxIsMulti | xmaxCommitted, true},
		{"multixact without updater", 10, 1000, 0, xmaxIsMulti, true},
		{"multixact with exclusive lock and updater", 10, 1010, 0, xmaxIsMulti | xmaxExclLock, false},
		{"moved off by a VACUUM FULL that ended", 10, 0, 10, movedOff | xmaxInvalid, false},
		{"moved off by a VACUUM FULL that crashed", 11, 0, 11, movedOff | xmaxInvalid, true},
		{"moved in by a VACUUM FULL that ended", 11, 0, 10, movedIn | xmaxInvalid, true},
		{"moved in by a VACUUM FULL that crashed", 10, 0, 11, movedIn | xmaxInvalid, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tuple := Tuple{1, buildTuple(row{xmin: test.xmin, xmax: test.xmax, field3: test.field3, mask: test.mask})}
			got, err := tuple.Visible(fates{10})
			if err != nil || got != test.want {
				t.Errorf("visible %v, error %v, want %v", got, err, test.want)
			}
		})
	}
}

func TestTuples(t *testing.T) {
	page := buildPage(row{xmin: 3}, row{state: itemDead}, row{xmin: 5, mask2: 2, data: []byte("xy")})
	got := ""
	for tuple, err := range Tuples(page) {
		if err != nil {
			t.Fatal(err)
		}
		got += fmt.Sprintf("%d: xmin %d, %d attributes, %q\n", tuple.Offset, tuple.Xmin(), tuple.Natts(), tuple.Bytes[tuple.hoff():])
	}
	if want := "1: xmin 3, 0 attributes, \"\"\n3: xmin 5, 2 attributes, \"xy\"\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	for range Tuples(make([]byte, PageSize)) {
		t.Error("a new page has tuples")
	}
}

func TestDamage(t *testing.T) {
	good := func() []byte { return buildPage(row{xmin: 3, data: make([]byte, 20)}, row{xmin: 3}) }
	tests := map[string]func() []byte{
		"short":                func() []byte { return good()[:100] },
		"unknown flag":         func() []byte { return poke(good(), offFlags, 8) },
		"layout version":       func() []byte { return poke(good(), offVersion, 3) },
		"lower in the header":  func() []byte { return poke(good(), offLower, 4) },
		"lower above upper":    func() []byte { return poke(good(), offLower+1, 0x1f, 0, 1) },
		"special past the end": func() []byte { return poke(good(), offSpecial, 8, 0x20) },
		"special unaligned":    func() []byte { return poke(good(), offSpecial, 0xfc, 0x1f) },
		"new page with a byte": func() []byte { return poke(make([]byte, PageSize), 5000, 1) },
		"tuple in the pointers": func() []byte {
			return poke(good(), itemOffset(1), 24, 0x80, 60, 0)
		},
		"tuple without header":     func() []byte { return poke(good(), itemOffset(1), 0xe8, 0x9f, 20, 0) },
		"tuple header too long":    func() []byte { return poke(good(), PageSize-48+offHoff, 200) },
		"tuple header unaligned":   func() []byte { return poke(good(), PageSize-48+offHoff, 25) },
		"null bitmap overlaps":     func() []byte { return poke(good(), PageSize-48+offInfomask2, 100, 0, hasNull) },
		"too many line pointers":   func() []byte { return poke(buildPage(), offLower, 0, 10) },
		"tuples overlap in a page": func() []byte { p := good(); copy(p[itemOffset(2):], p[itemOffset(1):itemOffset(2)]); return p },
	}
	for name, build := range tests {
		t.Run(name, func(t *testing.T) {
			page := build()
			before := string(page)
			tr := Transform{Kind: Heap, Status: fates{3}, Limit: 1, SetChecksum: true}
			if _, err := tr.Page(page, testBlock, false); !errors.Is(err, pg0.ErrCorrupt) {
				t.Errorf("error %v is not ErrCorrupt", err)
			}
			if string(page) != before {
				t.Error("the page was changed")
			}
		})
	}
}

func poke(page []byte, off int, b ...byte) []byte {
	copy(page[off:], b)
	return page
}
