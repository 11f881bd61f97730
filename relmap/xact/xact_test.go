package xact

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/fukanchik/pg0"
)

// logs builds segment files of a cluster's logs.
type logs fstest.MapFS

func (l logs) segment(name string, size int) []byte {
	if l[name] == nil {
		l[name] = &fstest.MapFile{Data: make([]byte, size)}
	}
	return l[name].Data
}

const segmentSize = pageSize * pagesPerSegment

func (l logs) status(xid uint32, status byte) {
	b := l.segment(fmt.Sprintf("pg_xact/%04X", xid>>20), segmentSize)
	b[xid&(1<<20-1)/4] |= status << (xid % 4 * 2)
}

func (l logs) offset(multi, first uint32) {
	b := l.segment(fmt.Sprintf("pg_multixact/offsets/%04X", multi>>16), segmentSize)
	binary.LittleEndian.PutUint32(b[multi&0xffff*4:], first)
}

func (l logs) member(m, xid uint32, status byte) {
	b := l.segment(fmt.Sprintf("pg_multixact/members/%04X", m/52352), segmentSize)
	page := m % 52352 / 1636 * pageSize
	group := page + m/4%409*20
	b[group+m%4] = status
	binary.LittleEndian.PutUint32(b[group+4+m%4*4:], xid)
}

func (l logs) open(t testing.TB, h Horizon) *Log {
	t.Helper()
	log, err := Open(fstest.MapFS(l), h)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

func TestCommitted(t *testing.T) {
	files := logs{}
	for xid, status := range map[uint32]byte{3: 1, 4: 2, 5: 3, 32767: 1, 32768: 1, 1<<20 - 1: 1, 1 << 20: 2, 1<<20 + 1: 1, 0xffff_ffff: 1, 0xffff_fffe: 2} {
		files.status(xid, status)
	}
	// Transactions wrap: 4294967295 precedes 3, and 1048580 is the next.
	log := files.open(t, Horizon{NextXID: 1<<32 + 1<<20 + 4, OldestXID: 0xffff_0000, NextMulti: 1})
	for xid, want := range map[uint32]bool{
		0: false, 1: true, 2: true, 3: true, 4: false, 5: false, 6: false, 32767: true, 32768: true, 32769: false,
		1<<20 - 1: true, 1 << 20: false, 1<<20 + 1: true, 1<<20 + 2: false, 1<<20 + 4: false, 1<<20 + 500: false,
		0xffff_ffff: true, 0xffff_fffe: false,
	} {
		got, err := log.Committed(xid)
		if err != nil || got != want {
			t.Errorf("transaction %d: committed %v, error %v", xid, got, err)
		}
	}
	if log.Future() != 2 {
		t.Errorf("%d transactions of the future, want 2", log.Future())
	}
}

func TestDamage(t *testing.T) {
	short := logs{}
	short.segment("pg_xact/0000", pageSize+100)
	short.offset(1, 1)
	short.offset(3, 1000)
	short.offset(4, 1<<31)
	short.member(1, 10, 9)
	log := short.open(t, Horizon{NextXID: 3 << 20, OldestXID: 3, NextMulti: 4, NextMultiOffset: 2, OldestMulti: 1})
	for _, xid := range []uint32{40000, 1 << 20} {
		if _, err := log.Committed(xid); !errors.Is(err, pg0.ErrCorrupt) {
			t.Errorf("transaction %d: error %v is not ErrCorrupt", xid, err)
		}
	}
	for _, multi := range []uint32{1, 2, 3, 4, 0xffff_ffff} {
		if xid, err := log.Updater(multi); !errors.Is(err, pg0.ErrCorrupt) {
			t.Errorf("multixact %d: updater %d, error %v is not ErrCorrupt", multi, xid, err)
		}
	}
	if _, err := Open(fstest.MapFS{}, Horizon{}); !errors.Is(err, pg0.ErrCorrupt) {
		t.Errorf("no counters: error %v is not ErrCorrupt", err)
	}
}

func TestUpdater(t *testing.T) {
	files := logs{}
	starts := map[uint32]uint32{0xffff_ffff: 1630, 1: 1640, 2: 0xffff_fffe, 3: 3}
	for multi, first := range starts {
		files.offset(multi, first)
	}
	for m := uint32(1630); m < 1640; m++ { // over the end of a page
		files.member(m, 100+m, byte(m%4))
	}
	files.member(1638, 77, 5)
	files.member(1640, 5, 3)
	files.member(0xffff_fffe, 8, 0)
	files.member(0xffff_ffff, 9, 1)
	files.member(0, 0, 5) // not used, whatever it says
	files.member(1, 10, 1)
	files.member(2, 11, 4)
	files.member(3, 12, 2)
	log := files.open(t, Horizon{NextXID: 3, NextMulti: 4, NextMultiOffset: 4, OldestMulti: 0xffff_fff0})
	for multi, want := range map[uint32]uint32{0: 0, 0xffff_ffff: 77, 2: 11, 3: 0} {
		got, err := log.Updater(multi)
		if err != nil || got != want {
			t.Errorf("multixact %d: updater %d, error %v, want %d", multi, got, err, want)
		}
	}
}

func TestParallel(t *testing.T) {
	files := logs{}
	for xid := uint32(3); xid < 1<<20; xid += 2 {
		files.status(xid, 1)
	}
	log := files.open(t, Horizon{NextXID: 1 << 20, NextMulti: 1})
	var group sync.WaitGroup
	for worker := range uint32(4) {
		group.Go(func() {
			for xid := 3 + worker; xid < 1<<20; xid += 1009 {
				if got, err := log.Committed(xid); err != nil || got != (xid%2 == 1) {
					t.Errorf("transaction %d: committed %v, error %v", xid, got, err)
				}
			}
		})
	}
	group.Wait()
}

func FuzzUpdater(f *testing.F) {
	seed := logs{}
	seed.offset(1, 1)
	seed.offset(2, 3)
	seed.member(1, 10, 1)
	seed.member(2, 11, 4)
	f.Add(seed["pg_multixact/offsets/0000"].Data[:pageSize], seed["pg_multixact/members/0000"].Data[:pageSize], uint32(1), uint32(3), uint32(4))
	f.Fuzz(func(t *testing.T, offsets, members []byte, multi, next, nextOffset uint32) {
		tree := fstest.MapFS{"pg_multixact/offsets/0000": {Data: offsets}, "pg_multixact/members/0000": {Data: members}}
		log, err := Open(tree, Horizon{NextXID: 100, NextMulti: next, NextMultiOffset: nextOffset, OldestMulti: 1})
		if err != nil {
			return
		}
		if _, err := log.Updater(multi); err != nil && !errors.Is(err, pg0.ErrCorrupt) {
			t.Errorf("error %v is not ErrCorrupt", err)
		}
	})
}

func BenchmarkCommitted(b *testing.B) {
	files := logs{}
	files.segment("pg_xact/0000", segmentSize)
	log := files.open(b, Horizon{NextXID: 1 << 20, NextMulti: 1})
	xid := uint32(3)
	for b.Loop() {
		if _, err := log.Committed(xid % (1 << 20)); err != nil {
			b.Fatal(err)
		}
		xid += 1009
	}
}
