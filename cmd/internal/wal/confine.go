package wal

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"

	"github.com/fukanchik/pg0"
)

// ConfinedPath is the path that confined records give to a new tablespace: the
// cluster directory, in which PostgreSQL runs. It fits in the place of any
// absolute path. A mount turns the link to it into one of its own.
const ConfinedPath = "."

// maxSpaceRecord is longer than any record that creates a tablespace: the
// headers, the OID and a path of MAXPGPATH.
const maxSpaceRecord = headerSize + 32 + 4 + 1024

// Confine changes every record that would create a tablespace outside of the
// cluster directory, as far as it lies in one segment, whose bytes are data:
// replay would change the permissions of that path and make a directory there.
// It returns the events as they were. segs is asked for a neighbour only when a
// record reaches over the boundary.
func Confine(ctx context.Context, segs Segments, seg Segment, data []byte) ([]Event, error) {
	size := pg0.LSN(segs.SegmentSize())
	begin := pg0.LSN(seg.Number) * size
	r := NewReader(&overlay{segs, seg, data}, 0)
	defer r.Close()
	var all []Event
	if from, ok := reachesInto(data); ok && begin >= size {
		events, err := confineFrom(ctx, r, begin-from, begin, data)
		if err != nil {
			return nil, err
		}
		all = events
	}
	events, err := confineFrom(ctx, r, begin, begin, data)
	return append(all, events...), err
}

// reachesInto tells whether a short record reaches into the segment, and how
// far before its beginning to look for it.
func reachesInto(data []byte) (before pg0.LSN, ok bool) {
	if len(data) < pageSize {
		return 0, false
	}
	flags, rest := binary.LittleEndian.Uint16(data[2:]), binary.LittleEndian.Uint32(data[16:])
	return pageSize, flags&flagContinues != 0 && rest < maxSpaceRecord
}

// confineFrom changes the records that begin at from or later, in the part of
// them that lies in the segment at begin.
func confineFrom(ctx context.Context, r *Reader, from, begin pg0.LSN, data []byte) ([]Event, error) {
	end := begin + pg0.LSN(r.src.SegmentSize())
	if from < begin {
		end = begin
	}
	var all []Event
	_, err := r.SeekFirst(ctx, from)
	for err == nil && r.pos < end {
		if leaves(data, begin, r.pos) {
			break
		}
		var rec *Record
		if rec, err = r.Next(ctx); err != nil || rec.LSN >= end {
			break
		}
		var e *Event
		if e, err = rec.Decode(); err != nil || e == nil || e.Kind != TablespaceCreate || e.Path == "" || e.Path == ConfinedPath {
			continue
		}
		overwrite(data, begin, r.src.SegmentSize(), rec.LSN, confined(rec, e))
		all = append(all, *e)
	}
	var over *End
	if errors.As(err, &over) {
		return all, nil // where records end is for recovery to judge
	}
	return all, err
}

// leaves tells whether the record at pos goes on in the next segment and is
// seen to be none that creates a tablespace.
func leaves(data []byte, begin, pos pg0.LSN) bool {
	if pos < begin || pos%pageSize == 0 || pos%pageSize+headerSize > pageSize || pos+headerSize > begin+pg0.LSN(len(data)) {
		return false
	}
	header := data[pos-begin:]
	total := pg0.LSN(binary.LittleEndian.Uint32(header))
	return pos+total > begin+pg0.LSN(len(data)) && header[17] != rmgrTblSp
}

// confined is the record with another path, of the same length.
func confined(rec *Record, e *Event) []byte {
	b := append([]byte(nil), rec.Bytes...)
	path := b[len(b)-len(e.Path)-1:]
	clear(path)
	copy(path, ConfinedPath)
	crc := crc32.Update(0, castagnoli, b[headerSize:])
	crc = crc32.Update(crc, castagnoli, b[:20])
	binary.LittleEndian.PutUint32(b[20:], crc)
	return b
}

// overwrite puts the bytes of a record at lsn where they belong in the segment
// at begin; those outside of it are left out. Records skip page headers.
func overwrite(data []byte, begin pg0.LSN, size int64, lsn pg0.LSN, rec []byte) {
	for len(rec) > 0 {
		if lsn%pageSize == 0 {
			lsn += shortHeader
			if (lsn-shortHeader)%pg0.LSN(size) == 0 {
				lsn += longHeader - shortHeader
			}
		}
		n := min(len(rec), int(pageSize-lsn%pageSize))
		if lsn >= begin && lsn+pg0.LSN(n) <= begin+pg0.LSN(len(data)) {
			copy(data[lsn-begin:], rec[:n])
		}
		rec, lsn = rec[n:], lsn+pg0.LSN(n)
	}
}

// An overlay has one segment at hand and asks another way for the rest.
type overlay struct {
	Segments
	seg  Segment
	data []byte
}

func (o *overlay) Segment(ctx context.Context, number uint64) (*OpenSegment, error) {
	if number != o.seg.Number {
		return o.Segments.Segment(ctx, number)
	}
	return &OpenSegment{File: newMemoryFile(o.seg.Name(o.SegmentSize()), o.data), Segment: o.seg, Path: o.seg.Name(o.SegmentSize())}, nil
}
