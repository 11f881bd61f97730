package mapping

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/relmap/heap"
)

const pageSize = heap.PageSize

// open opens the donor's file behind a place.
func (p *place) open(name string) (fs.File, error) {
	if p.donor == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	donor, err := openFile(p.donor, p.path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return &pages{place: p, name: name, donor: donor}, nil
}

func openFile(tree pg0.Tree, name string) (pg0.File, error) {
	opened, err := tree.Open(name)
	if err != nil {
		return nil, err
	}
	file, ok := opened.(pg0.File)
	if !ok {
		opened.Close()
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	return file, nil
}

// pages is an open file of a donor whose pages are transformed on their way
// out.
type pages struct {
	*place
	name  string
	donor pg0.File
	at    int64 // of Read
}

// Stat describes the file as the mix shows it.
func (f *pages) Stat() (fs.FileInfo, error) { return f.info, nil }

// Close closes the donor's file.
func (f *pages) Close() error { return f.donor.Close() }

// Read reads on from where the last Read ended. Unlike ReadAt it is not for
// parallel use.
func (f *pages) Read(buf []byte) (int, error) {
	n, err := f.ReadAt(buf, f.at)
	f.at += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// pageBuffers holds pages of which a caller wants a part only.
var pageBuffers = sync.Pool{New: func() any { return new([pageSize]byte) }}

// ReadAt reads any range; see pg0.File. Whole pages are transformed where the
// caller wants them.
func (f *pages) ReadAt(buf []byte, off int64) (int, error) {
	switch {
	case off < 0:
		return 0, &fs.PathError{Op: "read", Path: f.name, Err: fs.ErrInvalid}
	case off >= f.info.size:
		return 0, io.EOF
	}
	var end error
	if rest := f.info.size - off; int64(len(buf)) > rest {
		buf, end = buf[:rest], io.EOF
	}
	for done := 0; done < len(buf); {
		n, err := f.readSome(buf[done:], off+int64(done))
		if err != nil {
			return done, fmt.Errorf("read %s (%s): %w", f.name, f.origin, err)
		}
		done += n
	}
	return len(buf), end
}

// readSome reads a run of whole pages if buf begins and goes far enough for
// one, else a part of one page.
func (f *pages) readSome(buf []byte, off int64) (int, error) {
	block, in := off/pageSize, int(off%pageSize)
	if whole := len(buf) / pageSize * pageSize; in == 0 && whole > 0 {
		return whole, f.readPages(buf[:whole], block)
	}
	page := pageBuffers.Get().(*[pageSize]byte)
	defer pageBuffers.Put(page)
	if err := f.readPages(page[:], block); err != nil {
		return 0, err
	}
	return copy(buf, page[in:]), nil
}

// readPages fills buf with transformed pages.
func (f *pages) readPages(buf []byte, block int64) error {
	n, err := f.donor.ReadAt(buf, block*pageSize)
	if n < len(buf) {
		if err == nil || errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: the file ends within block %d", pg0.ErrCorrupt, block+int64(n/pageSize))
		}
		return err
	}
	for at := 0; at < len(buf); at += pageSize {
		number := f.block + uint32(block) + uint32(at/pageSize)
		frozen, err := f.visible.frozen(number)
		if err != nil {
			return fmt.Errorf("visibility map of block %d: %w", number, err)
		}
		if _, err := f.transform.Page(buf[at:at+pageSize:at+pageSize], number, frozen); err != nil {
			return fmt.Errorf("block %d: %w", number, err)
		}
	}
	return nil
}

const (
	mapHeader     = 24 // the page header in front of the bits
	blocksPerByte = 4  // all-visible and all-frozen of four blocks
	blocksPerMap  = (pageSize - mapHeader) * blocksPerByte
	allFrozen     = 2
)

// visibility answers from the donor's visibility map. Pages are read once and
// kept: one stands for a quarter of a gigabyte.
type visibility struct {
	transform heap.Transform
	files     []*place
	pages     []atomic.Pointer[[pageSize]byte]
}

// prepare makes room for the pages of the files, which are in order.
func (v *visibility) prepare() {
	if n := len(v.files); n > 0 {
		last := v.files[n-1]
		v.pages = make([]atomic.Pointer[[pageSize]byte], int64(last.block)+last.info.size/pageSize)
	}
}

// frozen says whether the map calls a block all-frozen. A nil map calls none.
func (v *visibility) frozen(block uint32) (bool, error) {
	if v == nil || int(block/blocksPerMap) >= len(v.pages) {
		return false, nil
	}
	slot := &v.pages[block/blocksPerMap]
	page := slot.Load()
	if page == nil {
		var err error
		if page, err = v.load(block / blocksPerMap); err != nil {
			return false, err
		}
		slot.Store(page)
	}
	in := block % blocksPerMap
	return page[mapHeader+in/blocksPerByte]>>(2*(in%blocksPerByte))&allFrozen != 0, nil
}

// load reads one page as the donor has it; its transform checks it.
func (v *visibility) load(number uint32) (*[pageSize]byte, error) {
	for _, file := range v.files {
		at := int64(number) - int64(file.block)
		if at < 0 || at >= file.info.size/pageSize {
			continue
		}
		opened, err := openFile(file.donor, file.path)
		if err != nil {
			return nil, err
		}
		defer opened.Close()
		page := new([pageSize]byte)
		if _, err := opened.ReadAt(page[:], at*pageSize); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		check := *page
		if _, err := v.transform.Page(check[:], number, false); err != nil {
			return nil, err
		}
		return page, nil
	}
	return nil, fmt.Errorf("%w: it has no page %d", pg0.ErrCorrupt, number)
}
