package reach

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/wal"
)

// A Catalog is what is asked for backups and WAL.
type Catalog interface {
	pg0.Catalog
	pg0.WALArchive
	// OpenWAL opens of a backup the WAL that it keeps itself, and may leave out
	// everything else: the point's tree is good for pg_wal alone. Errors are
	// those of Open.
	OpenWAL(ctx context.Context, id string) (*pg0.Point, error)
}

// A world is what a catalog holds at the time of one question.
type world struct {
	Catalog
	infos  []pg0.PointInfo // newest first
	names  []string        // of the archive
	index  *wal.Index
	memory Memory
	points map[string]*pg0.Point
	ends   map[string]tail // of runs of segments, by the name of their last one

	failed        map[string]error // why a usable backup did not reach the target
	restorePoints []string         // seen while searching for one
}

func newWorld(ctx context.Context, c Catalog) (*world, error) {
	infos, err := c.Points(ctx)
	if err != nil {
		return nil, err
	}
	names, err := c.WALNames(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the WAL archive: %w", err)
	}
	if size := c.SegmentSize(); !wal.ValidSegmentSize(size) {
		return nil, fmt.Errorf("WAL segments cannot have %d bytes: %w", size, pg0.ErrCorrupt)
	}
	infos = slices.Clone(infos)
	slices.SortStableFunc(infos, func(a, b pg0.PointInfo) int {
		return cmp.Or(b.StartTime.Compare(a.StartTime), cmp.Compare(b.ID, a.ID))
	})
	w := &world{
		Catalog: c, infos: infos, names: names,
		points: map[string]*pg0.Point{}, ends: map[string]tail{}, failed: map[string]error{},
	}
	w.index, err = wal.NewIndex(ctx, w)
	return w, err
}

// WALNames is the list as it was when the question was asked.
func (w *world) WALNames(context.Context) ([]string, error) { return w.names, nil }

// close closes the backups whose own pg_wal was looked at.
func (w *world) close() {
	for _, point := range w.points {
		_ = point.Close() // it was only read
	}
}

// own is the tree of a backup that keeps WAL of its own.
func (w *world) own(ctx context.Context, info pg0.PointInfo) (fs.FS, error) {
	if point, ok := w.points[info.ID]; ok {
		return point.Tree, nil
	}
	point, err := w.OpenWAL(ctx, info.ID)
	if err != nil {
		return nil, err
	}
	w.points[info.ID] = point
	return point.Tree, nil
}

// unreadable says why a backup cannot be a start; empty when it can.
func (w *world) unreadable(info pg0.PointInfo) string {
	size := pg0.LSN(w.SegmentSize())
	switch {
	case info.Unusable != "":
		return info.Unusable
	case info.StartLSN < size || info.StopLSN < info.StartLSN || info.Timeline == 0:
		return fmt.Sprintf("it says that it needs WAL from %s to %s of timeline %d", info.StartLSN, info.StopLSN, info.Timeline)
	}
	return ""
}

// usable gives the backups that a target may start from, newest first, before
// anything is asked about time and WAL.
func (w *world) usable(t Target) ([]pg0.PointInfo, error) {
	if t.Backup != "" {
		info, err := w.backup(t.Backup)
		if err != nil {
			return nil, err
		}
		return []pg0.PointInfo{info}, nil
	}
	var usable []pg0.PointInfo
	for _, info := range w.infos {
		if w.unreadable(info) == "" {
			usable = append(usable, info)
		}
	}
	switch {
	case len(w.infos) == 0:
		return nil, exit.Error(exit.NotFound, errors.New("the catalog has no backup"))
	case len(usable) == 0:
		newest := w.infos[0]
		return nil, refuse("none of the %d backups can be used; the newest, %s: %s", len(w.infos), newest.ID, w.unreadable(newest))
	}
	return usable, nil
}

func (w *world) backup(id string) (pg0.PointInfo, error) {
	for _, info := range w.infos {
		if !strings.EqualFold(info.ID, id) {
			continue
		}
		if why := w.unreadable(info); why != "" {
			return info, exit.Error(exit.Refused, fmt.Errorf("backup %s: %w: %s", info.ID, pg0.ErrUnusable, why))
		}
		return info, nil
	}
	return pg0.PointInfo{}, exit.Error(exit.NotFound, fmt.Errorf("backup %q is not in the catalog%s", id, w.nearest()))
}

// nearest names the newest backups, for who mistyped an id.
func (w *world) nearest() string {
	var ids []string
	for _, info := range w.infos[:min(5, len(w.infos))] {
		ids = append(ids, info.ID)
	}
	if ids == nil {
		return ", which has none"
	}
	return "; the newest are " + strings.Join(ids, ", ")
}

// history is the way from a backup to the timeline that the target names. It
// is nil when that way does not lead through the backup's end.
func (w *world) history(ctx context.Context, info pg0.PointInfo, timeline string) (wal.History, error) {
	switch timeline {
	case "", "current":
		return w.current(ctx, info)
	case "latest":
		return w.latest(ctx, info)
	}
	number, err := strconv.ParseUint(timeline, 10, 32)
	if err != nil || number == 0 {
		return nil, exit.Error(exit.Usage, fmt.Errorf("timeline %q is neither a number nor current nor latest", timeline))
	}
	if uint32(number) == info.Timeline {
		return w.current(ctx, info)
	}
	h, err := wal.LoadHistory(ctx, w, nil, uint32(number))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, refuse("timeline %d is not known: %s is not in the archive", number, wal.HistoryName(uint32(number)))
	}
	if err != nil || !h.Holds(info.Timeline, info.StopLSN) {
		return nil, err
	}
	return h, nil
}

// current is the history of the backup's own timeline. A file that is missing
// does not matter: nothing before the backup is needed.
func (w *world) current(ctx context.Context, info pg0.PointInfo) (wal.History, error) {
	h, err := wal.LoadHistory(ctx, w, nil, info.Timeline)
	if errors.Is(err, fs.ErrNotExist) {
		return wal.RootHistory(info.Timeline), nil
	}
	return h, err
}

// latest is the history of the highest timeline that descends from the backup.
func (w *world) latest(ctx context.Context, info pg0.PointInfo) (wal.History, error) {
	for _, number := range slices.Backward(w.timelines()) {
		if number <= info.Timeline {
			break
		}
		h, err := wal.LoadHistory(ctx, w, nil, number)
		if err != nil {
			return nil, err
		}
		if h.Holds(info.Timeline, info.StopLSN) {
			return h, nil
		}
	}
	return w.current(ctx, info)
}

// timelines are the numbers that have a history file, sorted.
func (w *world) timelines() []uint32 {
	var numbers []uint32
	for _, name := range w.names {
		if number, ok := wal.ParseHistoryName(name); ok {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	return numbers
}

func refuse(format string, args ...any) error {
	return exit.Error(exit.Refused, fmt.Errorf(format, args...))
}
