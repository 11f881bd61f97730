//go:build regress

package regress

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fukanchik/pg0/mapping"
	"github.com/fukanchik/pg0/tests/pgtest"
	"github.com/fukanchik/pg0/tests/program"
)

// TestRegressLive takes the database that the suite leaves on a server that
// nobody changes: all of it as the base, every table once more beside that, and
// every table as a foreign table.
func TestRegressLive(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{SegmentMB: 16, InitDB: []string{"--no-locale"}, Settings: settings})
	server.Start()
	runSuite(t, server.SocketDir, 5432, "postgres")
	conn := server.Connect(database)
	pgtest.Exec(t, conn, "set timezone = 'UTC'")
	all, want := tables(t, conn), map[table]string{}
	for _, one := range all {
		want[one] = answer(conn, one)
	}
	for _, transport := range []string{"pgdata", "sql"} {
		m := &liveMix{t: t, pg0: program.New(t), server: server, transport: transport}
		refused := m.show(all)
		m.compare(all, want, refused)
		m.pg0.Must("umount", m.mountpoint)
		m.pg0.Must("images", "prune")
	}
}

// A liveMix shows the tables of a running server in three ways.
type liveMix struct {
	t          *testing.T
	pg0        *program.Program
	server     *pgtest.Cluster
	transport  string
	mountpoint string
}

// in gives the table as the mix calls it where it is shown in a certain way.
func (t table) in(way string) table {
	t.Schema = way + " " + t.Schema
	return t
}

// write makes the mapping file. except are the names of tables that no twin is
// made of.
func (m *liveMix) write(all []table, except []string) string {
	var text strings.Builder
	fmt.Fprintf(&text, "version = 1\n[sources.prod]\nformat = \"live\"\ndsn = \"host=%s port=5432 user=postgres dbname=postgres\"\n", m.server.SocketDir)
	if m.transport == "pgdata" {
		fmt.Fprintf(&text, "pgdata = %q\n", m.server.Dir)
	}
	text.WriteString("[points]\nprod = { source = \"prod\", at = \"now\" }\n[base]\npoint = \"prod\"\n")
	schemas := map[string]bool{}
	for _, one := range all {
		schemas[one.Schema] = true
	}
	for _, schema := range slices.Sorted(maps.Keys(schemas)) {
		name := database + "." + mapping.QuoteIdent(schema) + "."
		fmt.Fprintf(&text, "[[relation]]\nname = '''%s*'''\nfrom = \"prod\"\nas = '''\"copied %s\".*'''\n", name, schema)
		var own []string
		for _, e := range except {
			if strings.HasPrefix(e, name) {
				own = append(own, "'''"+e+"'''")
			}
		}
		fmt.Fprintf(&text, "except = [%s]\n", strings.Join(own, ", "))
		fmt.Fprintf(&text, "[[relation]]\nname = '''%s*'''\nfrom = \"prod\"\nas = '''\"asked %s\".*'''\nvia = \"fdw\"\n", name, schema)
	}
	file := filepath.Join(m.t.TempDir(), "tables.toml")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		m.t.Fatal(err)
	}
	return file
}

// show mounts the mix, without the twins that are refused.
func (m *liveMix) show(all []table) map[table]string {
	m.t.Helper()
	refused := map[table]string{}
	for {
		var except []string
		for one := range refused {
			except = append(except, one.rule())
		}
		slices.Sort(except)
		m.mountpoint = m.pg0.Mountpoint()
		started := time.Now()
		r := m.pg0.Run("frankenstein", "--start", "--set", "max_locks_per_transaction=512", "--map", m.write(all, except), m.mountpoint)
		if r.Code == 0 {
			fmt.Printf("regress: live by %s: %d of %d tables, mounted and started in %.1f s\n", m.transport, len(all)-len(refused), len(all), time.Since(started).Seconds())
			return refused
		}
		before := len(refused)
		for _, one := range all {
			prefix := database + "." + mapping.QuoteIdent(one.in("copied").Schema) + "." + mapping.QuoteIdent(one.Name) + ": "
			for said := range strings.Lines(r.Stderr) {
				if reason, ok := strings.CutPrefix(strings.TrimPrefix(said, "pg0: "), prefix); ok {
					refused[one] = strings.TrimSpace(reason)
				}
			}
		}
		if r.Code != 4 || len(refused) == before {
			m.t.Fatalf("exit code %d\n%.20000s", r.Code, r.Stderr)
		}
	}
}

// compare reads every table in each way.
func (m *liveMix) compare(all []table, want, refused map[table]string) {
	m.t.Helper()
	conn := m.pg0.Connect(m.mountpoint, database)
	pgtest.Exec(m.t, conn, "set timezone = 'UTC'")
	for _, way := range []string{"", "copied", "asked"} {
		equal := 0
		for _, one := range all {
			shown := one
			if way != "" {
				shown = one.in(way)
			}
			if _, no := refused[one]; way == "copied" && no || way != "asked" && one.Persistence == "u" {
				continue
			}
			if got := answer(conn, shown); got != want[one] {
				m.t.Errorf("%s %s: %s, production has %s", m.transport, pgx.Identifier{shown.Schema, shown.Name}.Sanitize(), got, want[one])
				continue
			}
			equal++
		}
		fmt.Printf("regress: live by %s, %q: %d of %d tables are equal\n", m.transport, way, equal, len(all))
	}
	for _, one := range slices.SortedFunc(maps.Keys(refused), func(a, b table) int { return strings.Compare(a.ident(), b.ident()) }) {
		fmt.Printf("regress: live: refused %s: %s\n", one.ident(), refused[one])
	}
}
