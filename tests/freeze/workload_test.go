package freeze_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/fukanchik/pg0/tests/pgtest"
	"github.com/jackc/pgx/v5"
)

// schema has every index method, a TOAST table, a dropped column, and a
// partitioned table whose rows move.
const schema = `
	create extension if not exists amcheck;
	create extension if not exists pageinspect;
	create table t (id int primary key, gone numeric, grp int not null, val text, pt point, tags int[], body text)
		with (fillfactor = 80, autovacuum_enabled = false, toast.autovacuum_enabled = false);
	alter table t alter body set storage external;
	create index t_grp on t (grp);
	create index t_hash on t using hash (grp);
	create index t_gist on t using gist (pt);
	create index t_spgist on t using spgist (pt);
	create index t_gin on t using gin (tags);
	create index t_brin on t using brin (id);
	create table p (k int, id int, primary key (k, id)) partition by list (k);
	create table p1 partition of p for values in (1) with (autovacuum_enabled = false);
	create table p2 partition of p for values in (2) with (autovacuum_enabled = false);
	create sequence s;
	create table quiet (id int primary key, note text) with (autovacuum_enabled = false);
`

// load fills the tables. The column is dropped when half of the rows have it.
const load = `
	insert into t select i, i, i % 50, 'v' || i, point(i % 97, i % 89), array[i % 7, i % 11],
		case when i % 25 = 0 then repeat(md5(i::text), 150) end from generate_series(1, 1500) i;
	alter table t drop column gone;
	insert into t select i, i % 50, 'v' || i, point(i % 97, i % 89), array[i % 7, i % 11],
		case when i % 25 = 0 then repeat(md5(i::text), 150) end from generate_series(1501, 2500) i;
	insert into p select 1 + i % 2, i from generate_series(1, 800) i;
	insert into quiet select i, 'quiet ' || i from generate_series(1, 3000) i;
	select nextval('s') from generate_series(1, 40);
`

// A worker is a session that works on t.
type worker struct {
	t    testing.TB
	conn *pgx.Conn
}

func newWorker(c *pgtest.Cluster, t testing.TB) worker {
	return worker{t, c.Connect("postgres")}
}

func (w worker) do(format string, args ...any) {
	w.t.Helper()
	pgtest.Exec(w.t, w.conn, fmt.Sprintf(format, args...))
}

// work leaves what a page can hold: updates of both kinds, aborted ones,
// subtransactions, locks, multixacts with and without an updater. An old
// snapshot keeps the server from pruning it away.
func work(t testing.TB, c *pgtest.Cluster) {
	snapshot := newWorker(c, t)
	snapshot.do("begin isolation level repeatable read; select count(*) from p")
	w := newWorker(c, t)
	for round := range 4 {
		w.do("update t set val = val || 'u%d' where id %% 9 = %d", round, round)
		w.do("begin; update t set val = 'lost' where id %% 13 = %d; insert into t(id, grp) select i, 1 from generate_series(90000, 90040) i; rollback", round)
		w.do("update t set grp = grp + 1 where id %% 17 = %d", round)
		w.do("delete from t where id %% 101 = %d", round)
		w.do("begin; delete from t where id %% 103 = %d; rollback", round)
		w.do("update p set k = 3 - k where id %% 11 = %d", round)
		w.do("begin; update p set k = 3 - k where id %% 7 = %d; rollback", round)
		subtransactions(w, round)
		multixacts(w, newWorker(c, t), newWorker(c, t), round)
	}
	w.do("update t set body = repeat(md5(id::text || 'x'), 120) where id %% 75 = 0")
	w.do("begin; update t set body = repeat('lost', 2000) where id %% 50 = 0; rollback")
}

func subtransactions(w worker, round int) {
	var sql strings.Builder
	fmt.Fprintf(&sql, "begin; insert into t(id, grp, val) values (%d, 1, 'outer')", 10000+round)
	for i := range 8 {
		id := 20000 + round*100 + i
		fmt.Fprintf(&sql, "; savepoint a; insert into t(id, grp, val) values (%d, 2, 'sub'); update t set val = 'sub%d' where id = %d", id, i, i*31+round)
		if i%3 == 0 {
			sql.WriteString("; rollback to a")
		}
		if i%3 == 1 {
			fmt.Fprintf(&sql, "; savepoint b; update t set val = 'deeper' where id = %d; release b", i*37+round)
		}
	}
	w.do("%s; %s", sql.String(), []string{"commit", "rollback"}[round%2])
}

// multixacts locks rows in two sessions while a third updates them, and lets
// updaters and lockers end in every order.
func multixacts(a, b, c worker, round int) {
	rows := fmt.Sprintf("id between %d and %d", 300+round*100, 340+round*100)
	a.do("begin; select 1 from t where %s for key share", rows)
	b.do("begin; select 1 from t where %s for key share", rows)
	c.do("begin; savepoint s; update t set val = val || 'm%d' where %s and id %% 2 = 0; %s", round, rows, []string{"release s", "rollback to s"}[round/2])
	a.do("%s", []string{"commit", "rollback"}[round%2])
	c.do("%s", []string{"commit", "commit", "rollback", "commit"}[round])
	b.do("update t set val = val || 'n' where %s and id %% 3 = 0; commit", rows)
}

// interrupt leaves transactions that never end: one prepared, one open with
// subtransactions and locks, all of it on disk when the server crashes.
func interrupt(t testing.TB, c *pgtest.Cluster) {
	prepared, open, other := newWorker(c, t), newWorker(c, t), newWorker(c, t)
	prepared.do("begin; update t set val = 'prepared' where id %% 211 = 5; insert into t(id, grp) values (80000, 1); prepare transaction 'p'")
	open.do("begin; update t set val = 'open' where id %% 19 = 3; savepoint a; delete from t where id %% 23 = 3; savepoint b; insert into t(id, grp) select i, 1 from generate_series(70000, 70050) i; update p set k = 3 - k where id %% 5 = 0")
	other.do("begin; select 1 from t where id between 900 and 950 and id %% 19 <> 3 and id %% 23 <> 3 and id %% 211 <> 5 for no key update; checkpoint")
	c.Stop(pgtest.Immediate)
}
