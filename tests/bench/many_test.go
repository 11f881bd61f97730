//go:build bench

package bench

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/fukanchik/pg0/tests/pbwriter"
	"github.com/fukanchik/pg0/tests/pgtest"
	"github.com/fukanchik/pg0/tests/program"
)

const (
	manyFiles  = 100_000
	increments = 30
	manyTables = 500
)

// bigCatalog is a chain of one full backup and its increments with many files.
func bigCatalog(b *bed) string {
	catalog := pbwriter.New(b, b.pg0Temp(), "main", 7, 0)
	items := catalog.Skeleton()
	for r := range manyFiles {
		items = append(items, pbwriter.Relation(fmt.Sprintf("base/5/%d", 20000+r), 1, func(block uint32, page []byte) {
			pbwriter.FillPage(page, 0x1000000, block, uint64(r))
		}))
	}
	last := catalog.Write(pbwriter.Backup{Stream: true}, items)
	for i := range items {
		items[i].Stored = func(uint32, []byte) bool { return false }
	}
	for range increments {
		last = catalog.Write(pbwriter.Backup{Mode: "DELTA", Parent: last.ID, Stream: true}, items)
	}
	pg0 := program.New(b)
	points := took(func() { pg0.Must("points", "-B", catalog.Dir) })
	dir := pg0.Mountpoint()
	mount := took(func() { pg0.Must("mount", "--raw", "-B", catalog.Dir, "-i", last.ID, dir) })
	pg0.Must("umount", dir)
	return fmt.Sprintf("points %.2f s, mount --raw %.2f s", points, mount)
}

func (b *bed) pg0Temp() string {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "d")
}

// adopting takes tables that were all dropped since from an older backup, and
// says how long the command takes when both images are there.
func adopting(b *bed) string {
	server := pgtest.New(b, pgtest.Options{Settings: map[string]string{"fsync": "off", "max_locks_per_transaction": "1024"}})
	catalog := pbwriter.Of(b, server)
	server.Start()
	server.Exec("postgres", fmt.Sprintf(`do $$ begin for i in 1..%d loop
		execute format('create table t%%s (id int primary key, body text, at timestamptz default now()); insert into t%%1$s select g, repeat(''x'', 100) from generate_series(1, 100) g; create index on t%%1$s (at)', i);
		end loop; end $$`, manyTables))
	full := catalog.Hot(server, pbwriter.Backup{Stream: true}, nil)
	server.Exec("postgres", fmt.Sprintf("do $$ begin for i in 1..%d loop execute 'drop table t' || i; end loop; end $$", manyTables))
	after := catalog.Hot(server, pbwriter.Backup{Mode: "DELTA", Parent: full.ID, Stream: true}, nil)
	server.Stop(pgtest.Fast)

	file := b.mapFile(catalog.Dir, "postgres.public.t*", full.ID, after.ID)
	pg0 := program.New(b)
	for _, id := range []string{full.ID, after.ID} {
		dir := pg0.Mountpoint()
		pg0.Must("mount", "-B", catalog.Dir, "-i", id, dir)
		pg0.Must("umount", dir)
	}
	dir := pg0.Mountpoint()
	all := took(func() { pg0.Must("frankenstein", "--map", file, "--start", dir) })
	if rows := pgtest.Query(b, pg0.Connect(dir, "postgres"), "select count(*) from t500")[0][0]; rows != "100" {
		b.Fatalf("%s rows", rows)
	}
	pg0.Must("umount", dir)
	return fmt.Sprintf("%.2f s", all)
}

// frozenScan compares the first scan of a donor's table in a mix with that of
// the same table in a mount of the donor alone.
func frozenScan(b *bed) (plain, mixed []float64) {
	mustMake(b)
	file := b.mapFile(b.catalog.Dir, "postgres.public.items", b.none.ID, b.zlib.ID)
	b.read(b.catalog.InstanceDir())
	const sql = "select count(*), sum(abalance) from items"
	return alternate(func() float64 {
		dir := b.mount(b.none)
		defer b.umount(dir)
		return b.scanOnce(dir, sql, withWorkers)
	}, func() float64 {
		dir := b.pg0.Mountpoint()
		b.pg0.Must("frankenstein", "--map", file, dir)
		defer b.umount(dir)
		return b.scanOnce(dir, sql, withWorkers)
	})
}

// mapFile writes a mapping file beside the backups that takes relations from one
// and everything else from another.
func (b *bed) mapFile(catalog, relations, then, now string) string {
	text := fmt.Sprintf(`version = 1
[sources.all]
format = "probackup"
path = %q
instance = "main"
[points]
then = { source = "all", at = %q }
now = { source = "all", at = %q }
[base]
point = "now"
[[relation]]
name = %q
from = "then"
`, catalog, then, now, relations)
	file := filepath.Join(catalog, "tables.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	return file
}
