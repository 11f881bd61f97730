package supervise_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/cmd/internal/supervise"
)

func TestCheckPlaces(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"catalog/backups", "state", "empty", "full/x"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"link": "catalog", "file": "missing"} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		mountpoint, apart string
		want              string // part of the error, empty for none
	}{
		{"empty", "catalog", ""},
		{"new", "catalog", ""},
		{"catalog2", "catalog", ""},
		{"catalog", "catalog", "lies inside"},
		{"catalog/new", "catalog", "lies inside"},
		{"link/new", "catalog", "lies inside"},
		{"catalog/new", "link", "lies inside"},
		{"catalog", "catalog/backups", "contains"},
		{"layer", "layer/not/yet", "contains"},
		{"full", "catalog", "not empty"},
		{"file", "catalog", "not a directory"},
		{"state/new", "catalog", "lies inside"},
		{"new", ".", "state directory"},
	}
	for _, test := range tests {
		mountpoint, err := supervise.Resolve(filepath.Join(root, test.mountpoint))
		if err != nil {
			t.Fatal(err)
		}
		err = supervise.CheckPlaces(state.Dir(filepath.Join(root, "state")), mountpoint, "", []string{filepath.Join(root, test.apart)})
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s beside %s: %v, want %q", test.mountpoint, test.apart, err, test.want)
		}
		if err != nil && exit.Code(err) != exit.Refused {
			t.Errorf("%s: exit code %d", test.mountpoint, exit.Code(err))
		}
	}
	err = supervise.CheckPlaces(state.Dir(filepath.Join(root, "state")), filepath.Join(root, "new"), filepath.Join(root, "link", "layer"), []string{filepath.Join(root, "catalog")})
	if err == nil || !strings.Contains(err.Error(), "layer") {
		t.Errorf("a layer inside the backups: %v", err)
	}
	if _, err := supervise.Resolve(filepath.Join(root, "missing", "new")); exit.Code(err) != exit.NotFound {
		t.Errorf("a missing parent: %v", err)
	}
}
