package tests

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/fukanchik/pg0/tests/fixture"
	"github.com/fukanchik/pg0/tests/program"
)

// sharedState is a state directory whose image cache the tests of this package
// share: a point is recovered once, by whoever comes first.
var sharedState = sync.OnceValues(func() (string, error) {
	return os.MkdirTemp("", "p0s")
})

func shared(t *testing.T) *program.Program {
	t.Helper()
	state, err := sharedState()
	if err != nil {
		t.Fatal(err)
	}
	return program.WithState(t, state)
}

func TestMain(m *testing.M) {
	code := m.Run()
	if state, err := sharedState(); err == nil {
		_ = os.RemoveAll(state)
	}
	os.Exit(code)
}

// world is a catalog with the truth of its points.
type world struct {
	name    string
	catalog fixture.Catalog
	truth   string
	bindir  string
	skip    []string // tables that this server cannot read
	wal     bool     // and whether it can replay the WAL of targets
}

var worlds = []world{
	{name: "shop", catalog: fixture.ShopCatalog, truth: "shop", wal: true},
	{name: "15", catalog: fixture.PG15Catalog, truth: "15", wal: true},
	// The PostgreSQL 17 of make deps is built without LZ4, which docs is compressed
	// with, and without Zstandard, which the WAL after the backups is.
	{name: "17", catalog: fixture.PG17Catalog, truth: "17", bindir: program.PG17(), skip: []string{"public.docs"}},
}

func (w world) source(t *testing.T) []string {
	args := []string{"-B", fixture.Unpack(t, w.catalog), "--instance", w.catalog.Instance}
	if w.bindir != "" {
		args = append(args, "--pg-bindir", w.bindir)
	}
	return args
}

// target gives the options that name a point of the truth.
func target(p fixture.TruthPoint) []string {
	switch {
	case p.Kind == "backup":
		return []string{"-i", p.Backups["pg_probackup"][0]}
	case p.Kind == "pitr":
		return []string{"--recovery-target-name=" + p.RestorePoint}
	case p.Kind == "latest":
		return []string{"--recovery-target=latest"}
	case p.Options == "--recovery-target=immediate":
		return []string{"-i", p.Backup}
	}
	options := strings.Split(p.Options, " --")
	for i := range options[1:] {
		options[i+1] = "--" + options[i+1]
	}
	return options
}

// TestMountPoints starts every point of every fixture and compares all tables.
func TestMountPoints(t *testing.T) {
	for _, w := range worlds {
		for _, p := range fixture.TruthOf(t, w.truth).Points {
			if !w.wal && p.Kind != "backup" {
				continue
			}
			t.Run(w.name+"/"+p.Label, func(t *testing.T) {
				t.Parallel()
				pg0 := shared(t)
				mountpoint := pg0.Mountpoint()
				args := append([]string{"mount", "--start"}, w.source(t)...)
				pg0.Must(append(append(args, target(p)...), mountpoint)...)
				for database, tables := range p.Tables {
					program.CheckTables(t, pg0.Connect(mountpoint, database), tables, w.skip...)
				}
				checkLog(t, pg0, mountpoint)
				pg0.Must("umount", mountpoint)
				if _, err := os.Lstat(mountpoint); !os.IsNotExist(err) {
					t.Errorf("the mount point that pg0 made is still there: %v", err)
				}
			})
		}
	}
}

// checkLog fails the test for every warning in the server's log.
func checkLog(t *testing.T, pg0 *program.Program, mountpoint string) {
	t.Helper()
	log := pg0.Status(mountpoint).Server.Log
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		for _, word := range []string{"WARNING:", "ERROR:", "FATAL:", "PANIC:"} {
			if strings.Contains(line, word) {
				t.Errorf("%s: %s", filepath.Base(log), line)
			}
		}
	}
}
