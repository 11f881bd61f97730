package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fukanchik/pg0/tests/fixture"
	"github.com/fukanchik/pg0/tests/program"
)

// backups are the points of a world that are a backup's own end.
func backups(w world, t *testing.T) []fixture.TruthPoint {
	var points []fixture.TruthPoint
	for _, p := range fixture.TruthOf(t, w.truth).Points {
		if p.Kind == "backup" || p.Options == "--recovery-target=immediate" {
			points = append(points, p)
		}
	}
	return points
}

func backupID(p fixture.TruthPoint) string {
	if p.Backup != "" {
		return p.Backup
	}
	return p.Backups["pg_probackup"][0]
}

// TestMountPairs mixes every ordered pair of backups: what can be replaced
// comes from the donor, the rest from the base, and each table must be the
// truth of its own point, before and after it is changed, frozen, reindexed
// and the server is killed.
func TestMountPairs(t *testing.T) {
	for _, w := range worlds[:2] {
		points := backups(w, t)
		for _, base := range points {
			for _, donor := range points {
				if base.Label == donor.Label {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s in %s", w.name, donor.Label, base.Label), func(t *testing.T) {
					t.Parallel()
					checkPair(t, w, base, donor)
				})
			}
		}
	}
}

func checkPair(t *testing.T, w world, base, donor fixture.TruthPoint) {
	pg0 := shared(t)
	spec := filepath.Join(t.TempDir(), "tables.toml")
	replaced := mappable(t, pg0, w, spec, base, donor)
	mountpoint := pg0.Mountpoint()
	pg0.Must("frankenstein", "--start", "--rollback-prepared", "--map", spec, mountpoint)

	want := map[string]fixture.TableTruth{}
	for name, sum := range base.Tables["shop"] {
		want[name] = sum
	}
	for _, name := range replaced {
		want[name] = donor.Tables["shop"][name]
	}
	conn := pg0.Connect(mountpoint, "shop")
	program.CheckTables(t, conn, want)
	checkIndexScans(t, conn, want)
	amcheck(t, pg0, mountpoint)
	checkLog(t, pg0, mountpoint)

	changed := changeTables(t, conn, replaced)
	for _, sql := range []string{"vacuum (freeze)", "reindex database shop", "checkpoint"} {
		if _, err := conn.Exec(context.Background(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	crash(t, pg0, mountpoint)
	conn = pg0.Connect(mountpoint, "shop")
	for name := range want {
		if _, ok := changed[name]; !ok {
			changed[name] = want[name]
		}
	}
	program.CheckTables(t, conn, changed)
	amcheck(t, pg0, mountpoint)
}

// mappable writes a mapping file that takes from the donor whatever can be
// replaced, and returns those tables.
func mappable(t *testing.T, pg0 *program.Program, w world, spec string, base, donor fixture.TruthPoint) []string {
	t.Helper()
	var common []string
	for name := range donor.Tables["shop"] {
		if _, ok := base.Tables["shop"][name]; ok {
			common = append(common, name)
		}
	}
	slices.Sort(common)
	for {
		writePairSpec(t, w, spec, backupID(base), backupID(donor), common)
		r := pg0.Run("frankenstein", "--dry-run", "--map", spec, "/nonexistent")
		if r.Code == 0 {
			break
		}
		kept := slices.DeleteFunc(slices.Clone(common), func(name string) bool {
			return strings.Contains(r.Stderr, refusedName(name))
		})
		if r.Code != 4 || len(kept) == len(common) {
			t.Fatalf("dry run: exit %d\n%s", r.Code, r.Stderr)
		}
		common = kept
	}
	drift := drifted(t, pg0, spec)
	common = slices.DeleteFunc(common, func(name string) bool { return drift["shop."+quoted(name)] })
	writePairSpec(t, w, spec, backupID(base), backupID(donor), common)
	if len(common) < 5 {
		t.Errorf("only %d tables of %s fit %s", len(common), donor.Label, base.Label)
	}
	return common
}

// refusedName is how a refusal names a relation of the truth.
func refusedName(name string) string {
	return "shop." + quoted(name) + ":"
}

// quoted writes schema.table with SQL's quotes where they are needed.
func quoted(name string) string {
	schema, table, _ := strings.Cut(name, ".")
	for _, part := range []*string{&schema, &table} {
		if strings.ContainsFunc(*part, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_'
		}) {
			*part = `"` + *part + `"`
		}
	}
	return schema + "." + table
}

func writePairSpec(t *testing.T, w world, spec, base, donor string, tables []string) {
	t.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, "version = 1\n[sources.s]\nformat = \"probackup\"\npath = %q\ninstance = %q\n", fixture.Unpack(t, w.catalog), w.catalog.Instance)
	fmt.Fprintf(&text, "[points]\nbase = { source = \"s\", at = %q }\ndonor = { source = \"s\", at = %q }\n[base]\npoint = \"base\"\n", base, donor)
	for _, name := range tables {
		fmt.Fprintf(&text, "[[relation]]\nname = '''shop.%s'''\nfrom = \"donor\"\n", quoted(name))
	}
	if err := os.WriteFile(spec, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// checkIndexScans reads every table once more without sequential scans.
func checkIndexScans(t *testing.T, conn *pgx.Conn, want map[string]fixture.TableTruth) {
	t.Helper()
	for name, sum := range want {
		schema, table, _ := strings.Cut(name, ".")
		got, err := program.TableSum(conn, schema, table, "enable_seqscan = off", "enable_bitmapscan = off")
		if err != nil || got != sum {
			t.Errorf("%s by index: %+v, %v; the truth is %+v", name, got, err, sum)
		}
	}
}

// changeTables deletes rows of all tables and returns the sums that must
// survive a crash.
func changeTables(t *testing.T, conn *pgx.Conn, tables []string) map[string]fixture.TableTruth {
	t.Helper()
	ctx := context.Background()
	sums := map[string]fixture.TableTruth{}
	for _, name := range tables {
		schema, table, _ := strings.Cut(name, ".")
		ident := pgx.Identifier{schema, table}.Sanitize()
		var kind string
		if err := conn.QueryRow(ctx, "select relkind::text from pg_class where oid = $1::text::regclass", ident).Scan(&kind); err != nil {
			t.Fatal(err)
		}
		if kind != "r" {
			continue
		}
		// Some rows go, others are written anew: foreign keys are not the matter here.
		sql := fmt.Sprintf(`set session_replication_role = replica;
create temp table anew as select * from %[1]s limit 70;
delete from %[1]s where ctid in (select ctid from %[1]s limit 120);
insert into %[1]s overriding system value select * from anew;
drop table anew`, ident)
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	for _, name := range tables { // all of them: a partitioned table has changed with its partitions
		schema, table, _ := strings.Cut(name, ".")
		sum, err := program.TableSum(conn, schema, table)
		if err != nil {
			t.Fatal(err)
		}
		sums[name] = sum
	}
	return sums
}

func amcheck(t *testing.T, pg0 *program.Program, mountpoint string) {
	t.Helper()
	amcheckDatabase(t, pg0, mountpoint, "shop")
}

func amcheckDatabase(t *testing.T, pg0 *program.Program, mountpoint, database string, more ...string) {
	t.Helper()
	s := pg0.Status(mountpoint).Server
	args := []string{"-h", s.SocketDir, "-p", fmt.Sprint(s.Port), "-U", s.Role, "--install-missing", "--heapallindexed", "-d", database}
	out, err := exec.Command("/usr/lib/postgresql/15/bin/pg_amcheck", append(args, more...)...).CombinedOutput()
	if err != nil {
		t.Errorf("pg_amcheck: %v\n%s", err, out)
	}
}

// crash kills the server and starts it again on the same mount.
func crash(t *testing.T, pg0 *program.Program, mountpoint string) {
	t.Helper()
	pid := pg0.Status(mountpoint).Server.PID
	if err := syscall.Kill(pid, syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	for pg0.Status(mountpoint).Server.PID == pid {
		// The server ends its sessions first.
	}
	pg0.Must("start", mountpoint)
}

// drifted names the relations of a plan whose columns in the base are not those
// of the donor: their rows then show more than those of the truth.
func drifted(t *testing.T, pg0 *program.Program, spec string) map[string]bool {
	t.Helper()
	var plan struct {
		Grafts []struct {
			Relation string
			Drift    []string
		}
	}
	if err := json.Unmarshal([]byte(pg0.Must("frankenstein", "--dry-run", "--json", "--map", spec, "/nonexistent")), &plan); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, g := range plan.Grafts {
		names[g.Relation] = slices.ContainsFunc(g.Drift, func(d string) bool { return strings.Contains(d, "column") })
	}
	return names
}
