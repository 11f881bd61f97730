package reach_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fukanchik/pg0/cmd/internal/reach"
	"github.com/fukanchik/pg0/tests/fixture"
)

// TestMemory finds a target once; the second time no WAL is read, but for what
// Examine reads.
func TestMemory(t *testing.T) {
	c := open(t, fixture.Shop(t))
	dir := filepath.Join(t.TempDir(), "targets")
	for _, at := range []string{"2026-05-06 14:00:02+00", "name:after_delete", "xid:870"} {
		target, err := parse(at)
		if err != nil {
			t.Fatal(err)
		}
		target.Backup = "TELYC0"
		first, err := reach.Choose(context.Background(), c, target, reach.RememberIn(reach.Memory(dir)))
		if err != nil {
			t.Fatal(err)
		}
		damaged := catalog{c.backups, c.Clone()}
		for name := range damaged.Archive {
			clear(damaged.Archive[name])
		}
		second, err := reach.Choose(context.Background(), damaged, target, reach.RememberIn(reach.Memory(dir)))
		if err != nil {
			t.Errorf("%s: %v", at, err)
			continue
		}
		if diff := cmp.Diff(first, second, cmpopts.IgnoreUnexported(reach.Choice{})); diff != "" {
			t.Errorf("%s: remembered (-first +second):\n%s", at, diff)
		}
		if err := reach.Examine(context.Background(), damaged, second, nil); err == nil {
			t.Errorf("%s: damaged WAL was not read", at)
		}
	}
	// What is not readable is searched for again.
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := reach.Choose(context.Background(), c, reach.Target{Kind: reach.XID, XID: 870}, reach.RememberIn(reach.Memory(dir))); err != nil {
		t.Error(err)
	}
}
