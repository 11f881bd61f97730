package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fukanchik/pg0/tests/fixture"
	"github.com/fukanchik/pg0/tests/program"
)

// TestExampleShop runs what make demo runs.
func TestExampleShop(t *testing.T) {
	t.Parallel()
	binary := program.Binary(t)
	demo := exec.Command(filepath.Join(program.Root(), "examples", "shop", "demo.sh"), binary, filepath.Join(fixture.Root(), "shop.tar.zst"))
	work, err := os.MkdirTemp("", "p0") // short: sockets lie below it
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(work)
	demo.Env = append(os.Environ(), "TMPDIR="+work)
	out, err := demo.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), "# 247 rows are back.") {
		t.Errorf("it printed\n%s", out)
	}
	left, err := os.ReadDir(work)
	if err != nil || len(left) > 0 {
		t.Errorf("the demo left %v, %v", left, err)
	}
}
