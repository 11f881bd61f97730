package cow

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"syscall"
)

// maxSlots bounds a data file, at 16 TiB.
const maxSlots = 1 << 31

// An allocator says which slots of one data file are taken. It prefers runs,
// so that blocks written together are read together.
type allocator struct {
	taken []uint64 // one bit a slot
	end   int64    // slots from here on were never taken
	used  int64
	hint  int64
}

// find takes up to want consecutive slots.
func (a *allocator) find(want int64) (slot, n int64) {
	if a.used == a.end {
		return a.grow(want)
	}
	slot = a.nextFree(a.hint)
	if slot == a.end {
		slot = a.nextFree(0)
	}
	for n = 0; n < want && slot+n < a.end && !a.has(slot+n); n++ {
		a.mark(slot + n)
	}
	a.hint = slot + n
	return slot, n
}

func (a *allocator) grow(want int64) (slot, n int64) {
	slot, n = a.end, min(want, maxSlots-a.end)
	for k := range n {
		a.mark(slot + k)
	}
	return slot, n
}

// nextFree finds the first free slot at or after from, or end.
func (a *allocator) nextFree(from int64) int64 {
	for w := from / 64; w < int64(len(a.taken)); w++ {
		free := ^a.taken[w]
		if w == from/64 {
			free &= ^uint64(0) << (from % 64)
		}
		if free != 0 {
			return min(w*64+int64(bits.TrailingZeros64(free)), a.end)
		}
	}
	return a.end
}

func (a *allocator) has(slot int64) bool {
	return slot/64 < int64(len(a.taken)) && a.taken[slot/64]&(1<<(slot%64)) != 0
}

func (a *allocator) mark(slot int64) {
	for int64(len(a.taken)) <= slot/64 {
		a.taken = append(a.taken, 0)
	}
	a.taken[slot/64] |= 1 << (slot % 64)
	a.used++
	a.end = max(a.end, slot+1)
}

func (a *allocator) unmark(slot, n int64) {
	for k := range n {
		a.taken[(slot+k)/64] &^= 1 << ((slot + k) % 64)
	}
	a.used -= n
}

// classes is the number of data files: one for WAL, so that a commit that
// flushes WAL does not wait for the table pages that were written meanwhile.
const classes = 2

const (
	classData = 0
	classWAL  = 1
)

// walReserve is how much of a limit is kept back for WAL: PostgreSQL gives up
// when it cannot write WAL, but reports an error when a table cannot grow.
const walReserve = 64 << 20

// A freed run of slots waits until the journal says durably that nobody needs
// them; taken again before, they would damage the file that had them when the
// machine crashes.
type freed struct {
	class   uint8
	slot, n int64
	pos     uint64
}

// allocators are those of all data files, under one limit.
type allocators struct {
	mu      sync.Mutex
	of      [classes]allocator
	waiting []freed
	count   atomic.Int64 // slots taken, those waiting included
}

func (a *allocators) used() int64 { return a.count.Load() }

// take finds up to want consecutive free slots, or fails with ENOSPC.
func (s *Store) take(class uint8, want int64) (slot, n int64, err error) {
	a := &s.space
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.limit > 0 {
		want = min(want, s.spare(class))
	}
	if want > 0 {
		slot, n = a.of[class].find(want)
	}
	if n <= 0 {
		return 0, 0, syscall.ENOSPC
	}
	a.count.Add(n)
	return slot, n, nil
}

// spare is how many slots the limit leaves. Caller holds space.mu.
func (s *Store) spare(class uint8) int64 {
	a := &s.space
	used := a.count.Load()
	if class == classData {
		used += max(0, s.reserve-a.of[classWAL].used)
	}
	return s.limit/BlockSize - used
}

// free gives slots back: at once when nothing outlives the store, else when the
// journal is durable up to pos.
func (s *Store) free(class uint8, slot, n int64, pos uint64) {
	if s.j == nil {
		s.unmark(class, slot, n)
		return
	}
	a := &s.space
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting = append(a.waiting, freed{class: class, slot: slot, n: n, pos: pos})
}

// unmark makes slots free for the next taker and gives their disk space back.
// The hole is punched before anybody can take them.
func (s *Store) unmark(class uint8, slot, n int64) {
	if n*BlockSize >= punchBytes {
		s.data[class].punch(slot*BlockSize, n*BlockSize)
	}
	a := &s.space
	a.mu.Lock()
	defer a.mu.Unlock()
	a.of[class].unmark(slot, n)
	a.count.Add(-n)
}

// freeDurable frees what waited for the journal to be durable up to pos.
func (s *Store) freeDurable(pos uint64) {
	a := &s.space
	a.mu.Lock()
	var ready, rest []freed
	for _, f := range a.waiting {
		if f.pos <= pos {
			ready = append(ready, f)
		} else {
			rest = append(rest, f)
		}
	}
	a.waiting = rest
	a.mu.Unlock()
	for _, f := range ready {
		s.unmark(f.class, f.slot, f.n)
	}
}
