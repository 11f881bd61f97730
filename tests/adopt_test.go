package tests

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/fukanchik/pg0/mapping"
	"github.com/fukanchik/pg0/tests/fixture"
	"github.com/fukanchik/pg0/tests/program"
)

// A mapFile is a mapping file in the making.
type mapFile struct {
	points strings.Builder
	rules  strings.Builder
	base   string
	// catalog is the directory of the backups; if it is empty, a world's.
	catalog string
}

// point names a moment. at is what the file says after at =, and what follows.
func (m *mapFile) point(name, at string) {
	fmt.Fprintf(&m.points, "%s = { source = \"s\", at = %s }\n", name, at)
}

// rule maps a relation or a pattern, as in SQL. more are further lines.
func (m *mapFile) rule(name, from string, more ...string) {
	fmt.Fprintf(&m.rules, "[[relation]]\nname = '''%s'''\nfrom = %q\n%s\n", name, from, strings.Join(more, "\n"))
}

// edit changes the text of the rules.
func (m *mapFile) edit(old, now string) {
	text := strings.Replace(m.rules.String(), old, now, 1)
	m.rules.Reset()
	m.rules.WriteString(text)
}

// write gives the file's path.
func (m *mapFile) write(t *testing.T, w world) string {
	t.Helper()
	dir := m.catalog
	if dir == "" {
		dir = fixture.Unpack(t, w.catalog)
	}
	text := fmt.Sprintf("version = 1\n[sources.s]\nformat = \"probackup\"\npath = %q\ninstance = %q\n[points]\n%s[base]\npoint = %q\n%s",
		dir, w.catalog.Instance, m.points.String(), m.base, m.rules.String())
	name := filepath.Join(t.TempDir(), "tables.toml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// adoptPoints are the moments whose tables are adopted: all backups, and some
// targets between them.
func adoptPoints(t *testing.T, w world) map[string]fixture.TruthPoint {
	points := map[string]fixture.TruthPoint{}
	for _, p := range fixture.TruthOf(t, w.truth).Points {
		name := strings.NewReplacer(":", "_").Replace(p.Label)
		if p.Kind == "backup" || p.Options == "--recovery-target=immediate" ||
			slices.Contains([]string{"name_before_accident", "xid_after_delete", "after_bug"}, name) {
			points[name] = p
		}
	}
	return points
}

// momentOf writes a point of the truth as a mapping file does.
func momentOf(p fixture.TruthPoint) string {
	option := target(p)
	switch {
	case option[0] == "-i":
		return fmt.Sprintf("%q", option[1])
	case strings.HasPrefix(option[0], "--recovery-target-name="):
		return fmt.Sprintf("%q", "name:"+strings.TrimPrefix(option[0], "--recovery-target-name="))
	case strings.HasPrefix(option[0], "--recovery-target-xid="):
		return fmt.Sprintf("%q, inclusive = false", "xid:"+strings.TrimPrefix(option[0], "--recovery-target-xid="))
	}
	return `"latest"`
}

// twinSchema is where a point's tables of one schema are shown.
func twinSchema(point, schema string) string {
	if schema == "public" {
		return "pt_" + point
	}
	return "pt_" + point + " " + schema
}

// unlogged tables are empty in a backup, and globs leave them out.
var unlogged = []string{"public.sessions"}

// versions fills a mapping file with all tables of all points and returns the
// truth of every twin.
func versions(m *mapFile, points map[string]fixture.TruthPoint) map[string]fixture.TableTruth {
	want := map[string]fixture.TableTruth{}
	for _, point := range slices.Sorted(maps.Keys(points)) {
		p := points[point]
		m.point(point, momentOf(p))
		schemas := map[string]bool{}
		for name, sum := range p.Tables["shop"] {
			if slices.Contains(unlogged, name) {
				continue
			}
			schema, table, _ := strings.Cut(name, ".")
			schemas[schema] = true
			want[twinSchema(point, schema)+"."+table] = sum
		}
		for _, schema := range slices.Sorted(maps.Keys(schemas)) {
			m.rule("shop."+mapping.QuoteIdent(schema)+".*", point, fmt.Sprintf("as = '''%s.*'''", mapping.QuoteIdent(twinSchema(point, schema))))
		}
	}
	return want
}

// TestAdoptAll shows all versions of all tables in one mix: each must be the
// truth of its own point, by sequential scan and by index, also once it was
// written anew, frozen, and the server was killed.
func TestAdoptAll(t *testing.T) {
	for _, w := range worlds[:2] {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			points := adoptPoints(t, w)
			m := &mapFile{base: "thu"}
			want := versions(m, points)
			pg0 := shared(t)
			mountpoint := pg0.Mountpoint()
			pg0.Must("frankenstein", "--start", "--rollback-prepared", "--map", m.write(t, w), mountpoint)
			maps.Copy(want, points["thu"].Tables["shop"])
			checkVersions(t, pg0, mountpoint, want)
			checkLog(t, pg0, mountpoint)
			rewriteTwins(t, pg0.Connect(mountpoint, "shop"))
			crash(t, pg0, mountpoint)
			checkVersions(t, pg0, mountpoint, want)
		})
	}
}

func checkVersions(t *testing.T, pg0 *program.Program, mountpoint string, want map[string]fixture.TableTruth) {
	t.Helper()
	conn := pg0.Connect(mountpoint, "shop")
	program.CheckTables(t, conn, want)
	checkIndexScans(t, conn, want)
	if err := conn.Close(context.Background()); err != nil {
		t.Error(err)
	}
	amcheck(t, pg0, mountpoint)
}

// rewriteTwins writes rows of every twin anew and freezes all.
func rewriteTwins(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	ctx := context.Background()
	rows, err := conn.Query(ctx, `select c.oid::regclass::text, quote_ident(min(a.attname))
		from pg_class c join pg_namespace n on n.oid = relnamespace join pg_attribute a on attrelid = c.oid and attnum > 0 and not attisdropped
		where nspname like 'pt\_%' and relkind = 'r' group by c.oid order by 1`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Table, Column string }])
	if err != nil {
		t.Fatal(err)
	}
	if len(tables) < 50 {
		t.Errorf("only %d twins", len(tables))
	}
	for _, twin := range tables {
		if _, err := conn.Exec(ctx, fmt.Sprintf("update %s set %s = %[2]s where ctid in (select ctid from %[1]s limit 1500)", twin.Table, twin.Column)); err != nil {
			t.Errorf("%s: %v", twin.Table, err)
		}
	}
	if _, err := conn.Exec(ctx, "vacuum (freeze)"); err != nil {
		t.Error(err)
	}
}

// TestAdoptOlderBase adopts tables of the future into Tuesday's cluster, which
// lacks a label of an enum that they use.
func TestAdoptOlderBase(t *testing.T) {
	t.Parallel()
	w := worlds[0]
	points := adoptPoints(t, w)
	maps.DeleteFunc(points, func(name string, _ fixture.TruthPoint) bool { return name != "tue" && name != "thu" && name != "mon" })
	m := &mapFile{base: "tue"}
	want := versions(m, points)
	pg0 := shared(t)
	const refused = 4
	r := pg0.Run("frankenstein", "--dry-run", "--map", m.write(t, w))
	if lines := strings.Count(r.Stderr, "\n"); r.Code != refused || lines != 1 ||
		!strings.Contains(r.Stderr, `shop.pt_thu.orders: column status: enum public.order_status has label "returned"`) {
		t.Errorf("exit code %d:\n%s", r.Code, r.Stderr)
	}
	m.edit("as = '''pt_thu.*'''", "as = '''pt_thu.*'''\nexcept = [\"shop.public.orders\"]")
	delete(want, "pt_thu.orders")
	mountpoint := pg0.Mountpoint()
	pg0.Must("frankenstein", "--start", "--map", m.write(t, w), mountpoint)
	maps.Copy(want, points["tue"].Tables["shop"])
	conn := pg0.Connect(mountpoint, "shop")
	program.CheckTables(t, conn, want)
	checkIndexScans(t, conn, want)
}

// week is a mapping file with the backups of the shop.
func week() *mapFile {
	m := &mapFile{base: "thu"}
	for name, id := range map[string]string{"mon": "TEI900", "tue": "TEK3O0", "wed": "TELYC0", "thu": "TENT00"} {
		m.point(name, strconv.Quote(id))
	}
	return m
}

// missed has the tables that people miss on Thursday.
func missed() *mapFile {
	m := week()
	m.rule("shop.public.coupons", "wed")
	m.rule("shop.public.audit_log", "mon", `as = "mon.audit_log"`)
	m.rule("shop.public.audit_log", "wed", `as = "wed.audit_log"`)
	m.rule("shop.public.orders", "mon", `as = "mon.orders"`)
	m.rule("shop.public.orders", "wed", `as = "wed.orders"`)
	m.rule("shop.public.products", "mon")
	return m
}

// weekTruth gives the tables of the shop's backups by their day.
func weekTruth(t *testing.T) map[string]map[string]fixture.TableTruth {
	truth := map[string]map[string]fixture.TableTruth{}
	for _, p := range backups(worlds[0], t) {
		truth[p.Label] = p.Tables["shop"]
	}
	return truth
}

// beside is the truth of twins in a schema of tables that are in public.
func beside(schema string, tables map[string]fixture.TableTruth) map[string]fixture.TableTruth {
	want := map[string]fixture.TableTruth{}
	for name, sum := range tables {
		if !slices.Contains(unlogged, name) {
			want[strings.Replace(name, "public", schema, 1)] = sum
		}
	}
	return want
}

// ask gives the rows of a query as text, columns joined by |.
func ask(t *testing.T, conn *pgx.Conn, sql string) []string {
	t.Helper()
	rows, err := conn.Query(context.Background(), sql, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		t.Fatalf("%v\nin: %s", err, sql)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		values := row.RawValues()
		text := make([]string, len(values))
		for i, v := range values {
			text[i] = string(v)
		}
		return strings.Join(text, "|"), nil
	})
	if err != nil {
		t.Fatalf("%v\nin: %s", err, sql)
	}
	return list
}

func expect(t *testing.T, conn *pgx.Conn, sql string, want ...string) {
	t.Helper()
	if got := ask(t, conn, sql); !slices.Equal(got, want) {
		t.Errorf("%s:\n%s", sql, cmp.Diff(want, got))
	}
}

// TestAdoptMissed has what was dropped, truncated and altered back, beside the
// tables of today.
func TestAdoptMissed(t *testing.T) {
	t.Parallel()
	pg0 := shared(t)
	mountpoint := pg0.Mountpoint()
	pg0.Must("frankenstein", "--start", "--map", missed().write(t, worlds[0]), mountpoint)
	conn := pg0.Connect(mountpoint, "shop")
	truth := weekTruth(t)
	program.CheckTables(t, conn, map[string]fixture.TableTruth{
		"public.coupons":   truth["wed"]["public.coupons"],
		"mon.audit_log":    truth["mon"]["public.audit_log"],
		"wed.audit_log":    truth["wed"]["public.audit_log"],
		"public.audit_log": truth["thu"]["public.audit_log"],
		"mon.orders":       truth["mon"]["public.orders"],
		"wed.orders":       truth["wed"]["public.orders"],
		"public.orders":    truth["thu"]["public.orders"],
		"public.products":  truth["mon"]["public.products"],
	})
	// The column came between Monday and Wednesday.
	expect(t, conn, `select count(o.channel) = count(*), count(m.id) = (select count(*) from mon.orders where id in (select id from orders))
		from orders o left join mon.orders m using (id)`, "t|t")
	expect(t, conn, "select attrelid::regclass from pg_attribute where attrelid in ('mon.orders'::regclass, 'wed.orders'::regclass, 'orders'::regclass) and attname = 'channel' order by 1::text",
		"orders", "wed.orders")
	checkSaid(t, conn)
	// The twins' keys are constraints, and hold.
	expect(t, conn, "select contype from pg_constraint where conrelid = 'mon.orders'::regclass and contype in ('p', 'f')", "p")
	if _, err := conn.Exec(context.Background(), "insert into mon.orders select * from mon.orders limit 1"); err == nil || !strings.Contains(err.Error(), "duplicate key") {
		t.Errorf("a row twice: %v", err)
	}
}

// checkSaid looks at what a session in the mix of missed can ask.
func checkSaid(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	expect(t, conn, `select relation, kind, point, source, backup, mode, recovered_to_lsn is not null and recovered_to_time between '2026-05-04' and '2026-05-08'
		from pg0.provenance where kind <> 'sequence' order by relation collate "C"`,
		"*|everything else|thu|s|TENT00|base|t",
		"mon.audit_log|table|mon|s|TEI900|adopt|t",
		"mon.orders|table|mon|s|TEI900|adopt|t",
		"public.coupons|table|wed|s|TELYC0|adopt|t",
		"public.products|table|mon|s|TEI900|replace|t",
		"wed.audit_log|table|wed|s|TELYC0|adopt|t",
		"wed.orders|table|wed|s|TELYC0|adopt|t",
	)
	for table, want := range map[string]string{
		"mon.orders": "pg0: table shop.public.orders of point mon, backup TEI900, recovered to 2026-05-04",
		"coupons":    "pg0: table shop.public.coupons of point wed, backup TELYC0, recovered to 2026-05-06",
		"products":   "pg0: table shop.public.products of point mon, backup TEI900, recovered to 2026-05-04",
	} {
		if got := ask(t, conn, fmt.Sprintf("select obj_description('%s'::regclass)", table))[0]; !strings.HasPrefix(got, want) {
			t.Errorf("comment on %s: %q, want %q", table, got, want)
		}
	}
	// Everybody may read it.
	expect(t, conn, "select has_schema_privilege('public', 'pg0', 'usage'), has_table_privilege('public', 'pg0.provenance', 'select')", "t|t")
}

// TestAdoptIndexes leaves indexes out and builds them anew.
func TestAdoptIndexes(t *testing.T) {
	t.Parallel()
	m := week()
	m.rule("shop.public.*", "tue", `as = "none.*"`, `indexes = "none"`)
	m.rule("shop.public.*", "mon", `as = "rebuilt.*"`, `indexes = "rebuild"`)
	// A partition without the indexes that its parent has.
	m.rule("shop.public.order_items*", "wed", `as = "parts.*"`)
	m.rule("shop.public.order_items_2026_05", "mon", `as = "parts.order_items_2026_05"`, `indexes = "none"`)
	pg0 := shared(t)
	mountpoint := pg0.Mountpoint()
	pg0.Must("frankenstein", "--start", "--map", m.write(t, worlds[0]), mountpoint)
	conn := pg0.Connect(mountpoint, "shop")
	truth := weekTruth(t)
	want := beside("none", truth["tue"])
	want["parts.order_items_2026_04"] = truth["wed"]["public.order_items_2026_04"]
	want["parts.order_items_2026_05"] = truth["mon"]["public.order_items_2026_05"]
	maps.Copy(want, beside("rebuilt", truth["mon"]))
	program.CheckTables(t, conn, want)
	checkIndexScans(t, conn, want)
	amcheck(t, pg0, mountpoint)
	expect(t, conn, "select count(*) from parts.order_items", fmt.Sprint(want["parts.order_items_2026_04"].Rows+want["parts.order_items_2026_05"].Rows))
	expect(t, conn, "select count(*) from pg_index where indrelid in (select oid from pg_class where relnamespace = 'none'::regnamespace)", "0")
	expect(t, conn, `select count(*) filter (where not indisvalid), count(*) > 10, count(distinct relam) from pg_index join pg_class c on c.oid = indexrelid
		where relnamespace = 'rebuilt'::regnamespace`, "0|t|6")
}

// TestAdoptLayer takes a mix with twins up again: unchanged, with other rules,
// and not with one more twin.
func TestAdoptLayer(t *testing.T) {
	t.Parallel()
	pg0 := shared(t)
	layer := filepath.Join(t.TempDir(), "layer")
	with := func(m *mapFile, do func(*pgx.Conn)) {
		t.Helper()
		mountpoint := pg0.Mountpoint()
		pg0.Must("frankenstein", "--start", "--layer", layer, "--map", m.write(t, worlds[0]), mountpoint)
		conn := pg0.Connect(mountpoint, "shop")
		do(conn)
		if err := conn.Close(context.Background()); err != nil {
			t.Error(err)
		}
		pg0.Must("umount", mountpoint)
	}
	with(missed(), func(conn *pgx.Conn) {
		if _, err := conn.Exec(context.Background(), "delete from mon.orders where id > 100"); err != nil {
			t.Fatal(err)
		}
	})
	const left = "select count(*), max(id) <= 100 from mon.orders"
	with(missed(), func(conn *pgx.Conn) { expect(t, conn, left, "100|t") })
	fewer := week()
	fewer.rule("shop.public.orders", "mon", `as = "mon.orders"`)
	fewer.rule("shop.public.stores", "tue") // is new, and needs no twin
	with(fewer, func(conn *pgx.Conn) {
		expect(t, conn, left, "100|t")
		program.CheckTables(t, conn, map[string]fixture.TableTruth{"public.stores": weekTruth(t)["tue"]["public.stores"]})
	})
	const refused = 4
	more := missed()
	more.rule("shop.public.customers", "mon", `as = "mon.customers"`)
	r := pg0.Run("frankenstein", "--layer", layer, "--map", more.write(t, worlds[0]), pg0.Mountpoint())
	if r.Code != refused || !strings.Contains(r.Stderr, "customers") {
		t.Errorf("exit code %d: %s", r.Code, r.Stderr)
	}
}

// TestAdoptKilled kills the command while it makes the twins: nothing of that
// disturbs the next run.
func TestAdoptKilled(t *testing.T) {
	t.Parallel()
	pg0 := program.New(t)
	m := week()
	m.rule("shop.public.*", "thu", `as = "beside.*"`)
	spec := m.write(t, worlds[0])
	pg0.Must("frankenstein", "--dry-run", "--map", spec) // makes the image
	for _, stage := range []string{"mount", "change", "definitions", "stop", "seal"} {
		killAt(t, pg0, spec, stage)
	}
	mountpoint := pg0.Mountpoint()
	pg0.Must("frankenstein", "--start", "--map", spec, mountpoint)
	conn := pg0.Connect(mountpoint, "shop")
	program.CheckTables(t, conn, beside("beside", weekTruth(t)["thu"]))
	if err := conn.Close(context.Background()); err != nil {
		t.Error(err)
	}
	pg0.Must("umount", mountpoint)
	checkNothingLeft(t, pg0, mountpoint)
	if list := pg0.Must("images", "list"); strings.Contains(list, "unfinished") {
		t.Error(list)
	}
}

// killAt kills pg0 when it says that the derived base comes to a stage.
func killAt(t *testing.T, pg0 *program.Program, spec, stage string) {
	t.Helper()
	cmd := pg0.Command(context.Background(), "frankenstein", "--json", "--map", spec, pg0.Mountpoint())
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	found := false
	for lines := bufio.NewScanner(stderr); !found && lines.Scan(); {
		found = strings.Contains(lines.Text(), `"stage":`+strconv.Quote(stage))
	}
	if !found {
		t.Errorf("it does not come to stage %s", stage)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // it was killed
}
