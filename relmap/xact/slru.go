package xact

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sync"
	"sync/atomic"

	"github.com/fukanchik/pg0"
)

const (
	pageSize        = 8192
	pagesPerSegment = 32
)

type (
	page    [pageSize]byte
	segment [pagesPerSegment]atomic.Pointer[page]
)

// An slru is one of the server's simple logs: segment files of 32 pages, named
// by their number in at least four hexadecimal digits. Pages once read are
// found without a lock; two that read the same page at once read equal bytes.
type slru struct {
	tree     fs.FS
	dir      string
	length   uint32 // in pages
	once     sync.Once
	segments []atomic.Pointer[segment]
}

func newSLRU(tree fs.FS, dir string, length uint32) *slru {
	return &slru{tree: tree, dir: dir, length: length}
}

func (s *slru) page(number uint32) (*page, error) {
	s.once.Do(func() {
		s.segments = make([]atomic.Pointer[segment], s.length/pagesPerSegment+1)
	})
	slot := &s.segments[number/pagesPerSegment]
	seg := slot.Load()
	if seg == nil {
		slot.CompareAndSwap(nil, new(segment))
		seg = slot.Load()
	}
	if p := seg[number%pagesPerSegment].Load(); p != nil {
		return p, nil
	}
	p, err := s.read(number)
	if err == nil {
		seg[number%pagesPerSegment].Store(p)
	}
	return p, err
}

// read takes a page from its segment file, which must reach to the page's end.
func (s *slru) read(number uint32) (*page, error) {
	name := path.Join(s.dir, fmt.Sprintf("%04X", number/pagesPerSegment))
	file, err := s.tree.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is missing: %w", name, pg0.ErrCorrupt)
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	at, ok := file.(io.ReaderAt)
	if !ok {
		return nil, fmt.Errorf("%s: tree gives a file without ReadAt", name)
	}
	p, off := new(page), int64(number%pagesPerSegment)*pageSize
	if n, err := at.ReadAt(p[:], off); n < pageSize {
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s ends before page %d: %w", name, number%pagesPerSegment, pg0.ErrCorrupt)
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return p, nil
}
