package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/fukanchik/pg0/cmd/internal/reach"
	"github.com/fukanchik/pg0/cmd/internal/source"
)

// pointFlags are the flags that name a catalog and a moment in it. Those that
// pg_probackup has keep their names.
type pointFlags struct {
	catalogFlags
	backupID  string
	targets   map[reach.Kind]*string // --recovery-target-time and its like
	target    string
	timeline  string
	inclusive bool
}

// catalogFlags are the flags that name a catalog.
type catalogFlags struct {
	path      string
	instance  string
	toolExact bool
}

func (f *catalogFlags) register(flags *pflag.FlagSet) {
	flags.StringVarP(&f.path, "backup-path", "B", os.Getenv("BACKUP_PATH"), "directory of the backup catalog (default $BACKUP_PATH)")
	flags.StringVar(&f.instance, "instance", "", "instance in the catalog (default: the only one)")
	flags.BoolVar(&f.toolExact, "tool-exact", false, "give the bytes of the tool's own restore even where it is wrong")
}

// ref is the catalog that the flags name.
func (f *catalogFlags) ref() (source.Ref, error) {
	if f.path == "" {
		return source.Ref{}, usageError("no catalog: give -B DIR or set BACKUP_PATH")
	}
	path, err := filepath.Abs(f.path)
	if err != nil {
		return source.Ref{}, fmt.Errorf("-B: %w", err)
	}
	return source.Ref{Format: "probackup", Path: path, Instance: f.instance, ToolExact: f.toolExact}, nil
}

func (f *pointFlags) register(flags *pflag.FlagSet) {
	f.catalogFlags.register(flags)
	flags.StringVarP(&f.backupID, "backup-id", "i", "", "backup to start from; alone: its own consistent end")
	f.targets = map[reach.Kind]*string{}
	for kind, help := range map[reach.Kind]string{
		reach.Time: "stop at this `time`, such as '2026-05-06 14:00:02+00'",
		reach.XID:  "stop at the end of this transaction `id`",
		reach.LSN:  "stop at this `LSN`",
		reach.Name: "stop at the restore point of this `name`",
	} {
		f.targets[kind] = flags.String("recovery-target-"+string(kind), "", help)
	}
	flags.StringVar(&f.target, "recovery-target", "", "`latest` (all archived WAL) or immediate (the backup's own end)")
	flags.StringVar(&f.timeline, "recovery-target-timeline", "", "timeline to follow: `number`, current (of the backup; the default) or latest")
	flags.BoolVar(&f.inclusive, "recovery-target-inclusive", true, "whether what the target names is in")
}

// point is the catalog and the moment that the flags name.
func (f *pointFlags) point() (source.Ref, reach.Target, error) {
	ref, err := f.ref()
	if err != nil {
		return ref, reach.Target{}, err
	}
	target, err := f.moment()
	return ref, target, err
}

// moment is the target that the flags name: without any it is the latest, with
// nothing but a backup that backup's own end.
func (f *pointFlags) moment() (reach.Target, error) {
	target, given, err := f.explicit()
	switch {
	case err != nil:
		return target, err
	case given == "" && f.backupID != "":
		target.Kind = reach.Backup
	case given == "":
		target.Kind = reach.Latest
	}
	target.Backup, target.Timeline, target.Inclusive = f.backupID, f.timeline, f.inclusive
	return target, nil
}

// explicit reads the one flag that gives a target, and returns its name.
func (f *pointFlags) explicit() (target reach.Target, given string, err error) {
	for _, kind := range []reach.Kind{reach.Time, reach.XID, reach.LSN, reach.Name} {
		value, flag := *f.targets[kind], "--recovery-target-"+string(kind)
		switch {
		case value == "":
			continue
		case given != "":
			return target, given, usageError("%s and %s cannot be given together", given, flag)
		}
		if target, err = reach.ParseValue(kind, value); err != nil {
			return target, flag, usageError("%s: %w", flag, err)
		}
		given = flag
	}
	switch {
	case f.target == "":
		return target, given, nil
	case given != "":
		return target, given, usageError("--recovery-target and %s cannot be given together", given)
	case f.target != string(reach.Latest) && f.target != string(reach.Immediate):
		return target, given, usageError("--recovery-target: %q is neither latest nor immediate", f.target)
	}
	return reach.Target{Kind: reach.Kind(f.target)}, "--recovery-target", nil
}

// openPoint opens the catalog and makes the moment definite.
func (f *pointFlags) openPoint(ctx context.Context, g *global) (source.Ref, source.Catalog, *reach.Choice, error) {
	ref, target, err := f.point()
	if err != nil {
		return ref, nil, nil, err
	}
	catalog, err := ref.Open(g.logger)
	if err != nil {
		return ref, nil, nil, err
	}
	choice, err := reach.Choose(ctx, catalog, target)
	return ref, catalog, choice, err
}
