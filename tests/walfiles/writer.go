package walfiles

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// A Writer lays records out in segments as PostgreSQL does. Tests compare what
// it writes with pg_waldump before they rely on it.
type Writer struct {
	Archive
	Magic    uint16 // XLOG_PAGE_MAGIC
	SystemID uint64
	Timeline uint32

	pos, prev uint64
}

const pageSize = 8192

// NewWriter begins to write on timeline 1 at the beginning of a segment.
func NewWriter(magic uint16, segment uint64) *Writer {
	return &Writer{Archive: Archive{}, Magic: magic, SystemID: 7635943328547681869, Timeline: 1, pos: segment * SegmentSize}
}

// Position is where the next record begins, page headers not counted.
func (w *Writer) Position() uint64 { return w.pos }

// Record appends a record with main data only, and returns where it begins.
func (w *Writer) Record(manager, info byte, xid uint32, main []byte) uint64 {
	body := []byte{255, byte(len(main))}
	if len(main) > 255 {
		body = binary.LittleEndian.AppendUint32([]byte{254}, uint32(len(main)))
	}
	body = append(body, main...)
	record := make([]byte, 24, 24+len(body))
	binary.LittleEndian.PutUint32(record, uint32(24+len(body)))
	binary.LittleEndian.PutUint32(record[4:], xid)
	binary.LittleEndian.PutUint64(record[8:], w.prev)
	record[16], record[17] = info, manager
	table := crc32.MakeTable(crc32.Castagnoli)
	crc := crc32.Update(crc32.Update(0, table, body), table, record[:20])
	binary.LittleEndian.PutUint32(record[20:], crc)
	return w.put(append(record, body...))
}

// Fill appends records of no meaning until fewer than left bytes of the segment
// are free, and at least left-64.
func (w *Writer) Fill(left uint64) {
	for {
		free := SegmentSize - w.pos%SegmentSize
		switch {
		case free <= left:
			return
		case free-left < 64:
			w.noop(1)
		default:
			w.noop(int(min(free-left-26, 200)))
		}
	}
}

func (w *Writer) noop(n int) { w.Record(0, 0x20, 0, make([]byte, max(n, 1))) } // XLOG_NOOP

func (w *Writer) put(record []byte) uint64 {
	w.beginPage(0)
	start := w.pos
	for len(record) > 0 {
		w.beginPage(len(record))
		n := min(len(record), int(pageSize-w.pos%pageSize))
		copy(w.segment()[w.pos%SegmentSize:], record[:n])
		record, w.pos = record[n:], w.pos+uint64(n)
	}
	w.pos = (w.pos + 7) &^ 7
	w.prev = start
	return start
}

// beginPage writes a page header if the position is at the beginning of a page.
func (w *Writer) beginPage(rest int) {
	if w.pos%pageSize != 0 {
		return
	}
	segment := w.segment()
	header := segment[w.pos%SegmentSize:]
	first := w.pos%SegmentSize == 0
	var flags uint16
	if rest > 0 {
		flags |= 1
	}
	if first {
		flags |= 2
	}
	binary.LittleEndian.PutUint16(header, w.Magic)
	binary.LittleEndian.PutUint16(header[2:], flags)
	binary.LittleEndian.PutUint32(header[4:], w.Timeline)
	binary.LittleEndian.PutUint64(header[8:], w.pos)
	binary.LittleEndian.PutUint32(header[16:], uint32(rest))
	w.pos += 24
	if first {
		binary.LittleEndian.PutUint64(header[24:], w.SystemID)
		binary.LittleEndian.PutUint32(header[32:], SegmentSize)
		binary.LittleEndian.PutUint32(header[36:], pageSize)
		w.pos += 16
	}
}

func (w *Writer) segment() []byte {
	number := w.pos / SegmentSize
	name := fmt.Sprintf("%08X%08X%08X", w.Timeline, number/4096, number%4096)
	if w.Archive[name] == nil {
		w.Archive[name] = make([]byte, SegmentSize)
	}
	return w.Archive[name]
}

// SkipPage leaves the rest of the page empty, as after a crash.
func (w *Writer) SkipPage() { w.pos = (w.pos + pageSize - 1) / pageSize * pageSize }
