package tests

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/fukanchik/pg0/tests/fixture"
	"github.com/fukanchik/pg0/tests/program"
)

// A donor is a moment of a mix, shown beside the base's own tables.
type donor struct {
	at    string // in the mapping file's words
	label string // of the truth
	want  string // part of the plan's line for it
}

// TestMountMoments shows several moments of one source in one cluster: a
// backup's own end, a time or name between backups, and the moment before one
// transaction, over the latest as base. Every table of every moment must have
// the rows that the tool's own restore to it has.
func TestMountMoments(t *testing.T) {
	for i, donors := range [][]donor{
		{
			{`"TEI900"`, "mon", "from backup TEI900"},
			{`2026-05-06T14:00:02Z`, "time:before_accident", "time:2026-05-06T14:00:02Z, from backup TELYC0"},
			{`"xid:870", inclusive = false`, "xid:after_delete", "xid:870 (exclusive), from backup TELYC0"},
		},
		{
			{`"TEI90W"`, "mon", "from backup TEI90W"},
			{`"xid:876", inclusive = false`, "before_accident", "xid:876 (exclusive), from backup TELYCO"},
			{`"xid:880"`, "after_delete", "xid:880, from backup TELYCO"},
		},
	} {
		t.Run(worlds[i].name, func(t *testing.T) {
			t.Parallel()
			checkMoments(t, worlds[i], donors)
		})
	}
}

func checkMoments(t *testing.T, w world, donors []donor) {
	pg0 := shared(t)
	truth := map[string]fixture.TruthPoint{}
	for _, p := range fixture.TruthOf(t, w.truth).Points {
		truth[p.Label] = p
	}
	spec := filepath.Join(t.TempDir(), "tables.toml")
	var text, rules strings.Builder
	fmt.Fprintf(&text, "version = 1\n[sources.s]\nformat = \"probackup\"\npath = %q\ninstance = %q\n", fixture.Unpack(t, w.catalog), w.catalog.Instance)
	text.WriteString("[points]\nlatest = { source = \"s\", at = \"latest\" }\n")
	want := map[string]fixture.TableTruth{}
	for name, sum := range truth["latest"].Tables["shop"] {
		want[name] = sum
	}
	for i, d := range donors {
		fmt.Fprintf(&text, "p%d = { source = \"s\", at = %s }\n", i, d.at)
		// Only tables of public: the schemas of a moment would mingle in one.
		fmt.Fprintf(&rules, "[[relation]]\nname = \"shop.public.*\"\nfrom = \"p%d\"\nas = \"p%d.*\"\n", i, i)
		for name, sum := range truth[d.label].Tables["shop"] {
			if table, ok := strings.CutPrefix(name, "public."); ok && table != "sessions" { // unlogged, so always empty
				want[fmt.Sprintf("p%d.%s", i, table)] = sum
			}
		}
	}
	text.WriteString("[base]\npoint = \"latest\"\n" + rules.String())
	if err := os.WriteFile(spec, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	mountpoint := pg0.Mountpoint()
	plan := pg0.Must("frankenstein", "--start", "--rollback-prepared", "--map", spec, mountpoint)
	for i, d := range donors {
		if line := fmt.Sprintf("point p%d: ", i); !strings.Contains(plan, line) || !strings.Contains(plan, d.want) {
			t.Errorf("the plan does not say %q:\n%s", line+d.want, plan)
		}
	}
	conn := pg0.Connect(mountpoint, "shop")
	program.CheckTables(t, conn, want)
	checkIndexScans(t, conn, want)
	amcheck(t, pg0, mountpoint)
	checkLog(t, pg0, mountpoint)
	checkProvenance(t, pg0, mountpoint, spec, len(donors))
}

// checkProvenance: plan, status and the view inside say alike where each moment
// really stopped.
func checkProvenance(t *testing.T, pg0 *program.Program, mountpoint, spec string, donors int) {
	t.Helper()
	type stop struct {
		Point, Backup string
		Time          string `json:"recovered_to_time"`
		LSN           string `json:"recovered_to_lsn"`
		XID           uint64 `json:"recovered_to_xid"`
	}
	var plan struct{ Points []stop }
	if err := json.Unmarshal([]byte(pg0.Must("frankenstein", "--dry-run", "--json", "--map", spec)), &plan); err != nil {
		t.Fatal(err)
	}
	var status struct{ Provenance []stop }
	if err := json.Unmarshal([]byte(pg0.Must("status", "--json", mountpoint)), &status); err != nil {
		t.Fatal(err)
	}
	conn := pg0.Connect(mountpoint, "shop")
	if len(plan.Points) != donors {
		t.Errorf("the plan has %d points", len(plan.Points))
	}
	for _, p := range plan.Points {
		if p.LSN == "" || p.Time == "" {
			t.Errorf("point %+v does not say where it stopped", p)
		}
		if !slices.Contains(status.Provenance, p) {
			t.Errorf("the plan has %+v, status %+v", p, status.Provenance)
		}
		var matches int
		err := conn.QueryRow(t.Context(), `select count(distinct point) from pg0.provenance where point = $1 and backup = $2
			and recovered_to_time = $3::text::timestamptz and recovered_to_lsn = $4::text::pg_lsn
			and coalesce(recovered_to_xid::text, '0') = $5`, p.Point, p.Backup, p.Time, p.LSN, fmt.Sprint(p.XID)).Scan(&matches)
		if err != nil || matches != 1 {
			t.Errorf("pg0.provenance does not have %+v: %v", p, err)
		}
	}
}

// isLocked looks who holds the tool's shared lock on a backup: locked backup
// mountpoint. It must be the process that serves the mount, and nobody else.
func isLocked(ts *testscript.TestScript, neg bool, args []string) {
	text := ts.ReadFile(filepath.Join(args[0], "backup_ro.pid"))
	want := fmt.Sprintln(statusOf(ts, args[1]).FileServerPID)
	if (text == want) == neg {
		ts.Fatalf("the lock file of %s has %q, the mount is served by %s", args[0], text, want)
	}
}
