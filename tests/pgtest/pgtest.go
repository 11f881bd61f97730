// Package pgtest makes throw-away PostgreSQL clusters for tests: truth from
// outside. A test that cannot have one fails.
package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	defaultVersion = 15
	patience       = 60 * time.Second // for a server to start or to stop
)

// Options of a cluster. The zero value is PostgreSQL 15 with checksums and WAL
// segments of 1 MB.
type Options struct {
	Version     int // major
	NoChecksums bool
	SegmentMB   int
	InitDB      []string          // more arguments of initdb
	Settings    map[string]string // more settings, set when the server starts
}

// A Cluster is a data directory and, between Start and Stop, its server. Its
// methods end the test on an error.
type Cluster struct {
	Dir       string // the data directory
	SocketDir string // short; also the host to connect to
	Options   Options
	T         testing.TB

	bin    string
	server *exec.Cmd
	done   chan struct{} // closed when the server has gone
	log    *os.File
}

// New makes a cluster whose server is not started. It is removed, and its
// server stopped, when the test ends. Clusters with equal options of initdb
// are copies of one another and share a system identifier.
func New(t testing.TB, o Options) *Cluster {
	t.Helper()
	c := at(t, "", o)
	template, err := c.template()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.run("cp", "-a", template, c.Dir); err != nil {
		t.Fatal(err)
	}
	return c
}

// At makes a Cluster of a data directory that exists, such as a mount. The
// directory stays when the test ends.
func At(t testing.TB, dir string, o Options) *Cluster {
	t.Helper()
	return at(t, dir, o)
}

func at(t testing.TB, dir string, o Options) *Cluster {
	t.Helper()
	if o.Version == 0 {
		o.Version = defaultVersion
	}
	if o.SegmentMB == 0 {
		o.SegmentMB = 1
	}
	c := &Cluster{Dir: dir, Options: o, T: t, bin: Bin(t, o.Version)}
	home := c.TempDir()
	if dir == "" {
		c.Dir = filepath.Join(home, "data")
	}
	c.SocketDir = home
	log, err := os.Create(filepath.Join(home, "log"))
	if err != nil {
		t.Fatal(err)
	}
	c.log = log
	t.Cleanup(c.cleanup)
	return c
}

func (c *Cluster) cleanup() {
	if c.server != nil {
		c.Stop(Immediate)
	}
	c.log.Close()
	if c.T.Failed() {
		text, _ := os.ReadFile(c.log.Name())
		c.T.Logf("log of the server on %s:\n%s", c.Dir, text)
	}
}

// Bin returns the directory of a major version's server binaries.
func Bin(t testing.TB, version int) string {
	t.Helper()
	for _, pattern := range []string{"/usr/lib/postgresql/%d/bin", "/usr/pgsql-%d/bin"} {
		dir := fmt.Sprintf(pattern, version)
		if _, err := os.Stat(filepath.Join(dir, "postgres")); err == nil {
			return dir
		}
	}
	t.Fatalf("PostgreSQL %d is not installed: apt-get install postgresql-%d", version, version)
	return ""
}

// TempDir makes a directory with a short name that the server's user owns.
func (c *Cluster) TempDir() string {
	c.T.Helper()
	dir, err := os.MkdirTemp("", "pgt")
	if err != nil {
		c.T.Fatal(err)
	}
	c.T.Cleanup(func() { os.RemoveAll(dir) })
	if cred := serverUser(); cred != nil {
		if err := os.Chown(dir, int(cred.Uid), int(cred.Gid)); err != nil {
			c.T.Fatal(err)
		}
	}
	return dir
}

// serverUser is who runs the server: PostgreSQL refuses root, so for root it is
// the user postgres. nil is the user of the test.
func serverUser() *syscall.Credential {
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		panic("pgtest: as root a user postgres is needed: " + err.Error())
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// Command prepares a command that runs as the server's user.
func (c *Cluster) Command(name string, args ...string) *exec.Cmd {
	if !strings.Contains(name, "/") {
		if _, err := os.Stat(filepath.Join(c.bin, name)); err == nil {
			name = filepath.Join(c.bin, name)
		}
	}
	cmd := exec.Command(name, args...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC", "PGHOST="+c.SocketDir, "PGUSER=postgres")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: serverUser(), Pdeathsig: syscall.SIGQUIT}
	return cmd
}

func (c *Cluster) run(name string, args ...string) error {
	var output bytes.Buffer
	cmd := c.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, output.String())
	}
	return nil
}

// Run runs a program of this version, or any other, as the server's user.
func (c *Cluster) Run(name string, args ...string) {
	c.T.Helper()
	if err := c.run(name, args...); err != nil {
		c.T.Fatal(err)
	}
}

// template returns a data directory fresh from initdb, made once for all test
// processes of one user, under a lock.
func (c *Cluster) template() (string, error) {
	args := []string{"-N", "-U", "postgres", "-A", "trust", "--locale=C.UTF-8", "-E", "UTF8", fmt.Sprintf("--wal-segsize=%d", c.Options.SegmentMB)}
	if !c.Options.NoChecksums {
		args = append(args, "-k")
	}
	args = append(args, c.Options.InitDB...)
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("pg0-pgtest-%d", os.Getuid()))
	if err := makeDir(dir); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	name := strings.NewReplacer("/", "_", " ", "").Replace(fmt.Sprintf("%d%s", c.Options.Version, strings.Join(args, "")))
	template := filepath.Join(dir, name)
	if _, err := os.Stat(template); !errors.Is(err, os.ErrNotExist) {
		return template, err
	}
	if err := os.RemoveAll(template + ".tmp"); err != nil {
		return "", err
	}
	if err := c.run("initdb", append(args, "-D", template+".tmp")...); err != nil {
		return "", err
	}
	return template, os.Rename(template+".tmp", template)
}

func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if cred := serverUser(); cred != nil {
		return os.Chown(dir, int(cred.Uid), int(cred.Gid))
	}
	return nil
}

// Log returns what the servers of this cluster have logged.
func (c *Cluster) Log() string {
	c.T.Helper()
	text, err := os.ReadFile(c.log.Name())
	if err != nil {
		c.T.Fatal(err)
	}
	return string(text)
}

// Connect opens a session as the superuser, closed when the test ends.
func (c *Cluster) Connect(database string) *pgx.Conn {
	c.T.Helper()
	ctx := context.Background()
	config, err := pgx.ParseConfig(fmt.Sprintf("host=%s port=5432 user=postgres database=%s", c.SocketDir, quote(database)))
	if err != nil {
		c.T.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		c.T.Fatal(err)
	}
	c.T.Cleanup(func() { conn.Close(ctx) })
	return conn
}

func quote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}

// Exec runs statements, separated by semicolons, in one session. Without
// explicit transactions they are one.
func (c *Cluster) Exec(database, sql string) {
	c.T.Helper()
	conn := c.Connect(database)
	Exec(c.T, conn, sql)
	c.Close(conn)
}

// Close ends a session and waits until its process has gone: a server that is
// told to stop before would log that it ended the session.
func (c *Cluster) Close(conn *pgx.Conn) {
	c.T.Helper()
	pid := int(conn.PgConn().PID())
	if err := conn.Close(context.Background()); err != nil {
		c.T.Error(err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH); <-tick.C {
		if time.Now().After(deadline) {
			c.T.Fatalf("session of process %d does not end", pid)
		}
	}
}

// Query returns the rows of a query as text; NULL is the empty string.
func (c *Cluster) Query(database, sql string) [][]string {
	c.T.Helper()
	conn := c.Connect(database)
	defer c.Close(conn)
	return Query(c.T, conn, sql)
}

// Exec runs statements in a session.
func Exec(t testing.TB, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.PgConn().Exec(context.Background(), sql).ReadAll(); err != nil {
		t.Fatalf("%v\nin: %s", err, sql)
	}
}

// Query returns the rows that a query gives in a session, as text; NULL is the
// empty string.
func Query(t testing.TB, conn *pgx.Conn, sql string) [][]string {
	t.Helper()
	results, err := conn.PgConn().Exec(context.Background(), sql).ReadAll()
	if err != nil {
		t.Fatalf("%v\nin: %s", err, sql)
	}
	var rows [][]string
	for _, row := range results[len(results)-1].Rows {
		text := make([]string, len(row))
		for i, value := range row {
			text[i] = string(value)
		}
		rows = append(rows, text)
	}
	return rows
}

// Own gives a directory that the test filled to the server's user, with the
// permissions that the server wants.
func (c *Cluster) Own(dir string) {
	c.T.Helper()
	if err := os.Chmod(dir, 0o700); err != nil {
		c.T.Fatal(err)
	}
	cred := serverUser()
	if cred == nil {
		return
	}
	err := filepath.WalkDir(dir, func(name string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(name, int(cred.Uid), int(cred.Gid)))
	})
	if err != nil {
		c.T.Fatal(err)
	}
}
