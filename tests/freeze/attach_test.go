package freeze_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/relmap/heap"
	"github.com/fukanchik/pg0/tests/pgtest"
	"github.com/google/go-cmp/cmp"
)

// questions are asked of the donor and of the base that has its pages: all rows
// by sequential scan, then rows by every index.
var questions = []string{
	"select count(*), md5(string_agg(t::text, E'\n' order by id)) from t",
	"select count(*), md5(string_agg(p::text, E'\n' order by k, id)) from p",
	"select count(*), md5(string_agg(quiet::text, E'\n' order by id)) from quiet",
	"select count(*), sum(length(body)) from t where id = any(array(select generate_series(0, 100000, 25)))",
	"set enable_seqscan = off; set enable_sort = off; select md5(string_agg(id::text, ',')) from (select id from t order by id) x",
	"set enable_seqscan = off; select md5(string_agg(id::text, ',' order by id)) from t where grp between 0 and 60",
	"set enable_seqscan = off; drop index t_grp; select md5(string_agg(t.id::text, ',' order by t.id)) from generate_series(0, 60) g, lateral (select id from t where grp = g) t",
	"set enable_seqscan = off; drop index t_spgist; select md5(string_agg(id::text, ',' order by id)) from t where pt <@ box '(0,0),(60,60)'",
	"set enable_seqscan = off; drop index t_gist; select md5(string_agg(id::text, ',' order by id)) from t where pt <@ box '(0,0),(60,60)'",
	"set enable_seqscan = off; select md5(string_agg(id::text, ',' order by id)) from t where tags @> array[3]",
	"set enable_seqscan = off; drop index t_grp; alter table t drop constraint t_pkey; select md5(string_agg(id::text, ',' order by id)) from t where id between 200 and 1200",
	"set enable_seqscan = off; select count(*) from quiet where id > 0",
}

// changes are made in both afterwards. The server crashes between them.
var changes = []string{
	"update t set val = val || 'w', grp = grp + 1 where id % 3 = 0; delete from t where id % 10 = 1; insert into t(id, grp, body) select i + 500000, 3, repeat('new', 3000) from generate_series(1, 60) i",
	"update p set k = 3 - k where id % 4 = 0; update t set pt = point(id % 5, id % 7), tags = tags || 3 where id % 7 = 0; update quiet set note = null where id % 2 = 0",
}

func ask(c *pgtest.Cluster) map[string][][]string {
	answers := map[string][][]string{}
	for _, q := range questions {
		// In one transaction that is rolled back: some drop an index so that the
		// planner takes another.
		conn := c.Connect("postgres")
		pgtest.Exec(c.T, conn, "begin")
		answers[q] = pgtest.Query(c.T, conn, q)
		pgtest.Exec(c.T, conn, "rollback")
		c.Close(conn)
	}
	return answers
}

// TestAttach shows a donor's pages to other clusters. In one the donor's
// transactions have yet to come, in the other they were rolled back.
func TestAttach(t *testing.T) {
	d := newDonor(t, pgtest.Options{Settings: map[string]string{"max_prepared_transactions": "2"}})
	bases := []*pgtest.Cluster{
		newBase(t, pgtest.Options{}, 0),
		newBase(t, pgtest.Options{NoChecksums: true, SegmentMB: 16}, 400),
	}
	for _, base := range bases {
		attach(t, base, d)
	}
	var want []map[string][][]string
	d.Start()
	d.Exec("postgres", "rollback prepared 'p'")
	want = append(want, ask(d.Cluster))
	for _, change := range changes {
		d.Exec("postgres", change)
		want = append(want, ask(d.Cluster))
	}
	d.Stop(pgtest.Immediate)
	for _, base := range bases {
		checkBase(t, base, want)
	}
}

func newBase(t *testing.T, o pgtest.Options, rolledBack int) *pgtest.Cluster {
	c := pgtest.New(t, o)
	c.Start()
	c.Exec("postgres", "create extension pg_visibility; create table filler (a text)") // other OIDs
	c.Exec("postgres", schema)
	c.Exec("postgres", "alter table t drop column gone")
	conn := c.Connect("postgres")
	for range rolledBack {
		pgtest.Exec(t, conn, "begin; insert into filler values ('x'); rollback")
	}
	c.Close(conn)
	return c
}

// attach stops the base and puts the donor's pages in the place of its own.
func attach(t *testing.T, base *pgtest.Cluster, d donor) {
	t.Helper()
	rels := relations(base)
	base.Stop(pgtest.Fast)
	control := readFile(t, filepath.Join(base.Dir, "global/pg_control"))
	tr := heap.Transform{
		Limit:       pg0.LSN(binary.LittleEndian.Uint64(control[40:])),
		SetChecksum: !base.Options.NoChecksums,
		Toast:       map[uint32]uint32{d.rels["pg_toast_t"].oid: rels["pg_toast_t"].oid},
	}
	for name, to := range rels {
		from, ok := d.rels[name]
		if !ok {
			t.Fatalf("donor has no %s", name)
		}
		file := filepath.Join(base.Dir, to.path)
		replace(t, file, d.transformed(t, from, tr))
		os.Remove(file + "_fsm")
		os.Remove(file + "_vm")
		from.path, from.kind = from.path+"_vm", heap.VisibilityMap
		if _, err := os.Stat(filepath.Join(d.Dir, from.path)); !errors.Is(err, fs.ErrNotExist) {
			os.WriteFile(file+"_vm", nil, 0o666)
			replace(t, file+"_vm", d.transformed(t, from, tr))
		}
	}
}

func replace(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := errors.Join(os.WriteFile(file, data, 0o666), os.Chmod(file, 0o666)); err != nil {
		t.Fatal(err)
	}
}

func checkBase(t *testing.T, base *pgtest.Cluster, want []map[string][][]string) {
	t.Helper()
	base.Start()
	if got := base.Query("postgres", "select nextval('s')"); got[0][0] != "41" { // load took 40
		t.Errorf("the sequence goes on with %s", got)
	}
	expect := func(when string, want map[string][][]string) {
		t.Helper()
		if diff := cmp.Diff(want, ask(base)); diff != "" {
			t.Errorf("%s:\n%s", when, diff)
		}
		check(t, base, when)
	}
	expect("attached", want[0])
	base.Exec("postgres", changes[0])
	expect("changed", want[1])
	base.Stop(pgtest.Immediate)
	base.Start()
	expect("crashed", want[1])
	base.Exec("postgres", "vacuum (freeze)")
	base.Exec("postgres", changes[1])
	expect("vacuumed and changed", want[2])
	base.Exec("postgres", "reindex table t; cluster t using t_pkey")
	base.Exec("postgres", "vacuum full quiet")
	expect("rewritten", want[2])
	base.Stop(pgtest.Fast)
	if bad := regexp.MustCompile(`(?m)^.*(WARNING|ERROR|PANIC|FATAL):.*$`).FindAllString(base.Log(), -1); bad != nil {
		t.Errorf("server log:\n%s", strings.Join(bad, "\n"))
	}
}

// check runs the server's own examinations.
func check(t *testing.T, base *pgtest.Cluster, when string) {
	t.Helper()
	for _, q := range []string{
		"select c.relname, v.* from pg_class c, lateral verify_heapam(c.oid, skip := 'none', check_toast := true) v where c.relname in ('t', 'p1', 'p2', 'quiet')",
		"select t from pg_class c, lateral (select pg_check_frozen(c.oid) t union all select pg_check_visible(c.oid)) x where relname in ('t', 'p1', 'p2', 'quiet')",
	} {
		if rows := base.Query("postgres", q); rows != nil {
			t.Errorf("%s: %v\nby: %s", when, rows, q)
		}
	}
	for _, index := range []string{"t_pkey", "t_grp", "p1_pkey", "p2_pkey", "quiet_pkey"} {
		base.Exec("postgres", fmt.Sprintf("select bt_index_parent_check('%s', true, true)", index))
	}
}
