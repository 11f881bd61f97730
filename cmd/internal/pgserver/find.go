// Package pgserver finds, configures, starts, asks and stops PostgreSQL servers
// on cluster directories that pg0 shows.
package pgserver

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ErrNoServer is wrapped when this machine has no PostgreSQL of a wanted major
// version.
var ErrNoServer = errors.New("no PostgreSQL server programs")

// A Bin is a directory with the server programs of one PostgreSQL.
type Bin struct {
	Dir     string `json:"dir"`
	Major   int    `json:"major"`
	Version string `json:"version"` // as postgres prints it: 15.18 (Debian 15.18-0+deb12u1)
}

// String names the major version and the directory.
func (b Bin) String() string { return fmt.Sprintf("%d in %s", b.Major, b.Dir) }

// Path is the path of a program, such as postgres.
func (b Bin) Path(program string) string { return filepath.Join(b.Dir, program) }

// Find looks for the server programs of a major version: in bindir (the flag
// --pg-bindir) alone if it is given, else in the directories of PG0_PGBIN
// (colons between them), then where packages and builds put them, then where
// PATH and pg_config lead. The error wraps ErrNoServer and says what to install.
func Find(major int, bindir string) (Bin, error) {
	if bindir != "" {
		return explicit(major, bindir, "--pg-bindir")
	}
	var other []string
	for dir := range candidates(major) {
		bin, err := inspect(dir)
		switch {
		case err == nil && bin.Major == major:
			return bin, nil
		case err == nil && !slices.Contains(other, bin.String()):
			other = append(other, bin.String())
		}
	}
	found := ""
	if len(other) > 0 {
		found = " (found: PostgreSQL " + strings.Join(other, ", ") + ")"
	}
	return Bin{}, fmt.Errorf("%w of major version %d on this machine%s: install postgresql-%d (Debian, Ubuntu) or postgresql%d-server (RHEL), or name their directory with --pg-bindir or PG0_PGBIN",
		ErrNoServer, major, found, major, major)
}

func explicit(major int, dir, origin string) (Bin, error) {
	bin, err := inspect(dir)
	if err != nil {
		return Bin{}, fmt.Errorf("%w in %s (%s): %w; name the directory that has postgres and pg_ctl", ErrNoServer, dir, origin, err)
	}
	if bin.Major != major {
		return Bin{}, fmt.Errorf("%w of major version %d in %s (%s): it has PostgreSQL %s; name a directory of version %d",
			ErrNoServer, major, dir, origin, bin.Version, major)
	}
	return bin, nil
}

// candidates are the directories in which programs may be, the likeliest first.
// Others are asked for only when those do not have them: pg_config is a script
// on Debian, and takes longer than everything before it.
func candidates(major int) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, dir := range usualPlaces(major) {
			if !yield(dir) {
				return
			}
		}
		for _, dir := range pointedTo() {
			if !yield(dir) {
				return
			}
		}
	}
}

func usualPlaces(major int) []string {
	n := strconv.Itoa(major)
	return append(filepath.SplitList(os.Getenv("PG0_PGBIN")),
		"/usr/lib/postgresql/"+n+"/bin", // Debian, Ubuntu
		"/usr/pgsql-"+n+"/bin",          // PGDG on RHEL
		"/usr/lib/postgresql"+n+"/bin",  // SUSE
		"/usr/libexec/postgresql"+n,     // Alpine
		"/opt/pgpro/std-"+n+"/bin",      // Postgres Pro
		"/opt/pgpro/ent-"+n+"/bin",
		"/usr/local/pgsql-"+n+"/bin",
		"/usr/local/pgsql/bin",
	)
}

// pointedTo follows pg_config and PATH.
func pointedTo() (dirs []string) {
	if name, err := exec.LookPath("pg_config"); err == nil {
		if out, err := exec.Command(name, "--bindir").Output(); err == nil {
			dirs = append(dirs, strings.TrimSpace(string(out)))
		}
	}
	if name, err := exec.LookPath("postgres"); err == nil {
		if real, err := filepath.EvalSymlinks(name); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
	}
	return dirs
}

var versionLine = regexp.MustCompile(`^postgres \([^)]*\) ((\d+)\S*.*)$`)

// inspect asks the postgres of a directory for its version.
func inspect(dir string) (Bin, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Bin{}, err
	}
	name := filepath.Join(dir, "postgres")
	if _, err := os.Stat(name); err != nil {
		return Bin{}, err
	}
	out, err := exec.Command(name, "--version").Output()
	if err != nil {
		return Bin{}, fmt.Errorf("%s --version: %w", name, err)
	}
	match := versionLine.FindStringSubmatch(strings.TrimSpace(string(out)))
	if match == nil {
		return Bin{}, fmt.Errorf("%s --version says %q: %w", name, strings.TrimSpace(string(out)), fs.ErrInvalid)
	}
	major, err := strconv.Atoi(match[2])
	if err != nil {
		return Bin{}, err
	}
	return Bin{Dir: dir, Major: major, Version: match[1]}, nil
}
