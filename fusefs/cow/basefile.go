package cow

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/fukanchik/pg0"
)

// maxOpenFiles is how many files of the base stay open.
const maxOpenFiles = 512

// A baseFile is an open file of the base, shared by all readers. It closes when
// the table of open files and the last reader have let go of it.
type baseFile struct {
	file pg0.File
	in   *inode
	refs atomic.Int64
	used atomic.Bool // read since the clock hand passed
	gone bool        // not in the table any more; guarded by openFiles.mu
}

// ref fails when the file is closed already.
func (b *baseFile) ref() bool {
	for {
		n := b.refs.Load()
		if n == 0 {
			return false
		}
		if b.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (b *baseFile) unref() {
	if b.refs.Add(-1) == 0 {
		// Nothing was written, so closing cannot lose anything.
		_ = b.file.Close()
	}
}

// openFiles bounds the open files of the base with a clock: a hand goes round
// and closes the first file that nobody has read since it passed.
type openFiles struct {
	mu   sync.Mutex
	ring []*baseFile
	hand int
}

// openBase gives the open file of an inode with a reference for the caller.
func (s *Store) openBase(in *inode) (*baseFile, error) {
	if b := in.open.Load(); b != nil && b.ref() {
		if !b.used.Load() {
			b.used.Store(true)
		}
		return b, nil
	}
	f, err := s.base.Open(in.base)
	if err != nil {
		return nil, fmt.Errorf("%s of the base: %w", in.base, err)
	}
	file, ok := f.(pg0.File)
	if !ok {
		_ = f.Close()
		return nil, fmt.Errorf("%s of the base cannot be read at an offset", in.base)
	}
	b := &baseFile{file: file, in: in}
	b.refs.Store(2) // the table's and the caller's
	return s.files.add(b), nil
}

// add puts a file into the table, unless another reader was faster, and makes
// room for it. It returns the file to use.
func (o *openFiles) add(b *baseFile) *baseFile {
	o.mu.Lock()
	defer o.mu.Unlock()
	if other := b.in.open.Load(); other != nil && other.ref() {
		_ = b.file.Close()
		return other
	}
	b.in.open.Store(b)
	if len(o.ring) < maxOpenFiles {
		o.ring = append(o.ring, b)
		return b
	}
	for {
		o.hand = (o.hand + 1) % len(o.ring)
		victim := o.ring[o.hand]
		if victim.gone {
			break
		}
		if !victim.used.Swap(false) {
			o.evict(victim)
			break
		}
	}
	o.ring[o.hand] = b
	return b
}

// evict takes a file out of reach. Caller holds mu.
func (o *openFiles) evict(b *baseFile) {
	b.gone = true
	b.in.open.CompareAndSwap(b, nil)
	b.unref()
}

// drop closes the file of an inode that is no more.
func (o *openFiles) drop(in *inode) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if b := in.open.Load(); b != nil {
		o.evict(b)
	}
}

func (o *openFiles) closeAll() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, b := range o.ring {
		if !b.gone {
			o.evict(b)
		}
	}
	o.ring = nil
}
