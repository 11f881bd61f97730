package source

import (
	"context"
	"log/slog"

	"github.com/fukanchik/pg0/livepg"
	"github.com/fukanchik/pg0/probackup"
)

// formats has one line for each backup tool.
var formats = map[string]opener{
	"probackup": openProbackup,
	"live":      openLive,
}

// A proCatalog speaks of damage in the words of this package.
type proCatalog struct{ *probackup.Catalog }

func openProbackup(r Ref, logger *slog.Logger) (Catalog, error) {
	c, err := probackup.Open(r.Path, r.Instance, probackup.Options{ToolExact: r.ToolExact, Logger: logger})
	if err != nil {
		return nil, err
	}
	return proCatalog{c}, nil
}

// Verify reads all that a backup and its chain store.
func (c proCatalog) Verify(ctx context.Context, id string, jobs int, report func(Damage), progress func(done, total int64)) error {
	return c.Catalog.Verify(ctx, id, jobs, func(d probackup.Damage) { report(Damage(d)) }, progress)
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
