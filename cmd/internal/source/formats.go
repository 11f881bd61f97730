package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/livepg"
	"github.com/fukanchik/pg0/probackup"
)

// formats has one line for each backup tool.
var formats = map[string]opener{
	"probackup": openProbackup,
	"live":      openLive,
}

// A proCatalog speaks of damage in the words of this package, and locks what
// it opens if the reference says so.
type proCatalog struct {
	*probackup.Catalog
	lock bool
}

func openProbackup(r Ref, logger *slog.Logger) (Catalog, error) {
	c, err := probackup.Open(r.Path, r.Instance, probackup.Options{ToolExact: r.ToolExact, Logger: logger})
	if err != nil {
		return nil, err
	}
	return proCatalog{c, r.Lock}, nil
}

// Open opens a backup, and locks it until it is closed.
func (c proCatalog) Open(ctx context.Context, id string) (*pg0.Point, error) {
	release, err := c.take(ctx, id)
	if err != nil {
		return nil, err
	}
	point, err := c.Catalog.Open(ctx, id)
	if err != nil {
		return nil, errors.Join(err, release())
	}
	closeFiles := point.OnClose
	point.OnClose = func() error { return errors.Join(closeFiles(), release()) }
	return point, nil
}

// take locks a backup if that is wanted. The error has the exit code of what
// stands in the way: another process, or permissions.
func (c proCatalog) take(ctx context.Context, id string) (release func() error, err error) {
	if !c.lock {
		return func() error { return nil }, nil
	}
	release, err = c.Lock(ctx, id)
	switch {
	case ctx.Err() != nil:
		return nil, errors.Join(err, ctx.Err())
	case errors.Is(err, probackup.ErrLocked):
		return nil, exit.Error(exit.Busy, err)
	case errors.Is(err, fs.ErrPermission):
		return nil, exit.Error(exit.Refused, fmt.Errorf("--lock: %w; give this user the right to, or leave --lock away", err))
	}
	return release, err
}

// Verify reads all that a backup and its chain store.
func (c proCatalog) Verify(ctx context.Context, id string, jobs int, report func(Damage), progress func(done, total int64)) error {
	release, err := c.take(ctx, id)
	if err != nil {
		return err
	}
	err = c.Catalog.Verify(ctx, id, jobs, func(d probackup.Damage) { report(Damage(d)) }, progress)
	return errors.Join(err, release())
}

// A liveCatalog speaks of damage in the words of this package.
type liveCatalog struct{ *livepg.Catalog }

// openLive opens the points that were taken of a running server: Path is where
// they are kept.
func openLive(r Ref, _ *slog.Logger) (Catalog, error) {
	c, err := livepg.Open(r.Path)
	if err != nil {
		return nil, err
	}
	return liveCatalog{c}, nil
}

// Verify reads all that was taken for a point.
func (c liveCatalog) Verify(ctx context.Context, id string, _ int, report func(Damage), progress func(done, total int64)) error {
	return c.Catalog.Verify(ctx, id, func(d livepg.Damage) { report(Damage(d)) }, progress)
}
