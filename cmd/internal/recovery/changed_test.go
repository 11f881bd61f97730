package recovery_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/recovery"
	"github.com/fukanchik/pg0/cmd/internal/source"
	"github.com/fukanchik/pg0/tests/fixture"
)

// TestDeletedMeanwhile deletes and merges backups while an image is made of
// them: that is what the error says, not that they are damaged.
func TestDeletedMeanwhile(t *testing.T) {
	for _, test := range []struct {
		name, want string
		code       int
		change     func(dir string) error
	}{
		{"deleted", "backup TEK3O0 was deleted", exit.NotFound, func(dir string) error {
			return os.RemoveAll(filepath.Join(dir, "TEK3O0"))
		}},
		{"parent deleted", "backup TEK3O0 cannot be used any more: chain is broken: backup TEI900", exit.Refused, func(dir string) error {
			return os.RemoveAll(filepath.Join(dir, "TEI900"))
		}},
		{"being merged", "cannot be used any more: backup TEI900 is being merged into TENT00", exit.Refused, func(dir string) error {
			for _, id := range []string{"TEI900", "TEK3O0"} {
				name := filepath.Join(dir, id, "backup.control")
				text, err := os.ReadFile(name)
				if err != nil {
					return err
				}
				text = []byte(strings.Replace(string(text), "status = OK", "status = MERGING\nmerge-dest-id = TENT00", 1))
				if err := errors.Join(os.WriteFile(name, text, 0o600), os.RemoveAll(filepath.Join(dir, id, "database", "base", "5"))); err != nil {
					return err
				}
			}
			return nil
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := openShop(t)
			s.ref.Path = fixture.Copy(t, fixture.ShopCatalog)
			var err error
			if s.catalog, err = s.ref.Open(testLogger(t)); err != nil {
				t.Fatal(err)
			}
			s.maker.Progress = func(p recovery.Progress) {
				if p.Stage == recovery.StageMount {
					if err := test.change(filepath.Join(s.ref.Path, "backups", "shop")); err != nil {
						t.Error(err)
					}
				}
			}
			_, err = s.tryMake("TEK3O0")
			if !errors.Is(err, source.ErrChanged) || exit.Code(err) != test.code || !strings.Contains(err.Error(), test.want) {
				t.Errorf("exit code %d: %v", exit.Code(err), err)
			}
			checkLeftovers(t, s)
		})
	}
}
