package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/reach"
	"github.com/fukanchik/pg0/cmd/internal/source"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/cmd/internal/supervise"
	"github.com/fukanchik/pg0/mapping"
)

type frankensteinCmd struct {
	*global
	mountFlags
	mapFile   string
	mapText   string // of that file
	dryRun    bool
	toolExact bool
	yes       bool
	lock      bool
}

func frankensteinCommand(g *global) *cobra.Command {
	c := &frankensteinCmd{global: g}
	cmd := &cobra.Command{
		Use:   "frankenstein --map FILE MOUNTPOINT",
		Short: "Show one cluster whose relations come from several points",
		Long: `Show one cluster directory in which each relation comes from a moment of its own,
by a mapping file. The plan is printed: which relation comes from which point, and
to when that was recovered. What cannot be exact is refused (exit code 4) before
anything is mounted.`,
		Example: `  pg0 frankenstein --map tables.toml --dry-run
  pg0 frankenstein --map tables.toml /mnt/mix --start`,
		Args: usage(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			mountpoint := ""
			if len(args) > 0 {
				mountpoint = args[0]
			}
			return c.run(cmd.Context(), mountpoint)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&c.mapFile, "map", "", "mapping `file`")
	flags.BoolVar(&c.dryRun, "dry-run", false, "print the plan and mount nothing")
	flags.BoolVar(&c.toolExact, "tool-exact", false, "give the bytes of the tool's own restore even where it is wrong")
	flags.BoolVar(&c.yes, "yes", false, "read more than 1 GB of a running server without asking")
	registerLock(flags, &c.lock)
	c.register(flags)
	return cmd
}

func (c *frankensteinCmd) run(ctx context.Context, mountpoint string) error {
	if err := c.checkArguments(mountpoint); err != nil {
		return err
	}
	spec, text, err := readMap(c.mapFile)
	c.mapText = text
	if err != nil {
		return err
	}
	dir, err := state.Open(c.stateDir)
	if err != nil {
		return err
	}
	if !c.dryRun {
		if mountpoint, err = supervise.Resolve(mountpoint); err != nil {
			return err
		}
		if err := supervise.CheckPlaces(dir, mountpoint, c.layer, paths(spec)); err != nil {
			return err
		}
	}
	moments, err := c.moments(ctx, dir, spec)
	if err != nil {
		return err
	}
	_, err = c.show(ctx, dir, spec, moments, mountpoint, nil)
	return err
}

// show makes the images of the moments, and of them the mix, and mounts that.
// before, which may be nil, is called when all is ready for that.
func (c *frankensteinCmd) show(ctx context.Context, dir state.Dir, spec *mapping.Spec, moments []moment, mountpoint string, before func() error) (shown bool, err error) {
	images, err := c.ready(ctx, dir, c.bindir, moments)
	if err != nil {
		return false, err
	}
	// Until the serving process holds the images itself.
	defer closeImages(images) //nolint:errcheck // only locks and descriptors for reading
	mix, err := c.compose(ctx, dir, spec, moments, images)
	if err != nil {
		return false, err
	}
	defer mix.close() //nolint:errcheck // as above
	return c.mount(ctx, c.job(dir, mountpoint), spec, mix, before)
}

func (c *frankensteinCmd) checkArguments(mountpoint string) error {
	switch {
	case c.mapFile == "":
		return usageError("no mapping file: give --map FILE")
	case mountpoint == "" && !c.dryRun:
		return usageError("no mount point: give one, or --dry-run to see the plan alone")
	}
	if err := c.check(); err != nil {
		return err
	}
	return refuseRoot("pg0 frankenstein")
}

// readMap reads a mapping file that has a base, and gives its text as well.
func readMap(name string) (*mapping.Spec, string, error) {
	spec, text, err := parseMap(name)
	if err == nil && spec.Base == "" {
		err = usageError("%s: a mix needs a base: add [base] with point = \"...\"", name)
	}
	return spec, text, err
}

// parseMap reads any mapping file. Relative paths in it are made absolute.
func parseMap(name string) (*mapping.Spec, string, error) {
	name, err := filepath.Abs(name)
	if err != nil {
		return nil, "", err
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, "", fmt.Errorf("read the mapping file: %w; give the path of one with --map", err)
	}
	spec, err := mapping.Parse(name, text)
	if err != nil {
		return nil, "", exit.Error(exit.Usage, err)
	}
	return spec, string(text), nil
}

// paths are the directories of the sources.
func paths(spec *mapping.Spec) []string {
	var dirs []string
	for _, s := range spec.Sources {
		if dir := cmp.Or(s.Path, s.PGData); dir != "" {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// moments makes the points that the rules use definite, the base first and the
// others in the order of their names. Running servers come last: nothing is read
// there for a mix that fails for another reason.
func (c *frankensteinCmd) moments(ctx context.Context, dir state.Dir, spec *mapping.Spec) ([]moment, error) {
	names := pointsOf(spec)
	moments := make([]moment, len(names))
	catalogs := map[source.Ref]source.Catalog{}
	var as like
	for i, name := range names {
		if spec.IsLive(name) {
			continue
		}
		m, err := c.moment(ctx, spec, name, catalogs)
		if err != nil {
			return nil, fmt.Errorf("point %s: %w", name, err)
		}
		moments[i] = m
		if as.point == "" {
			as = like{m.catalog.SystemID(), m.choice.Backup.Version, name}
		}
	}
	taker := &liveTaker{global: c.global, dir: dir, yes: c.yes, dry: c.dryRun}
	for i, name := range names {
		if !spec.IsLive(name) {
			continue
		}
		m, err := taker.take(ctx, spec, name, as)
		if err != nil {
			return nil, fmt.Errorf("point %s: %w", name, err)
		}
		moments[i] = m
		if as.point == "" {
			as = like{m.catalog.SystemID(), m.choice.Backup.Version, name}
		}
	}
	return moments, nil
}

// pointsOf are the points that files are needed of, the base first.
func pointsOf(spec *mapping.Spec) []string {
	used := map[string]bool{}
	for _, rule := range spec.Rules {
		used[rule.From] = spec.Copies(rule.From)
	}
	maps.DeleteFunc(used, func(name string, copies bool) bool { return !copies || name == spec.Base })
	return append([]string{spec.Base}, slices.Sorted(maps.Keys(used))...)
}

// moment opens the catalog of a point, once for all points of a source.
func (c *frankensteinCmd) moment(ctx context.Context, spec *mapping.Spec, name string, catalogs map[source.Ref]source.Catalog) (moment, error) {
	point := spec.Points[name]
	from := spec.Sources[point.Source]
	m := moment{name: name, source: point.Source, ref: source.Ref{
		Format: from.Format, Path: from.Path, Instance: from.Instance, ToolExact: c.toolExact, Lock: c.lock,
	}}
	var err error
	if m.catalog = catalogs[m.ref]; m.catalog == nil {
		if m.catalog, err = m.ref.Open(c.logger); err != nil {
			return m, err
		}
		catalogs[m.ref] = m.catalog
	}
	m.choice, err = reach.Choose(ctx, m.catalog, target(point), c.memory())
	return m, err
}

// target is the moment of a mapping file as a recovery target.
func target(p mapping.PointRef) reach.Target {
	return reach.Target{
		Kind: reach.Kind(p.Kind), Time: p.Time, XID: p.XID, LSN: p.LSN, Name: p.Target,
		Inclusive: p.Inclusive, Timeline: p.Timeline, Backup: p.Backup,
	}
}

// refusal gives the errors of a preflight their exit codes.
func refusal(err error) error {
	var file *mapping.FileError
	var refused *mapping.Refused
	switch {
	case errors.As(err, &file):
		return exit.Error(exit.Usage, err)
	case errors.As(err, &refused):
		return exit.Error(exit.Refused, err)
	}
	return err
}

// mount prints the plan and, unless this is a dry run, mounts it.
func (c *frankensteinCmd) mount(ctx context.Context, job supervise.Job, spec *mapping.Spec, x *mix, before func() error) (shown bool, err error) {
	if c.dryRun && c.json {
		return false, c.printJSON(x.plan)
	}
	if !c.json {
		if err := x.plan.WriteTable(c.stdout); err != nil {
			return false, err
		}
	}
	if c.dryRun {
		return false, nil
	}
	if err := c.describe(ctx, &job, x); err != nil {
		return false, err
	}
	if before != nil {
		if err := before(); err != nil {
			return false, err
		}
	}
	return true, c.launchMix(ctx, job, spec, x)
}

// describe completes the job for a mix.
func (c *frankensteinCmd) describe(ctx context.Context, job *supervise.Job, x *mix) error {
	job.Recipe.Tree = x.tree()
	job.Mount.Kind = state.Mix
	job.Mount.Provenance = x.provenance()
	job.Mount.Notes = x.plan.Notes // the base's among them
	for _, origin := range x.plan.Points {
		job.Mount.Images = append(job.Mount.Images, x.images[origin.Point].Keys()...)
	}
	if err := c.serveImage(job, &x.base.Meta, x.base.Keys()); err != nil {
		return err
	}
	job.Server.Rebuild = x.plan.RebuildList()
	switch {
	case len(x.plan.Grafts) > 0:
		job.Mount.Database = x.plan.Grafts[0].Database
	case len(x.plan.Foreign) > 0:
		job.Mount.Database = x.plan.Foreign[0].Database
	}
	slices.Sort(job.Mount.Images)
	job.Mount.Images = slices.Compact(job.Mount.Images)
	return c.takeLayer(ctx, c.global, job, mapping.Attach(x.plan, x.limit.Redo), x.plan)
}

// launchMix mounts, and keeps what a refresh needs to make the mix again.
func (c *frankensteinCmd) launchMix(ctx context.Context, job supervise.Job, spec *mapping.Spec, x *mix) error {
	if !hasLive(spec) {
		return c.launch(ctx, c.global, job)
	}
	foreground := c.foreground
	c.foreground = false
	err := c.launch(ctx, c.global, job)
	if err == nil {
		err = c.keep(job.State, job.Mount.ID, spec, x)
	}
	if err != nil || !foreground {
		return err
	}
	m, err := job.State.Load(job.Mount.ID)
	if err != nil {
		return err
	}
	return supervise.Foreground(ctx, job.State, m)
}
