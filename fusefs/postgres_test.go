package fusefs_test

import (
	"context"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fukanchik/pg0/fusefs/cow"
	"github.com/fukanchik/pg0/tests/filesuite"
)

// A cluster is a real PostgreSQL on a mount. It and the process that serves the
// mount run as one ordinary user: PostgreSQL refuses root, and the mount lets
// nobody else in.
type cluster struct {
	t      *testing.T
	bin    string
	base   string
	layer  string
	run    string
	cred   *syscall.Credential
	server *child
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	bins, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(bins) == 0 {
		t.Fatal("no PostgreSQL under /usr/lib/postgresql: install the package postgresql")
	}
	dir := t.TempDir()
	c := &cluster{t: t, bin: bins[len(bins)-1], base: dir + "/base", layer: dir + "/layer", run: dir + "/run"}
	for _, d := range []string{c.base, c.layer, c.run} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		c.becomePostgres(dir)
	}
	return c
}

// becomePostgres gives the directories to an ordinary user when root tests.
func (c *cluster) becomePostgres(dir string) {
	u, err := user.Lookup("postgres")
	if err != nil {
		c.t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	c.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o755); err != nil {
			c.t.Fatal(err)
		}
	}
	for _, d := range []string{c.base, c.layer, c.run} {
		if err := os.Chown(d, uid, gid); err != nil {
			c.t.Fatal(err)
		}
	}
}

// mount serves the layer below c.run/data.
func (c *cluster) mount() {
	c.t.Helper()
	j := job{Base: c.base, Layer: c.layer, Dir: c.run + "/data", Temp: c.run, cred: c.cred}
	if err := os.Mkdir(j.Dir, 0o700); err != nil && !os.IsExist(err) {
		c.t.Fatal(err)
	}
	if c.cred != nil {
		if err := os.Chown(j.Dir, int(c.cred.Uid), int(c.cred.Gid)); err != nil {
			c.t.Fatal(err)
		}
	}
	c.server = start(c.t, j)
}

// command runs a program of PostgreSQL.
func (c *cluster) command(name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	c.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, name), args...)
	cmd.Dir = c.run
	cmd.Env = append(os.Environ(), "PGHOST="+c.run, "PGPORT=5432", "PGUSER=postgres", "PGDATABASE=postgres", "LC_ALL=C")
	if c.cred != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.cred}
	}
	return cmd
}

func (c *cluster) must(name string, args ...string) string {
	c.t.Helper()
	out, err := c.command(name, args...).CombinedOutput()
	if err != nil {
		log, _ := os.ReadFile(c.run + "/log")
		c.t.Fatalf("%s %v: %v\n%s\n%s", name, args, err, out, log)
	}
	return strings.TrimSpace(string(out))
}

func (c *cluster) sql(query string) string {
	c.t.Helper()
	return c.must("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", query)
}

// shell runs a script in the directory that holds the mount point.
func (c *cluster) shell(script string) string {
	c.t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = c.run
	if c.cred != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.cred}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		c.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

func (c *cluster) startPostgres() {
	c.t.Helper()
	c.must("pg_ctl", "-D", c.run+"/data", "-l", c.run+"/log", "-w", "-o",
		"-c listen_addresses='' -c unix_socket_directories='"+c.run+"' -c shared_buffers=4MB -c dynamic_shared_memory_type=mmap", "start")
}

func (c *cluster) stopPostgres() {
	c.t.Helper()
	c.must("pg_ctl", "-D", c.run+"/data", "-w", "-m", "fast", "stop")
}

// TestPostgres makes a cluster through a mount, works in it, kills the serving
// process under load, recovers, and compares what the server of the mount had
// in the kernel with what the layer holds.
func TestPostgres(t *testing.T) {
	c := newCluster(t)
	c.mount()
	c.must("initdb", "-D", c.run+"/data", "-A", "trust", "-U", "postgres", "--no-locale", "-E", "UTF8", "-k")
	c.startPostgres()
	c.must("pgbench", "-i", "-q", "-s", "1")
	c.sql("CREATE DATABASE copy TEMPLATE postgres")
	c.sql("CREATE TABLE t AS SELECT i, repeat('x', 1000) FROM generate_series(1, 20000) i")
	c.sql("CREATE INDEX ON t (i)")
	c.sql("VACUUM FULL t")
	if got := c.sql("SET max_parallel_workers_per_gather=2; SET parallel_setup_cost=0; SET min_parallel_table_scan_size=0; SELECT count(*) FROM t"); got != "20000" {
		t.Errorf("a parallel scan finds %s rows", got)
	}
	c.crash()
	c.check()
	c.sql("DROP DATABASE copy")
	c.sql("CHECKPOINT")
	c.stopPostgres()
	c.compare()
}

// crash kills the process that serves the mount while clients write.
func (c *cluster) crash() {
	c.t.Helper()
	load := c.command("pgbench", "-n", "-c", "4", "-T", "60", "--log", "--log-prefix="+c.run+"/bench")
	if err := load.Start(); err != nil {
		c.t.Fatal(err)
	}
	for strings.TrimSpace(c.sql("SELECT count(*) > 200 FROM pgbench_history")) != "t" {
		if load.ProcessState != nil {
			c.t.Fatal("pgbench ended")
		}
	}
	pid := c.postmaster()
	c.server.die()
	load.Wait()
	waitGone(c.t, pid)
	c.server.clear()
	c.mount()
	// The postmaster is gone, but where nobody reaps it, it looks alive.
	c.shell("rm -f data/postmaster.pid")
	c.startPostgres()
}

// postmaster gives the process id of the server.
func (c *cluster) postmaster() int {
	c.t.Helper()
	pid, err := strconv.Atoi(c.sql("SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)"))
	if err != nil {
		c.t.Fatal(err)
	}
	return pid
}

// waitGone waits for a process that ends by itself, no child of ours.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // gone already
	}
	defer unix.Close(fd)
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(poll, 60_000)
		if n == 1 {
			return
		}
		if err != unix.EINTR {
			t.Fatalf("process %d goes on without its files: %v", pid, err)
		}
	}
}

// check wants every acknowledged transaction, and sums that agree.
func (c *cluster) check() {
	c.t.Helper()
	acked := 0
	logs, _ := filepath.Glob(c.run + "/bench*")
	for _, name := range logs {
		b, err := os.ReadFile(name)
		if err != nil {
			c.t.Fatal(err)
		}
		acked += strings.Count(string(b), "\n")
	}
	found, err := strconv.Atoi(c.sql("SELECT count(*) FROM pgbench_history"))
	if err != nil || acked == 0 || found < acked {
		c.t.Errorf("%d transactions were acknowledged, %d are there (%v)", acked, found, err)
	}
	if got := c.sql("SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history) AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(bbalance) FROM pgbench_branches)"); got != "t" {
		c.t.Error("the balances do not agree")
	}
	c.sql("CREATE EXTENSION amcheck")
	c.sql("SELECT bt_index_check(c.oid, true) FROM pg_class c JOIN pg_am a ON a.oid = relam AND amname = 'btree' WHERE relkind = 'i' AND relpersistence = 'p'")
}

// compare wants every file to read the same through the mount and in the layer.
func (c *cluster) compare() {
	c.t.Helper()
	mounted := c.shell("cd data && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum")
	c.server.stop()
	s, err := cow.Open(filesuite.Tree(c.base), cow.Options{Dir: c.layer})
	if err != nil {
		c.t.Fatal(err)
	}
	defer s.Close()
	if diff := cmp.Diff(mounted, filesuite.Sums(c.t, s.Tree())); diff != "" {
		c.t.Errorf("the kernel and the layer differ:\n%s", diff)
	}
}
