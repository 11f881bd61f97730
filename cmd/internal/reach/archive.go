package reach

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/wal"
)

// WALDamage is a segment that is missing or cannot be read to its end.
type WALDamage struct {
	Segment string  `json:"segment"`
	LSN     pg0.LSN `json:"lsn"`
	Reason  string  `json:"reason"`
}

// VerifyArchive reads every record of every segment in the archive, in jobs
// goroutines. Damage goes to report and the number of segments done and to do to
// progress, never two calls at once; progress may be nil. Segments that are
// missing count from the oldest usable backup on: what is older is of no use.
func VerifyArchive(ctx context.Context, c Catalog, jobs int, report func(WALDamage), progress func(done, total int64)) error {
	w, err := newWorld(ctx, c)
	if err != nil {
		return err
	}
	defer w.close()
	v := &archiveCheck{world: w, told: map[string]bool{}, report: report, progress: progress}
	for _, timeline := range w.segmentTimelines() {
		v.plan(timeline)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(jobs, 1))
	for _, s := range v.stretches {
		group.Go(func() error { return v.read(ctx, s) })
	}
	return group.Wait()
}

// An archiveCheck is one run of VerifyArchive.
type archiveCheck struct {
	world     *world
	stretches []stretch
	total     int64
	done      atomic.Int64

	mu       sync.Mutex // guards what follows, and the calls
	told     map[string]bool
	report   func(WALDamage)
	progress func(done, total int64)
}

// A stretch is some segments of a timeline, read by one goroutine.
type stretch struct {
	path        *wal.Path
	first, last uint64
}

// stretchSegments is how many segments one goroutine reads in a row.
const stretchSegments = 8

// segmentTimelines are the timelines that have segments, sorted.
func (w *world) segmentTimelines() []uint32 {
	var timelines []uint32
	for _, name := range w.names {
		seg, ok := wal.ParseSegment(strings.TrimSuffix(name, wal.PartialSuffix), w.SegmentSize())
		if ok && !slices.Contains(timelines, seg.Timeline) {
			timelines = append(timelines, seg.Timeline)
		}
	}
	slices.Sort(timelines)
	return timelines
}

// plan cuts the runs of a timeline into stretches, and reports the gaps.
func (v *archiveCheck) plan(timeline uint32) {
	path := v.world.index.Path(v.world, nil, wal.RootHistory(timeline))
	needed, some := v.world.needed(timeline)
	for _, first := path.Run(0); first != 0; {
		last, next := path.Run(first)
		for begin := first; begin <= last; begin += stretchSegments {
			v.stretches = append(v.stretches, stretch{path, begin, min(begin+stretchSegments-1, last)})
		}
		v.total += int64(last - first + 1)
		if next != 0 && some && next > needed {
			gap := Gap{path.Expected(max(last+1, needed)), path.Expected(next - 1)}
			v.tell(WALDamage{gap.First, pg0.LSN(max(last+1, needed)) * pg0.LSN(path.SegmentSize()), "missing: " + gap.String()})
		}
		first = next
	}
}

// needed is the first segment of a timeline that a usable backup needs.
func (w *world) needed(timeline uint32) (first uint64, some bool) {
	for _, info := range w.infos {
		number := uint64(info.StartLSN) / uint64(w.SegmentSize())
		if info.Timeline == timeline && w.unreadable(info) == "" && (!some || number < first) {
			first, some = number, true
		}
	}
	return first, some
}

// tell reports a segment once, however many records end in its damage.
func (v *archiveCheck) tell(d WALDamage) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.told[d.Segment] {
		v.told[d.Segment] = true
		v.report(d)
	}
}

// read checks the segments of a stretch. Behind damage it goes on with the next
// segment.
func (v *archiveCheck) read(ctx context.Context, s stretch) error {
	size := pg0.LSN(s.path.SegmentSize())
	r := wal.NewReader(s.path, v.world.systemID())
	defer r.Close()
	for number := s.first; number <= s.last; {
		reached, err := v.readFrom(ctx, r, s, number)
		if err := ctx.Err(); err != nil {
			return err
		}
		at := uint64(reached / size)
		if err != nil {
			v.judge(s, max(at, number), reached, err)
			at = max(at, number) + 1
		}
		v.advance(int64(min(at, s.last+1)) - int64(number))
		number = at
	}
	return nil
}

// readFrom reads from the beginning of a segment to the end of the stretch, and
// returns how far it came.
func (v *archiveCheck) readFrom(ctx context.Context, r *wal.Reader, s stretch, number uint64) (pg0.LSN, error) {
	size := pg0.LSN(s.path.SegmentSize())
	end := pg0.LSN(s.last+1) * size
	reached, err := r.SeekFirst(ctx, pg0.LSN(number)*size)
	if err != nil {
		return pg0.LSN(number) * size, err
	}
	for reached < end {
		if err := ctx.Err(); err != nil {
			return reached, err
		}
		rec, err := r.Next(ctx)
		if err == nil {
			_, err = rec.Decode()
		}
		if err != nil {
			return reached, err
		}
		reached = rec.End
	}
	return end, nil
}

// judge reports what ended a stretch, unless it is the end of a run.
func (v *archiveCheck) judge(s stretch, number uint64, at pg0.LSN, err error) {
	d := WALDamage{s.path.Expected(number), at, err.Error()}
	var end *wal.End
	if errors.As(err, &end) {
		if end.Missing != "" || !end.Damaged && !s.path.Has(number+1) {
			return
		}
		// A record may begin well and be damaged in the next segment.
		d.LSN = end.LSN
		d.Segment, d.Reason = strings.TrimSuffix(end.Path, wal.PartialSuffix), end.Reason
	}
	v.tell(d)
}

func (v *archiveCheck) advance(segments int64) {
	if v.progress == nil || segments <= 0 {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.progress(v.done.Add(segments), v.total)
}

// systemID is that of the backups; 0 when there are none.
func (w *world) systemID() uint64 {
	for _, info := range w.infos {
		if info.SystemID != 0 {
			return info.SystemID
		}
	}
	return 0
}

// String says the place and the reason.
func (d WALDamage) String() string {
	return fmt.Sprintf("WAL %s at %s: %s", d.Segment, d.LSN, d.Reason)
}
