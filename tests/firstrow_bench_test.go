package tests

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fukanchik/pg0/tests/pbwriter"
	"github.com/fukanchik/pg0/tests/pgtest"
	"github.com/fukanchik/pg0/tests/program"
)

const (
	benchRows = 12_000_000 // 1.5 GB with the primary key
	benchWAL  = 100 << 20  // from the backup to the target
)

// BenchmarkFirstRow takes the time from a command to the first row of a moment
// behind 100 MB of WAL, of a cluster of 1.5 GB: by pg0, by pg0 once more, and by
// a copy of the backup's files, uncompressed beforehand, that PostgreSQL recovers
// in place. The files are not cached when a run begins.
func BenchmarkFirstRow(b *testing.B) {
	pg0 := program.New(b)
	catalog, plain := benchCluster(b, pg0)
	report(b, "catalog", catalog.Dir)
	report(b, "plain copy", plain)
	point := []string{"-B", catalog.Dir, "--recovery-target-name=target"}
	mount := func(b *testing.B) {
		forget(b, catalog.Dir)
		mountpoint := pg0.Mountpoint()
		b.StartTimer()
		pg0.Must(append(append([]string{"mount", "--start"}, point...), mountpoint)...)
		firstRow(b, pg0.Status(mountpoint).Server.SocketDir)
		b.StopTimer()
		pg0.Must("umount", mountpoint)
	}
	b.Run("pg0", func(b *testing.B) {
		for range b.N {
			b.StopTimer()
			pg0.Must("images", "prune")
			mount(b)
		}
	})
	b.Run("pg0 again", func(b *testing.B) {
		for range b.N {
			b.StopTimer()
			mount(b)
		}
	})
	b.Run("copy", func(b *testing.B) {
		for range b.N {
			b.StopTimer()
			forget(b, plain)
			forget(b, catalog.WALDir())
			recoverCopy(b, plain, catalog.WALDir())
		}
	})
}

// benchCluster backs up a cluster and lets it work on, and gives the catalog and
// the files of the backup as they were.
func benchCluster(b *testing.B, pg0 *program.Program) (catalog *pbwriter.Catalog, plain string) {
	b.Helper()
	server := pgtest.New(b, pgtest.Options{SegmentMB: 16, Settings: map[string]string{
		"wal_level": "minimal", "max_wal_senders": "0", "max_wal_size": "8GB", "maintenance_work_mem": "256MB",
	}})
	catalog = pbwriter.Of(b, server)
	server.Start()
	server.Exec("postgres", fmt.Sprintf(`create table accounts as select g as id, g %% 1000 as branch, repeat(md5(g::text), 2) as filler from generate_series(1, %d) g`, benchRows))
	server.Exec("postgres", "alter table accounts add primary key (id)")
	server.Exec("postgres", "vacuum freeze analyze accounts")
	server.Stop(pgtest.Fast)
	server.Options.Settings = catalog.ArchiveSettings(pbwriter.GZ)
	server.Options.Settings["max_wal_size"] = "8GB"
	server.Start()
	full := catalog.Hot(server, pbwriter.Backup{Compress: pbwriter.Zlib}, nil)
	conn := server.Connect("postgres")
	for n := 0; ; n++ {
		pgtest.Exec(b, conn, fmt.Sprintf("update accounts set filler = md5(filler) || 'changed' where id %% 1000 = 7 and id between %[1]d * 500000 and (%[1]d + 1) * 500000", n))
		enough := pgtest.Query(b, conn, fmt.Sprintf("select pg_current_wal_lsn() - '%s' > %d", full.StopLSN, benchWAL))[0][0] == "t"
		if enough {
			break
		}
	}
	server.Close(conn)
	server.Exec("postgres", "select pg_create_restore_point('target')")
	server.Exec("postgres", "create table later (id int)")
	server.Stop(pgtest.Fast)

	raw := pg0.Mountpoint()
	pg0.Must("mount", "--raw", "-B", catalog.Dir, "-i", full.ID, raw)
	plain = filepath.Join(server.TempDir(), "plain")
	run(b, "cp", "-a", raw, plain)
	pg0.Must("umount", raw)
	return catalog, plain
}

func run(b *testing.B, name string, args ...string) {
	b.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		b.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// recoverCopy copies the files and starts a server that recovers them.
func recoverCopy(b *testing.B, plain, wal string) {
	b.Helper()
	dir := filepath.Join(b.TempDir(), "data")
	began := time.Now()
	b.StartTimer()
	run(b, "cp", "-a", plain, dir)
	if err := os.WriteFile(filepath.Join(dir, "recovery.signal"), nil, 0o600); err != nil {
		b.Fatal(err)
	}
	copied := time.Since(began)
	server := pgtest.At(b, dir, pgtest.Options{Settings: map[string]string{
		"restore_command":      fmt.Sprintf(`gunzip -c "%s/%%f.gz" > "%%p"`, wal),
		"recovery_target_name": "target", "recovery_target_action": "promote", "hot_standby": "off", "max_wal_size": "8GB",
	}})
	server.Start()
	firstRow(b, server.SocketDir)
	b.StopTimer()
	b.Logf("%v for the copy, %v to the first row", copied.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	server.Stop(pgtest.Immediate)
}

func firstRow(b *testing.B, socket string) {
	b.Helper()
	conn := program.Dial(b, socket, 5432, "postgres", "postgres")
	var id int
	if err := conn.QueryRow(b.Context(), "select id from accounts where id = 7007 and filler ~ 'changed$'").Scan(&id); err != nil {
		b.Fatal(err)
	}
	if err := conn.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// forget makes the kernel drop what it has cached of the files in a directory.
func forget(b *testing.B, dir string) {
	b.Helper()
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := file.Sync(); err != nil {
			return err
		}
		return unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
	if err != nil {
		b.Fatal(err)
	}
}

// report logs the size of a directory.
func report(b *testing.B, what, dir string) {
	b.Helper()
	out, err := exec.Command("du", "-sm", dir).Output()
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("%s: %s MB", what, out)
}
