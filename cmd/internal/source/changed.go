package source

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/exit"
)

// ErrChanged marks a backup that is no longer what it was when a command chose
// it: the tool has deleted it, or merged its chain.
var ErrChanged = errors.New("the catalog has changed meanwhile")

// Changed says whether a backup is still what it was. If it is not, what reading
// it has found is no damage. The error wraps ErrChanged and has exit code 6 for a
// backup that was deleted, 4 for one that cannot be used any more, and 7 for one
// that was merged: it can be read anew.
func Changed(ctx context.Context, catalog pg0.Catalog, was pg0.PointInfo) error {
	infos, err := catalog.Points(ctx)
	if err != nil {
		return fmt.Errorf("look at backup %s again: %w", was.ID, err)
	}
	at := slices.IndexFunc(infos, func(info pg0.PointInfo) bool { return info.ID == was.ID })
	switch {
	case at < 0:
		return exit.Error(exit.NotFound, fmt.Errorf("%w: backup %s was deleted, or merged into a newer one; pg0 points lists what there is", ErrChanged, was.ID))
	case infos[at].Unusable != "":
		return exit.Error(exit.Refused, fmt.Errorf("%w: backup %s cannot be used any more: %s", ErrChanged, was.ID, infos[at].Unusable))
	case infos[at].Digest != was.Digest:
		return exit.Error(exit.Busy, fmt.Errorf("%w: the chain of backup %s was merged or written anew: run the command again", ErrChanged, was.ID))
	}
	return nil
}
