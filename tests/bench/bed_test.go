//go:build bench

package bench

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/fukanchik/pg0/tests/pbwriter"
	"github.com/fukanchik/pg0/tests/pgtest"
	"github.com/fukanchik/pg0/tests/program"
)

// A bed is what the lines are measured on, made when first asked for.
type bed struct {
	testing.TB
	made    bool
	pg0     *program.Program
	catalog *pbwriter.Catalog
	dirs    map[string]string // native directories, by the backup they come from

	none, zlib *pbwriter.Written // the newest backups of two chains
	accounts   string            // path of pgbench_accounts
}

// settings hold for the servers of both sides. Some of them are others in the
// configuration that a mount shows.
var settings = map[string]string{
	"shared_buffers": "128MB", "max_wal_size": "4GB", "max_connections": "100",
	"synchronous_commit": "on", "wal_init_zero": "on", "wal_recycle": "on",
}

// make backs up a cluster of pgbench three times: uncompressed, and compressed
// with an increment over it. items is a table whose tuples are not frozen.
func (b *bed) make() {
	if b.made {
		return
	}
	b.made, b.dirs, b.pg0 = true, map[string]string{}, program.New(b)
	server := pgtest.New(b, pgtest.Options{SegmentMB: 16, Settings: settings})
	b.catalog = pbwriter.Of(b, server)
	server.Start()
	server.Run("pgbench", "-i", "-q", "-s", fmt.Sprint(*scale), "postgres")
	server.Exec("postgres", fmt.Sprintf("create table items as select * from pgbench_accounts where aid <= %d", *scale*50_000))
	server.Exec("postgres", "vacuum (freeze false) items")
	server.Exec("postgres", "checkpoint")
	b.accounts = server.Query("postgres", "select pg_relation_filepath('pgbench_accounts')")[0][0]
	b.none = b.catalog.Hot(server, pbwriter.Backup{Stream: true}, nil)
	full := b.catalog.Hot(server, pbwriter.Backup{Stream: true, Compress: pbwriter.Zlib}, nil)
	server.Exec("postgres", "update pgbench_accounts set abalance = 7 where aid % 5000 < 50")
	server.Exec("postgres", "checkpoint")
	b.zlib = b.catalog.Hot(server, pbwriter.Backup{Mode: "DELTA", Parent: full.ID, Stream: true, Compress: pbwriter.Zlib}, nil)
	server.Stop(pgtest.Fast)
	if err := os.RemoveAll(server.Dir); err != nil {
		b.Fatal(err)
	}
}

// mount mounts a backup without a server.
func (b *bed) mount(backup *pbwriter.Written, flags ...string) (dir string) {
	b.make()
	dir = b.pg0.Mountpoint()
	b.pg0.Must(append(append([]string{"mount", "-B", b.catalog.Dir, "-i", backup.ID}, flags...), dir)...)
	return dir
}

func (b *bed) umount(dir string) { b.pg0.Must("umount", dir) }

// native gives the files of a backup, recovered, as a directory of its own.
func (b *bed) native(backup *pbwriter.Written) string {
	b.make()
	if dir := b.dirs[backup.ID]; dir != "" {
		return dir
	}
	mounted := b.mount(backup)
	b.dirs[backup.ID] = b.copy(mounted)
	b.umount(mounted)
	return b.dirs[backup.ID]
}

// copy copies a directory to one that ends with the benchmark.
func (b *bed) copy(dir string) string {
	parent, err := os.MkdirTemp("", "bench")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(parent) })
	to := filepath.Join(parent, "data")
	b.run("cp", "-a", dir, to)
	return to
}

func (b *bed) run(name string, args ...string) string {
	b.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		b.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// A server is one of the two that are compared.
type server struct {
	*pgtest.Cluster
	conn *pgx.Conn
}

// serve starts a server on a directory, with the settings of both sides and
// more, and connects to it.
func (b *bed) serve(dir string, more ...string) *server {
	b.Helper()
	all := map[string]string{}
	for name, value := range settings {
		all[name] = value
	}
	for i := 0; i < len(more); i += 2 {
		all[more[i]] = more[i+1]
	}
	c := pgtest.At(b, dir, pgtest.Options{Settings: all})
	c.Start()
	return &server{Cluster: c, conn: c.Connect("postgres")}
}

func (s *server) stop() {
	s.Close(s.conn)
	s.Stop(pgtest.Fast)
}

// time is how long a statement takes, in seconds.
func (s *server) time(sql string) float64 {
	s.T.Helper()
	return took(func() { pgtest.Query(s.T, s.conn, sql) })
}

// read brings a file, or all files of a directory, into the kernel's cache.
func (b *bed) read(name string) {
	b.each(name, func(f *os.File) error { _, err := io.Copy(io.Discard, f); return err })
}

// forget makes the kernel drop what it has of a file, or of all files of a
// directory.
func (b *bed) forget(name string) {
	b.each(name, func(f *os.File) error {
		if err := f.Sync(); err != nil {
			return err
		}
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
}

func (b *bed) each(name string, do func(*os.File) error) {
	b.Helper()
	err := filepath.WalkDir(name, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		return do(file)
	})
	if err != nil {
		b.Fatal(err)
	}
}
