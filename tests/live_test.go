package tests

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fukanchik/pg0/tests/pgtest"
	"github.com/fukanchik/pg0/tests/program"
)

// transports are the ways that files of a running server get here.
var transports = []string{"pgdata", "sql"}

// liveSource writes a source of a mapping file for a cluster.
func liveSource(c *pgtest.Cluster, transport string, more ...string) string {
	text := fmt.Sprintf("[sources.prod]\nformat = \"live\"\ndsn = \"host=%s port=5432 user=postgres dbname=postgres\"\n", c.SocketDir)
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
	c.Run("pgbench", "-i", "-q", "-s", "2", "shop")
	return c
}

const balances = `select sum(abalance), (select sum(bbalance) from pgbench_branches), (select sum(tbalance) from pgbench_tellers),
	(select sum(delta) from pgbench_history) from pgbench_accounts`

// TestMountLiveUnderLoad takes a point of a server under pgbench again and
// again: what pgbench keeps equal is equal in each of them.
func TestMountLiveUnderLoad(t *testing.T) {
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
			_ = spec
			load := c.Command("pgbench", "-n", "-c", "4", "-T", "600", "shop")
			if err := load.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = load.Process.Kill(); _ = load.Wait() }()
			other := c.Command("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "shop")
			other.Stdin = strings.NewReader(strings.Repeat("update other set n = n + 1 where n % 17 = 3;\n", 20000))
			if err := other.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = other.Process.Kill(); _ = other.Wait() }()

			p := program.New(t)
			for range 2 {
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
				p.Must("umount", "--force", mountpoint)
			}
		})
	}
}

var _ = exec.Command
