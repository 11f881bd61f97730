package tests

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fukanchik/pg0/tests/pgtest"
	"github.com/fukanchik/pg0/tests/program"
)

// loop runs statements on a server again and again until the test ends.
func loop(t *testing.T, c *pgtest.Cluster, database string, statements ...string) {
	t.Helper()
	conn := c.Connect(database)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		for n := 0; ctx.Err() == nil; n++ {
			for _, sql := range statements {
				if _, err := conn.Exec(context.Background(), strings.ReplaceAll(sql, "$n", fmt.Sprint(n)), pgx.QueryExecModeSimpleProtocol); err != nil {
					ended <- fmt.Errorf("%s: %w", sql, err)
					return
				}
			}
		}
		ended <- nil
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

const twoTables = `[points]
base = { source = "prod", at = "now" }
prod = { source = "prod", at = "now" }
[base]
point = "base"
take = ["shop.public.fixed"]
[[relation]]
name = "shop.public.?"
from = "prod"
`

// TestMountLiveRewritten takes tables that get new files all the time.
func TestMountLiveRewritten(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{})
	c.Start()
	c.Exec("postgres", "create database shop")
	c.Exec("shop", `create table fixed(n int); create table a(n int, t text); create table b(n int primary key, m int); create table c(n int); create table filler(t text);
insert into filler select repeat(md5(i::text), 50) from generate_series(1, 5000) i;
insert into a select 0, repeat('x', 3000) from generate_series(1, 200); insert into b select i, 0 from generate_series(1, 200) i`)
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			loop(t, c, "shop",
				"begin; truncate a, b; insert into a select $n, repeat('x', 3000) from generate_series(1, 200); insert into b select i, $n from generate_series(1, 200) i; commit",
				"vacuum full a", "insert into c select i from generate_series(1, 20000) i", "reindex table b", "delete from c", "vacuum c", "vacuum full pg_class", "create table passing$n as select 1 as n; drop table passing$n", "select pg_sleep(0.03)")
			spec := writeSpec(t, liveSource(c, transport, `rate = "10MB/s"`), twoTables)
			p := program.New(t)
			mountpoint := p.Mountpoint()
			p.Must("frankenstein", "--start", "--map", spec, mountpoint)
			conn := p.Connect(mountpoint, "shop")
			got := pgtest.Query(t, conn, `select count(*), min(n) = max(n), (select count(*) from b), min(n) = (select min(m) from b), max(n) = (select max(m) from b) from a`)
			if text := fmt.Sprint(got); text != "[[200 t 200 t t]]" {
				t.Errorf("a and b are not of one moment: %s", text)
			}
			// Vacuum gives the pages of c back, and the next rows make new ones.
			if rows := fmt.Sprint(pgtest.Query(t, conn, "select count(*) from c")); rows != "[[0]]" && rows != "[[20000]]" {
				t.Errorf("c has %s rows", rows)
			}
			pgtest.Exec(t, conn, "create extension amcheck; select bt_index_check('b_pkey', true)")
		})
	}
}

// TestMountLiveTablespace takes a table of a tablespace beside one that is not
// taken.
func TestMountLiveTablespace(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{})
	c.Start()
	c.Exec("postgres", "create database shop")
	c.Exec("postgres", fmt.Sprintf("create tablespace side location '%s'", c.TempDir()))
	c.Exec("shop", "create table fixed(n int); create table a(n int primary key) tablespace side; insert into a select generate_series(1, 1000); create table hidden tablespace side as select 1 as n")
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			spec := writeSpec(t, liveSource(c, transport), `[points]
base = { source = "prod", at = "now" }
[base]
point = "base"
take = ["shop.public.a"]
`)
			p := program.New(t)
			mountpoint := p.Mountpoint()
			p.Must("frankenstein", "--start", "--map", spec, mountpoint)
			conn := p.Connect(mountpoint, "shop")
			if got := fmt.Sprint(pgtest.Query(t, conn, "select count(*), sum(n) from a")); got != "[[1000 500500]]" {
				t.Error(got)
			}
			if _, err := conn.Exec(context.Background(), "select * from hidden"); err == nil || !strings.Contains(err.Error(), "could not open file") {
				t.Errorf("a table that was not taken: %v", err)
			}
		})
	}
}

// TestMountLiveRole takes a point as a role that has exactly what the refusals
// ask for, with a password that appears nowhere.
func TestMountLiveRole(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{Settings: map[string]string{"listen_addresses": "127.0.0.1", "port": fmt.Sprint(freePort(t))}})
	hba := "local all postgres trust\nlocal all all scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\n"
	if err := os.WriteFile(filepath.Join(c.Dir, "pg_hba.conf"), []byte(hba), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Start()
	port, err := strconv.Atoi(c.Options.Settings["port"])
	if err != nil {
		t.Fatal(err)
	}
	admin := program.Dial(t, c.SocketDir, port, "postgres", "postgres")
	const password = "vErysEcret7"
	pgtest.Exec(t, admin, "create role copier login password '"+password+"'; create table t as select 1 as n; grant select on t to copier")
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	spec := writeSpec(t, fmt.Sprintf(`[sources.prod]
format = "live"
dsn = "host=127.0.0.1 port=%s user=copier dbname=postgres"
password_command = "cat %s"
[points]
base = { source = "prod", at = "now" }
[base]
point = "base"
[[relation]]
name = "postgres.public.t"
from = "base"
as = "asked.t"
via = "fdw"
`, c.Options.Settings["port"], secret))
	p := program.New(t)
	mountpoint := p.Mountpoint()
	refused := p.Run("frankenstein", "--start", "--map", spec, mountpoint)
	_, mend, _ := strings.Cut(strings.TrimSpace(refused.Stderr), "mends it there with: ")
	if refused.Code != 4 || strings.Count(mend, "GRANT EXECUTE") != 5 || !strings.Contains(mend, "REPLICATION") {
		t.Fatalf("a role without grants: %d %s", refused.Code, refused.Stderr)
	}
	for _, sql := range strings.Split(mend, "; ") {
		pgtest.Exec(t, admin, sql)
	}
	refused = p.Run("frankenstein", "--start", "--map", spec, mountpoint)
	_, line, _ := strings.Cut(refused.Stderr, `by the line "`)
	line, mend, _ = strings.Cut(line, `", and then: `)
	if refused.Code != 4 || !strings.Contains(line, "replication") {
		t.Fatalf("a role without a replication connection: %d %s", refused.Code, refused.Stderr)
	}
	if err := os.WriteFile(filepath.Join(c.Dir, "pg_hba.conf"), []byte(hba+line+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, admin, mend)
	r := p.Run("-v", "frankenstein", "--start", "--map", spec, mountpoint)
	if r.Code != 0 {
		t.Fatal(r.Stderr)
	}
	status := p.Run("status", "--json", mountpoint)
	conn := p.Connect(mountpoint, "postgres")
	if got := fmt.Sprint(pgtest.Query(t, conn, "select t.n, a.n from t, asked.t a")); got != "[[1 1]]" {
		t.Error(got)
	}
	pgtest.Exec(t, conn, "create role other login")
	other := program.Dial(t, p.Status(mountpoint).Server.SocketDir, p.Status(mountpoint).Server.Port, "other", "postgres")
	var seen string
	if err := other.QueryRow(context.Background(), "select coalesce(string_agg(umoptions::text, ','), '') from pg_user_mappings").Scan(&seen); err != nil || seen != "" {
		t.Errorf("another role sees %q, %v", seen, err)
	}
	for _, text := range []string{r.Stdout, r.Stderr, status.Stdout, refused.Stderr} {
		if strings.Contains(text, password) {
			t.Errorf("the password is printed: %s", text)
		}
	}
	if out, err := exec.Command("grep", "-rl", "--include=*.json", "--include=*log*", password, p.State).CombinedOutput(); len(out) > 0 {
		t.Errorf("the password is in %s (%v)", out, err)
	}
}

// TestMountLiveKilled kills what takes a point, its connection and the server:
// nothing is left, and a second run works.
func TestMountLiveKilled(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{})
	c.Start()
	c.Exec("postgres", "create table t as select n, repeat('x', 500) as t from generate_series(1, 20000) n")
	spec := writeSpec(t, liveSource(c, "sql", `rate = "3MB/s"`), `[points]
base = { source = "prod", at = "now" }
[base]
point = "base"
`)
	fast := writeSpec(t, liveSource(c, "sql"), `[points]
base = { source = "prod", at = "now" }
[base]
point = "base"
`)
	p := program.New(t)
	for _, kill := range []string{"pg0", "connection", "server"} {
		mountpoint := p.Mountpoint()
		cmd := p.Command(context.Background(), "frankenstein", "--map", spec, mountpoint)
		var said strings.Builder
		cmd.Stderr = &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		inBackup(t, c)
		switch kill {
		case "pg0":
			if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		case "connection":
			c.Exec("postgres", "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pg0'")
		case "server":
			c.Stop(pgtest.Immediate)
		}
		err := cmd.Wait()
		if err == nil || kill != "pg0" && !strings.Contains(said.String(), "source prod: ") {
			t.Errorf("%s killed: %v %s", kill, err, said.String())
		}
		if kill == "server" {
			c.Start()
		}
		checkClean(t, c)
	}
	mountpoint := p.Mountpoint()
	p.Must("frankenstein", "--start", "--map", fast, mountpoint)
	if got := fmt.Sprint(pgtest.Query(t, p.Connect(mountpoint, "postgres"), "select count(*) from t")); got != "[[20000]]" {
		t.Error(got)
	}
	if list := p.Must("images"); !strings.Contains(list, "  live  ") || strings.Count(list, "\n") != 3 {
		t.Errorf("images: %s", list)
	}
	p.Must("umount", mountpoint)
	p.Must("images", "prune")
	left, err := filepath.Glob(filepath.Join(p.State, "pg0", "live", "*", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// inBackup waits until files are being copied.
func inBackup(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	conn := c.Connect("postgres")
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		rows := pgtest.Query(t, conn, "select count(*) from pg_stat_activity where application_name = 'pg0' and query ~ 'pg_read_binary_file'")
		if rows[0][0] != "0" {
			c.Close(conn)
			return
		}
	}
	t.Fatal("no point is being taken")
}
