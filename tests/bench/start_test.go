//go:build bench

package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/fukanchik/pg0/tests/pbwriter"
	"github.com/fukanchik/pg0/tests/pgtest"
	"github.com/fukanchik/pg0/tests/program"
)

// firstRow is the time from the command to a row.
func (b *bed) firstRow(pg0 *program.Program, catalog *pbwriter.Catalog, id string) float64 {
	dir := pg0.Mountpoint()
	defer pg0.Run("umount", "--force", dir)
	return took(func() {
		pg0.Must("mount", "--start", "-B", catalog.Dir, "-i", id, dir)
		b.oneRow(pg0.Status(dir).Server.SocketDir)
	})
}

func (b *bed) oneRow(socket string) {
	conn := program.Dial(b, socket, 5432, "postgres", "postgres")
	defer conn.Close(b.Context())
	if rows := pgtest.Query(b, conn, "select 1 from pgbench_accounts where aid = 4711"); len(rows) != 1 {
		b.Fatalf("%d rows", len(rows))
	}
}

// firstUse compares a point that has no image with a copy of the backup's files,
// decompressed beforehand, and its recovery. Nothing is cached.
func firstUse(b *bed) (native, mounted []float64) {
	raw := b.mount(mustMake(b).zlib, "--raw")
	plain := b.copy(raw)
	b.umount(raw)
	return alternate(func() float64 {
		b.forget(plain)
		return b.copyAndRecover(plain)
	}, func() float64 {
		b.forget(b.catalog.InstanceDir())
		b.pg0.Must("images", "prune")
		return b.firstRow(b.pg0, b.catalog, b.zlib.ID)
	})
}

// copyAndRecover copies a backup's files and starts a server on them.
func (b *bed) copyAndRecover(plain string) float64 {
	parent, err := os.MkdirTemp("", "bench")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(parent)
	dir := filepath.Join(parent, "data")
	return took(func() {
		b.run("cp", "-a", plain, dir)
		s := b.serve(dir)
		defer s.stop()
		b.oneRow(s.SocketDir)
	})
}

// sizes of backups that differ in nothing but files of zeros, in GB.
var sizes = []float64{0.1, 1, 10}

// cachedStart is the time from the command to a row for each of the sizes.
func cachedStart(b *bed) string {
	var times []string
	for _, gb := range sizes {
		catalog, full := b.sparse(gb)
		pg0 := program.New(b)
		b.firstRow(pg0, catalog, full.ID)
		var samples []float64
		for range *rounds {
			samples = append(samples, b.firstRow(pg0, catalog, full.ID))
		}
		times = append(times, fmt.Sprintf("%.2f s", median(samples)))
	}
	return strings.Join(times, ", ")
}

// sparse backs up a small cluster with relations of zeros beside it.
func (b *bed) sparse(gb float64) (*pbwriter.Catalog, *pbwriter.Written) {
	server := pgtest.New(b, pgtest.Options{SegmentMB: 16, Settings: settings})
	catalog := pbwriter.Of(b, server)
	server.Start()
	defer server.Stop(pgtest.Fast)
	server.Run("pgbench", "-i", "-q", "-s", "1", "postgres")
	database := filepath.Dir(server.Query("postgres", "select pg_relation_filepath('pgbench_accounts')")[0][0])
	left := int64(gb*(1<<30)) - 64<<20
	for n := 900000; left > 0; n++ {
		name := filepath.Join(server.Dir, database, fmt.Sprint(n))
		size := min(left, 1<<30)
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			b.Fatal(err)
		}
		if err := os.Truncate(name, size); err != nil {
			b.Fatal(err)
		}
		left -= size
	}
	return catalog, catalog.Hot(server, pbwriter.Backup{Stream: true, Compress: pbwriter.Zlib}, nil)
}

// memory is what the file server holds after every file was read.
func memory(b *bed) string {
	dir := b.mount(mustMake(b).zlib)
	defer b.umount(dir)
	b.read(dir)
	return b.resident(dir)
}

func (b *bed) resident(dir string) string {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.pg0.Status(dir).FileServerPID))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if kb, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strings.TrimSpace(kb)
		}
	}
	b.Fatal("no VmRSS")
	return ""
}
