package tests

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/fukanchik/pg0/tests/fixture"
	"github.com/fukanchik/pg0/tests/pgtest"
	"github.com/fukanchik/pg0/tests/program"
)

// transports are the ways that files of a running server get here.
var transports = []string{"pgdata", "sql"}

// liveSource writes a source of a mapping file for a cluster.
func liveSource(c *pgtest.Cluster, transport string, more ...string) string {
	dsn := fmt.Sprintf("postgresql://postgres@/postgres?host=%s&port=5432", c.SocketDir)
	if transport == "pgdata" {
		dsn = fmt.Sprintf("host=%s port=5432 user=postgres dbname=postgres", c.SocketDir)
	}
	text := fmt.Sprintf("[sources.prod]\nformat = \"live\"\ndsn = %q\n", dsn)
	if transport == "pgdata" {
		text += fmt.Sprintf("pgdata = %q\n", c.Dir)
	}
	return text + strings.Join(more, "\n") + "\n"
}

// writeSpec writes a mapping file.
func writeSpec(t *testing.T, parts ...string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "tables.toml")
	if err := os.WriteFile(name, []byte("version = 1\n"+strings.Join(parts, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// production is a server with a database shop under pgbench's tables.
func production(t *testing.T, o pgtest.Options) *pgtest.Cluster {
	t.Helper()
	c := pgtest.New(t, o)
	c.Start()
	c.Exec("postgres", "create database shop")
	c.Run("pgbench", "-i", "-q", "shop")
	return c
}

const balances = `select sum(abalance), (select sum(bbalance) from pgbench_branches), (select sum(tbalance) from pgbench_tellers),
	(select sum(delta) from pgbench_history) from pgbench_accounts`

// TestMountLiveUnderLoad takes a point of a server under pgbench again and
// again: what pgbench keeps equal is equal in each of them.
func TestMountLiveUnderLoad(t *testing.T) {
	t.Parallel()
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			c := production(t, pgtest.Options{Settings: map[string]string{"max_wal_size": "64MB", "checkpoint_timeout": "30s"}})
			c.Exec("shop", "create table other as select n, repeat('x', 100) from generate_series(1, 20000) n; create index on other(n)")
			c.Exec("postgres", "create database idle")
			spec := writeSpec(t, liveSource(c, transport), `[points]
prod = { source = "prod", at = "now" }
base = { source = "prod", at = "now" }
[base]
point = "base"
take = ["shop.public.pgbench_branches"]
[[relation]]
name = "shop.public.pgbench_*"
from = "prod"
`)
			load := c.Command("pgbench", "-n", "-c", "8", "-R", "200", "-T", "600", "shop")
			if err := load.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = load.Process.Kill(); _ = load.Wait() }()
			other := c.Command("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "shop")
			other.Stdin = strings.NewReader(strings.Repeat("update other set n = n + 1 where n % 17 = 3; select pg_sleep(0.05);\n", 20000))
			if err := other.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = other.Process.Kill(); _ = other.Wait() }()

			p := program.New(t)
			mountpoint := p.Mountpoint()
			p.Must("frankenstein", "--start", "--map", spec, mountpoint)
			conn := p.Connect(mountpoint, "shop")
			var a, b, tl, h int64
			if err := conn.QueryRow(context.Background(), balances).Scan(&a, &b, &tl, &h); err != nil {
				t.Fatal(err)
			}
			if a != b || a != tl || a != h {
				t.Errorf("balances %d %d %d %d", a, b, tl, h)
			}
			_, err := conn.Exec(context.Background(), "select count(*) from other")
			if err == nil || !strings.Contains(err.Error(), "could not open file") {
				t.Errorf("a relation that was not taken: %v", err)
			}
		})
	}
}

// sumsOfShop sums every table of a database.
func sumsOfDatabase(t *testing.T, conn *pgx.Conn, where string) map[string]fixture.TableTruth {
	t.Helper()
	rows, err := conn.Query(context.Background(), `select n.nspname::text, c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'm', 'f') and c.relpersistence = 'p' and n.nspname not in ('pg_catalog', 'information_schema', 'pg0') and `+where)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (name [2]string, err error) {
		return name, row.Scan(&name[0], &name[1])
	})
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]fixture.TableTruth{}
	for _, name := range names {
		sum, err := program.TableSum(conn, name[0], name[1])
		if err != nil {
			t.Fatal(err)
		}
		sums[name[1]] = sum
	}
	return sums
}

// furnish fills a database with relations of many kinds.
const furnish = `
create table plain(id int primary key, t text, big text, n numeric);
insert into plain select i, 'row ' || i, case when i % 50 = 0 then repeat(md5(i::text), 500) end, i / 7.0 from generate_series(1, 3000) i;
alter table plain alter big set storage external;
insert into plain select i, 'ext', repeat(md5(i::text), 300), 1 from generate_series(5000, 5050) i;
create type mood as enum ('sad', 'ok');
create table typed(m mood, a int[], j jsonb, ts timestamptz default now(), p point);
insert into typed select 'ok', array[i, i], jsonb_build_object('i', i), now(), point(i, i) from generate_series(1, 500) i;
create index on typed using gist (p);
create table parted(id serial, k int) partition by range (k);
create table parted_1 partition of parted for values from (0) to (100);
create table parted_2 partition of parted for values from (100) to (1000);
insert into parted(k) select i from generate_series(0, 999) i;
create materialized view summary as select k % 10 as d, count(*) from parted group by 1;
create table "Order Items"("Qty" int); insert into "Order Items" values (1), (2);
delete from plain where id % 3 = 0;
update plain set t = t || '!' where id % 5 = 0;
`

// TestMountLiveQuiet takes every table of a server that nobody changes, by files
// and by foreign tables, beside an old backup's moment of the same.
func TestMountLiveQuiet(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{})
	c.Start()
	c.Exec("postgres", "create database shop")
	c.Exec("shop", furnish)
	want := sumsOfDatabase(t, c.Connect("shop"), "true")
	if len(want) != 7 {
		t.Fatalf("%d tables", len(want))
	}
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			spec := writeSpec(t, liveSource(c, transport, `rate = "80MB/s"`), `[points]
base = { source = "prod", at = "now" }
prod = { source = "prod", at = "now" }
[base]
point = "base"
[[relation]]
name = "shop.public.*"
from = "prod"
as = "copied.*"
[[relation]]
name = "shop.public.*"
from = "prod"
as = "asked.*"
via = "fdw"
`)
			p := program.New(t)
			mountpoint := p.Mountpoint()
			p.Must("frankenstein", "--start", "--map", spec, mountpoint)
			conn := p.Connect(mountpoint, "shop")
			for _, schema := range []string{"public", "copied", "asked"} {
				got := sumsOfDatabase(t, conn, fmt.Sprintf("n.nspname = '%s'", schema))
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("schema %s: %s", schema, diff)
				}
			}
			amcheck(t, p, mountpoint)
			checkForeign(t, conn)
			_, err := conn.Exec(context.Background(), "insert into asked.plain values (-1)")
			if err == nil {
				t.Error("a foreign table that is not writable was written")
			}
		})
	}
	checkClean(t, c)
}

func checkForeign(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	var target, comment string
	err := conn.QueryRow(context.Background(), `select target, obj_description('asked.plain'::regclass) from pg0.provenance where relation = 'asked.plain'`).Scan(&target, &comment)
	if err != nil || target != "live, at query time" || comment != "pg0: shop.public.plain of point prod, live, at query time" {
		t.Errorf("provenance %q, %q: %v", target, comment, err)
	}
}

// checkClean checks that nothing of pg0 is left on a server. Its sessions may
// still be ending.
func checkClean(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	conn := c.Connect("postgres")
	for range 200 {
		left := pgtest.Query(t, conn, `select (select count(*) from pg_stat_activity where application_name = 'pg0')
	+ (select count(*) from pg_replication_slots)`)
		if left[0][0] == "0" {
			return
		}
		pgtest.Exec(t, conn, "select pg_sleep(0.05)")
	}
	t.Errorf("left on the server: %v %v", pgtest.Query(t, conn, "select application_name, state, query from pg_stat_activity"), pgtest.Query(t, conn, "select * from pg_replication_slots"))
}

// TestMountLiveRefresh takes one point of two again.
func TestMountLiveRefresh(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{})
	c.Start()
	c.Exec("postgres", "create database shop")
	c.Exec("shop", "create table t as select 1 as n")
	services := filepath.Join(t.TempDir(), "services")
	if err := os.WriteFile(services, []byte("[production]\nhost="+c.SocketDir+"\nport=5432\nuser=postgres\ndbname=postgres\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	spec := writeSpec(t, "[sources.prod]\nformat = \"live\"\ndsn = \"service=production\"\n", `[points]
old = { source = "prod", at = "now" }
prod = { source = "prod", at = "now" }
[base]
point = "old"
[[relation]]
name = "shop.public.t"
from = "prod"
as = "prod.t"
[[relation]]
name = "shop.public.t"
from = "prod"
as = "asked.t"
via = "fdw"
writable = true
`)
	p := program.New(t)
	p.Env = append(p.Env, "PGSERVICEFILE="+services)
	mountpoint := p.Mountpoint()
	p.Must("frankenstein", "--start", "--map", spec, mountpoint)
	c.Exec("shop", "insert into t values (2)")
	r := p.Run("refresh", mountpoint, "--point", "prod")
	if r.Code != 0 || !strings.Contains(r.Stderr, "restarts") {
		t.Fatalf("refresh: %d %s", r.Code, r.Stderr)
	}
	conn := p.Connect(mountpoint, "shop")
	got := fmt.Sprint(pgtest.Query(t, conn, `select 'old', sum(n) from t union all select 'prod', sum(n) from prod.t union all select 'asked', sum(n) from asked.t order by 1`))
	if want := "[[asked 3] [old 1] [prod 3]]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	pgtest.Exec(t, conn, "insert into asked.t select n + 10 from t")
	if got := fmt.Sprint(c.Query("shop", "select sum(n) from t")); got != "[[14]]" {
		t.Errorf("production has %s", got)
	}
	if r := p.Run("refresh", mountpoint, "--point", "nothing"); r.Code != 2 {
		t.Errorf("refresh of an unknown point: %d %s", r.Code, r.Stderr)
	}
}
