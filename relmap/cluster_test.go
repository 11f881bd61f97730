package relmap_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0/relmap"
	"github.com/fukanchik/pg0/tests/pgtest"
)

// database is what the catalogs are compared in: a name that needs quoting.
const database = `Мой "магазин"`

// version is the major that the tests run on. Set PG0_TEST_MAJOR to try another
// one that this machine has.
func version(t *testing.T) int {
	text := os.Getenv("PG0_TEST_MAJOR")
	if text == "" {
		return 15
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// odd is a stopped cluster, and what its server said before it was stopped.
type odd struct {
	dir         string
	catalogs    map[string][][]string // answers to questions
	files       [][]string
	definitions string
	evolved     []string   // values of columns m2, m4, m5, m7 and m8 of table evolved
	odd         [][]string // t for each thing that the script must have brought about
}

// TestCluster compares everything that relmap reads of a cluster with what the
// server said of it.
func TestCluster(t *testing.T) {
	o := askOddCluster(t)
	t.Run("Catalogs", o.testCatalogs)
	t.Run("Files", o.testFiles)
	t.Run("Missing", o.testMissing)
	t.Run("Definitions", o.testDefinitions)
	t.Run("Damage", o.testDamage)
	t.Run("Unknown", o.testUnknown)
	t.Run("Layouts", o.testLayouts)
}

func askOddCluster(t *testing.T) *odd {
	c := oddCluster(t)
	c.Start()
	c.Exec(database, "checkpoint")
	o := &odd{dir: c.Dir, catalogs: map[string][][]string{}}
	for name, question := range questions {
		o.catalogs[name] = c.Query(database, question.sql(c.Options.Version))
	}
	o.files = c.Query(database, `select c.oid, pg_relation_filepath(c.oid), pg_relation_size(c.oid, 'main'),
		pg_relation_size(c.oid, 'fsm'), pg_relation_size(c.oid, 'vm'), pg_relation_size(c.oid, 'init')
		from pg_class c where relkind in ('r', 'i', 'S', 't', 'm') and relpersistence <> 't'`)
	o.definitions = c.Query(database, "set search_path = pg_catalog; "+relmap.DefinitionsSQL)[0][0]
	o.evolved = c.Query(database, `select m2, m4, m5, m7, m8 from evolved`)[0]
	o.odd = c.Query(database, `select pg_relation_size(reltoastrelid) > 0 from pg_class where oid = 'pg_partitioned_table'::regclass`)
	if c.Options.Version >= 14 {
		o.odd = append(o.odd, c.Query(database, `select bool_or(inhdetachpending) from pg_inherits`)...)
	}
	c.Stop(pgtest.Fast)
	return o
}

func (o *odd) testCatalogs(t *testing.T) {
	for i, row := range o.odd {
		if row[0] != "t" {
			t.Errorf("the cluster is not as odd as it should be: %d", i)
		}
	}
	cluster, d := o.open(t)
	for name, question := range questions {
		t.Run(name, func(t *testing.T) {
			if len(o.catalogs[name]) == 0 {
				t.Fatal("the server has nothing to compare with")
			}
			compare(t, o.catalogs[name], question.answer(t, cluster, d))
		})
	}
}

func (o *odd) open(t *testing.T) (*relmap.Cluster, *relmap.Database) {
	t.Helper()
	cluster, err := relmap.Open(os.DirFS(o.dir))
	if err != nil {
		t.Fatal(err)
	}
	d, err := cluster.Database(database)
	if err != nil {
		t.Fatal(err)
	}
	return cluster, d
}

// compare ignores the order of rows.
func compare(t *testing.T, want, got [][]string) {
	t.Helper()
	slices.SortFunc(want, slices.Compare[[]string])
	slices.SortFunc(got, slices.Compare[[]string])
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("server (-) and relmap (+) disagree:\n%.6000s", diff)
	}
}

// oddCluster makes the database of testdata/odd.sql. A transaction that never
// ended, and one that crashed, have left rows in the catalogs.
func oddCluster(t *testing.T) *pgtest.Cluster {
	t.Helper()
	c := pgtest.New(t, pgtest.Options{Version: version(t), Settings: map[string]string{"autovacuum": "off"}})
	c.Start()
	away := filepath.Join(c.TempDir(), "away")
	c.Run("mkdir", away)
	c.Exec("postgres", "create tablespace away location '"+away+"'")
	c.Exec("postgres", `create role "odd owner"`)
	c.Exec("postgres", `create database "Мой ""магазин""" owner "odd owner"`)
	c.Exec("postgres", `create database elsewhere tablespace away`)
	script, err := os.Open("testdata/odd.sql")
	if err != nil {
		t.Fatal(err)
	}
	defer script.Close()
	cmd := c.Command("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-")
	cmd.Stdin = script
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("testdata/odd.sql: %v\n%s", err, output)
	}
	if c.Options.Version >= 14 {
		leaveDetaching(c)
	}
	if c.Options.Version >= 15 {
		inPlace := c.Connect(database)
		pgtest.Exec(t, inPlace, "set allow_in_place_tablespaces = on")
		pgtest.Exec(t, inPlace, "create tablespace in_place location ''")
		pgtest.Exec(t, inPlace, "create table placed (a int primary key) tablespace in_place; insert into placed values (1)")
	}
	crashed := c.Connect(database)
	pgtest.Exec(t, crashed, "begin")
	pgtest.Exec(t, crashed, `alter table kept add column never int; create table never (a int); alter table plain rename to never_so`)
	c.Exec("postgres", "checkpoint")
	c.Stop(pgtest.Immediate)
	return c
}

// leaveDetaching begins to detach a partition, and gives up waiting for a
// transaction that still reads the parent.
func leaveDetaching(c *pgtest.Cluster) {
	c.Exec(database, "create table leaving (a int) partition by list (a)")
	c.Exec(database, "create table leaving_1 partition of leaving for values in (1)")
	reader, owner := c.Connect(database), c.Connect(database)
	ctx := context.Background()
	_, _ = reader.Exec(ctx, "begin")
	_, _ = reader.Exec(ctx, "select from leaving")
	_, _ = owner.Exec(ctx, "set statement_timeout = 50")
	_, _ = owner.Exec(ctx, "alter table leaving detach partition leaving_1 concurrently") // the comparison shows whether it is pending
	_, _ = reader.Exec(ctx, "rollback")
}

// question is one catalog: how to ask the server, and what relmap says.
type question struct {
	query  string // may hold conditions, see sql
	answer func(*testing.T, *relmap.Cluster, *relmap.Database) [][]string
}

// condition is {since N|expression|otherwise}, for what only some majors have.
var condition = regexp.MustCompile(`\{since (\d+)\|([^|{}]*)\|([^|{}]*)\}`)

// sql writes the query for a major version.
func (q question) sql(version int) string {
	text := q.query
	for condition.MatchString(text) {
		text = condition.ReplaceAllStringFunc(text, func(s string) string {
			parts := condition.FindStringSubmatch(s)
			if since, _ := strconv.Atoi(parts[1]); version < since {
				return parts[3]
			}
			return parts[2]
		})
	}
	return text
}

// perRelation makes a row of text for each relation that keep likes.
func perRelation(keep func(*relmap.Relation) bool, row func(*relmap.Relation) []any) func(*testing.T, *relmap.Cluster, *relmap.Database) [][]string {
	return func(_ *testing.T, _ *relmap.Cluster, d *relmap.Database) [][]string {
		var rows [][]string
		for _, r := range d.Relations() {
			if keep(r) {
				rows = append(rows, texts(row(r)...))
			}
		}
		return rows
	}
}

func all(*relmap.Relation) bool { return true }

// texts prints values as PostgreSQL does.
func texts(values ...any) []string {
	list := make([]string, len(values))
	for i, value := range values {
		switch v := value.(type) {
		case byte:
			list[i] = strings.Trim(string(rune(v)), "\x00")
		case bool:
			list[i] = map[bool]string{true: "t", false: "f"}[v]
		case []int16:
			list[i] = strings.Trim(fmt.Sprint(v), "[]")
		case []uint32:
			list[i] = strings.Trim(fmt.Sprint(v), "[]")
		case []string:
			list[i] = strings.Join(v, "\n")
		case float32:
			list[i] = strconv.FormatFloat(float64(v), 'g', -1, 32)
		case *relmap.Relation:
			list[i] = "0"
			if v != nil {
				list[i] = fmt.Sprint(v.OID)
			}
		default:
			list[i] = fmt.Sprint(v)
		}
	}
	return list
}

// testFiles compares paths and sizes of all forks.
func (o *odd) testFiles(t *testing.T) {
	_, d := o.open(t)
	var got [][]string
	for _, r := range d.Relations() {
		if !r.HasStorage() {
			continue
		}
		name, err := d.Path(r)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, append(texts(r.OID, name), forkSizes(t, os.DirFS(o.dir), d, r)...))
	}
	compare(t, o.files, got)
}

// forkSizes adds up the segments of each fork, each of which must open.
func forkSizes(t *testing.T, tree fs.FS, d *relmap.Database, r *relmap.Relation) []string {
	t.Helper()
	files, err := d.Files(r)
	if err != nil {
		t.Fatal(err)
	}
	var sizes [4]int64
	for _, file := range files {
		info, err := fs.Stat(tree, file.Path)
		if err != nil || info.Size() != file.Size {
			t.Errorf("%s: size %d, error %v; Files says %d", file.Path, info.Size(), err, file.Size)
		}
		sizes[file.Fork] += file.Size
	}
	return texts(sizes[0], sizes[1], sizes[2], sizes[3])
}
