package tests

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fukanchik/pg0/tests/fixture"
	"github.com/fukanchik/pg0/tests/program"
)

// TestMountForeground ends a mount that stays in the foreground as Ctrl-C does.
func TestMountForeground(t *testing.T) {
	p := program.New(t)
	mountpoint := p.Mountpoint()
	cmd := p.Command(context.Background(), "mount", "-B", fixture.Shop(t), "-i", "TEI900", "--raw", "--foreground", mountpoint)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "mounted") {
		t.Errorf("it printed %q, %v", line, err)
	}
	if _, err := os.Stat(filepath.Join(mountpoint, "PG_VERSION")); err != nil {
		t.Error(err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	checkNothingLeft(t, p, mountpoint)
}

// TestMountInterrupted interrupts a command while it recovers a point.
func TestMountInterrupted(t *testing.T) {
	p := program.New(t)
	mountpoint := p.Mountpoint()
	cmd := p.Command(context.Background(), "mount", "-B", fixture.Shop(t), "-i", "TEI900", "--json", mountpoint)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() && !strings.Contains(lines.Text(), `"mount"`) {
		t.Log(lines.Text())
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
		t.Log(lines.Text())
	}
	_ = cmd.Wait() // its exit code tells
	const interrupted = 5
	if code := cmd.ProcessState.ExitCode(); code != interrupted {
		t.Errorf("exit code %d, want %d", code, interrupted)
	}
	checkNothingLeft(t, p, mountpoint)
	left, err := filepath.Glob(filepath.Join(p.State, "pg0", "images", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left in the cache: %v, %v", left, err)
	}
}

// checkNothingLeft looks for the mount point and for mounts below the state.
func checkNothingLeft(t *testing.T, p *program.Program, mountpoint string) {
	t.Helper()
	if _, err := os.Lstat(mountpoint); !os.IsNotExist(err) {
		t.Errorf("the mount point is left: %v", err)
	}
	if left := mountsBelow(t, p.State); len(left) > 0 {
		t.Errorf("left mounted: %v", left)
	}
	if out := p.Must("status"); !strings.Contains(out, "nothing") {
		t.Errorf("status: %s", out)
	}
}

// TestMountListen opens TCP: only with a password.
func TestMountListen(t *testing.T) {
	p := program.New(t)
	mountpoint := p.Mountpoint()
	port := freePort(t)
	p.Must("mount", "-B", fixture.Shop(t), "-i", "TEI900", "--start", "--listen", "127.0.0.1", "--port", fmt.Sprint(port), mountpoint)
	conn := p.Connect(mountpoint, "shop")
	if _, err := conn.Exec(context.Background(), "create role visitor login password 'secret'"); err != nil {
		t.Fatal(err)
	}
	for password, want := range map[string]bool{"secret": true, "wrong": false, "": false} {
		url := fmt.Sprintf("postgresql://visitor:%s@127.0.0.1:%d/shop?sslmode=disable", password, port)
		tcp, err := pgx.Connect(context.Background(), url)
		if (err == nil) != want {
			t.Errorf("password %q: %v", password, err)
		}
		if err == nil {
			_ = tcp.Close(context.Background())
		}
	}
	// Without --listen there is no TCP.
	p.Must("stop", mountpoint)
	p.Must("start", "--port", fmt.Sprint(port), mountpoint)
	if tcp, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
		_ = tcp.Close()
		t.Error("it still listens")
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

// TestMountPrepared names the prepared transactions of a point, and ends them.
func TestMountPrepared(t *testing.T) {
	p := program.New(t)
	catalog := fixture.PG15(t)
	backup := fixture.TruthOf(t, "15").Points[1].Backups["pg_probackup"][0]
	mountpoint := p.Mountpoint()
	out := p.Must("mount", "-B", catalog, "-i", backup, "--start", mountpoint)
	if !strings.Contains(out, "prepared transaction") {
		t.Errorf("it does not name the prepared transactions:\n%s", out)
	}
	if n := prepared(t, p, mountpoint); n == 0 {
		t.Error("the backup has lost its prepared transactions")
	}
	p.Must("umount", mountpoint)
	p.Must("mount", "-B", catalog, "-i", backup, "--start", "--rollback-prepared", mountpoint)
	if n := prepared(t, p, mountpoint); n != 0 {
		t.Errorf("%d prepared transactions are left", n)
	}
}

func prepared(t *testing.T, p *program.Program, mountpoint string) (n int) {
	t.Helper()
	conn := p.Connect(mountpoint, "postgres")
	if err := conn.QueryRow(context.Background(), "select count(*) from pg_prepared_xacts").Scan(&n); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestMountBusy has a process in the mount: umount refuses, and names it.
func TestMountBusy(t *testing.T) {
	p := program.New(t)
	mountpoint := p.Mountpoint()
	p.Must("mount", "-B", fixture.Shop(t), "-i", "TEI900", "--raw", mountpoint)
	file, err := os.Open(filepath.Join(mountpoint, "PG_VERSION"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	const busy = 7
	r := p.Run("umount", mountpoint)
	if r.Code != busy || !strings.Contains(r.Stderr, fmt.Sprint(os.Getpid())) {
		t.Errorf("exit code %d, want %d: %s", r.Code, busy, r.Stderr)
	}
	p.Must("umount", "--force", mountpoint)
	checkNothingLeft(t, p, mountpoint)
}
