package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/fukanchik/pg0/cmd/internal/image"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/livepg"
	"github.com/fukanchik/pg0/mapping"
)

// takes are the directories of the points that were taken of running servers,
// one for each server.
func takes(dir state.Dir) ([]string, error) {
	return filepath.Glob(filepath.Join(string(dir), "live", "*"))
}

// removeTakes removes points of running servers whose images have been removed,
// and what killed commands left of such points.
func (g *global) removeTakes(ctx context.Context, dir state.Dir) error {
	entries, err := image.Cache(dir.Images()).List(nil)
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, entry := range entries {
		used[filepath.Join(entry.Source.Path, entry.Choice.Backup.ID)] = true
	}
	dirs, err := takes(dir)
	if err != nil {
		return err
	}
	for _, one := range dirs {
		if err := g.removeTakesOf(ctx, one, used); err != nil {
			return err
		}
	}
	return nil
}

func (g *global) removeTakesOf(ctx context.Context, dir string, used map[string]bool) error {
	catalog, err := livepg.Open(dir)
	if err != nil {
		return err
	}
	if err := catalog.Clear(); err != nil {
		return err
	}
	points, err := catalog.Points(ctx)
	if err != nil {
		return err
	}
	for _, info := range points {
		if used[filepath.Join(dir, info.ID)] {
			continue
		}
		err := catalog.Remove(info.ID)
		switch {
		case errors.Is(err, livepg.ErrBusy) || errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		default:
			fmt.Fprintf(g.stderr, "removed what was copied of a running server at %s (%s)\n", info.StartTime.UTC().Format("2006-01-02 15:04:05"), mapping.Size(info.Bytes))
		}
	}
	return nil
}
