package tests

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/fukanchik/pg0/tests/fixture"
	"github.com/fukanchik/pg0/tests/pbwriter"
	"github.com/fukanchik/pg0/tests/pgtest"
	"github.com/fukanchik/pg0/tests/program"
)

// steps lead from one backup to the next. The first is done at rest, the
// others while the backup's files are being copied.
var steps = []string{
	`create table notes (id int generated always as identity primary key, gone int, body text, tags int[], at point);
	insert into notes (gone, body, tags, at) select i, case when i % 10 = 0 then (select string_agg(md5((i * j)::text), '') from generate_series(1, 150) j) else 'note ' || i end,
		array[i % 7, i % 11], point(i % 97, i % 89) from generate_series(1, 2000) i;
	create index on notes using gin (tags);
	create index on notes using gist (at);
	create table spaced (id int primary key using index tablespace space, body text) tablespace space;
	insert into spaced select i, repeat(md5(i::text), 5) from generate_series(1, 3000) i;
	create table parts (day int, what text) partition by range (day);
	create table parts_1 partition of parts for values from (1) to (10);
	create table parts_2 partition of parts for values from (10) to (20) tablespace space;
	insert into parts select 1 + i % 19, 'part ' || i from generate_series(1, 1500) i;
	create table dropped as select i id from generate_series(1, 500) i;
	create materialized view heads as select id, left(body, 8) head from notes where id < 100;
	create table done (what text); create function note() returns event_trigger language plpgsql as $$ begin insert into public.done values (tg_tag); end $$;
	create event trigger always on ddl_command_end execute function note(); alter event trigger always enable always`,

	`update notes set body = 'other ' || id where id % 3 = 0; delete from notes where id % 17 = 0;
	alter table notes drop column gone; alter table notes add column late text default 'later';
	insert into notes (body) select 'new ' || i from generate_series(1, 300) i;
	drop table dropped; create index on parts (day); insert into parts values (5, 'five'); update spaced set body = 'x' where id > 2900; refresh materialized view heads`,

	`create tablespace more location '%s'; create table in_more (id int) tablespace more; insert into in_more select generate_series(1, 700);
	alter table spaced set tablespace more; delete from parts where day = 7; insert into notes (body, late) values ('last', 'row')`,
}

// A shape is a cluster whose settings the shipped catalogs do not have.
type shape struct {
	name string
	pgtest.Options
	compress string
}

// TestWorlds backs up clusters of other settings, mounts and mixes the backups,
// and compares with what the cluster itself said. Their tablespaces are where
// they were, and must not notice.
func TestWorlds(t *testing.T) {
	for _, s := range []shape{
		{"no checksums, WAL segments of 16 MB", pgtest.Options{NoChecksums: true, SegmentMB: 16}, pbwriter.Zlib},
		{"checksums, WAL segments of 4 MB", pgtest.Options{SegmentMB: 4}, pbwriter.PGLZ},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			testShape(t, s)
		})
	}
}

// An era is a backup and what the cluster said when it ended.
type era struct {
	*pbwriter.Written
	tables map[string]fixture.TableTruth
}

func testShape(t *testing.T, s shape) {
	server := pgtest.New(t, s.Options)
	catalog := pbwriter.Of(t, server)
	server.Options.Settings = catalog.ArchiveSettings(pbwriter.GZ)
	server.Start()
	space, more := server.TempDir(), server.TempDir()
	server.Exec("postgres", "create tablespace space location '"+space+"'")
	server.Exec("postgres", steps[0])
	var eras []era
	took := func(b pbwriter.Backup, during func()) {
		if len(eras) > 0 {
			b.Parent = eras[len(eras)-1].ID
		}
		b.Compress = s.compress
		w := catalog.Hot(server, b, during)
		eras = append(eras, era{w, sums(t, server)})
	}
	exec := func(sql string) func() {
		return func() {
			for _, one := range strings.Split(sql, ";") { // a tablespace is made outside of transactions
				server.Exec("postgres", one)
			}
		}
	}
	exec("vacuum; checkpoint")()
	took(pbwriter.Backup{Stream: true}, nil)
	files := scanned(t, catalog, server.Dir)
	took(pbwriter.Backup{Mode: "DELTA", Stream: true}, exec(steps[1]))
	took(pbwriter.Backup{Mode: "PAGE"}, exec(fmt.Sprintf(steps[2], more)))
	server.Stop(pgtest.Fast)

	for _, dir := range []string{space, more, server.Dir, catalog.Dir} {
		seen := startWatch(t, dir)
		defer seen.check()
	}
	pg0 := program.New(t)
	checkRaw(t, pg0, eras[0], files)
	for _, e := range eras {
		mountpoint := pg0.Mountpoint()
		pg0.Must("mount", "--start", "-B", catalog.Dir, "-i", e.ID, mountpoint)
		conn := pg0.Connect(mountpoint, "postgres")
		program.CheckTables(t, conn, e.tables)
		expect(t, conn, "select count(*) from pg_tablespace where pg_tablespace_location(oid) like '/%'", "0")
		checkLog(t, pg0, mountpoint)
		pg0.Must("umount", "--force", mountpoint)
	}
	mixEras(t, pg0, catalog, eras)
}

// sums asks the server for all tables.
func sums(t *testing.T, server *pgtest.Cluster) map[string]fixture.TableTruth {
	t.Helper()
	conn := server.Connect("postgres")
	defer server.Close(conn)
	pgtest.Exec(t, conn, "set timezone = 'UTC'")
	tables := map[string]fixture.TableTruth{}
	for _, row := range pgtest.Query(t, conn, "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'm')") {
		sum, err := program.TableSum(conn, "public", row[0])
		if err != nil {
			t.Fatal(err)
		}
		tables["public."+row[0]] = sum
	}
	return tables
}

// changing are files that a running server changes although nobody works.
var changing = []string{"global/pg_control", "pg_wal/", "pg_stat/", "pg_logical/", "postmaster."}

// scanned gives the sums of the files that a backup at rest must hold.
func scanned(t *testing.T, catalog *pbwriter.Catalog, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, item := range catalog.Scan(dir) {
		if item.Open == nil || slices.ContainsFunc(changing, func(prefix string) bool { return strings.HasPrefix(item.Path, prefix) }) {
			continue
		}
		r, err := item.Open()
		if err != nil {
			t.Fatal(err)
		}
		sum, err := sumOf(r)
		if err = errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
		files[item.Path] = sum
	}
	return files
}

// checkRaw compares a bare mount with the files of the cluster.
func checkRaw(t *testing.T, pg0 *program.Program, e era, want map[string]string) {
	t.Helper()
	mountpoint := pg0.Mountpoint()
	pg0.Must("mount", "--raw", "-B", e.Catalog.Dir, "-i", e.ID, mountpoint)
	got := map[string]string{}
	for name := range want {
		sum, err := sumFile(filepath.Join(mountpoint, name))
		if err != nil {
			t.Error(err)
		}
		got[name] = sum
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files of the bare mount:\n%s", diff)
	}
	pg0.Must("umount", mountpoint)
}

// mixEras shows all tables of all backups in the last one's cluster, and what
// fits in place of its own.
func mixEras(t *testing.T, pg0 *program.Program, catalog *pbwriter.Catalog, eras []era) {
	t.Helper()
	m := &mapFile{base: "page", catalog: catalog.Dir}
	want := map[string]fixture.TableTruth{}
	for i, name := range []string{"full", "delta", "page"} {
		m.point(name, fmt.Sprintf("%q", eras[i].ID))
		m.rule("postgres.public.*", name, fmt.Sprintf(`as = "%s.*"`, name))
		for table, sum := range eras[i].tables {
			want[strings.Replace(table, "public", name, 1)] = sum
		}
	}
	// The parent's index has come after the partition's moment.
	m.rule("postgres.public.parts_1", "full", `as = "page.parts_1"`)
	want["page.parts_1"] = eras[0].tables["public.parts_1"]
	delete(want, "page.parts")
	for name, sum := range eras[2].tables {
		want[name] = sum
	}
	m.rule("postgres.public.heads", "full")
	want["public.heads"] = eras[0].tables["public.heads"]
	m.rule("postgres.public.dropped", "full")
	want["public.dropped"] = eras[0].tables["public.dropped"]

	// What pg0 does in the base is not noted there.
	want["public.done"] = eras[len(eras)-1].tables["public.done"]

	mountpoint := pg0.Mountpoint()
	pg0.Must("frankenstein", "--start", "--map", m.write(t, world{catalog: fixture.Catalog{Instance: catalog.Instance}}), mountpoint)
	conn := pg0.Connect(mountpoint, "postgres")
	check := func(conn *pgx.Conn) {
		program.CheckTables(t, conn, want)
		checkIndexScans(t, conn, want)
		expect(t, conn, "select count(*) from page.parts", fmt.Sprint(want["page.parts_1"].Rows+want["page.parts_2"].Rows))
	}
	check(conn)
	checkLog(t, pg0, mountpoint)
	for _, sql := range []string{"vacuum (freeze)", "reindex database postgres"} {
		ask(t, conn, sql)
	}
	kill(t, pg0.Status(mountpoint).Server.PID)
	pg0.Must("start", mountpoint)
	check(pg0.Connect(mountpoint, "postgres"))
}
