package probackup

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/tests/fixture"
)

// addedByRestore are files that the tool's restore writes itself, so that its
// truth does not hold the backup's own.
var addedByRestore = map[string]bool{"postgresql.auto.conf": true}

func TestFilesEqualToolsRestore(t *testing.T) {
	// The relation was truncated before the DELTA backup TOYNIA and extended by
	// empty pages before TOYNIL: the tool brings pages of the FULL one back.
	resurrected := "base/16386/16446"
	for _, test := range []struct {
		catalog func(testing.TB) string
		id      string
		truth   string
		exact   bool
		differs string
	}{
		{fixture.Shop, "TEI900", "shop-truth/files-mon.sha256", false, ""},
		{fixture.Shop, "tek3o0", "shop-truth/files-tue.sha256", false, ""},
		{fixture.Shop, "TELYC0", "shop-truth/files-wed.sha256", false, ""},
		{fixture.Shop, "TENT00", "shop-truth/files-thu.sha256", false, ""},
		{fixture.Shop, "TENT00", "shop-truth/files-thu.sha256", true, ""},
		{fixture.Old, "TOYNHY", "old-2.3.5-truth/files-TOYNHY.sha256", false, ""},
		{fixture.Old, "TOYNIA", "old-2.3.5-truth/files-TOYNIA.sha256", false, ""},
		{fixture.Old, "TOYNIL", "old-2.3.5-truth/files-TOYNIL.sha256", false, resurrected},
		{fixture.Old, "TOYNIL", "old-2.3.5-truth/files-TOYNIL.sha256", true, ""},
	} {
		t.Run(test.id, func(t *testing.T) {
			t.Parallel()
			want := wanted(t, test.truth)
			got := sums(t, openPoint(t, test.catalog(t), test.id, Options{ToolExact: test.exact}).Tree)
			if test.differs != "" && got[test.differs] == want[test.differs] {
				t.Errorf("%s does not differ", test.differs)
			}
			delete(want, test.differs)
			delete(got, test.differs)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("files differ from the tool's restore (-want +got):\n%s", diff)
			}
		})
	}
}

func openPoint(t testing.TB, dir, id string, o Options) *pg0.Point {
	t.Helper()
	c, err := Open(dir, "", o)
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Open(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// templates are databases that nobody changed. Under the race detector, which
// makes decoding very slow, the tests leave them out.
var templates = []string{"base/1/", "base/4/", "base/5/"}

func leftOut(name string) bool {
	return raceEnabled && slices.ContainsFunc(templates, func(dir string) bool { return strings.HasPrefix(name, dir) })
}

// wanted reads the truth for sums.
func wanted(t testing.TB, file string) map[string]string {
	t.Helper()
	want := fixture.Sums(t, file)
	maps.DeleteFunc(want, func(name, _ string) bool { return leftOut(name) })
	return want
}

// sums gives the sha256 of every file, by the path that the cluster sees.
func sums(t testing.TB, tree pg0.Tree) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || addedByRestore[name] || leftOut(name) {
			return err
		}
		if rest, ok := strings.CutPrefix(name, ".pg0_tblspc/"); ok {
			name = "pg_tblspc/" + rest
		}
		got[name], err = sum(tree, name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func sum(tree fs.FS, name string) (string, error) {
	f, err := tree.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
