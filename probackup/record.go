package probackup

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"math/bits"
)

// A stored data file is a plain sequence of records: the block number and the
// length of the payload as 32-bit integers, then the payload.
const (
	recordHeader = 8
	maxBlockSize = 32768
	truncateMark = -2 // writers before 2.4: no payload, block is the file's new length
)

var (
	errMark      = errors.New("bytes follow the mark that ends the file")
	errBigEndian = errors.New("its records are big-endian: the backup was made on another kind of machine")
)

// recordLayout is how one writer laid its records out.
type recordLayout struct {
	blockSize int
	old       bool  // before 2.4: payloads padded to 8 bytes, marks, stray empty records
	limit     int64 // blocks that the file can have
}

// padded is the room that a payload of n bytes takes.
func (l recordLayout) padded(n int) int {
	if l.old {
		return (n + 7) &^ 7
	}
	return n
}

// scanRecords walks the records of a file of size bytes and calls add with the
// block and the position of each. It returns the new length that an old mark
// gives, or unknownBlocks.
func scanRecords(r *bufio.Reader, size int64, l recordLayout, add func(block, pos int64) error) (cut int64, err error) {
	for pos := int64(0); pos < size; {
		var header [recordHeader]byte
		if _, err := io.ReadFull(r, header[:]); err != nil {
			return 0, fmt.Errorf("record at byte %d: %w", pos, err)
		}
		block := int64(binary.LittleEndian.Uint32(header[:]))
		length := int(int32(binary.LittleEndian.Uint32(header[4:])))
		switch {
		case l.old && length == truncateMark:
			if pos+recordHeader != size {
				return 0, errMark
			}
			return block, nil
		case l.old && block == 0 && length == 0:
			pos += recordHeader
			continue
		}
		if err := l.check(block, length); err != nil {
			return 0, fmt.Errorf("record at byte %d: %w", pos, err)
		}
		if err := add(block, pos); err != nil {
			return 0, fmt.Errorf("record at byte %d: %w", pos, err)
		}
		n := l.padded(length)
		if _, err := r.Discard(n); err != nil {
			return 0, fmt.Errorf("record at byte %d: %w", pos, err)
		}
		pos += int64(recordHeader + n)
	}
	return unknownBlocks, nil
}

func (l recordLayout) check(block int64, length int) error {
	if length >= 1 && length <= l.blockSize && block < l.limit {
		return nil
	}
	swapped := int(int32(bits.ReverseBytes32(uint32(length))))
	if swapped >= 1 && swapped <= l.blockSize && int64(bits.ReverseBytes32(uint32(block))) < l.limit {
		return errBigEndian
	}
	if block >= l.limit {
		return fmt.Errorf("block %d is past the end of the file", block)
	}
	return errLength
}

// newCRC is the checksum that this version of pg_probackup keeps of files.
func (v version) newCRC() hash.Hash32 {
	if v >= version2_0_22 && v < version2_0_25 {
		return crc32.NewIEEE()
	}
	return crc32.New(castagnoli)
}

// scan indexes a stored file by walking its records, and compares the whole
// file with its checksum on the way.
func (s *stored) scan() (*pageIndex, error) {
	h, err := s.open()
	if err != nil {
		return nil, err
	}
	defer h.release()
	size, err := s.sizeOnDisk(h)
	if err != nil {
		return nil, err
	}
	sum := s.member.control.version.newCRC()
	r := bufio.NewReaderSize(io.TeeReader(io.NewSectionReader(h.file, 0, size), sum), rawBytes)
	b := newIndexBuilder(s, s.headers)
	layout := s.layout()
	cut, err := scanRecords(r, size, layout, func(block, pos int64) error { return b.add(block, pos, layout.limit) })
	if err != nil {
		return nil, s.member.damaged(s.file.path, -1, err)
	}
	end := size
	if cut != unknownBlocks {
		end -= recordHeader
	}
	x, err := b.finish(end)
	if err != nil {
		return nil, s.member.damaged(s.file.path, -1, err)
	}
	x.cut = cut
	if x.suspect = !s.member.distrusted && sum.Sum32() != s.crc; x.suspect {
		s.member.point.catalog.log.Warn("file does not match its checksum; pages that cannot prove themselves are refused",
			"backup", s.member.id, "file", s.file.path)
	}
	return x, nil
}

// layout is how the records of this file are laid out. A half-merged file can
// be longer than the list says.
func (s *stored) layout() recordLayout {
	l := recordLayout{
		blockSize: s.member.control.blockSize,
		old:       s.member.control.version < version2_4,
		limit:     int64(s.member.point.segmentBlocks),
	}
	if s.blocks != unknownBlocks && !s.member.distrusted {
		l.limit = s.blocks
	}
	return l
}

// sizeOnDisk is the length of the stored file, which must be what the list
// says unless a merge was rewriting files.
func (s *stored) sizeOnDisk(h *handle) (int64, error) {
	info, err := h.file.Stat()
	if err != nil {
		return 0, s.member.fault(s.file.path, err)
	}
	if size := info.Size(); size != s.size && !s.member.distrusted {
		return 0, s.member.damaged(s.file.path, -1, fmt.Errorf("file is %d bytes long, should be %d", size, s.size))
	}
	return info.Size(), nil
}

// mayBeCompressed is the tool's rule for writers before 2.0.23, which stored a
// page compressed also when that took as many bytes as the page has.
func (s *stored) mayBeCompressed(payload []byte) bool {
	if s.member.control.version >= version2_0_23 || s.algorithm == algNone {
		return false
	}
	if isZero(payload) || checkHeader(payload) == nil {
		return false
	}
	return s.algorithm != algZlib || payload[0] == 0x78
}
