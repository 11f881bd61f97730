// Package wal reads PostgreSQL's write-ahead log from segment files: names and
// timeline histories, what an archive holds and lacks, and the records that
// say when, by whom and where. Versions 12 to 18 are known.
package wal

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/fukanchik/pg0"
)

// PartialSuffix ends the name of a segment that was never finished.
const PartialSuffix = ".partial"

// A Segment is one file of the log: its timeline and its number from the log's
// beginning. The number times the segment size is the LSN it begins at.
type Segment struct {
	Timeline uint32
	Number   uint64
}

// ValidSegmentSize tells whether PostgreSQL can have segments of that size: a
// power of two from 1 MiB to 1 GiB.
func ValidSegmentSize(size int64) bool {
	return size >= 1<<20 && size <= 1<<30 && size&(size-1) == 0
}

// Name is the file name for segments of size bytes.
func (s Segment) Name(size int64) string {
	per := uint64(1<<32) / uint64(size)
	return fmt.Sprintf("%08X%08X%08X", s.Timeline, s.Number/per, s.Number%per)
}

// ParseSegment reads the name of a whole segment. Other names, and numbers that
// do not fit the size, are not ok.
func ParseSegment(name string, size int64) (seg Segment, ok bool) {
	if len(name) != 24 || strings.Trim(name, "0123456789ABCDEF") != "" {
		return Segment{}, false
	}
	tli, _ := strconv.ParseUint(name[:8], 16, 32)
	hi, _ := strconv.ParseUint(name[8:16], 16, 32)
	lo, _ := strconv.ParseUint(name[16:], 16, 32)
	per := uint64(1<<32) / uint64(size)
	if tli == 0 || lo >= per {
		return Segment{}, false
	}
	return Segment{uint32(tli), hi*per + lo}, true
}

// HistoryName is the file name of a timeline's history.
func HistoryName(timeline uint32) string { return fmt.Sprintf("%08X.history", timeline) }

// ParseHistoryName reads what HistoryName writes.
func ParseHistoryName(name string) (timeline uint32, ok bool) {
	number, ok := strings.CutSuffix(name, ".history")
	if !ok || len(number) != 8 || strings.Trim(number, "0123456789ABCDEF") != "" {
		return 0, false
	}
	tli, _ := strconv.ParseUint(number, 16, 32)
	return uint32(tli), tli != 0
}

// A History is the way to a timeline: its ancestors, the oldest first, and the
// timeline itself last.
type History []Stretch

// A Stretch is the part of a history that one timeline covers. Begin is 0 for
// the oldest, End is 0 for the last: it has none.
type Stretch struct {
	Timeline   uint32
	Begin, End pg0.LSN
}

// RootHistory is that of a timeline without a history file.
func RootHistory(timeline uint32) History { return History{{Timeline: timeline}} }

// ParseHistory reads the history file of a timeline. Lines are the number of an
// ancestor, the LSN where it was left, and a reason; numbers increase.
func ParseHistory(timeline uint32, text []byte) (History, error) {
	var h History
	var begin pg0.LSN
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		s, err := parseStretch(fields, begin)
		if err == nil && (s.Timeline >= timeline || len(h) > 0 && s.Timeline <= h[len(h)-1].Timeline) {
			err = fmt.Errorf("timeline %d is out of order", s.Timeline)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: line %d: %w: %w", HistoryName(timeline), number, err, pg0.ErrCorrupt)
		}
		h = append(h, s)
		begin = s.End
	}
	return append(h, Stretch{Timeline: timeline, Begin: begin}), nil
}

func parseStretch(fields []string, begin pg0.LSN) (Stretch, error) {
	tli, err := strconv.ParseUint(fields[0], 10, 32)
	if err != nil || tli == 0 {
		return Stretch{}, fmt.Errorf("%q is not the number of a timeline", fields[0])
	}
	if len(fields) < 2 {
		return Stretch{}, fmt.Errorf("the LSN where timeline %d was left is missing", tli)
	}
	end, err := pg0.ParseLSN(fields[1])
	if err != nil {
		return Stretch{}, err
	}
	if end < begin || end == 0 {
		return Stretch{}, fmt.Errorf("timeline %d ends at %s, before it begins at %s", tli, end, begin)
	}
	return Stretch{uint32(tli), begin, end}, nil
}

// Last is the timeline that the history leads to.
func (h History) Last() uint32 { return h[len(h)-1].Timeline }

// Find gives the stretch of a timeline.
func (h History) Find(timeline uint32) (Stretch, bool) {
	for _, s := range h {
		if s.Timeline == timeline {
			return s, true
		}
	}
	return Stretch{}, false
}

// Holds tells whether the history passes through a position of a timeline: that
// the timeline was not left before.
func (h History) Holds(timeline uint32, at pg0.LSN) bool {
	s, ok := h.Find(timeline)
	return ok && (s.End == 0 || at <= s.End)
}
