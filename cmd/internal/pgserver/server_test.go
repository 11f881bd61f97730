package pgserver_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fukanchik/pg0/cmd/internal/pgserver"
	"github.com/fukanchik/pg0/relmap"
)

// major is the PostgreSQL that the tests run.
const major = 15

func findServer(t *testing.T) pgserver.Bin {
	t.Helper()
	bin, err := pgserver.Find(major, "")
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// initdb makes a cluster whose superuser is called admin.
func initdb(t *testing.T, bin pgserver.Bin) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	cmd := exec.Command(bin.Path("initdb"), "-D", dir, "-U", "admin", "-N", "-E", "UTF8", "--locale", "C", "-A", "reject")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	return dir
}

// shortDir is a directory whose name fits into a socket's path.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pg0-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestFind(t *testing.T) {
	bin := findServer(t)
	if bin.Major != major || !strings.HasPrefix(bin.Version, "15.") {
		t.Errorf("found %+v", bin)
	}
	if again, err := pgserver.Find(major, bin.Dir); err != nil || again != bin {
		t.Errorf("in its own directory: %+v, %v", again, err)
	}
	for _, test := range []struct {
		major  int
		bindir string
		text   string
	}{
		{14, bin.Dir, "it has PostgreSQL 15."},
		{15, t.TempDir(), "--pg-bindir"},
		{8, "", "install postgresql-8"},
	} {
		_, err := pgserver.Find(test.major, test.bindir)
		if !errors.Is(err, pgserver.ErrNoServer) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("major %d in %q: %v", test.major, test.bindir, err)
		}
	}
}

func TestServer(t *testing.T) {
	bin, ctx := findServer(t), context.Background()
	dir := initdb(t, bin)
	// What a production cluster may have, and must not happen on a copy.
	hostile := "\nlisten_addresses = '*'\nshared_preload_libraries = 'missing_library'\narchive_mode = on\narchive_command = 'touch " +
		filepath.Join(dir, "archived") + "'\nTimeZone = 'Asia/Tokyo'\nlc_messages = 'xx_XX.utf8'\ninclude_dir = 'conf.d'\n"
	appendTo(t, filepath.Join(dir, "postgresql.conf"), hostile)
	appendTo(t, filepath.Join(dir, "postgresql.auto.conf"), "bytea_output = 'escape'\nprimary_conninfo = 'host=production'\n")
	control, err := relmap.ReadControl(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	config := pgserver.Config{Major: major, Control: control, SocketDir: shortDir(t), Set: []pgserver.Setting{{Name: "work_mem", Value: "7MB"}}}
	for range 2 { // a second time changes nothing
		notes, err := pgserver.Configure(dir, config)
		if err != nil {
			t.Fatal(err)
		}
		if len(notes) != 1 || !strings.Contains(notes[0], "xx_XX.utf8") {
			t.Errorf("notes: %q", notes)
		}
	}
	if kept, err := os.ReadFile(filepath.Join(dir, "postgresql.conf.backup")); err != nil || !strings.HasSuffix(string(kept), hostile) {
		t.Errorf("the backup's own file was not kept: %v", err)
	}

	server, err := pgserver.Start(pgserver.Options{Bin: bin, DataDir: dir, LogFile: filepath.Join(t.TempDir(), "log")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop(context.Background(), pgserver.Immediate) })
	if err := server.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"listen_addresses": "", "archive_mode": "off", "shared_preload_libraries": "", "primary_conninfo": "", "autovacuum": "off",
		"work_mem": "7MB", "fsync": "off", "max_logical_replication_workers": "0", "log_timezone": "UTC", "hba_file": filepath.Join(dir, "pg_hba.conf"),
	}
	for name, value := range want {
		if rows, err := server.Query(ctx, "postgres", "admin", "show "+name); err != nil || rows[0][0] != value {
			t.Errorf("%s is %q, want %q (%v)", name, rows, value, err)
		}
	}
	rows, err := server.Query(ctx, "postgres", "admin", "select name, reset_val, source from pg_settings where name in ('TimeZone', 'bytea_output') and sourcefile is null order by 1")
	if err != nil || len(rows) != 2 {
		t.Errorf("session settings: %q, %v", rows, err)
	}

	if _, err := server.Query(ctx, "postgres", "admin", "alter role admin nologin"); err != nil {
		t.Fatal(err)
	}
	attached, err := pgserver.Attach(dir)
	if err != nil {
		t.Fatal(err)
	}
	if attached.Process != server.Process || attached.SocketDir != config.SocketDir || attached.Port != 5432 {
		t.Errorf("attached to %+v", attached)
	}
	if err := attached.Stop(ctx, pgserver.Fast); err != nil {
		t.Fatal(err)
	}
	<-server.Done()
	if err := server.Err(); err != nil {
		t.Error(err)
	}
	if _, err := pgserver.Attach(dir); !errors.Is(err, pgserver.ErrNotRunning) {
		t.Errorf("after it was stopped: %v", err)
	}
	if err := bin.Single(ctx, dir, "template1", "alter role admin login"); err != nil {
		t.Error(err)
	}
	if err := bin.Single(ctx, dir, "template1", "alter role nobody login"); err == nil {
		t.Error("a failed statement is no error")
	}
}

func TestServerThatCannotStart(t *testing.T) {
	bin := findServer(t)
	dir := initdb(t, bin)
	if _, err := pgserver.Configure(dir, pgserver.Config{Major: major, Preload: []string{"no_such_library"}}); err != nil {
		t.Fatal(err)
	}
	server, err := pgserver.Start(pgserver.Options{Bin: bin, DataDir: dir, LogFile: filepath.Join(t.TempDir(), "log")})
	if err != nil {
		t.Fatal(err)
	}
	err = server.Ready(context.Background())
	if err == nil || !strings.Contains(err.Error(), "no_such_library") {
		t.Errorf("the error does not say why: %v", err)
	}
}

func appendTo(t *testing.T, name, text string) {
	t.Helper()
	file, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteString(text)
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
}
