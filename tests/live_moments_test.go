package tests

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fukanchik/pg0/tests/fixture"
	"github.com/fukanchik/pg0/tests/pgtest"
	"github.com/fukanchik/pg0/tests/program"
)

// TestMountLiveBesideBackup finds by one query which rows of a backup production
// has lost since, and brings them back: with copied rows, and with a foreign
// table that may be written. Production is the cluster of the fixture at its
// latest point.
func TestMountLiveBesideBackup(t *testing.T) {
	for _, w := range []world{worlds[0], worlds[2]} {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			checkBesideBackup(t, w)
		})
	}
}

func checkBesideBackup(t *testing.T, w world) {
	const table = "public.orders"
	p := shared(t)
	production := p.Mountpoint()
	points := backups(w, t)
	monday, last := points[0], points[len(points)-1]
	p.Must(append([]string{"mount", "-i", backupID(last), production, "--start", "--rollback-prepared"}, w.source(t)...)...)
	server := p.Status(production).Server
	now := program.Dial(t, server.SocketDir, server.Port, server.Role, "shop")
	const lost = 7
	pgtest.Exec(t, now, fmt.Sprintf("set session_replication_role = replica; delete from %[1]s where ctid in (select ctid from %[1]s order by id limit %[2]d)", table, lost))

	spec := writeSpec(t, fmt.Sprintf(`[sources.s]
format = "probackup"
path = %q
instance = %q
[sources.prod]
format = "live"
dsn = "host=%s port=%d user=%s dbname=shop"
[points]
monday = { source = "s", at = %q }
last = { source = "s", at = %q }
prod = { source = "prod", at = "now" }
[base]
point = "last"
[[relation]]
name = "shop.%[8]s"
from = "monday"
as = "monday.*"
[[relation]]
name = "shop.%[8]s"
from = "prod"
as = "now.*"
[[relation]]
name = "shop.%[8]s"
from = "prod"
as = "asked.*"
via = "fdw"
writable = true
`, fixture.Unpack(t, w.catalog), w.catalog.Instance, server.SocketDir, server.Port, server.Role, backupID(monday), backupID(last), table))
	mix := p.Mountpoint()
	args := []string{"frankenstein", "--start", "--rollback-prepared", "--map", spec, mix}
	if w.bindir != "" {
		// Its server comes without postgres_fdw.
		text, err := os.ReadFile(spec)
		if err != nil {
			t.Fatal(err)
		}
		text = text[:bytes.LastIndex(text, []byte("[[relation]]"))]
		if err := os.WriteFile(spec, text, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--pg-bindir", w.bindir)
	}
	p.Must(args...)
	conn := p.Connect(mix, "shop")
	want, err := program.TableSum(now, "public", "orders")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := program.TableSum(conn, "now", "orders"); err != nil || got != want {
		t.Errorf("now.orders: %+v, %v; production has %+v", got, err, want)
	}
	if got, err := program.TableSum(conn, "monday", "orders"); err != nil || got != monday.Tables["shop"][table] {
		t.Errorf("monday.orders: %+v, %v; monday had %+v", got, err, monday.Tables["shop"][table])
	}
	const missing = "select id from monday.orders except select id from now.orders"
	gone := fmt.Sprint(pgtest.Query(t, conn, "select count(*) from ("+missing+") x"))
	if gone == "[[0]]" {
		t.Errorf("%s rows of monday are lost", gone)
	}
	if w.bindir == "" {
		pgtest.Exec(t, conn, "set session_replication_role = replica; insert into asked.orders overriding system value select * from public.orders where id in ("+missing+")")
		if got := pgtest.Query(t, now, "select count(*) from public.orders")[0][0]; fmt.Sprintf("%d", want.Rows) == got {
			t.Errorf("production has %s rows after they were brought back", got)
		}
	}
}

// TestMountLiveOtherCluster refuses a server of another cluster before anything
// is read there.
func TestMountLiveOtherCluster(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{})
	c.Start()
	spec := writeSpec(t, liveSource(c, "sql"), fmt.Sprintf(`[sources.s]
format = "probackup"
path = %q
instance = "shop"
[points]
old = { source = "s", at = "latest" }
prod = { source = "prod", at = "now" }
[base]
point = "old"
[[relation]]
name = "shop.public.orders"
from = "prod"
`, fixture.Shop(t)))
	r := program.New(t).Run("frankenstein", "--map", spec, "--dry-run")
	if r.Code != 4 || !strings.Contains(r.Stderr, "system identifier") || strings.Contains(r.Stderr, "reads ") {
		t.Errorf("exit %d: %s", r.Code, r.Stderr)
	}
}

// TestMountLiveTorn tears pages of the copy that were changed after they were
// copied: recovery makes them whole from the images in WAL.
func TestMountLiveTorn(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{})
	c.Start()
	c.Exec("postgres", "create table t(n int, x text); insert into t select i, repeat('x', 100) from generate_series(1, 20000) i; create table u as select i, repeat('y', 500) y from generate_series(1, 80000) i")
	file := c.Query("postgres", "select pg_relation_filepath('t')")[0][0]
	spec := writeSpec(t, liveSource(c, "pgdata", `rate = "12MB/s"`, "connections = 1"), `[points]
base = { source = "prod", at = "now" }
[base]
point = "base"
`)
	p := program.New(t)
	mountpoint := p.Mountpoint()
	cmd := p.Command(context.Background(), "frankenstein", "--start", "--map", spec, mountpoint)
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	copied := awaitCopy(t, c, filepath.Join(p.State, "pg0", "live", "*", "*.tmp", "data", file))
	c.Exec("postgres", "update t set n = n + 1; checkpoint")
	tearPages(t, copied)
	if _, err := os.Stat(copied); err != nil {
		t.Fatal("the copy ended too soon", err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err, said.String())
	}
	conn := p.Connect(mountpoint, "postgres")
	if got := fmt.Sprint(pgtest.Query(t, conn, "select count(*), sum(n), min(length(x)) from t")); got != "[[20000 200030000 100]]" {
		t.Error(got)
	}
	pgtest.Exec(t, conn, "create extension amcheck")
	if rows := pgtest.Query(t, conn, "select count(*) from verify_heapam('t')"); rows[0][0] != "0" {
		t.Errorf("verify_heapam: %v", rows)
	}
}

// awaitCopy waits until the copy of a file is as long as the file.
func awaitCopy(t *testing.T, c *pgtest.Cluster, pattern string) string {
	t.Helper()
	base := pattern[strings.Index(pattern, "/data/")+len("/data/"):]
	want, err := os.Stat(filepath.Join(c.Dir, base))
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 60000 {
		<-tick.C
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		if len(names) == 1 {
			if info, err := os.Stat(names[0]); err == nil && info.Size() == want.Size() {
				return names[0]
			}
		}
	}
	t.Fatal("the file is never copied")
	return ""
}

// tearPages overwrites the second half of every page.
func tearPages(t *testing.T, name string) {
	t.Helper()
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	for at := int64(4096); at < info.Size(); at += 8192 {
		if _, err := file.WriteAt(bytes.Repeat([]byte{0xA5}, 4096), at); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMountLiveStandby takes a point of a standby, while its primary is busy.
func TestMountLiveStandby(t *testing.T) {
	t.Parallel()
	primary := production(t, pgtest.Options{})
	dir := filepath.Join(primary.TempDir(), "standby")
	primary.Run("pg_basebackup", "-D", dir, "-R", "-c", "fast", "-X", "stream")
	standby := pgtest.At(t, dir, pgtest.Options{Settings: map[string]string{"hot_standby": "on"}})
	standby.Start()
	load := primary.Command("pgbench", "-n", "-c", "2", "-R", "100", "-T", "600", "shop")
	if err := load.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = load.Process.Kill(); _ = load.Wait() }()
	primary.Exec("postgres", "checkpoint") // a backup on a standby begins with a restart point
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			p := program.New(t)
			mountpoint := p.Mountpoint()
			spec := writeSpec(t, liveSource(standby, transport), `[points]
base = { source = "prod", at = "now" }
[base]
point = "base"
take = ["shop.public.*"]
`)
			p.Must("frankenstein", "--start", "--map", spec, mountpoint)
			var a, b, tl, h int64
			if err := p.Connect(mountpoint, "shop").QueryRow(context.Background(), balances).Scan(&a, &b, &tl, &h); err != nil {
				t.Fatal(err)
			}
			if a != b || a != tl || a != h || a == 0 {
				t.Errorf("balances %d %d %d %d", a, b, tl, h)
			}
		})
	}
}
