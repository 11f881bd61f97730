package wal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/fukanchik/pg0"
)

// chunkSize is how much of a segment is read at once.
const chunkSize = 256 << 10

// Segments gives the files of one way through the log by their number.
type Segments interface {
	// Segment opens a segment. The error wraps fs.ErrNotExist when there is
	// none.
	Segment(ctx context.Context, number uint64) (*OpenSegment, error)
	// SegmentSize is the length of every segment in bytes.
	SegmentSize() int64
	// Expected names a segment that is missing.
	Expected(number uint64) string
}

// An OpenSegment is a segment file. It may be shorter than a segment.
type OpenSegment struct {
	pg0.File
	Segment
	Path string // for messages
	// Unfinished says that records may end anywhere in the file.
	Unfinished bool
	// Limit ends what belongs to the way: the timeline was left there. 0: none.
	Limit pg0.LSN
}

// An End says that no record can be read at a position. At the end of the log
// this is as it should be, in the middle of it is damage; the reader cannot
// know.
type End struct {
	LSN    pg0.LSN // no record begins or ends readably from here on
	Prev   pg0.LSN // the last record before; 0 for none
	Reason string
	// Missing is the name of the segment that would be needed; empty when the
	// segment is there and the record is not.
	Missing string
	Path    string // the file that ends, if it is there
	// Damaged says that a whole segment of the archive has something here, and
	// that it is no record. Unfinished segments end in anything.
	Damaged bool
}

// Error gives the position and the reason.
func (e *End) Error() string {
	if e.Missing != "" {
		return fmt.Sprintf("WAL ends at %s: segment %s is missing", e.LSN, e.Missing)
	}
	return fmt.Sprintf("WAL ends at %s in %s: %s", e.LSN, e.Path, e.Reason)
}

// A Reader reads records one after the other. It is not for parallel use.
type Reader struct {
	src      Segments
	systemID uint64 // 0: any

	pos  pg0.LSN // where the next record begins
	prev pg0.LSN // where the one before it began, 0 when unknown
	last pg0.LSN // the last record returned

	open  *OpenSegment
	chunk []byte // of the open segment, zeros where the file is short
	at    pg0.LSN
	page  page
	spill []byte // a record that lies on several pages
}

// NewReader reads from src. A systemID other than 0 is compared with that of
// every segment.
func NewReader(src Segments, systemID uint64) *Reader {
	return &Reader{src: src, systemID: systemID}
}

// Close closes the segment that is open.
func (r *Reader) Close() error {
	if r.open == nil {
		return nil
	}
	err := r.open.Close()
	r.open, r.chunk = nil, r.chunk[:0]
	return err
}

// Seek goes to a record that is known to begin at lsn.
func (r *Reader) Seek(lsn pg0.LSN) { r.pos, r.prev, r.last = lsn, 0, 0 }

// SeekFirst goes to the first record that begins on the page of lsn or later,
// and returns where that is.
func (r *Reader) SeekFirst(ctx context.Context, lsn pg0.LSN) (pg0.LSN, error) {
	r.Seek(lsn - lsn%pageSize)
	for at := r.pos; ; at += pageSize {
		if err := r.load(ctx, at); err != nil {
			return 0, err
		}
		header := pg0.LSN(r.page.header())
		rest := pg0.LSN(0)
		if r.page.flags&flagContinues != 0 {
			rest = align(pg0.LSN(r.page.rest))
		}
		if header+rest < pageSize {
			r.pos = at + header + rest
			return r.pos, nil
		}
		if header+rest == pageSize {
			r.pos = at + pageSize
			return r.pos, nil
		}
	}
}

func align(n pg0.LSN) pg0.LSN { return (n + 7) &^ 7 }

// errOverwritten says that a record was given up after a crash and the log
// goes on at the page that was being read.
var errOverwritten = errors.New("the record was given up")

// Next reads the next record. At the end the error is an *End; damage to files
// gives errors that wrap pg0.ErrCorrupt.
func (r *Reader) Next(ctx context.Context) (*Record, error) {
	for {
		rec, err := r.record(ctx)
		switch {
		case errors.Is(err, errOverwritten):
			r.pos = r.page.at
			continue
		case err != nil:
			return nil, err
		}
		r.prev, r.last, r.pos = rec.LSN, rec.LSN, rec.End
		return rec, nil
	}
}

func (r *Reader) record(ctx context.Context) (*Record, error) {
	if err := r.load(ctx, r.pos-r.pos%pageSize); err != nil {
		return nil, err
	}
	if r.pos%pageSize == 0 {
		if r.page.flags&flagContinues != 0 {
			return nil, r.end("the page continues a record that did not begin")
		}
		r.pos += pg0.LSN(r.page.header())
	}
	if r.open.Limit != 0 && r.pos >= r.open.Limit {
		return nil, r.missing(uint64(r.pos) / uint64(r.src.SegmentSize()))
	}
	off := int(r.pos % pageSize)
	if off < r.page.header() || off%8 != 0 {
		return nil, r.end("no record can begin here")
	}
	total := binary.LittleEndian.Uint32(r.page.bytes[off:])
	if total == 0 {
		return nil, r.empty("no record follows")
	}
	if total < headerSize || total > maxRecord {
		return nil, r.end(fmt.Sprintf("a record cannot have %d bytes", total))
	}
	rec := &Record{LSN: r.pos, Timeline: r.page.timeline, Version: r.page.version}
	if err := r.body(ctx, rec, off, total); err != nil {
		return nil, err
	}
	if !rec.intact() {
		return nil, r.end("the CRC of the record is wrong")
	}
	if rec.isSwitch() {
		size := pg0.LSN(r.src.SegmentSize())
		rec.End = (rec.End + size - 1) / size * size
	}
	return rec, nil
}

// body collects the bytes of a record from its pages.
func (r *Reader) body(ctx context.Context, rec *Record, off int, total uint32) error {
	if off+int(total) <= pageSize {
		rec.Bytes = r.page.bytes[off : off+int(total)]
		rec.End = r.pos + align(pg0.LSN(total))
		return r.plausible(rec.Bytes)
	}
	r.spill = append(r.spill[:0], r.page.bytes[off:]...)
	checked := false
	for len(r.spill) < int(total) {
		if !checked && len(r.spill) >= headerSize {
			if err := r.plausible(r.spill); err != nil {
				return err
			}
			checked = true
		}
		if err := r.load(ctx, r.page.at+pageSize); err != nil {
			return err
		}
		if r.page.flags&flagOverwrite != 0 {
			return errOverwritten
		}
		rest := int(total) - len(r.spill)
		if r.page.flags&flagContinues == 0 || int(r.page.rest) != rest {
			return r.end("the record does not continue on its next page")
		}
		header := r.page.header()
		n := min(rest, pageSize-header)
		r.spill = append(r.spill, r.page.bytes[header:header+n]...)
		rec.End = r.page.at + align(pg0.LSN(header+n))
	}
	rec.Bytes = r.spill
	if !checked {
		return r.plausible(r.spill)
	}
	return nil
}

// plausible checks the header of a record before its CRC can be.
func (r *Reader) plausible(b []byte) error {
	prev := pg0.LSN(binary.LittleEndian.Uint64(b[8:]))
	switch manager := b[17]; {
	case manager > rmgrMax && manager < rmgrFirst:
		return r.end(fmt.Sprintf("the record is of the unknown resource manager %d", manager))
	case r.prev != 0 && prev != r.prev, prev >= r.pos:
		return r.end(fmt.Sprintf("the record follows one at %s", prev))
	}
	return nil
}

// load makes the page at a page boundary the current one. An *End tells of a
// page that is not there or does not fit its place; its LSN is that of the
// record being read.
func (r *Reader) load(ctx context.Context, at pg0.LSN) error {
	if r.open != nil && r.page.at == at && r.page.bytes != nil {
		return nil
	}
	if err := r.fill(ctx, at); err != nil {
		return err
	}
	off := int(at - r.at)
	p, reason := parsePage(at, r.chunk[off:off+pageSize])
	r.page = page{}
	if p.empty() {
		return r.empty(reason)
	}
	if reason == "" {
		var err error
		if reason, err = r.fits(&p); err != nil {
			return err
		}
	}
	if reason != "" {
		return r.end(reason)
	}
	r.page = p
	return nil
}

// fits checks a page header against what is known of the log.
func (r *Reader) fits(p *page) (reason string, err error) {
	first := uint64(p.at)%uint64(r.src.SegmentSize()) == 0
	switch {
	case first != (p.flags&flagLong != 0):
		return "the page has the wrong kind of header", nil
	case p.timeline > r.open.Timeline || p.timeline == 0:
		return fmt.Sprintf("the page is of timeline %d", p.timeline), nil
	case !first:
		return "", nil
	}
	h := p.segment()
	switch {
	case r.systemID != 0 && h.systemID != r.systemID:
		return "", fmt.Errorf("WAL segment %s is of another cluster: its system identifier is %d, not %d", r.open.Path, h.systemID, r.systemID)
	case int64(h.segmentSize) != r.src.SegmentSize():
		return "", fmt.Errorf("WAL segment %s says that segments have %d bytes, not %d", r.open.Path, h.segmentSize, r.src.SegmentSize())
	case h.pageSize != pageSize:
		return "", fmt.Errorf("WAL segment %s has pages of %d bytes; only %d can be read", r.open.Path, h.pageSize, pageSize)
	}
	return "", nil
}

// fill has the chunk cover the page at a page boundary.
func (r *Reader) fill(ctx context.Context, at pg0.LSN) error {
	if r.open != nil && at >= r.at && at+pageSize <= r.at+pg0.LSN(len(r.chunk)) {
		return nil
	}
	size := uint64(r.src.SegmentSize())
	if err := r.switchTo(ctx, uint64(at)/size); err != nil {
		return err
	}
	begin := uint64(at) % size / chunkSize * chunkSize
	n := min(chunkSize, size-begin)
	if uint64(cap(r.chunk)) < n {
		r.chunk = make([]byte, chunkSize)
	}
	r.chunk = r.chunk[:n]
	got, err := r.open.ReadAt(r.chunk, int64(begin))
	if err != nil && !errors.Is(err, io.EOF) {
		r.chunk = r.chunk[:0]
		return fmt.Errorf("WAL segment %s: %w", r.open.Path, err)
	}
	clear(r.chunk[got:])
	r.at = pg0.LSN(uint64(at)/size*size + begin)
	return nil
}

func (r *Reader) switchTo(ctx context.Context, number uint64) error {
	if r.open != nil && r.open.Number == number {
		return nil
	}
	if err := r.Close(); err != nil {
		return err
	}
	r.page = page{}
	open, err := r.src.Segment(ctx, number)
	if errors.Is(err, errNoSegment) {
		return r.missing(number)
	}
	if err != nil {
		return err
	}
	r.open = open
	return nil
}

func (r *Reader) end(reason string) error {
	return &End{LSN: r.pos, Prev: r.last, Reason: reason, Path: r.open.Path, Damaged: !r.open.Unfinished}
}

// empty is the end in a place that was never written.
func (r *Reader) empty(reason string) error {
	return &End{LSN: r.pos, Prev: r.last, Reason: reason, Path: r.open.Path}
}

func (r *Reader) missing(number uint64) error {
	return &End{LSN: r.pos, Prev: r.last, Missing: r.src.Expected(number)}
}
