package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/fukanchik/pg0/cmd/internal/reach"
	"github.com/fukanchik/pg0/cmd/internal/source"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/cmd/internal/supervise"
)

// A drill is a restore without the restore: a point that was recovered, started
// and checked.
type drill struct {
	Backup   string   `json:"backup"`
	Target   string   `json:"target"`
	Reached  string   `json:"reached"` // where recovery stopped
	Seconds  float64  `json:"seconds"`
	Problems []string `json:"problems"`        // that pg_amcheck found
	Notes    []string `json:"notes,omitempty"` // what was not checked, and why
}

// boot recovers a moment, starts PostgreSQL on it, has pg_amcheck read all of
// its tables and indexes, and takes everything away again.
func (c *verifyCmd) boot(ctx context.Context, ref source.Ref, catalog source.Catalog, choice *reach.Choice, found *verification) error {
	started := time.Now()
	dir, err := state.Open(c.stateDir)
	if err != nil {
		return err
	}
	m := moment{name: c.point.name(choice), source: ref.String(), ref: ref, catalog: catalog, choice: choice}
	images, err := c.ready(ctx, dir, c.bindir, []moment{m})
	if err != nil {
		return err
	}
	defer closeImages(images) //nolint:errcheck // they were only read
	made := images[0]
	mountpoint, err := os.MkdirTemp("", "pg0-verify-")
	if err != nil {
		return err
	}
	defer os.Remove(mountpoint) //nolint:errcheck // umount has removed it, or an error says why not
	// Locks of prepared transactions would keep pg_amcheck waiting.
	flags := mountFlags{serverFlags: serverFlags{bindir: c.bindir, port: defaultPort}, start: true, rollBack: true}
	job := flags.job(dir, mountpoint)
	job.Recipe.Tree, job.Mount.Kind = made.Ref(), state.Point
	job.Mount.Provenance = []state.Origin{stateOrigin(m.origin(made), "*", "", "base")}
	if err := flags.serveImage(&job, &made.Meta, made.Keys()); err != nil {
		return err
	}
	d := drill{Backup: choice.Backup.ID, Target: choice.Target.String(), Reached: localPlace(made.Meta.Recovered.LSN, made.Meta.Recovered.Time), Problems: []string{}}
	if err := c.drill(ctx, dir, job, &d); err != nil {
		return fmt.Errorf("drill of %s: %w", m.name, err)
	}
	d.Seconds = time.Since(started).Seconds()
	found.Drills = append(found.Drills, d)
	return nil
}

// drill checks a server on a mount that it takes away at the end.
func (c *verifyCmd) drill(ctx context.Context, dir state.Dir, job supervise.Job, d *drill) (err error) {
	mounted, err := supervise.Launch(ctx, job)
	if err != nil {
		return err
	}
	defer func() {
		_, gone := supervise.Ask(context.WithoutCancel(ctx), dir, mounted.ID, supervise.Request{Op: supervise.Umount, Force: true})
		err = errors.Join(err, gone)
	}()
	program := job.Server.Bin.Path("pg_amcheck")
	if _, err := os.Stat(program); errors.Is(err, fs.ErrNotExist) {
		d.Notes = append(d.Notes, "the server started, but its tables and indexes were not checked: "+program+" is missing (it comes with PostgreSQL 14 and later)")
		return nil
	}
	cmd := exec.CommandContext(ctx, program, "--all", "--install-missing", "--heapallindexed", "--jobs", strconv.Itoa(c.jobs),
		"-h", mounted.SocketDir, "-p", strconv.Itoa(mounted.Port), "-U", mounted.Role)
	cmd.Env = append(os.Environ(), "PGOPTIONS=-c lock_timeout=30s", "LC_ALL=C")
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	return d.judge(string(out), err)
}

// judge reads what pg_amcheck says. Its exit code 2 means damage.
func (d *drill) judge(out string, err error) error {
	var failed *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &failed) && failed.ExitCode() == 2:
		for line := range strings.Lines(out) {
			d.Problems = append(d.Problems, strings.TrimSpace(line))
		}
		return nil
	}
	return fmt.Errorf("pg_amcheck: %w: %s", err, strings.ReplaceAll(strings.TrimSpace(out), "\n", "; "))
}

func (d *drill) lines() []string {
	lines := append([]string(nil), d.Problems...)
	for _, note := range d.Notes {
		lines = append(lines, d.Target+": "+note)
	}
	if len(d.Problems) == 0 {
		lines = append(lines, fmt.Sprintf("%s of backup %s was recovered to %s, started and checked in %.0f s", d.Target, d.Backup, d.Reached, d.Seconds))
	}
	return lines
}
