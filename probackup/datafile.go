package probackup

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
	"sync/atomic"
)

// A file is a regular file of the cluster as the target backup lists it.
type file struct {
	path    string
	data    bool   // a relation's main fork, stored as pages
	segment uint32 // number of the segment of the relation
	target  *member
	copies  []*stored // what is stored of it, newest first
	stale   bool      // some copy holds pages past what a newer backup allowed

	length   atomic.Int64 // bytes; unresolved until copies of old writers were scanned
	blocks   int64        // length in pages as the target lists it, or unknownBlocks
	verified atomic.Bool  // a plain file matched its checksum
	warned   atomic.Bool  // stale pages were reported
}

const unresolved = -1

// stored is what one member of the chain has on disk of a file.
type stored struct {
	file      *file
	member    *member
	stripe    uint8
	data      bool  // stored as page records
	fault     error // why this copy cannot be what the list of a newer member speaks of
	algorithm algorithm
	crc       uint32
	hdrCRC    uint32
	size      int64
	headers   int64
	hdrOffset int64
	hdrSize   int64
	blocks    int64 // length of the file when this was stored, or unknownBlocks
	limit     int64 // pages at or past it were gone before a newer member was made

	seen     bool // whether it was opened before: then what follows is known
	inode    uint64
	modified int64 // in nanoseconds of the epoch

	handle atomic.Pointer[handle]
	index  atomic.Pointer[pageIndex]
}

// size is the length of the file in bytes.
func (f *file) size() (int64, error) {
	if n := f.length.Load(); n != unresolved {
		return n, nil
	}
	mu := &f.target.point.resolving
	mu.Lock()
	defer mu.Unlock()
	if n := f.length.Load(); n != unresolved {
		return n, nil
	}
	return f.resolve()
}

// resolve finds the length of a data file, and how far each older copy counts, where
// writers before 2.4 did not list it: the marks in their records say to what
// length a file was truncated, and the last block stored how long it was.
func (f *file) resolve() (int64, error) {
	limit, length := int64(math.MaxInt64), int64(0)
	for _, c := range f.copies {
		if c.fault != nil {
			return 0, c.member.damaged(f.path, -1, c.fault)
		}
		x, err := c.loadIndex()
		if err != nil {
			return 0, err
		}
		c.limit = min(c.limit, limit)
		own := int64(math.MaxInt64)
		if c.blocks != unknownBlocks {
			own = c.blocks
		}
		if x.cut != unknownBlocks {
			own = min(own, x.cut)
		}
		length = max(length, min(x.length(), own, c.limit))
		if p := c.member.point; !p.exact || p.oldestFirst {
			limit = min(limit, own)
		}
	}
	if f.blocks != unknownBlocks {
		length = f.blocks
	}
	length *= int64(f.target.control.blockSize)
	f.length.Store(length)
	return length, nil
}

// locate finds the newest copy that holds block, nil when none does.
func (f *file) locate(block uint32) (*stored, *pageIndex, int, error) {
	for _, c := range f.copies {
		if int64(block) >= c.limit {
			break
		}
		if c.fault != nil {
			return nil, nil, 0, c.member.damaged(f.path, int64(block), c.fault)
		}
		x, err := c.loadIndex()
		if err != nil {
			return nil, nil, 0, err
		}
		if record, ok := x.find(block); ok {
			return c, x, record, nil
		}
	}
	if f.stale && !f.warned.Load() {
		f.warnStale(block)
	}
	return nil, nil, 0, nil
}

// warnStale reports the first page that the tool's restore would bring back
// from before the relation was truncated.
func (f *file) warnStale(block uint32) {
	for _, c := range f.copies {
		if c.fault != nil {
			return
		}
		x, err := c.loadIndex()
		if err != nil {
			return // the copy does not count, so its damage does not matter
		}
		if _, ok := x.find(block); ok && !f.warned.Swap(true) {
			c.member.point.catalog.log.Warn("page was truncated between two backups and never stored again: served as zeros, where pg_probackup restore brings the old page back (--tool-exact does, too)",
				"file", f.path, "block", block, "backup", f.target.id, "older", c.member.id)
			return
		}
	}
}

// readData reads pages of a data file.
func (f *file) readData(p []byte, off int64) (int, error) {
	size := int64(f.target.control.blockSize)
	w := getWorkspace()
	defer w.free()
	for done := 0; done < len(p); {
		at := off + int64(done)
		n, err := f.readRun(w, p[done:], uint32(at/size), int(at%size))
		if err != nil {
			return done, err
		}
		done += n
	}
	return len(p), nil
}

// readRun fills p from byte within of block on, as far as pages lie one behind
// the other in one copy, and returns how many bytes it filled.
func (f *file) readRun(w *workspace, p []byte, block uint32, within int) (int, error) {
	size := f.target.control.blockSize
	c, x, record, err := f.locate(block)
	if err != nil {
		return 0, err
	}
	if c == nil {
		n := min(len(p), size-within)
		clear(p[:n])
		return n, nil
	}
	count := 1
	for ; count*size < within+len(p); count++ {
		next, _, follows, err := f.locate(block + uint32(count))
		if err != nil || next != c || follows != record+count ||
			int(x.starts[record+count+1]-x.starts[record]) > len(w.raw) {
			break
		}
	}
	raw := w.raw[:min(int(x.starts[record+count]-x.starts[record]), len(w.raw))]
	if err := c.readAt(raw, int64(x.starts[record])); err != nil {
		return 0, err
	}
	return c.decodeRun(w, x, p, raw, record, count, block, within)
}

// decodeRun decodes count records from raw into p.
func (c *stored) decodeRun(w *workspace, x *pageIndex, p, raw []byte, record, count int, block uint32, within int) (int, error) {
	size := c.file.target.control.blockSize
	done := 0
	for i := range count {
		start, end := x.starts[record+i]-x.starts[record], x.starts[record+i+1]-x.starts[record]
		page := w.page[:size]
		direct := within == 0 && len(p)-done >= size
		if direct {
			page = p[done : done+size]
		}
		if int(end) > len(raw) {
			return done, c.member.damaged(c.file.path, int64(block), errLength)
		}
		if err := c.decodePage(w, x, page, raw[start:end], record+i, block+uint32(i)); err != nil {
			return done, c.member.damaged(c.file.path, int64(block)+int64(i), err)
		}
		if direct {
			done += size
			continue
		}
		done += copy(p[done:], page[within:])
		within = 0
	}
	return done, nil
}

// readAt reads stored bytes.
func (c *stored) readAt(p []byte, off int64) error {
	h, err := c.open()
	if err != nil {
		return err
	}
	defer h.release()
	if n, err := h.file.ReadAt(p, off); n < len(p) {
		return c.member.fault(c.file.path, err)
	}
	return nil
}

var (
	errRecord  = errors.New("record header does not agree with the index")
	errNoProof = errors.New("file does not match its checksum, and the page has none of its own")
)

// decodePage decodes one record into page and checks all there is to check.
func (c *stored) decodePage(w *workspace, x *pageIndex, page, record []byte, number int, block uint32) error {
	length := int(binary.LittleEndian.Uint32(record[4:]))
	room := len(record) - recordHeader
	if binary.LittleEndian.Uint32(record) != block || length < 1 || length > len(page) || length > room ||
		length != room && c.member.control.version >= version2_4 {
		return errRecord
	}
	if err := c.decodePayload(w, page, record[recordHeader:recordHeader+length]); err != nil {
		return err
	}
	facts := pageFacts{
		block:     c.file.segment*c.member.point.segmentBlocks + block,
		checksums: c.member.control.checksums,
	}
	if x.sums != nil {
		facts.known, facts.sum, facts.lsn = true, x.sums[number], x.lsns[number]
	}
	if x.suspect && (!facts.checksums || isZero(page)) {
		return errNoProof
	}
	return checkPage(page, facts)
}

// decodePayload decodes the payload of a record.
func (c *stored) decodePayload(w *workspace, page, payload []byte) error {
	if len(payload) == len(page) && !c.mayBeCompressed(payload) {
		copy(page, payload)
		return nil
	}
	switch c.algorithm {
	case algZlib:
		n, err := w.decode(page, payload)
		if err == nil && n != len(page) {
			err = io.ErrUnexpectedEOF
		}
		return err
	case algPGLZ:
		return decodePGLZ(page, payload)
	}
	return errors.New("page is compressed but its file says it is not")
}
