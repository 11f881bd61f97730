package mapping_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/mapping"
	"github.com/fukanchik/pg0/relmap"
	"github.com/fukanchik/pg0/tests/pgtest"
)

// The database shop at two moments: early, and late after changes.
const earlySQL = `
create type mood as enum ('sad', 'ok');
create type pair as (a int, b text);
create extension amcheck;
create table orders (id serial primary key, gone int, customer int not null, note text default 'x',
	doc jsonb, pt point, amount numeric(10,2));
insert into orders (customer, doc, pt, amount, note)
	select i % 97, jsonb_build_object('k', i % 13, 'tag', 't' || i), point(i % 50, i % 31), i / 7.0, repeat(md5(i::text), i % 5)
	from generate_series(1, 3000) i;
alter table orders drop column gone;
create index orders_customer on orders (customer) include (amount);
create index orders_note on orders (lower(note)) where customer > 10;
create index orders_hash on orders using hash (customer);
create index orders_gin on orders using gin (doc);
create index orders_gist on orders using gist (pt);
create index orders_spgist on orders using spgist (pt);
create index orders_brin on orders using brin (id);
update orders set note = note || 'u' where id % 3 = 0;
delete from orders where id % 11 = 0;
create table docs (id int primary key, body text);
alter table docs alter body set storage external;
insert into docs select i, repeat(md5(i::text), 300) from generate_series(1, 60) i;
create table items (day date, n int, what text, primary key (day, n)) partition by range (day);
create table items_04 partition of items for values from ('2026-04-01') to ('2026-05-01');
create table items_05 partition of items for values from ('2026-05-01') to ('2026-06-01');
insert into items select '2026-04-01'::date + i % 60, i, 'i' || i from generate_series(1, 2000) i;
create materialized view sales as select customer, sum(amount) as total, repeat('long', 2000) || customer as big from orders group by 1;
create unique index sales_customer on sales (customer);
create table settings (id int primary key, v text);
insert into settings select i, 'v' || i from generate_series(1, 50) i;
alter table settings add column extra int default 42;
insert into settings values (51, 'v51', 1);
create table coupons (code text primary key, pct int);
insert into coupons select 'C' || i, i % 90 from generate_series(1, 100) i;
create table feelings (id int primary key, m mood);
insert into feelings values (1, 'sad'), (2, 'ok');
create table "Odd Names" (id int primary key, "A ""b" text);
insert into "Odd Names" values (1, 'one'), (2, 'two');
create table "order" ("user" int primary key, "end" text);
insert into "order" values (1, 'one');
create table ages (id int primary key, p pair);
insert into ages values (1, (1, 'x')), (2, (2, 'y'));
create table audit_log (id int, at text);
insert into audit_log select i, 'entry ' || i from generate_series(1, 500) i;
create table parent (id int primary key, name text);
create table child (extra int) inherits (parent);
insert into parent values (1, 'p'); insert into child values (2, 'c', 3);
create unlogged table sessions (id int);
create view recent as select * from orders;
create table empty (id int primary key, t text);
create sequence tickets; select setval('tickets', 500);
vacuum (freeze, disable_page_skipping) docs;
vacuum items_04;
begin; insert into orders (customer, note) select 5, 'rolled back' from generate_series(1, 50); update docs set body = 'rolled back'; rollback`

const lateSQL = `
insert into orders (customer, note) select 200 + i, 'late' from generate_series(1, 500) i;
update orders set amount = amount + 1, note = 'changed' where id % 2 = 0; delete from orders where id % 5 = 0;
vacuum full orders;
reindex index orders_gist;
alter table docs alter body type text using body || '';
update docs set body = repeat('late', 3000) where id % 2 = 0; insert into docs values (1000, repeat('n', 9000));
delete from items where n % 3 = 0; update items set what = 'late ' || what where n % 4 = 0; truncate items_05;
insert into items values ('2026-05-05', 1, 'new');
refresh materialized view sales;
alter table settings add column more text default 'm', add column free int; update settings set v = v || '!' where id < 10;
drop table coupons;
update "Odd Names" set id = id + 10;
update ages set p = (9, 'z') where id = 1;
truncate audit_log; alter table audit_log alter at type timestamptz using null; insert into audit_log values (1, '2026-05-06 12:00Z');
drop table child;
alter type mood add value 'happy' before 'ok';
insert into feelings values (3, 'happy');
create index settings_v on settings (v); drop index orders_brin;
insert into empty select i, repeat('e', 9000) from generate_series(1, 20) i;
select setval('tickets', 900);
create table fresh (id int primary key); insert into fresh values (1)`

// moment is a cluster at rest.
type moment struct {
	name   string
	dir    string
	image  *mapping.Image
	tables map[string]string // relation -> what rowsSQL says of it
	// settings is the digest of the columns that the table always had.
	settings string
}

const settingsSQL = "select md5(string_agg(concat(id, v, extra), ',' order by id)) from settings"

// rowsSQL answers one row of text for each table: rows and their digest.
const rowsSQL = `
create or replace function pg_temp.digest(rel regclass, prefix text) returns text language plpgsql as $$
declare answer text;
begin
	execute format('select count(*) || '' '' || coalesce(md5(string_agg(t::text, E''\n'' order by t::text)), '''') from %s%s t', prefix, rel) into answer;
	return answer;
end $$;
select c.oid::regclass::text, pg_temp.digest(c.oid, case relkind when 'p' then '' else 'only ' end) from pg_class c
where relkind in ('r', 'p', 'm') and relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace, 'pg_toast'::regnamespace)`

func rows(c *pgtest.Cluster) map[string]string {
	c.T.Helper()
	tables := map[string]string{}
	for _, row := range c.Query("shop", rowsSQL) {
		tables[row[0]] = row[1]
	}
	return tables
}

// makeMoments makes the database at both moments.
func makeMoments(t *testing.T) (early, late *moment) {
	t.Helper()
	c := pgtest.New(t, settings)
	c.Start()
	for _, database := range []string{"shop", "drift", "gone"} {
		c.Exec("postgres", "create database "+database)
	}
	few := "create table t (id int)"
	early = change(c, "early", map[string]string{"shop": earlySQL, "drift": earlyDriftSQL, "gone": few, "template1": few})
	c.Start()
	c.Exec("postgres", "alter database gone rename to other; update pg_database set encoding = 8 where datname = 'template1'")
	return early, change(c, "late", map[string]string{"shop": lateSQL, "drift": lateDriftSQL})
}

// settings keep the WAL of the clusters small and their files as the
// statements made them.
var settings = pgtest.Options{Settings: map[string]string{"autovacuum": "off", "max_wal_size": "16MB", "min_wal_size": "2MB"}}

// change runs statements one by one in databases, stops the server and keeps a
// copy.
func change(c *pgtest.Cluster, name string, statements map[string]string) *moment {
	c.T.Helper()
	defs := &relmap.Definitions{Databases: map[string]*relmap.DatabaseDefinitions{}}
	for database, text := range statements {
		conn := c.Connect(database)
		for _, statement := range strings.Split(text, ";\n") {
			pgtest.Exec(c.T, conn, statement)
		}
		defs.Databases[database] = definitions(c, database)
	}
	m := &moment{name: name, dir: filepath.Join(c.TempDir(), name), tables: rows(c), settings: c.Query("shop", settingsSQL)[0][0]}
	c.Stop(pgtest.Fast)
	c.Run("cp", "-a", c.Dir, m.dir)
	m.image = openImage(c.T, name, m.dir, defs)
	return m
}

func definitions(c *pgtest.Cluster, database string) *relmap.DatabaseDefinitions {
	c.T.Helper()
	text := c.Query(database, "set search_path = pg_catalog; "+relmap.DefinitionsSQL)[0][0]
	var d relmap.DatabaseDefinitions
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		c.T.Fatal(err)
	}
	return &d
}

func openImage(t testing.TB, name, dir string, defs *relmap.Definitions) *mapping.Image {
	t.Helper()
	tree := os.DirFS(dir).(pg0.Tree)
	cluster, err := relmap.Open(tree)
	if err != nil {
		t.Fatal(err)
	}
	return &mapping.Image{Name: name, Tree: tree, Cluster: cluster, Defs: defs, Info: mapping.Origin{Backup: strings.ToUpper(name), Key: "key-of-" + name}}
}

// parse gives the spec of a mapping file of which only the relations matter.
func parse(t testing.TB, base, relations string) *mapping.Spec {
	t.Helper()
	spec, err := mapping.Parse("t.toml", []byte(`version = 1
sources.s = { format = "probackup", path = "b" }
points.early = { source = "s", at = "latest" }
points.late = { source = "s", at = "latest" }
base.point = "`+base+`"
`+relations))
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// start materializes a tree, but for the databases that are not asked, and
// starts a server on it.
func start(t *testing.T, tree pg0.Tree) *pgtest.Cluster {
	t.Helper()
	c := pgtest.At(t, "", settings)
	if err := os.Mkdir(c.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cluster, err := relmap.Open(tree)
	if err != nil {
		t.Fatal(err)
	}
	db, err := cluster.Database("shop")
	if err != nil {
		t.Fatal(err)
	}
	if err := materialize(tree, ".", c.Dir, fmt.Sprint(db.OID)); err != nil {
		t.Fatal(err)
	}
	own(t, c)
	if control, err := relmap.ReadControl(os.DirFS(c.Dir)); err != nil {
		t.Fatal(err)
	} else if control.Checksums {
		c.Run("pg_checksums", "--check", "-D", c.Dir)
	}
	c.Start()
	return c
}

func materialize(tree pg0.Tree, name, dir, shop string) error {
	entries, err := tree.ReadDir(name)
	if err != nil {
		return err
	}
	for _, e := range entries {
		from, to := filepath.ToSlash(filepath.Join(name, e.Name())), filepath.Join(dir, e.Name())
		switch {
		case name == "base" && e.Name() != shop:
		case e.IsDir():
			if err := errors.Join(os.Mkdir(to, 0o700), materialize(tree, from, to, shop)); err != nil {
				return err
			}
		case e.Type() == fs.ModeSymlink:
			link, err := tree.ReadLink(from)
			if err := errors.Join(err, os.Symlink(link, to)); err != nil {
				return err
			}
		default:
			if err := copyFile(tree, from, to); err != nil {
				return err
			}
		}
	}
	return nil
}

func copyFile(tree pg0.Tree, from, to string) error {
	f, err := tree.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, f)
	return errors.Join(err, out.Close())
}

// own gives the files to the user that runs the server.
func own(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	if os.Getuid() != 0 {
		return
	}
	if out, err := exec.Command("chown", "-R", "--reference="+c.SocketDir, c.Dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
