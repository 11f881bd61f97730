package source

import (
	"context"
	"log/slog"

	"github.com/fukanchik/pg0/probackup"
)

// formats has one line for each backup tool.
var formats = map[string]opener{
	"probackup": openProbackup,
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
