package probackup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/tests/fixture"
)

func TestVerifySound(t *testing.T) {
	for _, test := range []struct {
		name    string
		catalog func(testing.TB) string
		id      string
	}{
		{"shop", fixture.Shop, "TENT00"},
		{"15", fixture.PG15, "TENT0R"},
		{"17", fixture.PG17, "TENT02"},
		{"old", fixture.Old, "TOYNIA"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c, err := Open(test.catalog(t), "", Options{})
			if err != nil {
				t.Fatal(err)
			}
			var last, total int64
			err = c.Verify(t.Context(), test.id, 2,
				func(d Damage) { t.Errorf("damage in a sound backup: %+v", d) },
				func(done, all int64) { last, total = max(last, done), all })
			if err != nil {
				t.Error(err)
			}
			if last != total || total == 0 {
				t.Errorf("progress ended at %d of %d", last, total)
			}
		})
	}
}

// TestVerifyFindsDamage damages the shop's catalog in many places at once, and
// then where what is wrong hides the rest.
func TestVerifyFindsDamage(t *testing.T) {
	dir := filepath.Join(linked(t, fixture.Shop(t)), "backups/shop")
	type damage struct {
		file string
		harm func([]byte) []byte
		want Damage
	}
	for name, damages := range map[string][]damage{
		"many": {
			{"TEI900/database/base/16385/1249", cut(1), Damage{"TEI900", "base/16385/1249", -1, ""}},
			{"TEI900/database/base/16385/1255", flip(3000), Damage{"TEI900", "base/16385/1255", 2, ""}},
			{"TEK3O0/database/base/16385/1259", flip(5), Damage{"TEK3O0", "base/16385/1259", -1, ""}},
			{"TEI900/database/base/16385/1259_vm", flip(100), Damage{"TEI900", "base/16385/1259_vm", -1, ""}},
			{"TEK3O0/database/base/16385/16414", flip(9000), Damage{"TEK3O0", "base/16385/16414", 1, ""}},
			{"../../wal/shop/00000001000000000000002F.gz", cut(9), Damage{"TENT00", "wal/shop/00000001000000000000002F", -1, ""}},
		},
		"pg_control": {{"TENT00/database/global/pg_control", flip(9), Damage{"TENT00", "global/pg_control", -1, ""}}},
		"list":       {{"TELYC0/backup_content.control", flip(40), Damage{"TELYC0", "backup_content.control", -1, ""}}},
		"start-lsn":  {{"TENT00/backup.control", replace("0/2F00028", "0/2F00128"), Damage{"TENT00", "backup.control", -1, ""}}},
		"header map": {{"TELYC0/page_header_map", flip(3), Damage{"TELYC0", "page_header_map", -1, ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			var want []Damage
			for _, d := range damages {
				defer harm(t, filepath.Join(dir, d.file), d.harm)()
				want = append(want, d.want)
			}
			got, err := verifyAll(t, filepath.Join(dir, "../.."), "TENT00")
			if !errors.Is(err, pg0.ErrCorrupt) {
				t.Errorf("error = %v, want one that says corrupt", err)
			}
			for i := range got {
				got[i].Reason = ""
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("damage (-want +got):\n%s", diff)
			}
		})
	}
}

func verifyAll(t *testing.T, dir, id string) ([]Damage, error) {
	t.Helper()
	c, err := Open(dir, "", Options{})
	if err != nil {
		t.Fatal(err)
	}
	var found []Damage
	err = c.Verify(t.Context(), id, 1, func(d Damage) {
		t.Log(d)
		found = append(found, d)
	}, nil)
	return found, err
}

func flip(at int) func([]byte) []byte {
	return func(b []byte) []byte {
		b[at] ^= 0x10
		return b
	}
}

func cut(n int) func([]byte) []byte {
	return func(b []byte) []byte { return b[:len(b)-n] }
}

// linked gives a catalog of the test's own whose files are links to the shared
// one, so they may be replaced but not written to.
func linked(t *testing.T, catalog string) string {
	t.Helper()
	dir := t.TempDir()
	err := filepath.WalkDir(catalog, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(catalog, name)
		if err == nil && d.IsDir() {
			return os.MkdirAll(filepath.Join(dir, rel), 0o755)
		}
		return errors.Join(err, os.Link(name, filepath.Join(dir, rel)))
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// harm replaces a file by a changed one and returns what undoes it.
func harm(t *testing.T, name string, change func([]byte) []byte) func() {
	t.Helper()
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	write := func(data []byte) {
		if err := errors.Join(os.Remove(name), os.WriteFile(name, data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write(change(append([]byte(nil), good...)))
	return func() { write(good) }
}
