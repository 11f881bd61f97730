//go:build regress

package regress

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/fukanchik/pg0/tests/pbwriter"
	"github.com/fukanchik/pg0/tests/pgtest"
	"github.com/fukanchik/pg0/tests/program"
)

// settings are those of both servers beside pg0's own configuration, which the
// native directory has too.
var settings = map[string]string{"max_connections": "60", "shared_buffers": "128MB", "max_prepared_transactions": "2"}

// TestRegress runs everything in turn: the suite on a mount, then on a copy of
// it on disk, then backups of the copy's database as a catalog.
func TestRegress(t *testing.T) {
	source := pgtest.New(t, pgtest.Options{SegmentMB: 16, InitDB: []string{"--no-locale"}, Settings: settings})
	catalog := pbwriter.Of(t, source)
	source.Start()
	backup := catalog.Hot(source, pbwriter.Backup{Stream: true, Compress: pbwriter.Zlib}, func() {
		source.Exec("postgres", "create table t as select i id from generate_series(1, 100000) i")
	})
	source.Stop(pgtest.Fast)

	pg0 := program.New(t)
	mountpoint := pg0.Mountpoint()
	args := []string{"mount", "-B", catalog.Dir, "-i", backup.ID}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "--set", name+"="+settings[name])
	}
	pg0.Must(append(args, mountpoint)...)
	dir := filepath.Join(source.TempDir(), "native")
	source.Run("cp", "-a", mountpoint, dir)

	pg0.Must("start", mountpoint)
	server := pg0.Status(mountpoint).Server
	mounted := runSuite(t, server.SocketDir, server.Port, server.Role)
	pg0.Must("umount", mountpoint)

	native := pgtest.At(t, dir, pgtest.Options{Settings: settings})
	native.Start()
	plain := runSuite(t, native.SocketDir, 5432, "postgres")
	compare(t, mounted, plain)
	adoptAll(t, native)
}

// result is the outcome of each test of the suite.
type result map[string]bool

func (r result) passed() (n int) {
	for _, ok := range r {
		if ok {
			n++
		}
	}
	return n
}

// line is what pg_regress 15 prints for a test.
var line = regexp.MustCompile(`(?m)^(?:test +| +)(\S+) +\.\.\. (ok|FAILED|failed \(ignored\))`)

// runSuite runs pg_regress, whose exit code tells of any test that fails.
func runSuite(t *testing.T, host string, port int, user string) result {
	t.Helper()
	suite, out := os.Getenv("PG0_REGRESS_SUITE"), t.TempDir()
	cmd := exec.Command(os.Getenv("PG0_REGRESS_PGREGRESS"), "--inputdir="+suite, "--outputdir="+out, "--bindir="+pgtest.Bin(t, 15),
		"--dlpath="+filepath.Join(suite, "lib"), "--host="+host, fmt.Sprintf("--port=%d", port), "--user="+user,
		"--schedule="+filepath.Join(suite, "parallel_schedule"), "--max-connections=20")
	cmd.Dir = out
	text, err := cmd.CombinedOutput()
	r := result{}
	for _, m := range line.FindAllStringSubmatch(string(text), -1) {
		r[m[1]] = m[2] == "ok"
	}
	if len(r) < 200 {
		t.Fatalf("pg_regress: %v\n%s", err, text)
	}
	for name, ok := range r {
		if !ok {
			diff, _ := os.ReadFile(filepath.Join(out, "regression.diffs"))
			t.Logf("%s failed; all differences:\n%.20000s", name, diff)
			break
		}
	}
	return r
}

func compare(t *testing.T, mounted, native result) {
	t.Helper()
	same := maps.Equal(mounted, native)
	for _, name := range slices.Sorted(maps.Keys(native)) {
		switch {
		case mounted[name] != native[name]:
			t.Errorf("test %s: passes on the mount: %v, on a native directory: %v", name, mounted[name], native[name])
		case !native[name]:
			fmt.Printf("regress: %s fails on both\n", name)
		}
	}
	if same {
		fmt.Printf("regress: the same %d of %d tests pass on both\n", native.passed(), len(native))
	}
}
