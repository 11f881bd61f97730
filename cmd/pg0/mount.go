package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/reach"
	"github.com/fukanchik/pg0/cmd/internal/serve"
	"github.com/fukanchik/pg0/cmd/internal/source"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/cmd/internal/supervise"
	"github.com/fukanchik/pg0/mapping"
)

// mountFlags are those that mount and frankenstein share.
type mountFlags struct {
	serverFlags
	layer      string
	layerLimit size
	cacheSize  size
	start      bool
	proxy      string
	foreground bool
	rollBack   bool
}

func (f *mountFlags) register(flags *pflag.FlagSet) {
	f.serverFlags.register(flags)
	flags.StringVar(&f.layer, "layer", "", "keep the changes in this `directory` and take them up again (default: a temporary file)")
	flags.Var(&f.layerLimit, "layer-limit", "most that the changes may take on disk, such as 10GB")
	flags.Var(&f.cacheSize, "cache-size", "memory for the file server, such as 256MB (default 96MB)")
	flags.BoolVar(&f.start, "start", false, "start PostgreSQL on the mount")
	flags.StringVar(&f.proxy, "proxy", "", "with --start: a proxy on this `address` that labels sessions, see pg0 proxy --help")
	flags.BoolVar(&f.foreground, "foreground", false, "stay until the mount is gone; Ctrl-C unmounts")
	flags.BoolVar(&f.rollBack, "rollback-prepared", false, "roll back the prepared transactions of the cluster once it is started")
}

// check looks at the flags before anything is opened, and makes paths absolute.
func (f *mountFlags) check() error {
	if _, err := f.settings(); err != nil {
		return err
	}
	if f.rollBack && !f.start {
		return usageError("--rollback-prepared needs --start")
	}
	if f.proxy != "" && !f.start {
		return usageError("--proxy needs --start")
	}
	if f.layer == "" {
		return nil
	}
	var err error
	f.layer, err = filepath.Abs(f.layer)
	return err
}

type mountCmd struct {
	*global
	point pointFlags
	mountFlags
	raw bool
}

func mountCommand(g *global) *cobra.Command {
	c := &mountCmd{global: g}
	cmd := &cobra.Command{
		Use:   "mount POINT MOUNTPOINT",
		Short: "Show one point of a backup as a cluster directory",
		Long: `Show one point of a backup as a cluster directory.

POINT is given by flags: -B DIR --instance NAME with -i ID, a recovery target, or
both. The point is recovered first, by PostgreSQL on a copy-on-write mount; the
result is cached, so that the second mount of a point takes no recovery. Nothing
is ever written to the backup, but the tool's lock file with --lock.`,
		Example: `  pg0 mount -B /srv/backups --instance shop -i TEI900 /mnt/monday --start
  pg0 mount -B /srv/backups --recovery-target-time '2026-05-06 14:00:02+00' /mnt/noon
  pg0 mount -B /srv/backups -i TEI900 --raw /mnt/raw`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), args[0]) },
	}
	c.point.register(cmd.Flags())
	c.register(cmd.Flags())
	cmd.Flags().BoolVar(&c.raw, "raw", false, "show the backup as the tool would restore it, not recovered")
	return cmd
}

// refuseRoot is for commands that leave processes behind, as PostgreSQL does.
func refuseRoot(command string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return exit.Error(exit.Refused, fmt.Errorf("%s cannot be run as root, just as PostgreSQL cannot: use an ordinary user that can read the backups, such as postgres", command))
}

func (c *mountCmd) run(ctx context.Context, mountpoint string) error {
	if err := c.check(); err != nil {
		return err
	}
	if err := refuseRoot("pg0 mount"); err != nil {
		return err
	}
	dir, err := state.Open(c.stateDir)
	if err != nil {
		return err
	}
	ref, target, err := c.point.point()
	if err == nil {
		err = c.checkRaw(target)
	}
	if err != nil {
		return err
	}
	if mountpoint, err = supervise.Resolve(mountpoint); err != nil {
		return err
	}
	if err := supervise.CheckPlaces(dir, mountpoint, c.layer, []string{ref.Path}); err != nil {
		return err
	}
	job := c.job(dir, mountpoint)
	prepare := c.prepareImage
	if c.raw {
		prepare = func(ctx context.Context, job *supervise.Job) (io.Closer, error) {
			return c.prepareRaw(ctx, ref, target.Backup, job)
		}
	}
	open, err := prepare(ctx, &job)
	if err != nil {
		return err
	}
	// Until the serving process has opened it itself.
	defer open.Close() //nolint:errcheck // only locks and descriptors for reading
	return c.launch(ctx, c.global, job)
}

// checkRaw refuses what a bare backup has no meaning for.
func (c *mountCmd) checkRaw(target reach.Target) error {
	switch {
	case !c.raw || target.Kind == reach.Backup && !c.start:
		return nil
	case c.start:
		return usageError("--raw shows a backup that is not recovered: no server starts on it")
	case target.Kind == reach.Latest && c.point.target == "" && !c.point.isMapped():
		return usageError("--raw needs a backup: give -i ID; pg0 points lists them")
	}
	return usageError("--raw shows a backup as it is, and %v needs a recovery: give -i ID alone", target)
}

// job is what mount and frankenstein ask of the supervisor alike.
func (f *mountFlags) job(dir state.Dir, mountpoint string) supervise.Job {
	id := state.ID(mountpoint)
	return supervise.Job{
		State: dir,
		Mount: state.Mount{ID: id, Mountpoint: mountpoint, Layer: f.layer},
		Start: f.start, Proxy: f.proxy,
		Recipe: serve.Recipe{
			Mountpoint: mountpoint,
			Name:       "pg0:" + id,
			Layer:      serve.Layer{TempDir: dir.MountDir(id), Limit: int64(f.layerLimit)},
			Memory:     int64(f.cacheSize),
		},
	}
}

func (c *mountCmd) prepareRaw(ctx context.Context, ref source.Ref, backup string, job *supervise.Job) (io.Closer, error) {
	catalog, err := ref.Open(c.logger)
	if err != nil {
		return nil, err
	}
	// The process that serves the mount opens the rest.
	point, err := catalog.OpenWAL(ctx, backup)
	if err != nil {
		return nil, err
	}
	job.Recipe.Tree = serve.TreeRef{Source: ref, Point: point.ID}
	job.Mount.Kind, job.Mount.Version = state.Raw, point.Version
	job.Mount.Provenance = []state.Origin{{
		Relation: "*", Mode: "base", Point: point.ID, Source: ref.String(), Backup: point.ID, Target: "none: a bare backup",
		Time: point.RecoveryTime, LSN: point.StopLSN,
	}}
	job.Mount.Notes = point.Warnings
	err = c.takeLayer(ctx, c.global, job, mapping.Record{Base: "bare " + point.ID + " " + point.Digest}, nil)
	if err != nil {
		return nil, errors.Join(err, point.Close())
	}
	return point, nil
}

// launch mounts, says what came of it, and with --foreground stays.
func (f *mountFlags) launch(ctx context.Context, g *global, job supervise.Job) error {
	m, err := supervise.Launch(ctx, job)
	if err != nil {
		return err
	}
	if err := g.printMount(ctx, job.State, m); err != nil {
		return err
	}
	if !f.foreground {
		return nil
	}
	return supervise.Foreground(ctx, job.State, m)
}
