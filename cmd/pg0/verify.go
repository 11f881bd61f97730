package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/reach"
	"github.com/fukanchik/pg0/cmd/internal/source"
)

// verifyCmd is pg0 verify.
type verifyCmd struct {
	*global
	point    pointFlags
	all      bool
	jobs     int
	withBoot bool
	bindir   string
}

// verification is what a run found. It is also what --json prints.
type verification struct {
	Catalog  string            `json:"catalog"`
	Verified []string          `json:"verified"` // backups, with all of their chains
	Skipped  []string          `json:"skipped,omitempty"`
	Stop     string            `json:"stop,omitempty"` // where the WAL was read to
	Damage   []source.Damage   `json:"damage"`
	WAL      []reach.WALDamage `json:"wal_damage"`
	Drills   []drill           `json:"drills,omitempty"`
}

func verifyCommand(g *global) *cobra.Command {
	c := &verifyCmd{global: g}
	cmd := &cobra.Command{
		Use:   "verify [POINT | --all]",
		Short: "Read every block of a point's backups and all WAL on the way to it",
		Long: `Read every block that a backup and its chain store, check it as it is checked
when it is served, and read every record of the WAL that leads to the point.
With --all this is done for all backups and for the whole archive. Damage is
listed, and ends the command with exit code 9.

With --boot, what was found undamaged is also recovered and started on a private
mount, pg_amcheck reads all of its tables and indexes, and all is taken away
again: a restore drill without the restore.`,
		Example: `  pg0 verify -B /srv/backups --instance shop -i TELYC0
  pg0 verify -B /srv/backups --instance shop --recovery-target=latest
  pg0 verify -B /srv/backups --instance shop --all -j 4
  pg0 verify -B /srv/backups --instance shop --recovery-target=latest --boot`,
		Args: usage(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	c.point.register(cmd.Flags())
	cmd.Flags().BoolVar(&c.all, "all", false, "verify all backups and the whole WAL archive")
	cmd.Flags().IntVarP(&c.jobs, "threads", "j", runtime.GOMAXPROCS(0), "how many files to read at a time")
	cmd.Flags().BoolVar(&c.withBoot, "boot", false, "also recover, start, and check with pg_amcheck")
	cmd.Flags().StringVar(&c.bindir, "pg-bindir", "", "`directory` of PostgreSQL's server programs, for --boot")
	return cmd
}

func (c *verifyCmd) run(ctx context.Context) error {
	if c.jobs < 1 {
		return usageError("-j: %d is not a number of threads", c.jobs)
	}
	ref, target, err := c.point.point()
	switch {
	case err != nil:
		return err
	case c.all && (target.Kind != reach.Latest || target.Backup != "" || target.Timeline != ""):
		return usageError("--all and a point cannot be given together")
	}
	if c.withBoot {
		if err := refuseRoot("pg0 verify --boot"); err != nil {
			return err
		}
	}
	catalog, err := ref.Open(c.logger)
	if err != nil {
		return err
	}
	found := &verification{Catalog: ref.String(), Damage: []source.Damage{}, WAL: []reach.WALDamage{}}
	if c.all {
		err = c.everything(ctx, ref, catalog, found)
	} else {
		err = c.one(ctx, ref, catalog, target, found)
	}
	if err != nil {
		return err
	}
	return c.print(found)
}

// one verifies the chain of a point's backup and the WAL from there to it.
func (c *verifyCmd) one(ctx context.Context, ref source.Ref, catalog source.Catalog, target reach.Target, found *verification) error {
	choice, err := reach.Choose(ctx, catalog, target)
	if err != nil {
		return err
	}
	if err := c.backup(ctx, catalog, choice.Backup, found); err != nil {
		return err
	}
	line := c.verifying("WAL")
	err = reach.Examine(ctx, catalog, choice, func(at, end pg0.LSN) {
		begin := choice.Backup.StartLSN
		line.report(int64(at-begin), int64(max(end, at)-begin))
	})
	line.done()
	switch {
	case errors.Is(err, pg0.ErrCorrupt):
		found.WAL = append(found.WAL, reach.WALDamage{LSN: choice.Stop.LSN, Reason: err.Error()})
	case err != nil:
		return err
	}
	found.Stop = choice.Stop.LSN.String()
	if !c.withBoot || found.damaged() > 0 {
		return nil
	}
	return c.boot(ctx, ref, catalog, choice, found)
}

// backup verifies a backup with its chain. What is missing of one that was
// deleted meanwhile is no damage.
func (c *verifyCmd) backup(ctx context.Context, catalog source.Catalog, info pg0.PointInfo, found *verification) error {
	line := c.verifying("backup " + info.ID)
	defer line.done()
	err := catalog.Verify(ctx, info.ID, c.jobs, func(d source.Damage) {
		if !slices.Contains(found.Damage, d) {
			found.Damage = append(found.Damage, d)
		}
	}, line.report)
	if err != nil && ctx.Err() == nil {
		if changed := source.Changed(ctx, catalog, info); changed != nil {
			return changed
		}
	}
	if err != nil && !errors.Is(err, pg0.ErrCorrupt) {
		return err
	}
	found.Verified = append(found.Verified, info.ID)
	return nil
}

// everything verifies the tips of all chains, which covers all backups, and the
// archive.
func (c *verifyCmd) everything(ctx context.Context, ref source.Ref, catalog source.Catalog, found *verification) error {
	infos, err := catalog.Points(ctx)
	if err != nil {
		return err
	}
	found.takeUnusable(infos)
	for _, info := range tips(infos) {
		if err := c.backup(ctx, catalog, info, found); err != nil {
			return err
		}
	}
	line := c.verifying("WAL archive")
	err = reach.VerifyArchive(ctx, catalog, c.jobs, func(d reach.WALDamage) { found.WAL = append(found.WAL, d) }, line.report)
	line.done()
	if err != nil {
		return err
	}
	spans, err := reach.Spans(ctx, catalog, infos)
	if err != nil {
		return err
	}
	for i, span := range spans {
		if span.Problem != "" && infos[i].Unusable == "" {
			found.Damage = append(found.Damage, source.Damage{Backup: span.Backup, Block: -1, Reason: span.Problem})
		}
	}
	slices.SortFunc(found.WAL, func(a, b reach.WALDamage) int { return strings.Compare(a.Segment, b.Segment) })
	if !c.withBoot || found.damaged() > 0 {
		return nil
	}
	return c.bootAll(ctx, ref, catalog, tips(infos), found)
}

// bootAll drills the consistent ends of backups, one after the other.
func (c *verifyCmd) bootAll(ctx context.Context, ref source.Ref, catalog source.Catalog, infos []pg0.PointInfo, found *verification) error {
	for _, info := range infos {
		choice, err := reach.Choose(ctx, catalog, reach.Target{Kind: reach.Backup, Backup: info.ID, Inclusive: true})
		if err != nil {
			return err
		}
		if err := c.boot(ctx, ref, catalog, choice, found); err != nil {
			return err
		}
	}
	return nil
}

// damaged is the number of places that are damaged or missing.
func (v *verification) damaged() int {
	n := len(v.Damage) + len(v.WAL)
	for _, d := range v.Drills {
		n += len(d.Problems)
	}
	return n
}

// takeUnusable notes backups that cannot be read. One that never was complete
// is no damage.
func (v *verification) takeUnusable(infos []pg0.PointInfo) {
	for _, info := range infos {
		switch {
		case info.Unusable == "":
		case slices.Contains([]string{"RUNNING", "ERROR", "DELETING", "DELETED", "MERGING"}, info.Status):
			v.Skipped = append(v.Skipped, info.ID+": "+info.Unusable)
		default:
			v.Damage = append(v.Damage, source.Damage{Backup: info.ID, Block: -1, Reason: info.Unusable})
		}
	}
}

// tips are the usable backups that no other usable one is built on.
func tips(infos []pg0.PointInfo) []pg0.PointInfo {
	covered := map[string]bool{}
	for _, info := range infos {
		if info.Unusable == "" {
			for _, id := range info.Chain[min(1, len(info.Chain)):] {
				covered[id] = true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(infos), func(info pg0.PointInfo) bool {
		return info.Unusable != "" || covered[info.ID]
	})
}

// print lists the damage, which is the command's error as well.
func (c *verifyCmd) print(found *verification) error {
	if c.json {
		if err := c.printJSON(found); err != nil {
			return err
		}
	} else {
		for _, line := range found.lines() {
			if _, err := fmt.Fprintln(c.stdout, line); err != nil {
				return err
			}
		}
	}
	if n := found.damaged(); n > 0 {
		return exit.Error(exit.Corrupt, fmt.Errorf("%s: %d damaged or missing places, listed above: do not rely on these backups, and make a new full one", found.Catalog, n))
	}
	return nil
}

func (v *verification) lines() []string {
	var lines []string
	for _, d := range v.Damage {
		lines = append(lines, placeOf(d)+": "+d.Reason)
	}
	for _, d := range v.WAL {
		if d.Segment == "" {
			lines = append(lines, d.Reason)
		} else {
			lines = append(lines, d.String())
		}
	}
	for _, s := range v.Skipped {
		lines = append(lines, "skipped "+s)
	}
	for _, d := range v.Drills {
		lines = append(lines, d.lines()...)
	}
	if v.damaged() == 0 {
		text := "no damage: backup " + strings.Join(v.Verified, ", ") + " with all that it is built on"
		if len(v.Verified) == 0 {
			text = "no damage, but no backup either"
		}
		lines = append(lines, text+v.walRead())
	}
	return lines
}

// walRead says which WAL was read.
func (v *verification) walRead() string {
	if v.Stop == "" {
		return ", and the WAL archive"
	}
	return ", and the WAL to " + v.Stop
}

func placeOf(d source.Damage) string {
	switch {
	case d.File == "":
		return d.Backup
	case d.Block < 0:
		return d.Backup + " " + d.File
	}
	return fmt.Sprintf("%s %s block %d", d.Backup, d.File, d.Block)
}
