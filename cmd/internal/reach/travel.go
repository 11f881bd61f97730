package reach

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/wal"
)

// A travel reads records along a way and remembers what it has passed.
type travel struct {
	tail
	way    *way
	reader *wal.Reader
	ahead  *wal.Ahead // nil when not much is to be read
	spaces []Tablespace
}

// newTravel is for a look at some segments.
func newTravel(y *way) *travel {
	return &travel{way: y, reader: wal.NewReader(y.path, y.info.SystemID)}
}

// newLongTravel begins where the backup does.
func newLongTravel(y *way) *travel {
	ahead := wal.NewAhead(y.path)
	t := &travel{way: y, ahead: ahead, reader: wal.NewReader(ahead, y.info.SystemID)}
	t.reader.Seek(y.info.StartLSN)
	return t
}

// close drops what was only read.
func (t *travel) close() {
	_ = t.reader.Close()
	if t.ahead != nil {
		_ = t.ahead.Close()
	}
}

// seek goes to the first record that begins in a segment, or to the beginning
// of the way.
func (t *travel) seek(ctx context.Context, number uint64) error {
	if number <= t.way.first() {
		t.reader.Seek(t.way.info.StartLSN)
		return nil
	}
	_, err := t.reader.SeekFirst(ctx, pg0.LSN(number)*t.way.size())
	return err
}

// until reads on to the record that matches and gives the stop there. The
// error is a *wal.End when none does.
func (t *travel) until(ctx context.Context, m matcher) (Stop, error) {
	for {
		rec, e, err := t.next(ctx)
		if err != nil {
			return Stop{}, err
		}
		if m.before != nil && m.before(rec, e) {
			return Stop{Record: rec.LSN, Before: true, LSN: rec.LSN, Time: t.time, XID: t.xid}, nil
		}
		t.note(rec, e)
		if m.after != nil && m.after(rec, e) {
			return t.stop(), nil
		}
	}
}

// next reads a record; note takes it in once it is known to be on the way.
func (t *travel) next(ctx context.Context) (*wal.Record, *wal.Event, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	rec, err := t.reader.Next(ctx)
	if err != nil {
		return nil, nil, err
	}
	e, err := rec.Decode()
	if err != nil {
		return nil, nil, exit.Error(exit.Corrupt, fmt.Errorf("%w: %w", err, pg0.ErrCorrupt))
	}
	return rec, e, nil
}

func (t *travel) note(rec *wal.Record, e *wal.Event) {
	t.record, t.end = rec.LSN, rec.End
	if e == nil {
		return
	}
	if e.Time.After(t.newest) {
		t.newest = e.Time
	}
	switch {
	case e.Kind == wal.Commit || e.Kind == wal.Abort:
		t.time, t.xid = e.Time, e.XID
	case e.Kind == wal.TablespaceCreate && e.Path != "":
		t.spaces = append(t.spaces, Tablespace{e.LSN, e.OID, e.Path})
	}
}

// A matcher recognises the record that a target names: the first that replay
// leaves out, or the last that it takes in. e is nil for most records.
type matcher struct {
	before, after func(rec *wal.Record, e *wal.Event) bool
}

// matcher stops where PostgreSQL would.
func (t Target) matcher() matcher {
	var match func(*wal.Record, *wal.Event) bool
	switch t.Kind {
	case Time:
		return matcher{before: func(_ *wal.Record, e *wal.Event) bool { return ends(e) && t.passes(e.Time) }}
	case Name:
		return matcher{after: func(_ *wal.Record, e *wal.Event) bool {
			return e != nil && e.Kind == wal.RestorePoint && e.Name == t.Name
		}}
	case LSN:
		match = func(rec *wal.Record, _ *wal.Event) bool { return rec.LSN >= t.LSN }
	case XID:
		match = func(_ *wal.Record, e *wal.Event) bool {
			return ends(e) && (e.XID == uint32(t.XID) || slices.Contains(e.Subs, uint32(t.XID)))
		}
	}
	if t.Inclusive {
		return matcher{after: match}
	}
	return matcher{before: match}
}

// ends tells whether a transaction ends there.
func ends(e *wal.Event) bool { return e != nil && (e.Kind == wal.Commit || e.Kind == wal.Abort) }

// passes tells whether a time is beyond that of the target.
func (t Target) passes(at time.Time) bool {
	return at.After(t.Time) || !t.Inclusive && at.Equal(t.Time)
}

// search reads the way record by record until the target, and not beyond
// limit unless that is 0.
func (y *way) search(ctx context.Context, c *Choice, limit pg0.LSN) error {
	key := y.searchKey(c.Target, limit)
	if stop, ok := y.world.memory.recall(key); ok {
		c.Stop = stop
		return nil
	}
	t := newLongTravel(y)
	defer t.close()
	var later Stop // the first record of any kind that has a time beyond the target's
	m, notFound := c.Target.matcher(), false
	if limit == 0 {
		limit = ^pg0.LSN(0)
	}
	watch := func(rec *wal.Record, e *wal.Event) bool {
		y.world.sawRestorePoint(e)
		if c.Target.Kind == Time && later.Record == 0 && e != nil && c.Target.passes(e.Time) && rec.LSN >= y.info.StopLSN {
			later = Stop{Record: rec.LSN, Before: true, LSN: rec.LSN, Time: t.time, XID: t.xid}
		}
		notFound = rec.LSN >= limit
		return notFound
	}
	stop, err := t.until(ctx, m.or(watch))
	var end *wal.End
	switch {
	case errors.As(err, &end) && later.Record != 0:
		stop = later
	case errors.As(err, &end):
		if err := y.broken(end, t.tail); err != nil {
			return err
		}
		return y.after(c.Target, t.tail)
	case err != nil:
		return err
	case notFound:
		return y.after(c.Target, t.tail)
	}
	if err := y.accept(c, t, stop); err != nil || end != nil {
		return err // where WAL ends today it may go on tomorrow
	}
	y.world.memory.remember(key, c.Stop)
	return nil
}

// or has another function look at each record first.
func (m matcher) or(watch func(*wal.Record, *wal.Event) bool) matcher {
	inner := m.before
	m.before = func(rec *wal.Record, e *wal.Event) bool {
		return watch(rec, e) || inner != nil && inner(rec, e)
	}
	return m
}

func (w *world) sawRestorePoint(e *wal.Event) {
	if e != nil && e.Kind == wal.RestorePoint && !slices.Contains(w.restorePoints, e.Name) {
		w.restorePoints = append(w.restorePoints, e.Name)
	}
}

// accept takes a stop that lies behind the backup's consistent end.
func (y *way) accept(c *Choice, t *travel, stop Stop) error {
	if stop.LSN < y.info.StopLSN {
		return &elsewhere{late: true, error: refuse("%s is reached at %s, before backup %s is consistent; reachable: from %s on",
			c.Target, stop.LSN, y.info.ID, place(y.info.StopLSN, y.info.RecoveryTime))}
	}
	if c.Target.Kind == Name {
		stop.Name = c.Target.Name
	}
	c.Stop, c.Tablespaces, c.examined = stop, t.spaces, true
	return nil
}

// Examine reads all WAL between a choice's backup and its stop, so that
// nothing comes up in the middle of recovery, and completes the choice: last
// transaction and tablespaces. A choice that was searched for record by record
// is complete already. progress may be nil; it gets positions in the WAL.
func Examine(ctx context.Context, c Catalog, choice *Choice, progress func(at, end pg0.LSN)) error {
	if choice.examined {
		return nil
	}
	w, err := newWorld(ctx, c)
	if err != nil {
		return err
	}
	defer w.close()
	h, err := w.history(ctx, choice.Backup, fmt.Sprint(choice.Timeline))
	if err != nil {
		return err
	}
	y, err := w.wayFrom(ctx, choice.Backup, h)
	if err != nil {
		return err
	}
	return y.examine(ctx, choice, progress)
}

func (y *way) examine(ctx context.Context, c *Choice, progress func(at, end pg0.LSN)) error {
	t := newLongTravel(y)
	defer t.close()
	m := c.matcher()
	if progress != nil {
		m = m.or(progressOf(progress, y.size(), c.Stop.LSN))
	}
	stop, err := t.until(ctx, m)
	var end *wal.End
	switch {
	case errors.As(err, &end):
		if err := y.broken(end, t.tail); err != nil {
			return err
		}
		return refuse("WAL ends at %s, before %s is reached at %s; %s", end.LSN, c.Target, c.Stop.LSN, y.extent(t.tail))
	case err != nil:
		return err
	case c.Stop.Record != 0 && stop.Record != c.Stop.Record:
		return exit.Error(exit.Corrupt, fmt.Errorf("WAL has a record at %s where one was expected at %s: %w", stop.Record, c.Stop.Record, pg0.ErrCorrupt))
	}
	c.Stop.Time, c.Stop.XID, c.Tablespaces, c.examined = stop.Time, stop.XID, t.spaces, true
	return nil
}

// matcher finds the stop of the choice again.
func (c *Choice) matcher() matcher {
	reached := func(rec *wal.Record, _ *wal.Event) bool { return rec.LSN >= c.Stop.Record }
	switch {
	case c.Stop.Record == 0:
		return matcher{after: func(rec *wal.Record, _ *wal.Event) bool { return rec.End >= c.Stop.LSN }}
	case c.Stop.Before:
		return matcher{before: reached}
	}
	return matcher{after: reached}
}

// progressOf reports once a segment.
func progressOf(progress func(at, end pg0.LSN), size, end pg0.LSN) func(*wal.Record, *wal.Event) bool {
	reported := pg0.LSN(0)
	return func(rec *wal.Record, _ *wal.Event) bool {
		if rec.LSN/size != reported/size {
			reported = rec.LSN
			progress(rec.LSN, end)
		}
		return false
	}
}
