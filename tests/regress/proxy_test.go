//go:build regress

package regress

import (
	"bufio"
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/fukanchik/pg0/tests/pbwriter"
	"github.com/fukanchik/pg0/tests/pgtest"
	"github.com/fukanchik/pg0/tests/program"
)

// TestRegressProxy runs the suite on a fresh mount directly, and on another
// through the proxy.
func TestRegressProxy(t *testing.T) {
	source := pgtest.New(t, pgtest.Options{SegmentMB: 16, InitDB: []string{"--no-locale"}, Settings: settings})
	catalog := pbwriter.Of(t, source)
	source.Start()
	backup := catalog.Hot(source, pbwriter.Backup{Stream: true, Compress: pbwriter.Zlib}, func() {
		source.Exec("postgres", "create table t as select i id from generate_series(1, 100000) i")
	})
	source.Stop(pgtest.Fast)

	pg0 := program.New(t)
	args := []string{"mount", "-B", catalog.Dir, "-i", backup.ID, "--start"}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "--set", name+"="+settings[name])
	}
	run := func(through bool) result {
		mountpoint := pg0.Mountpoint()
		pg0.Must(append(args, mountpoint)...)
		server := pg0.Status(mountpoint).Server
		host, port := server.SocketDir, server.Port
		if through {
			host, port = startProxy(t, pg0, mountpoint), 6432
		}
		defer pg0.Must("umount", mountpoint)
		return runSuite(t, host, port, server.Role)
	}
	direct := run(false)
	compare(t, run(true), direct)
}

// startProxy runs pg0 proxy until the test ends and returns the directory of
// its socket.
func startProxy(t *testing.T, pg0 *program.Program, mountpoint string) string {
	t.Helper()
	dir := filepath.Dir(mountpoint)
	cmd := pg0.Command(context.Background(), "proxy", "--listen", dir+":6432", "--audit-log", filepath.Join(t.TempDir(), "audit"), "--notice", "off", mountpoint)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	if !bufio.NewScanner(out).Scan() {
		t.Fatal("the proxy does not listen")
	}
	return dir
}
