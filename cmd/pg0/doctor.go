package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/pgserver"
	"github.com/fukanchik/pg0/cmd/internal/source"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/cmd/internal/supervise"
	"github.com/fukanchik/pg0/fusefs"
	"github.com/fukanchik/pg0/relmap"
)

// A finding is one line of doctor.
type finding struct {
	What   string `json:"what"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"` // the command that mends it
}

type doctorCmd struct {
	*global
	point    pointFlags
	bindir   string
	findings []finding
}

func doctorCommand(g *global) *cobra.Command {
	c := &doctorCmd{global: g}
	cmd := &cobra.Command{
		Use:   "doctor [POINT]",
		Short: "Say what this machine lacks, and how to mend it",
		Long: `Say what this machine lacks to mount backups, and the command that mends it. With
-B DIR also what a backup there needs, the newest or that of -i ID: server
programs of its version, locales, libraries. The exit code is 1 if something is missing.`,
		Args: usage(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context(), cmd.Flags()) },
	}
	c.point.register(cmd.Flags())
	cmd.Flags().StringVar(&c.bindir, "pg-bindir", "", "`directory` of PostgreSQL's server programs")
	return cmd
}

func (c *doctorCmd) good(what, format string, args ...any) {
	c.findings = append(c.findings, finding{What: what, OK: true, Detail: fmt.Sprintf(format, args...)})
}

func (c *doctorCmd) bad(what, remedy, format string, args ...any) {
	c.findings = append(c.findings, finding{What: what, Detail: fmt.Sprintf(format, args...), Remedy: remedy})
}

func (c *doctorCmd) run(ctx context.Context, flags *pflag.FlagSet) error {
	c.user()
	c.fuse()
	c.servers()
	c.mounts()
	if flags.Changed("backup-path") || flags.Changed("backup-id") || c.point.isMapped() {
		ref, target, err := c.point.point()
		if err != nil {
			return err
		}
		if err := c.backup(ctx, ref, target.Backup); err != nil {
			c.bad("backup", "pg0 points -B DIR lists what a catalog has", "%v", err)
		}
	}
	return c.print()
}

func (c *doctorCmd) print() error {
	missing := 0
	for _, f := range c.findings {
		if !f.OK {
			missing++
		}
	}
	if c.json {
		if err := c.printJSON(c.findings); err != nil {
			return err
		}
	} else {
		for _, f := range c.findings {
			mark := "ok     "
			if !f.OK {
				mark = "MISSING"
			}
			fmt.Fprintf(c.stdout, "%s  %s: %s\n", mark, f.What, f.Detail)
			if f.Remedy != "" {
				fmt.Fprintf(c.stdout, "         %s\n", f.Remedy)
			}
		}
	}
	if missing > 0 {
		return exit.Error(exit.Failed, fmt.Errorf("%d of %d checks failed", missing, len(c.findings)))
	}
	return nil
}

func (c *doctorCmd) user() {
	if os.Geteuid() == 0 {
		c.bad("user", "su postgres -c 'pg0 ...'", "you are root, as whom PostgreSQL and pg0 mount nothing")
		return
	}
	c.good("user", "uid %d", os.Geteuid())
}

func (c *doctorCmd) fuse() {
	const device = "/dev/fuse"
	err := unix.Access(device, unix.R_OK|unix.W_OK)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.bad(device, "modprobe fuse, or docker run --device /dev/fuse --cap-add SYS_ADMIN", "it does not exist: the kernel module is not loaded, or this container does not get the device")
	case err != nil:
		c.bad(device, "chmod 0666 "+device, "you may not open it: %v", err)
	default:
		c.good(device, "can be opened")
	}
	name, err := exec.LookPath("fusermount3")
	if err != nil {
		c.bad("fusermount3", "apt-get install fuse3 (Debian, Ubuntu) or dnf install fuse3 (RHEL)", "it is not installed")
		return
	}
	info, err := os.Stat(name)
	if err == nil && os.Geteuid() != 0 && info.Mode()&fs.ModeSetuid == 0 {
		c.bad("fusermount3", "chmod u+s "+name, "%s is not setuid root, so ordinary users cannot mount", name)
		return
	}
	c.good("fusermount3", "%s", name)
}

// servers lists the PostgreSQL that can be used here.
func (c *doctorCmd) servers() {
	var found []string
	const oldest, newest = 12, 18
	for major := oldest; major <= newest; major++ {
		if bin, err := pgserver.Find(major, c.bindir); err == nil {
			found = append(found, fmt.Sprintf("%s in %s", bin.Version, bin.Dir))
		}
	}
	if len(found) == 0 {
		c.bad("PostgreSQL", "apt-get install postgresql (of the backup's major version), or give --pg-bindir", "no server programs of version %d to %d are found", oldest, newest)
		return
	}
	c.good("PostgreSQL", "%s", strings.Join(found, "; "))
}

// mounts names mounts that are dead.
func (c *doctorCmd) mounts() {
	dir, err := state.Open(c.stateDir)
	if err != nil {
		c.bad("state directory", "set XDG_STATE_HOME or give --state-dir", "%v", err)
		return
	}
	c.good("state directory", "%s", dir)
	list, err := dir.List()
	if err != nil {
		c.bad("mounts", "rm -r the directories it names", "%v", err)
	}
	known := map[string]bool{}
	for _, m := range list {
		known[m.Mountpoint] = true
		switch {
		case !m.Alive():
			c.bad("mount "+m.Mountpoint, "pg0 umount "+m.Mountpoint, "dead: %s", deathOf(m))
		case !m.Supervisor.Alive():
			c.bad("mount "+m.Mountpoint, "pg0 umount "+m.Mountpoint, "its supervisor has died")
		default:
			c.good("mount "+m.Mountpoint, "served by pid %d", m.Server.PID)
		}
	}
	c.strays(known)
}

// strays are dead mounts of pg0 that this state directory does not know.
func (c *doctorCmd) strays(known map[string]bool) {
	mounts, err := fusefs.Mounts()
	if err != nil {
		c.bad("mounts", "", "%v", err)
	}
	for _, m := range mounts {
		if !known[m.Dir] && fusefs.Dead(m.Dir) {
			c.bad("mount "+m.Dir, "pg0 umount "+m.Dir, "dead, and unknown to this state directory")
		}
	}
}

// backup checks what one backup needs, the newest if it is not named.
func (c *doctorCmd) backup(ctx context.Context, ref source.Ref, id string) error {
	catalog, err := ref.Open(c.logger)
	if err != nil {
		return err
	}
	if id == "" {
		if id, err = newest(ctx, catalog); err != nil {
			return err
		}
	}
	point, err := catalog.Open(ctx, id)
	if err != nil {
		return err
	}
	defer point.Close()
	c.good("backup "+point.ID, "PostgreSQL %d, chain of %d", point.Version, len(point.Chain))
	bin, err := pgserver.Find(point.Version, c.bindir)
	if err != nil {
		c.bad(fmt.Sprintf("PostgreSQL %d", point.Version), fmt.Sprintf("apt-get install postgresql-%d", point.Version), "%v", err)
		return nil
	}
	c.good(fmt.Sprintf("PostgreSQL %d", point.Version), "%s", bin.Dir)
	c.locales(point.Tree)
	c.libraries(point.Tree, bin)
	return nil
}

func newest(ctx context.Context, catalog pg0.Catalog) (string, error) {
	points, err := catalog.Points(ctx)
	if err != nil {
		return "", err
	}
	for i := len(points) - 1; i >= 0; i-- {
		if points[i].Unusable == "" {
			return points[i].ID, nil
		}
	}
	return "", fmt.Errorf("the catalog has no backup that can be used: %w", fs.ErrNotExist)
}

// locales looks for those of the databases. The backup is not recovered yet, so
// a database made while it ran may be missing from the list.
func (c *doctorCmd) locales(tree pg0.Tree) {
	cluster, err := relmap.Open(tree)
	if err != nil {
		c.bad("databases", "", "%v", err)
		return
	}
	databases, err := cluster.Databases()
	if err != nil {
		c.bad("databases", "", "%v", err)
		return
	}
	users := map[string][]string{}
	for _, d := range databases {
		for _, locale := range []string{d.Collate, d.Ctype} {
			if !strings.Contains(" "+strings.Join(users[locale], " ")+" ", " "+d.Name+" ") {
				users[locale] = append(users[locale], d.Name)
			}
		}
	}
	names := make([]string, 0, len(users))
	for name := range users {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if pgserver.HasLocale(name) {
			c.good("locale "+name, "present")
			continue
		}
		c.bad("locale "+name, fmt.Sprintf("localedef -i %s -f UTF-8 %s, or dpkg-reconfigure locales", strings.Split(name, ".")[0], name),
			"missing; needed to connect to %s", strings.Join(users[name], ", "))
	}
}

// libraries looks for what the cluster preloads. A copy works without most of
// them, so they are only named.
func (c *doctorCmd) libraries(tree pg0.Tree, bin pgserver.Bin) {
	settings, err := pgserver.OriginalSettings(tree)
	if err != nil {
		c.bad("configuration", "", "%v", err)
		return
	}
	out, err := exec.Command(bin.Path("pg_config"), "--pkglibdir").Output()
	if err != nil {
		return // client and server packages of some systems come without it
	}
	dir := strings.TrimSpace(string(out))
	for _, name := range strings.Split(settings["shared_preload_libraries"], ",") {
		name = strings.Trim(strings.TrimSpace(name), `"`)
		if name == "" {
			continue
		}
		file := filepath.Join(dir, strings.TrimSuffix(filepath.Base(name), ".so")+".so")
		if _, err := os.Stat(file); err != nil {
			c.bad("library "+name, "install its package for PostgreSQL "+fmt.Sprint(bin.Major)+", if you need it", "the cluster preloads it, and it is not in %s; pg0 leaves it out unless --preload names it", dir)
			continue
		}
		c.good("library "+name, "present; pg0 leaves it out unless --preload names it")
	}
}

// clearStray unmounts a dead mount that no record speaks of.
func clearStray(mountpoint string) (bool, error) {
	mounted, err := fusefs.Mounted(mountpoint)
	if err != nil || !mounted || !fusefs.Dead(mountpoint) {
		return false, err
	}
	return true, supervise.UnmountDead(mountpoint)
}
