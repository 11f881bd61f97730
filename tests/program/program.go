// Package program runs the pg0 binary as its users do: mounts, servers and SQL
// through the socket that pg0 made. Everything a test starts ends with it.
package program

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fukanchik/pg0/tests/fixture"
)

// Binary returns the path of the binary under test: PG0_BIN, or one built from
// the tree once for this test process.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var binary = sync.OnceValues(func() (string, error) {
	if os.Geteuid() == 0 {
		return "", errors.New("PostgreSQL refuses root, so these tests do: run make test, or be an ordinary user")
	}
	if path := os.Getenv("PG0_BIN"); path != "" {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "pg0-binary-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "pg0")
	build := exec.Command("go", "build", "-o", path, "github.com/fukanchik/pg0/cmd/pg0")
	build.Dir = Root()
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build pg0: %w\n%s", err, out)
	}
	return path, nil
})

// Root is the directory of the project.
func Root() string {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		panic("program: the caller's file is unknown")
	}
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// PG17 is the directory of PostgreSQL 17's binaries that make deps unpacks.
func PG17() string { return filepath.Join(Root(), ".deps", "pg", "17", "bin") }

// A Program is pg0 with a state directory of its own.
type Program struct {
	t     testing.TB
	State string
	Env   []string
}

// New gives the test pg0 with an empty state directory.
func New(t testing.TB) *Program {
	t.Helper()
	return WithState(t, shortDir(t))
}

// WithState gives the test pg0 on a state directory that others may use too.
func WithState(t testing.TB, state string) *Program {
	t.Helper()
	Binary(t)
	return &Program{t: t, State: state}
}

// shortDir is a directory with a short name, because sockets lie below it.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "p0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Result is what a command printed and how it ended.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Run runs pg0 and returns however it ended.
func (p *Program) Run(args ...string) Result {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := p.Command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatalf("pg0 %s: %v", strings.Join(args, " "), err)
	}
	return Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// Command prepares a run of pg0 with this state directory.
func (p *Program) Command(ctx context.Context, args ...string) *exec.Cmd {
	p.t.Helper()
	cmd := exec.CommandContext(ctx, Binary(p.t), args...)
	cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+p.State, "XDG_RUNTIME_DIR="+p.State)
	cmd.Env = append(cmd.Env, p.Env...)
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// Must runs pg0, fails the test unless it succeeds, and returns its output.
func (p *Program) Must(args ...string) string {
	p.t.Helper()
	r := p.Run(args...)
	if r.Code != 0 {
		p.t.Fatalf("pg0 %s: exit %d\n%s%s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// Mountpoint returns a directory that does not exist yet; whatever is mounted
// there at the end of the test is unmounted.
func (p *Program) Mountpoint() string {
	p.t.Helper()
	dir := filepath.Join(shortDir(p.t), "m")
	p.t.Cleanup(func() {
		if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
			return
		}
		if r := p.Run("umount", "--force", dir); r.Code != 0 {
			p.t.Errorf("pg0 umount %s: exit %d\n%s", dir, r.Code, r.Stderr)
		}
	})
	return dir
}

// Status is the part of pg0 status --json that tests look at.
type Status struct {
	Mountpoint string `json:"mountpoint"`
	State      string `json:"state"`
	Server     struct {
		SocketDir string `json:"socket_dir"`
		Port      int    `json:"port"`
		Role      string `json:"role"`
		PID       int    `json:"pid"`
		Log       string `json:"log"`
	} `json:"server"`
	FileServerPID int    `json:"file_server_pid"`
	SupervisorPID int    `json:"supervisor_pid"`
	Log           string `json:"log"`
}

// Status asks pg0 for the state of a mount.
func (p *Program) Status(mountpoint string) Status {
	p.t.Helper()
	var s Status
	text := p.Must("status", "--json", mountpoint)
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		p.t.Fatalf("pg0 status --json: %v\n%s", err, text)
	}
	return s
}

// Connect opens a connection to a database of the server on the mount.
func (p *Program) Connect(mountpoint, database string) *pgx.Conn {
	p.t.Helper()
	s := p.Status(mountpoint)
	return Dial(p.t, s.Server.SocketDir, s.Server.Port, s.Server.Role, database)
}

// Dial connects to a server's socket; the connection ends with the test.
func Dial(t testing.TB, host string, port int, user, database string) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(fmt.Sprintf("host=%s port=%d user=%s dbname=%s", host, port, user, database))
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["timezone"] = "UTC"
	config.RuntimeParams["statement_timeout"] = "120s" // a lock that never goes away fails the test
	conn, err := pgx.ConnectConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// TableSum counts a table and sums its rows as the truth does. Settings hold
// for this one query.
func TableSum(conn *pgx.Conn, schema, table string, settings ...string) (fixture.TableTruth, error) {
	ctx := context.Background()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return fixture.TableTruth{}, err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	for _, setting := range settings {
		if _, err := tx.Exec(ctx, "set local "+setting); err != nil {
			return fixture.TableTruth{}, err
		}
	}
	var sum fixture.TableTruth
	query := fmt.Sprintf(`select count(*), coalesce(md5(string_agg(t::text, E'\n' order by t::text collate "C")), '') from %s t`,
		pgx.Identifier{schema, table}.Sanitize())
	if err := tx.QueryRow(ctx, query).Scan(&sum.Rows, &sum.MD5); err != nil {
		return sum, fmt.Errorf("%s.%s: %w", schema, table, err)
	}
	return sum, nil
}

// CheckTables compares every table of a point with the truth, but those that
// skip names.
func CheckTables(t testing.TB, conn *pgx.Conn, truth map[string]fixture.TableTruth, skip ...string) {
	t.Helper()
	checked := 0
	for name, want := range truth {
		if slices.Contains(skip, name) {
			continue
		}
		schema, table, _ := strings.Cut(name, ".")
		got, err := TableSum(conn, schema, table)
		if err != nil {
			t.Error(err)
			continue
		}
		if got != want {
			t.Errorf("%s: %+v, the truth is %+v", name, got, want)
		}
		checked++
	}
	if checked == 0 {
		t.Error("no table was compared")
	}
}
