package tests

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/probackup"
	"github.com/fukanchik/pg0/relmap"
	"github.com/fukanchik/pg0/tests/fixture"
	"github.com/fukanchik/pg0/tests/program"
	gocmp "github.com/google/go-cmp/cmp"
)

// TestRelationsOfBackups finds the files of every relation of every backup that
// the truth knows. The backups are not recovered: during them no relation was
// made, dropped or rewritten.
func TestRelationsOfBackups(t *testing.T) {
	for _, test := range []struct {
		truth   string
		catalog string
	}{
		{"shop", fixture.Shop(t)}, {"15", fixture.PG15(t)}, {"17", fixture.PG17(t)},
	} {
		catalog, err := probackup.Open(test.catalog, "shop", probackup.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, point := range fixture.TruthOf(t, test.truth).Points {
			if id := backupOf(point); id != "" {
				t.Run(test.truth+"/"+point.Label, func(t *testing.T) { checkFiles(t, catalog, id, point.Files) })
			}
		}
	}
}

// backupOf gives the id of a point that is a backup's own end.
func backupOf(point fixture.TruthPoint) string {
	if ids := point.Backups["pg_probackup"]; len(ids) > 0 {
		return ids[0]
	}
	if point.Options == "--recovery-target=immediate" {
		return point.Backup
	}
	return ""
}

func checkFiles(t *testing.T, catalog pg0.Catalog, id string, want map[string]string) {
	t.Helper()
	point, err := catalog.Open(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer point.Close()
	cluster, err := relmap.Open(point.Tree)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, database := range databasesOf(want) {
		d, err := cluster.Database(database)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range d.Relations() {
			if name := d.Name + "." + r.Schema + "." + r.Name; r.HasStorage() && r.OID >= firstUserOID {
				got[name] = filesOf(t, d, r)
			}
		}
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("truth (-) and relmap (+) disagree:\n%s", diff)
	}
}

func databasesOf(files map[string]string) []string {
	var names []string
	for name := range files {
		database, _, _ := strings.Cut(name, ".")
		names = append(names, database)
	}
	slices.SortFunc(names, cmp.Compare[string])
	return slices.Compact(names)
}

// firstUserOID is the first OID that initdb does not give away.
const firstUserOID = 16384

// filesOf gives the path of a relation as PostgreSQL names it, and makes sure
// that the tree has its first file.
func filesOf(t *testing.T, d *relmap.Database, r *relmap.Relation) string {
	t.Helper()
	name, err := d.Path(r)
	if err != nil {
		t.Fatal(err)
	}
	files, err := d.Files(r)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 && r.Persistence == relmap.Permanent {
		t.Errorf("%s.%s: the tree has no file %s", r.Schema, r.Name, name)
	}
	return name
}

// TestRelationsCommand lists recovered points and compares with the paths that
// the tool's own restore of them had.
func TestRelationsCommand(t *testing.T) {
	p := program.New(t)
	points := map[string][]string{"mon": {"-i", "TEI900"}, "latest": nil}
	for _, point := range fixture.TruthOf(t, "shop").Points {
		if args, ok := points[point.Label]; ok {
			t.Run(point.Label, func(t *testing.T) {
				got := listedPaths(t, p, append([]string{"-B", fixture.Shop(t), "--all"}, args...))
				if diff := gocmp.Diff(point.Files, got); diff != "" {
					t.Errorf("truth (-) and pg0 relations (+) disagree:\n%s", diff)
				}
			})
		}
	}
}

// listedPaths runs pg0 relations and gives the paths of what users made.
func listedPaths(t *testing.T, p *program.Program, args []string) map[string]string {
	t.Helper()
	var list []struct {
		Database, Schema, Name, Path string
		OID                          uint32
	}
	result := p.Run(append([]string{"relations", "--json"}, args...)...)
	if result.Code != 0 {
		t.Fatalf("exit code %d: %s", result.Code, result.Stderr)
	}
	if err := json.Unmarshal([]byte(result.Stdout), &list); err != nil {
		t.Fatal(err)
	}
	paths := map[string]string{}
	for _, r := range list {
		if r.OID >= firstUserOID && r.Path != "" {
			paths[r.Database+"."+r.Schema+"."+r.Name] = r.Path
		}
	}
	return paths
}
