package pg0_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/fukanchik/pg0"

// layers says which packages of our own each package may import. A trailing
// "/..." covers everything below. What a line does not list is forbidden.
var layers = map[string][]string{
	"":                 {},
	"internal/pagesum": {},
	"probackup":        {"", "internal/pagesum"},
	"relmap/heap":      {"", "internal/pagesum"},
	"relmap/xact":      {""},
	"relmap":           {"", "relmap/heap", "relmap/xact"},
	"mapping":          {"", "relmap", "relmap/heap", "relmap/xact"},
	"fusefs/cow":       {""},
	"fusefs":           {"", "fusefs/cow"},
	"proxy":            {""},
	"livepg":           {""},
	"cmd/internal/...": {"", "probackup", "livepg", "relmap/...", "mapping", "fusefs/...", "proxy", "cmd/internal/..."},
	"cmd/pg0":          {"", "probackup", "livepg", "relmap/...", "mapping", "fusefs/...", "proxy", "cmd/internal/..."},
	"tests/...":        {"", "probackup", "livepg", "relmap/...", "mapping", "fusefs/...", "proxy", "tests/..."},
}

// testsMayImport is what the tests of every package may use beside its own
// layer: builders of clusters, catalogs and fixtures.
const testsMayImport = "tests/..."

func TestLayers(t *testing.T) {
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && strings.HasPrefix(d.Name(), "."):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go"):
			return nil
		}
		checkImports(t, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkImports(t *testing.T, name string) {
	t.Helper()
	pkg := path.Dir(filepath.ToSlash(name))
	if pkg == "." {
		pkg = ""
	}
	allowed, known := allowedImports(pkg)
	if !known {
		t.Errorf("%s: package %q has no line in the table of layers", name, pkg)
		return
	}
	if strings.HasSuffix(name, "_test.go") {
		allowed = append(append([]string{pkg}, allowed...), testsMayImport)
	}
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		own, ours := strings.CutPrefix(imported, module)
		if !ours || own != "" && !strings.HasPrefix(own, "/") {
			continue
		}
		if !matchesAny(strings.TrimPrefix(own, "/"), allowed) {
			t.Errorf("%s: package %q may not import %q", name, pkg, imported)
		}
	}
}

func allowedImports(pkg string) (allowed []string, known bool) {
	for pattern, allowed := range layers {
		if matches(pkg, pattern) {
			return allowed, true
		}
	}
	return nil, false
}

func matchesAny(pkg string, patterns []string) bool {
	for _, pattern := range patterns {
		if matches(pkg, pattern) {
			return true
		}
	}
	return false
}

func matches(pkg, pattern string) bool {
	prefix, tree := strings.CutSuffix(pattern, "/...")
	return pkg == prefix || tree && strings.HasPrefix(pkg, prefix+"/")
}
