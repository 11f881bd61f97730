package probackup

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
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
		differs string // in the default mode
	}{
		{fixture.Shop, "TEI900", "shop-truth/files-mon.sha256", ""},
		{fixture.Shop, "tek3o0", "shop-truth/files-tue.sha256", ""},
		{fixture.Shop, "TELYC0", "shop-truth/files-wed.sha256", ""},
		{fixture.Shop, "TENT00", "shop-truth/files-thu.sha256", ""},
		{fixture.Old, "TOYNHY", "old-2.3.5-truth/files-TOYNHY.sha256", ""},
		{fixture.Old, "TOYNIA", "old-2.3.5-truth/files-TOYNIA.sha256", ""},
		{fixture.Old, "TOYNIL", "old-2.3.5-truth/files-TOYNIL.sha256", resurrected},
	} {
		t.Run(test.id, func(t *testing.T) {
			t.Parallel()
			for _, exact := range []bool{false, true} {
				want := fixture.Sums(t, test.truth)
				if !exact {
					delete(want, test.differs)
				}
				got := sums(t, openPoint(t, test.catalog(t), test.id, Options{ToolExact: exact}).Tree)
				if !exact {
					delete(got, test.differs)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("exact=%t: files differ from the tool's restore (-want +got):\n%s", exact, diff)
				}
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

// sums gives the sha256 of every file, by the path that the cluster sees.
func sums(t testing.TB, tree pg0.Tree) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || addedByRestore[name] {
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
