package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

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
	lock      bool
	mapFile   string // with mapPoint: the point of that name in a mapping file
	mapPoint  string
	given     func(flag string) bool
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
	registerLock(flags, &f.lock)
	flags.StringVar(&f.mapFile, "map", "", "mapping `file` that has the point, instead of the flags above")
	flags.StringVar(&f.mapPoint, "point", "", "`name` of the point in the mapping file")
	f.given = flags.Changed
}

// registerLock adds the flag that makes pg0 write into a catalog.
func registerLock(flags *pflag.FlagSet, lock *bool) {
	flags.BoolVar(lock, "lock", false, "hold pg_probackup's shared lock on the backups while they are read, so that it does not merge or delete them")
}

// point is the catalog and the moment that the flags name.
func (f *pointFlags) point() (source.Ref, reach.Target, error) {
	if f.isMapped() {
		return f.mapped()
	}
	ref, err := f.catalogFlags.ref()
	if err != nil {
		return ref, reach.Target{}, err
	}
	ref.Lock = f.lock
	target, err := f.moment()
	return ref, target, err
}

func (f *pointFlags) isMapped() bool { return f.mapFile != "" || f.mapPoint != "" }

// mapped is the point of a mapping file.
func (f *pointFlags) mapped() (source.Ref, reach.Target, error) {
	if f.mapFile == "" || f.mapPoint == "" {
		return source.Ref{}, reach.Target{}, usageError("--map FILE and --point NAME belong together")
	}
	for _, flag := range []string{
		"backup-path", "instance", "backup-id", "recovery-target", "recovery-target-time", "recovery-target-xid",
		"recovery-target-lsn", "recovery-target-name", "recovery-target-timeline", "recovery-target-inclusive",
	} {
		if f.given(flag) {
			return source.Ref{}, reach.Target{}, usageError("--%s and --point cannot be given together: the mapping file says it", flag)
		}
	}
	spec, _, err := parseMap(f.mapFile)
	if err != nil {
		return source.Ref{}, reach.Target{}, err
	}
	point, ok := spec.Points[f.mapPoint]
	if !ok {
		return source.Ref{}, reach.Target{}, usageError("%s has no point %q; there are: %s", f.mapFile, f.mapPoint, strings.Join(slices.Sorted(maps.Keys(spec.Points)), ", "))
	}
	from := spec.Sources[point.Source]
	if from.IsLive() {
		return source.Ref{}, reach.Target{}, usageError("point %s is of a running server: make it the base of a mapping file and use pg0 frankenstein", f.mapPoint)
	}
	return source.Ref{Format: from.Format, Path: from.Path, Instance: from.Instance, ToolExact: f.toolExact, Lock: f.lock}, target(point), nil
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
	choice, err := reach.Choose(ctx, catalog, target, g.memory())
	return ref, catalog, choice, err
}

// memory keeps what searches in the WAL have found beside the images.
func (g *global) memory() reach.Option {
	return reach.RememberIn(reach.Memory(filepath.Join(g.stateDir, "targets")))
}
