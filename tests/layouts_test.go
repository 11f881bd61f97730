package tests

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/tests/fixture"
	"github.com/fukanchik/pg0/tests/pbwriter"
	"github.com/fukanchik/pg0/tests/program"
)

// shopDays are the backups of the shop, and the truth of their files.
var shopDays = []struct{ id, label, mode string }{
	{"TEI900", "mon", "FULL"}, {"TEK3O0", "tue", "DELTA"}, {"TELYC0", "wed", "PAGE"}, {"TENT00", "thu", "PTRACK"},
}

// A rewriter writes the shop's backups again in the layouts of other versions.
type rewriter struct {
	pg0   *program.Program
	infos map[string]pg0.PointInfo
	dirs  map[string]string // raw mounts, by backup
}

func newRewriter(t *testing.T) *rewriter {
	t.Helper()
	r := &rewriter{pg0: program.New(t), infos: map[string]pg0.PointInfo{}, dirs: map[string]string{}}
	var infos []pg0.PointInfo
	if err := json.Unmarshal([]byte(r.pg0.Must("points", "--json", "-B", fixture.Shop(t))), &infos); err != nil {
		t.Fatal(err)
	}
	for _, info := range infos {
		r.infos[info.ID], r.dirs[info.ID] = info, r.raw(fixture.Shop(t), info.ID)
	}
	return r
}

// raw mounts a bare backup.
func (r *rewriter) raw(catalog, id string) string {
	dir := r.pg0.Mountpoint()
	r.pg0.Must("mount", "--raw", "-B", catalog, "-i", id, dir)
	return dir
}

func (r *rewriter) catalog(t *testing.T) *pbwriter.Catalog {
	const shopSystem, shopSegment = 7635943328547681869, 1 << 20
	return pbwriter.New(t, t.TempDir(), "shop", shopSystem, shopSegment)
}

// items lists what a backup of a day copies, and what it adds.
func (r *rewriter) items(t *testing.T, c *pbwriter.Catalog, id string) []pbwriter.Item {
	t.Helper()
	items := c.Scan(r.dirs[id])
	for dir, names := range map[string][]string{
		r.dirs[id]: {"backup_label", "pg_wal/*"},
		filepath.Join(fixture.Shop(t), "backups/shop", id, "database"): {"tablespace_map"},
	} {
		for _, name := range names {
			found, err := filepath.Glob(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range found {
				data, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				items = append(items, pbwriter.File(strings.TrimPrefix(file, dir+"/"), data))
			}
		}
	}
	return items
}

// chain writes some days, the first as full backup.
func (r *rewriter) chain(t *testing.T, c *pbwriter.Catalog, b pbwriter.Backup, days ...int) []*pbwriter.Written {
	var chain []*pbwriter.Written
	for n, day := range days {
		d := shopDays[day]
		info := r.infos[d.id]
		b.Mode, b.Stream, b.StartTime = d.mode, info.Stream, info.StartTime
		b.StartLSN, b.StopLSN, b.RecoveryXID = info.StartLSN, info.StopLSN, info.RecoveryXID
		if b.Mode = d.mode; n == 0 {
			b.Mode = "FULL"
		} else {
			b.Parent = chain[n-1].ID
		}
		chain = append(chain, c.Write(b, r.items(t, c, d.id)))
	}
	return chain
}

// check mounts a day of a catalog bare, and compares all files with those of the
// tool's restore.
func (r *rewriter) check(t *testing.T, catalog, id string) {
	t.Helper()
	dir := r.raw(catalog, id)
	got, err := sumsOf(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range shopDays {
		if d.id != id {
			continue
		}
		want := fixture.Sums(t, filepath.Join("shop-truth", "files-"+d.label+".sha256"))
		maps.DeleteFunc(got, func(name, _ string) bool { return strings.HasPrefix(name, ".pg0_tblspc/") })
		want["postgresql.auto.conf"] = got["postgresql.auto.conf"] // to which the tool's restore adds
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s differs from the tool's restore (-want +got):\n%.2000s", d.label, diff)
		}
	}
	r.pg0.Must("umount", dir)
}

// TestMountLayouts writes the shop's backups as old versions and backups over
// ssh have them: what is mounted must be what the tool's restore gives, and
// verify finds all of it sound.
func TestMountLayouts(t *testing.T) {
	t.Parallel()
	r := newRewriter(t)
	for _, test := range []struct {
		name   string
		backup pbwriter.Backup
		days   []int
	}{
		{"2.0.20", pbwriter.Backup{Program: "2.0.20"}, []int{0, 3}},
		{"2.0.24", pbwriter.Backup{Program: "2.0.24", Compress: pbwriter.Zlib}, []int{0, 2}},
		{"2.3.5", pbwriter.Backup{Program: "2.3.5"}, []int{0, 1, 3}},
		{"over ssh", pbwriter.Backup{Remote: true, Compress: pbwriter.Zlib}, []int{0, 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := r.catalog(t)
			chain := r.chain(t, c, test.backup, test.days...)
			r.check(t, c.Dir, chain[len(chain)-1].ID)
			// The archive that Wednesday and Thursday need is not there.
			said := r.pg0.Run("verify", "-B", c.Dir, "--all").Stdout
			if damage := verifyLines(said, chain); len(damage) > 0 {
				t.Errorf("verify: %q", damage)
			}
		})
	}
	t.Run("merge", func(t *testing.T) { checkMergeStates(t, r) })
}

var missingWAL = regexp.MustCompile(`wal/shop|WAL [0-9A-F]{24} is missing`)

// verifyLines are the lines of a verification that name damage other than WAL
// that the catalog never had.
func verifyLines(said string, chain []*pbwriter.Written) []string {
	return slices.DeleteFunc(strings.Split(strings.TrimSpace(said), "\n"), func(line string) bool {
		return missingWAL.MatchString(line) || strings.HasPrefix(line, "no damage") && strings.Contains(line, chain[len(chain)-1].ID)
	})
}

// checkMergeStates mounts the destination of a merge that was killed while it
// rewrote the full backup, and of one that was killed afterwards.
func checkMergeStates(t *testing.T, r *rewriter) {
	half := r.catalog(t)
	chain := r.chain(t, half, pbwriter.Backup{Compress: pbwriter.Zlib}, 0, 1)
	n := 0
	half.HalfMerge(chain, r.items(t, half, "TEK3O0"), func(string) bool { n++; return n%2 == 0 })
	r.check(t, half.Dir, "TEK3O0")
	const refused = 4
	if got := r.pg0.Run("mount", "--raw", "-B", half.Dir, "-i", "TEI900", r.pg0.Mountpoint()); got.Code != refused || !strings.Contains(got.Stderr, "being merged") {
		t.Errorf("the full backup of a merge: exit %d: %s", got.Code, got.Stderr)
	}

	merged := r.catalog(t)
	info := r.infos["TEK3O0"]
	w := merged.Write(pbwriter.Backup{
		Status: "MERGED", MergeDest: "TEK3O0", Stream: true, StartTime: r.infos["TEI900"].StartTime,
		StartLSN: info.StartLSN, StopLSN: info.StopLSN, RecoveryXID: info.RecoveryXID,
	}, r.items(t, merged, "TEK3O0"))
	if w.ID != "TEI900" {
		t.Fatalf("the directory is %s", w.ID)
	}
	r.check(t, merged.Dir, "TEK3O0")

	// It starts as well, and has the rows of its day.
	mountpoint := r.pg0.Mountpoint()
	r.pg0.Must("mount", "--start", "-B", merged.Dir, "-i", "TEK3O0", mountpoint)
	i := slices.IndexFunc(fixture.TruthOf(t, "shop").Points, func(p fixture.TruthPoint) bool { return p.Label == "tue" })
	for database, tables := range fixture.TruthOf(t, "shop").Points[i].Tables {
		program.CheckTables(t, r.pg0.Connect(mountpoint, database), tables)
	}
}
