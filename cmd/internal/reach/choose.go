package reach

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/wal"
)

// Choose makes a target definite: it finds the newest backup that reaches it
// on its timeline and the record to stop at. A target that cannot be reached
// gives an error with exit code 4 that says why, and what can be reached.
//
// Time, xid and name are searched for in the WAL, record by record; for
// everything else only the ends of the way are read. Examine reads the rest.
func Choose(ctx context.Context, c Catalog, t Target, options ...Option) (*Choice, error) {
	w, err := newWorld(ctx, c)
	if err != nil {
		return nil, err
	}
	for _, option := range options {
		option(w)
	}
	defer w.close()
	ways, err := w.candidates(ctx, t)
	if err != nil {
		return nil, err
	}
	choice, err := w.first(ctx, t, ways)
	if err != nil {
		return nil, err
	}
	if choice, err = w.newest(ctx, t, choice); err != nil {
		return nil, err
	}
	choice.Notes = w.passedOver(t, choice)
	return choice, nil
}

// first takes the first way that leads to the target. The error is that of the
// newest backup.
func (w *world) first(ctx context.Context, t Target, ways []*way) (*Choice, error) {
	var first error
	exhausted := map[uint32]bool{} // timelines whose end comes before the target
	for i, y := range ways {
		if exhausted[y.history.Last()] {
			continue
		}
		choice, err := y.find(ctx, t, searched(ways[:i], y))
		if err == nil {
			return choice, nil
		}
		if first == nil {
			first = err
		}
		var e *elsewhere
		if !errors.As(err, &e) {
			if t.Kind == Name {
				first = err // it may have been there
			}
			break
		}
		exhausted[y.history.Last()] = e.behind && t.Kind != Name
		w.failed[y.info.ID] = err
	}
	if t.Kind == Name && len(w.restorePoints) > 0 {
		first = fmt.Errorf("%w; restore points seen: %s", first, quotedList(w.restorePoints))
	}
	return nil, first
}

func quotedList(names []string) string {
	var quoted []string
	for _, name := range names {
		quoted = append(quoted, strconv.Quote(name))
	}
	return strings.Join(quoted, ", ")
}

// elsewhere marks a refusal after which another backup is worth a try.
type elsewhere struct {
	error
	behind bool // the target comes after all WAL of the timeline
	late   bool // nothing is wrong with the backup, it may only come after the target
}

func (e *elsewhere) Unwrap() error { return e.error }

// passedOver says which newer backups could not be taken.
func (w *world) passedOver(t Target, c *Choice) []string {
	if t.Backup != "" {
		return nil
	}
	var notes []string
	for _, info := range w.infos {
		if info.ID == c.Backup.ID {
			break
		}
		if why := w.unreadable(info); why != "" && !t.precedes(info) {
			notes = append(notes, fmt.Sprintf("backup %s was passed over: %s", info.ID, why))
		} else if err := w.failed[info.ID]; err != nil && !late(err) {
			notes = append(notes, fmt.Sprintf("backup %s was passed over: %s", info.ID, err))
		}
	}
	return notes
}

func late(err error) bool {
	var e *elsewhere
	return errors.As(err, &e) && e.late
}

// candidates are the ways to try, newest backup first.
func (w *world) candidates(ctx context.Context, t Target) ([]*way, error) {
	infos, err := w.usable(t)
	if err != nil {
		return nil, err
	}
	var ways []*way
	var early *pg0.PointInfo // the oldest backup that ends after the target
	var earlyHistory wal.History
	for _, info := range infos {
		h, err := w.history(ctx, info, t.Timeline)
		if err != nil {
			return nil, err
		}
		if h == nil {
			continue
		}
		if t.precedes(info) {
			early, earlyHistory = &info, h
			continue
		}
		y, err := w.wayFrom(ctx, info, h)
		if err != nil {
			return nil, err
		}
		ways = append(ways, y)
	}
	switch {
	case len(ways) > 0:
		return ways, nil
	case early != nil && t.Kind == XID:
		// Its number may be old and its end late.
		y, err := w.wayFrom(ctx, *early, earlyHistory)
		return []*way{y}, err
	}
	return nil, w.none(t, early)
}

// none says why no backup can serve.
func (w *world) none(t Target, early *pg0.PointInfo) error {
	if early == nil {
		return refuse("no usable backup%s lies on the way to timeline %s", named(t), t.Timeline)
	}
	which := "the oldest usable backup"
	if t.Backup != "" {
		which = "backup"
	}
	return refuse("%s is before the end of %s %s; reachable: from %s on", t, which, early.ID, place(early.StopLSN, early.RecoveryTime))
}

func named(t Target) string {
	if t.Backup == "" {
		return ""
	}
	return " " + t.Backup
}

// precedes tells by a backup's own words that the target comes before it is
// consistent.
func (t Target) precedes(info pg0.PointInfo) bool {
	switch t.Kind {
	case Time:
		return t.Time.Before(info.RecoveryTime)
	case LSN:
		return t.LSN < info.StopLSN
	case XID:
		return info.RecoveryXID != 0 && int32(uint32(t.XID)-uint32(info.RecoveryXID)) < 0
	}
	return false
}

// searched is the LSN up to which a way must be searched: what comes later was
// searched from a newer backup. 0: to its end.
func searched(newer []*way, y *way) pg0.LSN {
	for i := len(newer) - 1; i >= 0; i-- {
		if n := newer[i]; n.history.Last() == y.history.Last() && y.history.Holds(n.info.Timeline, n.info.StopLSN) {
			return n.info.StopLSN
		}
	}
	return 0
}

// find looks for the target on one way, up to limit.
func (y *way) find(ctx context.Context, t Target, limit pg0.LSN) (*Choice, error) {
	if err := y.starts(ctx); err != nil {
		return nil, err
	}
	c := &Choice{Backup: y.info, Target: t, Timeline: y.history.Last()}
	var err error
	switch t.Kind {
	case Backup, Immediate:
		c.Timeline = y.info.Timeline
		c.Stop = Stop{LSN: y.info.StopLSN}
	case Latest:
		c.Stop, err = y.findEnd(ctx)
	case LSN:
		c.Stop, err = y.findLSN(ctx, t)
	case Time, XID, Name:
		err = y.search(ctx, c, limit)
	default:
		err = exit.Error(exit.Usage, fmt.Errorf("a target of kind %q is not known", t.Kind))
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// findEnd stops after the last complete record, if nothing is missing before.
func (y *way) findEnd(ctx context.Context) (Stop, error) {
	at, err := y.tail(ctx)
	if err != nil {
		return Stop{}, err
	}
	if last, next := y.path.Run(y.first()); next != 0 {
		return Stop{}, y.broken(&wal.End{LSN: at.end, Missing: y.path.Expected(last + 1)}, at)
	}
	if at.end < y.info.StopLSN {
		return Stop{}, refuse("WAL ends at %s, before backup %s is consistent at %s", at.end, y.info.ID, y.info.StopLSN)
	}
	return at.stop(), nil
}

// stop ends replay after the last record that was passed.
func (t tail) stop() Stop { return Stop{Record: t.record, LSN: t.end, Time: t.time, XID: t.xid} }

// findLSN looks at the records of the segment that holds the LSN, and of those
// that follow. Behind the last record that is the end of WAL.
func (y *way) findLSN(ctx context.Context, target Target) (Stop, error) {
	number := uint64(target.LSN / y.size())
	last, next := y.path.Run(y.first())
	if number <= last {
		stop, err := y.lookFrom(ctx, number, target.matcher())
		if err != nil || stop.Record != 0 {
			return stop, err
		}
	}
	at, err := y.tail(ctx)
	switch {
	case err != nil:
		return Stop{}, err
	case target.LSN <= at.end:
		return at.stop(), nil
	case next != 0:
		return Stop{}, y.broken(&wal.End{LSN: at.end, Missing: y.path.Expected(last + 1)}, at)
	}
	return Stop{}, y.after(target, at)
}

// lookFrom searches from the beginning of a segment on. The zero stop says that
// WAL ends before.
func (y *way) lookFrom(ctx context.Context, number uint64, m matcher) (Stop, error) {
	t := newTravel(y)
	defer t.close()
	err := t.seek(ctx, number)
	if err != nil {
		return Stop{}, notEnd(err)
	}
	stop, err := t.until(ctx, m)
	return stop, notEnd(err)
}

// after refuses a target behind the end of WAL.
func (y *way) after(t Target, at tail) error {
	err := refuse("%s is not in the WAL after backup %s; reachable: %s%s", t, y.info.ID, y.reachable(at), y.others(t))
	return &elsewhere{error: err, behind: true, late: t.Kind == Name || t.Kind == XID}
}

// others names timelines that leave the way, where the target may be.
func (y *way) others(t Target) string {
	if t.Timeline != "" && t.Timeline != "current" {
		return ""
	}
	h, err := y.world.latest(context.Background(), y.info)
	if err != nil || h.Last() == y.history.Last() {
		return ""
	}
	return fmt.Sprintf("; timeline %d goes on from there: --recovery-target-timeline=%d", h.Last(), h.Last())
}

// newest prefers a newer backup that also comes before the stop that was
// found. Backups say of themselves which times and transactions they serve,
// but the number of a transaction says little of when it ended.
func (w *world) newest(ctx context.Context, t Target, c *Choice) (*Choice, error) {
	if t.Backup != "" || t.Kind != XID {
		return c, nil
	}
	for _, info := range w.infos {
		if info.ID == c.Backup.ID {
			break
		}
		if w.unreadable(info) != "" || info.StopLSN > c.Stop.LSN {
			continue
		}
		h, err := w.history(ctx, info, t.Timeline)
		if err != nil || h == nil || h.Last() != c.Timeline {
			continue
		}
		y, err := w.wayFrom(ctx, info, h)
		if err != nil {
			return nil, err
		}
		if better, err := y.find(ctx, t, 0); err == nil && better.Stop.Record == c.Stop.Record {
			return better, nil
		}
	}
	return c, nil
}
