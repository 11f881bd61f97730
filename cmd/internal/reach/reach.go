package reach

import (
	"context"
	"fmt"
	"io/fs"
	"strings"

	"github.com/fukanchik/pg0"
)

// A Catalog is what Choose reads.
type Catalog interface {
	pg0.Catalog
	pg0.WALArchive
}

// Choose makes a target definite. A target that cannot be reached gives an
// error with exit code 4 that says why and what can be reached instead.
func Choose(ctx context.Context, c Catalog, t Target) (*Choice, error) {
	info, err := backupByID(ctx, c, t.Backup)
	if err != nil {
		return nil, err
	}
	return &Choice{Backup: info, Target: t, Timeline: info.Timeline, Stop: Stop{LSN: info.StopLSN}}, nil
}

// backupByID finds a backup by its id, in any case.
func backupByID(ctx context.Context, c Catalog, id string) (pg0.PointInfo, error) {
	infos, err := c.Points(ctx)
	if err != nil {
		return pg0.PointInfo{}, err
	}
	for _, info := range infos {
		if strings.EqualFold(info.ID, id) {
			return info, nil
		}
	}
	return pg0.PointInfo{}, fmt.Errorf("backup %s: %w", id, fs.ErrNotExist)
}
