package recovery_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/image"
	"github.com/fukanchik/pg0/cmd/internal/recovery"
	"github.com/fukanchik/pg0/cmd/internal/source"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/tests/pbwriter"
	"github.com/fukanchik/pg0/tests/pgtest"
)

// backUp starts a cluster that archives its WAL into a catalog, and backs it
// up there.
func backUp(t *testing.T, cluster *pgtest.Cluster) *pbwriter.Catalog {
	t.Helper()
	catalog := pbwriter.Of(t, cluster)
	cluster.Options.Settings["archive_mode"] = "on"
	cluster.Options.Settings["archive_command"] = fmt.Sprintf(`cp "%%p" "%s/%%f"`, catalog.WALDir())
	cluster.Start()
	conn := cluster.Connect("postgres")
	start := lsn(t, pgtest.Query(t, conn, "select pg_backup_start('test', true)")[0][0])
	items := catalog.Scan(cluster.Dir)
	stop := pgtest.Query(t, conn, "select lsn, labelfile from pg_backup_stop()")[0]
	items = append(items, pbwriter.File("backup_label", []byte(stop[1])))
	catalog.Write(pbwriter.Backup{StartLSN: start, StopLSN: lsn(t, stop[0])}, items)
	return catalog
}

func lsn(t *testing.T, text string) pg0.LSN {
	t.Helper()
	value, err := pg0.ParseLSN(text)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// shopOf opens a catalog that a test wrote.
func shopOf(t *testing.T, catalog *pbwriter.Catalog) *shop {
	t.Helper()
	dir, err := state.Open(filepath.Join(t.TempDir(), "it's a state"))
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{
		ref:   source.Ref{Format: "probackup", Path: catalog.Dir, Instance: catalog.Instance},
		maker: &recovery.Maker{State: dir, Logger: testLogger(t)},
	}
	if s.catalog, err = s.ref.Open(testLogger(t)); err != nil {
		t.Fatal(err)
	}
	return s
}

// A mark is what nothing but a change of a file or directory changes.
type mark struct {
	Mode         uint32
	Size         int64
	Mtime, Ctime syscall.Timespec
}

// watch gives the marks of a directory and all below it.
func watch(t *testing.T, dir string) map[string]mark {
	t.Helper()
	marks := map[string]mark{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		marks[name] = mark{stat.Mode, stat.Size, stat.Mtim, stat.Ctim}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return marks
}

// TestOddCluster recovers past all that could make recovery touch the original
// machine, or wait for ever: the creation of a tablespace whose original
// directory is there and writable, a prepared transaction that holds locks, a
// superuser that may not log in, nor write, and would load a library that is
// missing.
func TestOddCluster(t *testing.T) {
	cluster := pgtest.New(t, pgtest.Options{Settings: map[string]string{"max_prepared_transactions": "3", "max_connections": "150"}})
	catalog := backUp(t, cluster)
	location := filepath.Join(cluster.TempDir(), "space")
	if err := os.Mkdir(location, 0o750); err != nil {
		t.Fatal(err)
	}
	conn := cluster.Connect("postgres")
	for _, sql := range []string{
		"create tablespace original location '" + location + "'",
		"create table inside (a int) tablespace original; insert into inside select generate_series(1, 1000)",
		"create table locked (a int primary key) partition by range (a); create table leaf partition of locked for values from (1) to (9)",
		"begin; alter table leaf add check (a > 0); create index on leaf (a); prepare transaction 'it''s pending'",
		"create foreign data wrapper w; create server production foreign data wrapper w options (host 'production')",
		"create subscription s connection 'host=production' publication p with (connect = false)",
		"alter role current_user set session_preload_libraries = 'missing_library'",
		"alter role current_user set default_transaction_read_only = on",
		"alter role current_user nologin",
		"select pg_create_restore_point('odd')",
		"select pg_switch_wal()",
	} {
		pgtest.Exec(t, conn, sql) // one session: the last statements keep others out
	}
	cluster.Stop(pgtest.Fast)
	before, beforeCatalog := watch(t, location), watch(t, catalog.Dir)

	s := shopOf(t, catalog)
	made := s.make(t, "name:odd")
	if diff := cmp.Diff(before, watch(t, location)); diff != "" {
		t.Errorf("recovery touched the original tablespace: %s", diff)
	}
	if diff := cmp.Diff(beforeCatalog, watch(t, catalog.Dir)); diff != "" {
		t.Errorf("recovery touched the catalog: %s", diff)
	}
	checkOddMeta(t, made, location)
	server := boot(t, made)
	rows, err := server.Query(context.Background(), "postgres", made.Meta.Role, "select count(*), sum(a) from public.inside")
	if err != nil || rows[0][0] != "1000" || rows[0][1] != "500500" {
		t.Errorf("rows of the table in the tablespace: %q, %v", rows, err)
	}
	if _, err := server.Query(context.Background(), "postgres", made.Meta.Role, "create table public.written (a int)"); err != nil {
		t.Errorf("pg0 itself is kept from writing: %v", err)
	}
	if diff := cmp.Diff(before, watch(t, location)); diff != "" {
		t.Errorf("the server touched the original tablespace: %s", diff)
	}
	checkLeftovers(t, s)
}

func checkOddMeta(t *testing.T, made *image.Image, location string) {
	t.Helper()
	m := made.Meta
	if len(m.Prepared) != 1 || m.Prepared[0].GID != "it's pending" || m.Prepared[0].Database != "postgres" || m.Prepared[0].XID == 0 || m.Prepared[0].Time.IsZero() {
		t.Errorf("prepared transactions %+v", m.Prepared)
	}
	kinds := map[string]string{}
	for _, outside := range m.Outside {
		kinds[outside.Kind] = outside.Name + " " + outside.Detail
	}
	want := map[string]string{
		"foreign server": "production w: host=production", "subscription": "s disabled",
		"setting": "role " + m.Role + " session_preload_libraries=missing_library",
	}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Error(diff)
	}
	notes := strings.Join(m.Notes, "\n")
	for _, part := range []string{location, "may log in"} {
		if !strings.Contains(notes, part) {
			t.Errorf("notes do not mention %q: %s", part, notes)
		}
	}
	defs := made.Defs.Databases["postgres"]
	if defs == nil || len(defs.Indexes) == 0 {
		t.Errorf("no definitions beside the locked table: %s", notes)
	}
	entries, err := made.Tree.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), "PG_15_") {
			t.Errorf("%s is left in the image", entry.Name())
		}
	}
}
