package reach

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/wal"
)

// A way leads from one backup along one history through the WAL there is.
type way struct {
	world   *world
	info    pg0.PointInfo
	history wal.History
	path    *wal.Path
}

// wayFrom finds the WAL for a backup: the archive's, and the backup's own
// where the archive has not all that its consistent end needs.
func (w *world) wayFrom(ctx context.Context, info pg0.PointInfo, h wal.History) (*way, error) {
	y := &way{world: w, info: info, history: h, path: w.index.Path(w, nil, h)}
	if last, _ := y.path.Run(y.first()); last >= y.lastOfBackup() || !info.Stream {
		return y, nil
	}
	own, err := w.own(ctx, info)
	if err != nil {
		return nil, err
	}
	y.path = w.index.Path(w, own, h)
	return y, nil
}

func (y *way) size() pg0.LSN { return pg0.LSN(y.path.SegmentSize()) }

// first is the number of the segment in which replay begins.
func (y *way) first() uint64 { return uint64(y.info.StartLSN / y.size()) }

// lastOfBackup is the number of the last segment that the backup's consistent
// end needs. An end on a boundary needs nothing beyond it.
func (y *way) lastOfBackup() uint64 { return uint64((y.info.StopLSN - 1) / y.size()) }

// A Range is what WAL reaches from a backup.
type Range struct {
	From     pg0.LSN   `json:"from"`
	FromTime time.Time `json:"from_time,omitzero"`
	To       pg0.LSN   `json:"to"`
	ToTime   time.Time `json:"to_time,omitzero"`
}

// String says the range in LSNs and times.
func (r Range) String() string {
	return fmt.Sprintf("from %s to %s", place(r.From, r.FromTime), place(r.To, r.ToTime))
}

func place(lsn pg0.LSN, at time.Time) string {
	if at.IsZero() {
		return lsn.String()
	}
	return lsn.String() + " (" + clock(at) + ")"
}

// clock writes a time as PostgreSQL does, in UTC.
func clock(at time.Time) string { return at.UTC().Format("2006-01-02 15:04:05.999999-07") }

// reachable is the range whose end is the tail.
func (y *way) reachable(t tail) Range {
	r := Range{From: y.info.StopLSN, FromTime: y.info.RecoveryTime, To: t.end, ToTime: t.newest}
	if r.ToTime.Before(r.FromTime) {
		r.ToTime = r.FromTime
	}
	return r
}

// extent says what is reachable up to a tail.
func (y *way) extent(at tail) string {
	if at.end < y.info.StopLSN {
		return fmt.Sprintf("backup %s cannot become consistent, for which it needs WAL to %s", y.info.ID, y.info.StopLSN)
	}
	return "reachable: " + y.reachable(at).String()
}

// starts checks by the names of segments that the backup's own consistent end
// is within reach.
func (y *way) starts(ctx context.Context) error {
	last, _ := y.path.Run(y.first())
	if last >= y.lastOfBackup() {
		return nil
	}
	return &elsewhere{error: refuse("WAL %s is missing, which backup %s needs to become consistent (%s to %s); %s",
		y.path.Expected(last+1), y.info.ID, y.info.StartLSN, y.info.StopLSN, y.world.instead(ctx, y.info))}
}

// instead names the newest other backup that can become consistent.
func (w *world) instead(ctx context.Context, than pg0.PointInfo) string {
	for _, info := range w.infos {
		if info.ID == than.ID || w.unreadable(info) != "" {
			continue
		}
		h, err := w.current(ctx, info)
		if err != nil {
			continue
		}
		y, err := w.wayFrom(ctx, info, h)
		if err != nil {
			continue
		}
		if last, _ := y.path.Run(y.first()); last < y.lastOfBackup() {
			continue
		}
		t, err := y.tail(ctx)
		if err != nil {
			continue
		}
		return fmt.Sprintf("backup %s reaches %s", info.ID, y.reachable(t))
	}
	return "no other backup can be used either"
}

// A tail is the end of an unbroken run of WAL.
type tail struct {
	record, end pg0.LSN   // the last complete record
	time        time.Time // the last transaction's end near the run's end; zero when unknown
	xid         uint32
	newest      time.Time // the greatest time that any record there has
}

// tailSegments is how far back from its end the last time of a run is searched.
const tailSegments = 16

// tail reads the end of the run of segments that begins with the backup. Only
// as many segments are read as it takes to find a record and a time.
func (y *way) tail(ctx context.Context) (tail, error) {
	last, _ := y.path.Run(y.first())
	if last < y.first() {
		return tail{end: y.info.StartLSN}, nil
	}
	name := y.path.Expected(last)
	if last-y.first() < tailSegments {
		name += " from " + y.info.ID // whose beginning bounds the search
	}
	if t, ok := y.world.ends[name]; ok {
		return t, nil
	}
	var t tail
	for number := last; ; number-- {
		found, err := y.tailFrom(ctx, number)
		if err != nil {
			return tail{}, err
		}
		if t.end == 0 {
			t = found
		} else {
			t.time, t.xid, t.newest = found.time, found.xid, found.newest
		}
		if number == y.first() || t.end != 0 && (!t.time.IsZero() || last-number >= tailSegments) {
			break
		}
	}
	if t.end == 0 {
		t.end = y.info.StartLSN
	}
	y.world.ends[name] = t
	return t, nil
}

// tailFrom reads from a segment to the end. The zero tail says that no record
// that begins there is complete.
func (y *way) tailFrom(ctx context.Context, number uint64) (tail, error) {
	t := newTravel(y)
	defer t.close()
	err := t.seek(ctx, number)
	if err == nil {
		_, err = t.until(ctx, matcher{})
	}
	return t.tail, notEnd(err)
}

// notEnd takes the end of WAL for what it is here: no error.
func notEnd(err error) error {
	var end *wal.End
	if errors.As(err, &end) {
		return nil
	}
	return err
}

// broken tells whether WAL ends where it should not: at a gap, or in damage.
func (y *way) broken(end *wal.End, at tail) error {
	number := uint64(end.LSN / y.size())
	if end.Missing != "" {
		if seg, ok := wal.ParseSegment(end.Missing, y.path.SegmentSize()); ok {
			number = seg.Number
		}
		if _, next := y.path.Run(number); next != 0 {
			return refuse("WAL %s is missing (and the archive goes on with %s); %s; to stop there: --recovery-target-lsn=%s",
				end.Missing, y.path.Expected(next), y.extent(at), at.record)
		}
		return nil
	}
	if end.Damaged || y.path.Has(number+1) {
		return exit.Error(exit.Corrupt, fmt.Errorf("WAL segment %s is damaged at %s: %s; %s: %w",
			strings.TrimPrefix(end.Path, "pg_wal/"), end.LSN, end.Reason, y.extent(at), pg0.ErrCorrupt))
	}
	return nil
}
