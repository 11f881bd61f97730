//go:build regress

package regress

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fukanchik/pg0/mapping"
	"github.com/fukanchik/pg0/tests/pbwriter"
	"github.com/fukanchik/pg0/tests/pgtest"
	"github.com/fukanchik/pg0/tests/program"
)

const database = "regression"

// A table is a relation that holds rows, by its names.
type table struct{ Schema, Name, Kind, Persistence string }

func (t table) ident() string { return pgx.Identifier{t.Schema, t.Name}.Sanitize() }

// twin is what the mix calls it.
func (t table) twin() table {
	t.Schema = "earlier " + t.Schema
	return t
}

// rule is its name in a mapping file.
func (t table) rule() string {
	return database + "." + mapping.QuoteIdent(t.Schema) + "." + mapping.QuoteIdent(t.Name)
}

// tables lists what a glob would take.
func tables(t *testing.T, conn *pgx.Conn) []table {
	t.Helper()
	rows, err := conn.Query(context.Background(), `select nspname, relname, relkind::text, relpersistence::text from pg_class c join pg_namespace n on n.oid = relnamespace
		where relkind in ('r', 'p', 'm') and relpersistence <> 't' and nspname !~ '^pg_' and nspname <> 'information_schema' order by 1, 2`)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[table])
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// answer is the rows of a table as one sum, or the error that reading them
// gives.
func answer(conn *pgx.Conn, t table, settings ...string) string {
	sum, err := program.TableSum(conn, t.Schema, t.Name, settings...)
	if err != nil {
		_, reason, _ := strings.Cut(err.Error(), ": ")
		return reason
	}
	return fmt.Sprintf("%d rows, %s", sum.Rows, sum.MD5)
}

// adoptAll takes the regression database as a catalog: an earlier point, changes
// to it, and a later point that is the base in which all tables of the earlier
// one are shown beside the own.
func adoptAll(t *testing.T, server *pgtest.Cluster) {
	catalog := pbwriter.Of(t, server)
	conn := server.Connect(database)
	pgtest.Exec(t, conn, "set timezone = 'UTC'")
	all, want := tables(t, conn), map[table]string{}
	for _, one := range all {
		want[one] = answer(conn, one)
	}
	earlier := catalog.Hot(server, pbwriter.Backup{Stream: true, Compress: pbwriter.PGLZ}, nil)
	age(t, conn, all)
	later := catalog.Hot(server, pbwriter.Backup{Stream: true, Mode: "DELTA", Parent: earlier.ID, Compress: pbwriter.Zlib}, nil)
	own := map[table]string{}
	for _, one := range tables(t, conn) {
		own[one] = answer(conn, one)
	}
	server.Close(conn)
	server.Stop(pgtest.Fast)

	m := &mix{t: t, pg0: program.New(t), catalog: catalog, earlier: earlier.ID, later: later.ID}
	m.image()
	refused := m.refusals(all)
	m.report(all, refused)
	mountpoint := m.mount()
	conn = m.pg0.Connect(mountpoint, database)
	equal := 0
	for _, one := range all {
		if _, no := refused[one]; no || one.Persistence == "u" {
			continue
		}
		got, byIndex := answer(conn, one.twin()), answer(conn, one.twin(), "enable_seqscan = off", "enable_bitmapscan = off")
		if got != want[one] || byIndex != want[one] {
			t.Errorf("%s: %s, by index %s, want %s", one.twin().ident(), got, byIndex, want[one])
			continue
		}
		equal++
	}
	for one, sum := range own {
		if got := answer(conn, one); got != sum && one.Persistence != "u" {
			t.Errorf("%s of the base: %s, want %s", one.ident(), got, sum)
		}
	}
	fmt.Printf("regress: %d adopted tables are equal to their point, by sequential scan and by index\n", equal)
	m.check(mountpoint)
	m.pg0.Must("umount", mountpoint)
}

// age changes the database in ways that make the later point's tables unlike
// the earlier's. What something else depends on stays: such errors are meant.
func age(t *testing.T, conn *pgx.Conn, all []table) {
	t.Helper()
	done := 0
	for i, one := range all {
		sql := []string{
			"drop table %s", "alter table %s add column pg0_added int default 7", "truncate %s", "vacuum full %s",
			"delete from %s", "alter table %s rename to pg0_renamed_%d", "analyze %s", "reindex table %s",
		}[i%8]
		sql = strings.Replace(strings.Replace(sql, "%s", one.ident(), 1), "%d", fmt.Sprint(i), 1)
		if _, err := conn.Exec(context.Background(), sql); err == nil {
			done++
		}
	}
	fmt.Printf("regress: %d tables, %d of them changed after the earlier point\n", len(all), done)
	if done < len(all)/2 {
		t.Errorf("only %d of %d tables could be changed", done, len(all))
	}
}

// A mix is the mapping file and what pg0 says of it.
type mix struct {
	t              *testing.T
	pg0            *program.Program
	catalog        *pbwriter.Catalog
	earlier, later string
	spec           string
	plan           struct {
		Grafts []struct {
			Relation, Mode, Kind string
			Rebuild, Drift       []string
		}
		Skipped []struct{ Relation, Reason string }
	}
}

// image makes the images of both points, so that later times are of the mix
// alone.
func (m *mix) image() {
	started := time.Now()
	m.write([]string{"public"}, []string{database + ".public.*"})
	m.pg0.Run("frankenstein", "--dry-run", "--map", m.spec)
	fmt.Printf("regress: two images made in %.1f s\n", time.Since(started).Seconds())
}

func (m *mix) write(schemas, except []string) {
	m.t.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, "version = 1\n[sources.s]\nformat = \"probackup\"\npath = %q\ninstance = %q\n", m.catalog.Dir, m.catalog.Instance)
	fmt.Fprintf(&text, "[points]\nearlier = { source = \"s\", at = %q }\nlater = { source = \"s\", at = %q }\n[base]\npoint = \"later\"\n", m.earlier, m.later)
	for _, schema := range schemas {
		name := database + "." + mapping.QuoteIdent(schema) + "."
		fmt.Fprintf(&text, "[[relation]]\nname = '''%s*'''\nfrom = \"earlier\"\nas = '''\"earlier %s\".*'''\n", name, schema)
		var own []string
		for _, e := range except {
			if strings.HasPrefix(e, name) {
				own = append(own, "'''"+e+"'''")
			}
		}
		if len(own) > 0 {
			fmt.Fprintf(&text, "except = [%s]\n", strings.Join(own, ", "))
		}
	}
	m.spec = filepath.Join(m.t.TempDir(), "tables.toml")
	if err := os.WriteFile(m.spec, []byte(text.String()), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

// refusals takes what is refused out of the rules until nothing is, and gives
// the reasons.
func (m *mix) refusals(all []table) map[table]string {
	m.t.Helper()
	schemas := map[string]bool{}
	for _, one := range all {
		schemas[one.Schema] = true
	}
	refused := map[table]string{}
	for {
		var except []string
		for one := range refused {
			except = append(except, one.rule())
		}
		m.write(slices.Sorted(maps.Keys(schemas)), except)
		started := time.Now()
		r := m.pg0.Run("frankenstein", "--dry-run", "--json", "--map", m.spec)
		if r.Code == 0 {
			fmt.Printf("regress: planned in %.1f s\n", time.Since(started).Seconds())
			if err := json.Unmarshal([]byte(r.Stdout), &m.plan); err != nil {
				m.t.Fatal(err)
			}
			return refused
		}
		before := len(refused)
		for one := range maps.Keys(index(all)) {
			prefix := database + "." + mapping.QuoteIdent(one.twin().Schema) + "." + mapping.QuoteIdent(one.Name) + ": "
			for said := range strings.Lines(r.Stderr) {
				if reason, ok := strings.CutPrefix(strings.TrimPrefix(said, "pg0: "), prefix); ok {
					refused[one] = strings.TrimSpace(reason)
				}
			}
		}
		if r.Code != 4 || len(refused) == before {
			m.t.Fatalf("dry run: exit code %d\n%s", r.Code, r.Stderr)
		}
	}
}

func index(all []table) map[table]bool {
	set := map[table]bool{}
	for _, one := range all {
		set[one] = true
	}
	return set
}

// names stand between a reason's words.
var names = regexp.MustCompile(`"[^"]*"|[a-z_0-9]+\.[a-z_0-9]+|\(?OID \d+\)?|(column|index|domain|enum|type) \S+`)

// report prints the share that is refused or skipped by reason, with an example
// of each.
func (m *mix) report(all []table, refused map[table]string) {
	reasons, example := map[string]int{}, map[string]string{}
	note := func(reason, whole string) {
		reasons[reason]++
		example[reason] = whole
	}
	for one, reason := range refused {
		note("refused: "+names.ReplaceAllString(reason, "$1 ..."), one.ident()+": "+reason)
	}
	for _, s := range m.plan.Skipped {
		note("skipped: "+s.Reason, s.Relation)
	}
	adopted, rebuilt := 0, 0
	for _, g := range m.plan.Grafts {
		if g.Kind != "sequence" {
			adopted++
		}
		rebuilt += len(g.Rebuild)
		for _, d := range g.Drift {
			if strings.HasPrefix(d, "index") {
				fmt.Printf("regress: %s: %s\n", g.Relation, d)
			}
		}
	}
	fmt.Printf("regress: %d of %d tables adopted, %d refused (%.1f %%), %d indexes rebuilt\n",
		adopted, len(all), len(refused), 100*float64(len(refused))/float64(len(all)), rebuilt)
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		fmt.Printf("regress: %4d %s\n             such as %s\n", reasons[reason], reason, example[reason])
	}
}

// mount makes the twins and starts the mix.
func (m *mix) mount() string {
	mountpoint := m.pg0.Mountpoint()
	started := time.Now()
	m.pg0.Must("frankenstein", "--start", "--set", "max_locks_per_transaction=512", "--map", m.spec, mountpoint)
	fmt.Printf("regress: twins made, mix mounted and started in %.1f s\n", time.Since(started).Seconds())
	return mountpoint
}

// check runs amcheck on the twins.
func (m *mix) check(mountpoint string) {
	m.t.Helper()
	s := m.pg0.Status(mountpoint).Server
	out, err := exec.Command(filepath.Join(pgtest.Bin(m.t, 15), "pg_amcheck"), "-h", s.SocketDir, "-p", fmt.Sprint(s.Port), "-U", s.Role,
		"--install-missing", "--heapallindexed", "-d", database, "-s", "earlier *").CombinedOutput()
	if err != nil {
		m.t.Errorf("pg_amcheck: %v\n%.5000s", err, out)
	}
	text, err := os.ReadFile(s.Log)
	if err != nil {
		m.t.Fatal(err)
	}
	for said := range strings.Lines(string(text)) {
		if strings.Contains(said, "WARNING:") || strings.Contains(said, "PANIC:") {
			m.t.Errorf("server log: %s", said)
		}
	}
}
