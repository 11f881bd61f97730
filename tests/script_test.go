package tests

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/fukanchik/pg0/tests/fixture"
	"github.com/fukanchik/pg0/tests/program"
)

// TestMountScripts runs the program as scripts of commands. The commands they
// have beside those of testscript are the keys of scriptCommands.
func TestMountScripts(t *testing.T) {
	binary := program.Binary(t)
	shop := fixture.Shop(t)
	images := t.TempDir() // shared by the scripts: making an image takes seconds
	testscript.Run(t, testscript.Params{
		Dir:  filepath.Join("testdata", "script"),
		Cmds: scriptCommands,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PG0_BIN", binary)
			env.Setenv("SHOP", shop)
			env.Setenv("XDG_STATE_HOME", filepath.Join(env.WorkDir, "state"))
			env.Setenv("XDG_RUNTIME_DIR", filepath.Join(env.WorkDir, "run"))
			env.Defer(func() { cleanUp(t, env.WorkDir, binary, env.Vars) })
			return shareImages(env.WorkDir, images)
		},
	})
}

// shareImages gives a script a state directory with the common cache.
func shareImages(work, images string) error {
	state := filepath.Join(work, "state", "pg0")
	if err := os.MkdirAll(state, 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(work, "run"), 0o700); err != nil {
		return err
	}
	return os.Symlink(images, filepath.Join(state, "images"))
}

// cleanUp unmounts whatever a script has left, however it ended.
func cleanUp(t *testing.T, work, binary string, env []string) {
	for _, dir := range mountsBelow(t, work) {
		cmd := exec.Command(binary, "umount", "--force", dir)
		cmd.Env = env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("pg0 umount --force %s: %v\n%s", dir, err, out)
			_ = exec.Command("fusermount3", "-u", "-z", dir).Run()
		}
	}
}

func mountsBelow(t testing.TB, dir string) []string {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var mounts []string
	for line := range strings.Lines(string(table)) {
		if mount := strings.Fields(line)[4]; strings.HasPrefix(mount, dir+"/") {
			mounts = append(mounts, mount)
		}
	}
	return mounts
}

var scriptCommands = map[string]func(*testscript.TestScript, bool, []string){
	"pg0":       runPg0,
	"psql":      runPsql,
	"pg_ctl":    runPgCtl,
	"kill9":     kill9,
	"mounted":   isMounted,
	"expand":    expand,
	"sums":      compareSums,
	"unchanged": unchanged,
	"locked":    isLocked,
}

// runPg0 runs pg0: pg0 [exit code] argument... A code other than 0 is what the
// command has to end with.
func runPg0(ts *testscript.TestScript, neg bool, args []string) {
	want := 0
	if len(args) > 0 {
		if code, err := strconv.Atoi(args[0]); err == nil {
			want, args = code, args[1:]
		}
	}
	if neg {
		ts.Fatalf("give the exit code: pg0 4 mount ...")
	}
	code := 0
	if err := ts.Exec(ts.Getenv("PG0_BIN"), args...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("pg0: %v", err)
		}
		code = exit.ExitCode()
	}
	if code != want {
		ts.Fatalf("pg0 %s: exit code %d, want %d", strings.Join(args, " "), code, want)
	}
}

// statusOf asks pg0 for a mount.
func statusOf(ts *testscript.TestScript, mountpoint string) program.Status {
	cmd := exec.Command(ts.Getenv("PG0_BIN"), "status", "--json", ts.MkAbs(mountpoint))
	cmd.Env = []string{"XDG_STATE_HOME=" + ts.Getenv("XDG_STATE_HOME"), "XDG_RUNTIME_DIR=" + ts.Getenv("XDG_RUNTIME_DIR"), "HOME=" + ts.Getenv("HOME")}
	out, err := cmd.Output()
	var status program.Status
	if jsonErr := json.Unmarshal(out, &status); jsonErr != nil {
		ts.Fatalf("pg0 status %s: %v: %s", mountpoint, err, out)
	}
	return status
}

// runPsql runs one statement: psql mountpoint database statement.
func runPsql(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: psql mountpoint database statement")
	}
	s := statusOf(ts, args[0]).Server
	err := ts.Exec("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", s.SocketDir, "-p", strconv.Itoa(s.Port), "-U", s.Role, "-d", args[1], "-c", args[2])
	if failed := err != nil; failed != neg {
		ts.Fatalf("psql: %v", err)
	}
}

// runPgCtl runs PostgreSQL's own: pg_ctl mountpoint argument...
func runPgCtl(ts *testscript.TestScript, neg bool, args []string) {
	arguments := append([]string{"-D", ts.MkAbs(args[0]), "-l", ts.MkAbs("pg_ctl.log"), "-w", "-s"}, args[1:]...)
	err := ts.Exec("/usr/lib/postgresql/15/bin/pg_ctl", arguments...)
	if failed := err != nil; failed != neg {
		ts.Fatalf("pg_ctl: %v", err)
	}
}

// kill9 kills processes of a mount at once, and waits until they are gone, and
// also the supervisor, which leaves when it has cleared up after the server:
// kill9 mountpoint server|supervisor|postgres...
func kill9(ts *testscript.TestScript, _ bool, args []string) {
	s := statusOf(ts, args[0])
	supervisor := openProcess(ts, s.SupervisorPID)
	defer unix.Close(supervisor)
	pids := map[string]int{"server": s.FileServerPID, "supervisor": s.SupervisorPID, "postgres": s.Server.PID}
	var open []int
	if slices.Contains(args[1:], "postgres") {
		// Its children notice, and only then let go of its shared memory.
		defer waitChildren(ts, pids["postgres"])()
	}
	for _, name := range args[1:] {
		fd := openProcess(ts, pids[name])
		defer unix.Close(fd)
		open = append(open, fd)
	}
	// The supervisor first, if it is one of them: it must not act on the others.
	if slices.Contains(args[1:], "supervisor") {
		ts.Check(unix.PidfdSendSignal(supervisor, unix.SIGKILL, nil, 0))
		waitProcess(ts, supervisor)
	}
	for _, fd := range open {
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			ts.Fatalf("kill: %v", err)
		}
		waitProcess(ts, fd)
	}
	if slices.Contains(args[1:], "server") {
		waitProcess(ts, supervisor)
	}
}

// waitChildren gives what waits for the end of all children that a process has.
func waitChildren(ts *testscript.TestScript, pid int) func() {
	list, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	ts.Check(err)
	var open []int
	for _, child := range strings.Fields(string(list)) {
		number, err := strconv.Atoi(child)
		ts.Check(err)
		if fd, err := unix.PidfdOpen(number, 0); err == nil { // else it has ended already
			open = append(open, fd)
		}
	}
	return func() {
		for _, fd := range open {
			waitProcess(ts, fd)
			_ = unix.Close(fd)
		}
	}
}

func openProcess(ts *testscript.TestScript, pid int) int {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		ts.Fatalf("process %d: %v", pid, err)
	}
	return fd
}

func waitProcess(ts *testscript.TestScript, fd int) {
	const limit = 60_000 // milliseconds
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, limit)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n != 1 {
			ts.Fatalf("a process does not end: %v", err)
		}
		return
	}
}

// isMounted looks into the kernel's table: mounted mountpoint.
func isMounted(ts *testscript.TestScript, neg bool, args []string) {
	table := ts.ReadFile("/proc/self/mountinfo")
	if found := strings.Contains(table, " "+ts.MkAbs(args[0])+" "); found == neg {
		ts.Fatalf("%s: mounted is %v", args[0], found)
	}
}

// expand puts environment variables into files: expand file...
func expand(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		text := os.Expand(ts.ReadFile(name), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
}

// compareSums compares every file with a list of the truth: sums mountpoint list.
// The list leaves out postgresql.auto.conf, to which the tool's restore adds.
func compareSums(ts *testscript.TestScript, _ bool, args []string) {
	want := fixture.Sums(testFatal{ts: ts}, filepath.Join("shop-truth", args[1]))
	got, err := sumsOf(ts.MkAbs(args[0]))
	ts.Check(err)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			ts.Fatalf("%s: sum %q, the tool's restore has %q", name, got[name], want[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if want[name] == "" && name != "postgresql.auto.conf" && !strings.HasPrefix(name, ".pg0_tblspc/") {
			ts.Fatalf("%s is not in the tool's restore", name)
		}
	}
}

// testFatal lets fixture report through a script.
type testFatal struct {
	testing.TB
	ts *testscript.TestScript
}

func (testFatal) Helper()                             {}
func (f testFatal) Fatal(args ...any)                 { f.ts.Fatalf("%s", fmt.Sprint(args...)) }
func (f testFatal) Fatalf(format string, args ...any) { f.ts.Fatalf(format, args...) }

// sumsOf reads every file below a directory, through the links of tablespaces.
func sumsOf(dir string) (map[string]string, error) {
	sums := map[string]string{}
	walk := func(root, prefix string) error {
		return filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			rel, err := filepath.Rel(root, name)
			if err == nil {
				sums[filepath.Join(prefix, rel)], err = sumFile(name)
			}
			return err
		})
	}
	if err := walk(dir, ""); err != nil {
		return nil, err
	}
	links, err := filepath.Glob(filepath.Join(dir, "pg_tblspc", "*"))
	for _, link := range links {
		err = errors.Join(err, walk(link+"/.", filepath.Join("pg_tblspc", filepath.Base(link))))
	}
	return sums, err
}

func sumFile(name string) (string, error) {
	file, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	sum, err := sumOf(file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return sum, nil
}

func sumOf(r io.Reader) (string, error) {
	hash := sha256.New()
	_, err := io.Copy(hash, r)
	return hex.EncodeToString(hash.Sum(nil)), err
}

// unchanged compares the shop's catalog with its archive: bytes, and that
// nothing was added.
func unchanged(ts *testscript.TestScript, _ bool, _ []string) {
	want, err := archiveSums()
	ts.Check(err)
	got, err := sumsOf(ts.Getenv("SHOP"))
	ts.Check(err)
	if !maps.Equal(got, want) {
		ts.Fatalf("the catalog has changed")
	}
}

// archiveSums are the sums of the files in the shop's archive.
var archiveSums = sync.OnceValues(func() (map[string]string, error) {
	dir, err := os.MkdirTemp("", "catalog")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := fixture.Extract(filepath.Join(fixture.Root(), fixture.ShopCatalog.Archive+".tar.zst"), dir); err != nil {
		return nil, err
	}
	return sumsOf(dir)
})
