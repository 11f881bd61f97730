package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/image"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/cmd/internal/supervise"
	"github.com/fukanchik/pg0/mapping"
)

// remake is what it takes to make a mix with live points again. It is kept
// beside the record of the mount, readable by its owner only: a mapping file may
// hold a password.
type remake struct {
	Map       string            `json:"map"` // name of the mapping file
	Text      string            `json:"text"`
	Images    map[string]string `json:"images"` // keys, by point
	ToolExact bool              `json:"tool_exact,omitempty"`
	Lock      bool              `json:"lock,omitempty"`
	Flags     remakeFlags       `json:"flags"`
}

// remakeFlags are the flags of the mount.
type remakeFlags struct {
	BinDir     string   `json:"bindir,omitempty"`
	Listen     string   `json:"listen,omitempty"`
	Port       int      `json:"port"`
	Set        []string `json:"set,omitempty"`
	Preload    []string `json:"preload,omitempty"`
	LayerLimit int64    `json:"layer_limit,omitempty"`
	CacheSize  int64    `json:"cache_size,omitempty"`
	RollBack   bool     `json:"rollback_prepared,omitempty"`
}

const remakeFile = "remake.json"

// keep writes what a refresh of the mix needs.
func (c *frankensteinCmd) keep(dir state.Dir, id string, spec *mapping.Spec, x *mix) error {
	r := remake{Map: spec.File, Text: c.mapText, Images: map[string]string{}, ToolExact: c.toolExact, Lock: c.lock, Flags: remakeFlags{
		BinDir: c.bindir, Listen: c.listen, Port: c.port, Set: c.set, Preload: c.preload,
		LayerLimit: int64(c.layerLimit), CacheSize: int64(c.cacheSize), RollBack: c.rollBack,
	}}
	for point, made := range x.images {
		r.Images[point] = made.Meta.Key
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir.MountDir(id), remakeFile), text, 0o600)
}

// options gives the command that made the mix, to be run again.
func (r *remake) options(g *global, start, yes bool) *frankensteinCmd {
	f := r.Flags
	c := &frankensteinCmd{global: g, mapText: r.Text, toolExact: r.ToolExact, lock: r.Lock, yes: yes}
	c.serverFlags = serverFlags{bindir: f.BinDir, listen: f.Listen, port: f.Port, set: f.Set, preload: f.Preload}
	c.layerLimit, c.cacheSize, c.rollBack, c.start = size(f.LayerLimit), size(f.CacheSize), f.RollBack, start
	return c
}

func refreshCommand(g *global) *cobra.Command {
	var point string
	var yes bool
	cmd := &cobra.Command{
		Use:   "refresh MOUNTPOINT [--point NAME]",
		Short: "Take a live point of a mix again",
		Long: `Take a live point of a mix again: production as it is now. All other points stay
what they are. The new mix is made while the old one is still there; then the server
stops, the mount is exchanged, and the server starts again. Changes that were made in
the mix are lost. A mix with a --layer cannot be refreshed: its changes stand over the
old rows.`,
		Example: `  pg0 refresh /mnt/mix --point prod`,
		Args:    usage(cobra.ExactArgs(1)),
		RunE:    func(cmd *cobra.Command, args []string) error { return g.refresh(cmd.Context(), args[0], point, yes) },
	}
	cmd.Flags().StringVar(&point, "point", "", "`name` of the live point in the mapping file (default: the only one)")
	cmd.Flags().BoolVar(&yes, "yes", false, "read more than 1 GB of a running server without asking")
	return cmd
}

func (g *global) refresh(ctx context.Context, name, point string, yes bool) error {
	if err := refuseRoot("pg0 refresh"); err != nil {
		return err
	}
	dir, m, err := g.mountAt(name)
	if err != nil {
		return err
	}
	kept, spec, err := readRemake(dir, m)
	if err != nil {
		return err
	}
	if point, err = livePoint(spec, point); err != nil {
		return err
	}
	start := m.Postgres.Alive()
	c := kept.options(g, start, yes)
	moments, err := c.again(ctx, dir, spec, kept.Images, point)
	if err != nil {
		return err
	}
	shown, err := c.show(ctx, dir, spec, moments, m.Mountpoint, func() error { return g.takeAway(ctx, dir, m, start) })
	if err != nil && shown {
		return fmt.Errorf("the old mix is gone, and the new one cannot be mounted: %w; pg0 frankenstein --map %s %s makes it anew", err, kept.Map, m.Mountpoint)
	}
	return err
}

// readRemake reads what was kept of the command that made the mix.
func readRemake(dir state.Dir, m *state.Mount) (*remake, *mapping.Spec, error) {
	refuse := func(why string) error {
		return exit.Error(exit.Refused, fmt.Errorf("%s cannot be refreshed: %s", m.Mountpoint, why))
	}
	if m.Layer != "" {
		return nil, nil, refuse("its changes in layer " + m.Layer + " stand over the old rows; unmount it and use another --layer")
	}
	text, err := os.ReadFile(filepath.Join(dir.MountDir(m.ID), remakeFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, refuse("it has no point of a running server")
	}
	if err != nil {
		return nil, nil, err
	}
	kept := new(remake)
	if err := json.Unmarshal(text, kept); err != nil {
		return nil, nil, fmt.Errorf("what was kept of %s: %w", m.Mountpoint, err)
	}
	spec, err := mapping.Parse(kept.Map, []byte(kept.Text))
	return kept, spec, err
}

// livePoint finds the point to be taken again.
func livePoint(spec *mapping.Spec, point string) (string, error) {
	var there []string
	for _, name := range pointsOf(spec) {
		if spec.IsLive(name) {
			there = append(there, name)
		}
	}
	switch {
	case point == "" && len(there) == 1:
		return there[0], nil
	case slices.Contains(there, point):
		return point, nil
	case len(there) == 0:
		return "", usageError("the mix has no files of a running server: foreign tables are always live")
	case point == "":
		return "", usageError("the mix has several live points: give --point %s", strings.Join(there, " or "))
	}
	return "", usageError("%q is no live point of the mix; there are: %s", point, strings.Join(there, ", "))
}

// again gives the moments of a mix as they were, but one anew.
func (c *frankensteinCmd) again(ctx context.Context, dir state.Dir, spec *mapping.Spec, keys map[string]string, point string) ([]moment, error) {
	names := pointsOf(spec)
	moments := make([]moment, len(names))
	var as like
	for i, name := range names {
		if name == point {
			continue
		}
		meta, err := image.Cache(dir.Images()).Meta(keys[name])
		if err != nil {
			return nil, fmt.Errorf("point %s: image %s: %w", name, keys[name], err)
		}
		m := moment{name: name, source: spec.Points[name].Source, ref: meta.Source, choice: &meta.Choice}
		m.ref.Lock = c.lock
		if m.catalog, err = m.ref.Open(c.logger); err != nil {
			return nil, fmt.Errorf("point %s: %w", name, err)
		}
		moments[i] = m
		as = like{meta.Choice.Backup.SystemID, meta.Choice.Backup.Version, name}
	}
	taker := &liveTaker{global: c.global, dir: dir, yes: c.yes}
	m, err := taker.take(ctx, spec, point, as)
	if err != nil {
		return nil, fmt.Errorf("point %s: %w", point, err)
	}
	moments[slices.Index(names, point)] = m
	return moments, nil
}

// takeAway ends the old mix, and says so.
func (g *global) takeAway(ctx context.Context, dir state.Dir, m *state.Mount, running bool) error {
	if !g.json {
		said := "the mount is exchanged"
		if running {
			said = "the server restarts on the new mix"
		}
		if _, err := fmt.Fprintf(g.stderr, "pg0: %s: %s; changes that were made in it are gone\n", m.Mountpoint, said); err != nil {
			return err
		}
	}
	_, err := supervise.Ask(ctx, dir, m.ID, supervise.Request{Op: supervise.Umount, Force: true})
	if errors.Is(err, supervise.ErrNoSupervisor) {
		err = supervise.CleanUp(ctx, dir, m, true)
	}
	return err
}

// hasLive says whether a mix has files of a running server.
func hasLive(spec *mapping.Spec) bool {
	return slices.ContainsFunc(slices.Collect(maps.Keys(spec.Points)), func(name string) bool {
		return spec.IsLive(name) && slices.Contains(pointsOf(spec), name)
	})
}
