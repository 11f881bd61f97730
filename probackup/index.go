package probackup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/bits"
	"slices"
	"sync/atomic"
)

// A pageIndex tells where the pages of one stored file are: eight bytes a page
// and one bit for each block of the file.
type pageIndex struct {
	of    *stored
	used  atomic.Bool
	bytes int64

	words  []uint64 // bit b: block b is stored
	ranks  []uint32 // pages stored before each word
	starts []uint32 // where each record begins, and the end of the last
	sums   []uint16 // as the header map has them; nil when the file was scanned
	lsns   []uint16
	cut    int64 // an old "truncated to" mark, unknownBlocks without one
	// suspect: the whole file does not match its checksum, so that only pages
	// that prove themselves may be used.
	suspect bool
}

func (x *pageIndex) cost() int64   { return x.bytes }
func (x *pageIndex) touched() bool { return x.used.Swap(false) }
func (x *pageIndex) evict()        { x.of.index.CompareAndSwap(x, nil) }
func (x *pageIndex) owner() *point { return x.of.member.point }

// find gives the number of the record that holds block.
func (x *pageIndex) find(block uint32) (int, bool) {
	word := int(block / 64)
	if word >= len(x.words) {
		return 0, false
	}
	bit := uint64(1) << (block % 64)
	if x.words[word]&bit == 0 {
		return 0, false
	}
	return int(x.ranks[word]) + bits.OnesCount64(x.words[word]&(bit-1)), true
}

// length is one more than the last block stored.
func (x *pageIndex) length() int64 {
	for word := len(x.words) - 1; word >= 0; word-- {
		if w := x.words[word]; w != 0 {
			return int64(word*64 + bits.Len64(w))
		}
	}
	return 0
}

// pages is the number of pages stored.
func (x *pageIndex) pages() int { return len(x.starts) - 1 }

// indexBuilder takes records in the order of the file.
type indexBuilder struct {
	x    *pageIndex
	next int64 // lowest block that may follow
	end  int64 // where the next record must begin
}

func newIndexBuilder(of *stored, pages int64) *indexBuilder {
	x := &pageIndex{of: of, cut: unknownBlocks}
	if pages > 0 {
		x.starts = make([]uint32, 0, pages+1)
	}
	return &indexBuilder{x: x}
}

var (
	errOrder  = errors.New("blocks are not in ascending order")
	errLength = errors.New("length of a page is out of range")
)

// add enters a record of block that begins at pos. limit is the number of
// blocks that the file can have.
func (b *indexBuilder) add(block, pos, limit int64) error {
	if block < b.next || block >= limit {
		return errOrder
	}
	if pos < b.end || pos > maxStored {
		return errLength
	}
	for word := int(block / 64); len(b.x.words) <= word; {
		b.x.ranks = append(b.x.ranks, uint32(len(b.x.starts)))
		b.x.words = append(b.x.words, 0)
	}
	b.x.words[block/64] |= 1 << (block % 64)
	b.x.starts = append(b.x.starts, uint32(pos))
	b.next, b.end = block+1, pos+recordHeader
	return nil
}

// finish closes the index; end is where the last record ends.
func (b *indexBuilder) finish(end int64) (*pageIndex, error) {
	if end < b.end || end > maxStored || len(b.x.starts) == 0 && end != 0 {
		return nil, errLength
	}
	x := b.x
	x.starts = append(x.starts, uint32(end))
	if cap(x.starts)-len(x.starts) > len(x.starts)/8 {
		x.starts = slices.Clone(x.starts)
	}
	x.bytes = int64(len(x.words)*12+cap(x.starts)*4+len(x.sums)*4) + 256
	return x, nil
}

// maxStored bounds the bytes of one stored file: positions have 32 bits.
const maxStored = 1<<32 - 1

// loadIndex returns the page index of a stored file, from memory or by reading
// the header map, or by scanning where there is no sound map.
func (s *stored) loadIndex() (*pageIndex, error) {
	if x := s.index.Load(); x != nil {
		if !x.used.Load() {
			x.used.Store(true)
		}
		return x, nil
	}
	mu := &s.member.point.indexLocks[s.stripe%lockStripes]
	mu.Lock()
	defer mu.Unlock()
	if x := s.index.Load(); x != nil {
		return x, nil
	}
	x, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	s.index.Store(x)
	s.member.point.catalog.indexes.add(x)
	return x, nil
}

func (s *stored) readIndex() (*pageIndex, error) {
	if s.headers > 0 && !s.member.distrusted {
		x, err := s.readMap()
		if err == nil {
			return x, nil
		}
		s.member.warnMap(s.file.path, err)
	}
	return s.scan()
}

// warnMap reports the first damage of the header map as a warning: where the
// whole map is lost, each file of the backup would repeat it.
func (m *member) warnMap(path string, err error) {
	level := slog.LevelDebug
	if !m.mapWarned.Swap(true) {
		level = slog.LevelWarn
	}
	m.point.catalog.log.Log(context.Background(), level, "header map of the backup is damaged, the file is scanned instead",
		"backup", m.id, "file", path, "error", err)
}

// Entries of the header map are 24 bytes long on 64-bit machines; 32-bit ones
// made shorter entries with the same fields at the same offsets.
const (
	mapEntry   = 24
	mapEntry32 = 20
)

// maxRatio is how much a zlib stream can grow at most.
const maxRatio = 1032

// readMap reads this file's part of page_header_map: a zlib stream of one entry
// a page, and one more of which only the position counts.
func (s *stored) readMap() (*pageIndex, error) {
	if s.hdrSize < 0 || s.headers >= s.size/recordHeader || s.headers*mapEntry32 > s.hdrSize*maxRatio {
		return nil, errors.New("its size in the file list is impossible")
	}
	w := getWorkspace()
	defer w.free()
	stream := grow(&w.raw, int(s.hdrSize))
	if err := s.member.readMapAt(stream, s.hdrOffset); err != nil {
		return nil, err
	}
	entries := grow(&w.plain, int(s.headers+1)*mapEntry)
	n, err := w.decode(entries, stream)
	if err != nil {
		return nil, err
	}
	x, err := s.indexMap(entries[:n])
	if err == nil {
		err = s.checkSize()
	}
	return x, err
}

// indexMap builds the index from the decoded entries.
func (s *stored) indexMap(entries []byte) (*pageIndex, error) {
	if sum := crc32.Checksum(entries, castagnoli); sum != s.hdrCRC {
		return nil, fmt.Errorf("checksum is %d, should be %d", sum, s.hdrCRC)
	}
	count := int(s.headers)
	width := len(entries) / (count + 1)
	if width*(count+1) != len(entries) || width != mapEntry && width != mapEntry32 {
		return nil, fmt.Errorf("entries of %d bytes for %d pages", len(entries), count)
	}
	b := newIndexBuilder(s, s.headers)
	b.x.sums, b.x.lsns = make([]uint16, count), make([]uint16, count)
	limit := s.layout().limit
	for i := range count {
		e := entries[i*width : i*width+width]
		block := int64(int32(binary.LittleEndian.Uint32(e[8:])))
		if err := b.add(block, int64(binary.LittleEndian.Uint32(e[12:])), limit); err != nil {
			return nil, err
		}
		b.x.lsns[i] = foldLSN(binary.LittleEndian.Uint64(e))
		b.x.sums[i] = binary.LittleEndian.Uint16(e[16:])
	}
	end := int64(binary.LittleEndian.Uint32(entries[count*width+12:]))
	if end != s.size || b.x.starts[0] != 0 {
		return nil, errors.New("its positions do not span the file")
	}
	return b.finish(end)
}

// checkSize opens the file to see that it is as long as the list says.
func (s *stored) checkSize() error {
	h, err := s.open()
	if err != nil {
		return err
	}
	defer h.release()
	_, err = s.sizeOnDisk(h)
	return err
}
