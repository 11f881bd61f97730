package tests

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/fukanchik/pg0/tests/pbwriter"
	"github.com/fukanchik/pg0/tests/pgtest"
	"github.com/fukanchik/pg0/tests/program"
)

// A site is a cluster in production: its directory, all that it names outside,
// and the catalog that it is backed up into.
type site struct {
	t       *testing.T
	server  *pgtest.Cluster
	catalog *pbwriter.Catalog
	outside string // everything here is writable for the user of the test
	pg0     *program.Program
	full    *pbwriter.Written
}

// oddName is as odd as the name of a tablespace's directory can be.
const oddName = `odd "name" $HOME %f \n\`

// newSite starts a cluster whose settings are above those of any default, with a
// tablespace, and takes a full backup while an external directory and settings
// that name paths outside are there.
func newSite(t *testing.T) *site {
	server := pgtest.New(t, pgtest.Options{})
	s := &site{t: t, server: server, catalog: pbwriter.Of(t, server), outside: filepath.Join(server.TempDir(), "outside"), pg0: program.New(t)}
	for _, dir := range []string{oddName, "new", "dropped", "moved", "external", "log", "inc.d"} {
		if err := os.MkdirAll(filepath.Join(s.outside, dir), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	server.Options.Settings = s.catalog.ArchiveSettings(pbwriter.GZ)
	for name, value := range map[string]string{
		"max_connections": "500", "max_prepared_transactions": "50", "max_locks_per_transaction": "256", "max_worker_processes": "32",
		"max_wal_senders": "20", "wal_level": "logical", "track_commit_timestamp": "on", "wal_log_hints": "on", "allow_in_place_tablespaces": "on",
	} {
		server.Options.Settings[name] = value
	}
	s.full = s.backUp()
	return s
}

// backUp takes the full backup.
func (s *site) backUp() *pbwriter.Written {
	s.server.Start()
	s.exec("postgres",
		"create tablespace odd location '"+s.path(oddName)+"'",
		"create tablespace inplace location ''",
		"create table t (id int primary key, note text)",
		"create table odd_t (id int primary key) tablespace odd",
		"create table inplace_t (id int) tablespace inplace",
		"insert into t select g, 'first' from generate_series(1, 500) g",
		"insert into odd_t select generate_series(1, 300); insert into inplace_t select generate_series(1, 7)",
	)
	conf := filepath.Join(s.server.Dir, "postgresql.conf")
	before, err := os.ReadFile(conf)
	s.check(err)
	touch := func(name string) string { return "'touch " + s.path(name) + "; false'" }
	text := fmt.Sprintf(`
archive_mode = always
archive_command = %s
restore_command = %s
archive_cleanup_command = %s
recovery_end_command = %s
log_directory = '%[5]s/log'
logging_collector = on
external_pid_file = '%[5]s/pid'
unix_socket_directories = '%[5]s'
hba_file = '%[5]s/hba'
ident_file = '%[5]s/ident'
ssl_key_file = '%[5]s/key'
dynamic_library_path = '%[5]s'
session_preload_libraries = '%[5]s/library'
temp_tablespaces = odd
primary_conninfo = 'host=%[5]s'
recovery_target = 'immediate'
include_dir = '%[5]s/inc.d'
include 'other.conf'
`, touch("archived"), touch("restored"), touch("cleaned"), touch("ended"), s.outside)
	s.check(os.WriteFile(conf, append(before, text...), 0o600))
	s.check(os.WriteFile(s.path("external/file"), []byte("external"), 0o600))
	s.check(os.WriteFile(s.path("hba"), []byte("local all all reject\n"), 0o600))
	s.check(os.WriteFile(s.path("inc.d/a.conf"), []byte("log_directory = '/nonexistent'\n"), 0o600))
	s.check(os.WriteFile(filepath.Join(s.server.Dir, "other.conf"), []byte("external_pid_file = '"+s.path("pid2")+"'\n"), 0o600))
	full := s.catalog.Hot(s.server, pbwriter.Backup{Compress: pbwriter.Zlib, Externals: []string{s.path("external")}, Note: "it's the full one"}, nil)
	s.check(os.WriteFile(conf, before, 0o600))
	return full
}

func (s *site) path(name string) string { return filepath.Join(s.outside, name) }

func (s *site) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// exec runs statements, each in a transaction of its own.
func (s *site) exec(database string, statements ...string) {
	s.t.Helper()
	conn := s.server.Connect(database)
	defer s.server.Close(conn)
	for _, sql := range statements {
		pgtest.Exec(s.t, conn, sql)
	}
}

// stop stops the server, which archives all of its WAL.
func (s *site) stop() { s.server.Stop(pgtest.Fast) }

// a mark is what changes when a file or directory is changed in any way.
type mark struct {
	Mode         uint32
	Size         int64
	Mtime, Ctime syscall.Timespec
}

// marks are those of everything that recovery could reach of production, and of
// the catalog.
func (s *site) marks() map[string]mark {
	s.t.Helper()
	all := map[string]mark{}
	for _, dir := range []string{s.outside, s.server.Dir, s.catalog.Dir} {
		s.check(filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err == nil {
				stat := info.Sys().(*syscall.Stat_t)
				all[name] = mark{stat.Mode, stat.Size, stat.Mtim, stat.Ctim}
			}
			return err
		}))
	}
	return all
}

// mount mounts a moment, starts a server on it, and looks that nothing outside
// has changed.
func (s *site) mount(args ...string) (conn *pgx.Conn, said string) {
	s.t.Helper()
	before := s.marks()
	mountpoint := s.pg0.Mountpoint()
	r := s.pg0.Run(append(append([]string{"mount", "--start", "-B", s.catalog.Dir}, args...), mountpoint)...)
	if r.Code != 0 {
		s.t.Fatalf("pg0 mount %s: exit %d: %s", strings.Join(args, " "), r.Code, r.Stderr)
	}
	conn = s.pg0.Connect(mountpoint, "postgres")
	checkLog(s.t, s.pg0, mountpoint)
	if diff := cmp.Diff(before, s.marks()); diff != "" {
		s.t.Errorf("pg0 mount %s touched what is not its own: %s", strings.Join(args, " "), diff)
	}
	return conn, r.Stdout
}

// want compares the answer to a query.
func (s *site) want(conn *pgx.Conn, sql string, want ...string) {
	s.t.Helper()
	var got []string
	for _, row := range pgtest.Query(s.t, conn, sql) {
		got = append(got, strings.Join(row, "|"))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		s.t.Errorf("%s (-want +got):\n%s", sql, diff)
	}
}

// TestMountInside recovers past everything in WAL and settings that names a path
// outside of the cluster, while these paths are there, writable and watched; and
// past prepared transactions, on a cluster whose limits are far above the usual.
func TestMountInside(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.exec("postgres",
		"create tablespace new location '"+s.path("new")+"'",
		"create tablespace dropped location '"+s.path("dropped")+"'",
		"create tablespace moved location '"+s.path("moved")+"'",
		"create table new_t (id int primary key) tablespace new; insert into new_t select generate_series(1, 1000)",
		"create table gone (id int) tablespace dropped; insert into gone values (1)",
		"drop table gone", "drop tablespace dropped",
		"alter table odd_t set tablespace moved",
		"create database d tablespace new",
		"create database f tablespace moved strategy file_copy",
		"update t set note = 'second' where id <= 250",
		"begin; update t set note = 'prepared' where id > 490; insert into t values (1000, 'prepared'); prepare transaction 'it''s pending'",
		"select pg_create_restore_point('it''s a mark')",
		"update t set note = 'third' where id <= 490",
	)
	s.exec("d", "create table in_d (id int); insert into in_d values (42)")
	s.stop()

	conn, said := s.mount("--recovery-target-name=it's a mark")
	s.want(conn, "select note, count(*) from t group by 1 order by 1", "first|250", "second|250")
	s.want(conn, "select count(*), sum(id) from new_t", "1000|500500")
	s.want(conn, "select count(*), sum(id) from odd_t", "300|45150")
	s.want(conn, "select sum(id) from inplace_t", "28")
	s.want(conn, "select spcname from pg_tablespace where spcname !~ '^pg_' order by 1", "inplace", "moved", "new", "odd")
	s.want(conn, "select datname from pg_database where datname in ('d', 'f') order by 1", "d", "f")
	s.want(conn, "select gid from pg_prepared_xacts", "it's pending")
	for _, part := range []string{"it's pending", s.path("new"), s.path("moved"), "external directories are left out: " + s.path("external")} {
		if !strings.Contains(said, part) {
			t.Errorf("mount does not mention %q:\n%s", part, said)
		}
	}
	// What is written on the mount stays there as well.
	pgtest.Exec(t, conn, "insert into new_t select generate_series(1001, 2000); create table anew (id int) tablespace moved; drop table odd_t; checkpoint")
	s.checkDonor()
}

// checkDonor takes a table with rows of a prepared transaction into the full
// backup: they must not show, and the plan names the transaction.
func (s *site) checkDonor() {
	s.t.Helper()
	before := s.marks()
	spec := filepath.Join(s.t.TempDir(), "tables.toml")
	s.check(os.WriteFile(spec, fmt.Appendf(nil, `version = 1
[sources.s]
format = "probackup"
path = %q
[points]
full = { source = "s", at = %q }
mark = { source = "s", at = "name:it's a mark" }
[base]
point = "full"
[[relation]]
name = "postgres.public.t"
from = "mark"
[[relation]]
name = "postgres.public.*"
from = "mark"
as = "mark.*"
except = ["postgres.public.anew"]
`, s.catalog.Dir, s.full.ID), 0o600))
	mountpoint := s.pg0.Mountpoint()
	plan := s.pg0.Must("frankenstein", "--start", "--map", spec, mountpoint)
	if !strings.Contains(plan, `point mark: prepared transaction "it's pending" of database postgres is open: its rows are not visible`) {
		s.t.Errorf("the plan does not name the prepared transaction:\n%s", plan)
	}
	conn := s.pg0.Connect(mountpoint, "postgres")
	s.want(conn, "select note, count(*) from t group by 1 order by 1", "first|250", "second|250")
	s.want(conn, "select count(*) from pg_prepared_xacts", "0")
	s.want(conn, "select sum(id) from mark.new_t", "500500")
	s.want(conn, "select sum(id) from mark.odd_t", "45150")
	s.want(conn, "select count(*) from odd_t", "300")
	if diff := cmp.Diff(before, s.marks()); diff != "" {
		s.t.Errorf("the mix touched what is not its own: %s", diff)
	}
	amcheckDatabase(s.t, s.pg0, mountpoint, "postgres")
}

// TestMountTimelines follows a cluster that became a standby, was backed up as
// one, was promoted, and was backed up again on its new timeline.
func TestMountTimelines(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	// A checkpoint that is not the last record: the standby's backup begins there.
	s.exec("postgres", "update t set note = 'second'", "select pg_create_restore_point('one')", "checkpoint", "insert into inplace_t values (8)")
	s.server.Stop(pgtest.Immediate)

	s.server.Options.Settings["restore_command"] = fmt.Sprintf(`gunzip -c "%s/%%f.gz" > "%%p" 2>/dev/null || cp "%s/%%f" "%%p"`, s.catalog.WALDir(), s.catalog.WALDir())
	s.check(os.WriteFile(filepath.Join(s.server.Dir, "standby.signal"), nil, 0o600))
	s.server.Start()
	standby := s.catalog.Hot(s.server, pbwriter.Backup{Replica: true}, nil)
	s.server.Query("postgres", "select pg_promote()")
	s.exec("postgres", "update t set note = 'third'", "checkpoint")
	delta := s.catalog.Hot(s.server, pbwriter.Backup{Mode: "DELTA", Parent: s.full.ID, Compress: pbwriter.PGLZ, Externals: []string{s.path("external")}}, nil)
	s.exec("postgres", "update t set note = 'fourth'", "select pg_create_restore_point('two')", "update t set note = 'fifth'")
	s.stop()

	for _, test := range []struct {
		note, backup string
		args         []string
	}{
		{"second", standby.ID, []string{"-i", standby.ID}},
		{"second", standby.ID, []string{"--recovery-target-name=one", "--recovery-target-timeline=1"}},
		{"third", delta.ID, []string{"-i", delta.ID}},
		{"fourth", delta.ID, []string{"--recovery-target-name=two"}},
		{"fourth", s.full.ID, []string{"-i", s.full.ID, "--recovery-target-name=two", "--recovery-target-timeline=2"}},
		{"fifth", delta.ID, nil},
		{"fifth", standby.ID, []string{"-i", standby.ID, "--recovery-target=latest", "--recovery-target-timeline=latest"}},
	} {
		conn, _ := s.mount(test.args...)
		s.want(conn, "select note, count(*) from t group by 1", test.note+"|500")
		s.check(conn.Close(t.Context()))
	}
	points := s.pg0.Must("points", "-B", s.catalog.Dir, "-v")
	for _, part := range []string{"a standby", "it's the full one"} {
		if !strings.Contains(points, part) {
			t.Errorf("pg0 points -v does not say %q:\n%s", part, points)
		}
	}
	s.checkVerified(delta, standby)
}

// checkVerified: all of it is sound.
func (s *site) checkVerified(backups ...*pbwriter.Written) {
	s.t.Helper()
	said := s.pg0.Must("verify", "-B", s.catalog.Dir, "--all")
	if !strings.Contains(said, "no damage") || slices.ContainsFunc(backups, func(w *pbwriter.Written) bool { return !strings.Contains(said, w.ID) }) {
		s.t.Errorf("verify says: %s", said)
	}
}
