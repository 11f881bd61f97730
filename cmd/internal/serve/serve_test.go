package serve_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/proc"
	"github.com/fukanchik/pg0/cmd/internal/serve"
	"github.com/fukanchik/pg0/cmd/internal/source"
	"github.com/fukanchik/pg0/fusefs"
	"github.com/fukanchik/pg0/tests/fixture"
)

// parent is the argument with which this test runs itself as a process that
// mounts and then waits to be killed.
const parent = "parent"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == serve.Command {
		os.Exit(serve.Main(os.Stdin, os.NewFile(3, "replies"), slog.Default()))
	}
	if len(os.Args) > 1 && os.Args[1] == parent {
		beParent()
	}
	os.Exit(m.Run())
}

func beParent() {
	var recipe serve.Recipe
	err := json.NewDecoder(os.Stdin).Decode(&recipe)
	var child *serve.Child
	if err == nil {
		child, err = serve.Start(context.Background(), recipe)
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(child.ID)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed
	os.Exit(0)
}

func recipe(t *testing.T) serve.Recipe {
	t.Helper()
	mountpoint := filepath.Join(t.TempDir(), "m")
	if err := os.Mkdir(mountpoint, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if mounted, _ := fusefs.Mounted(mountpoint); mounted {
			t.Errorf("left mounted: %v", serve.Detach(mountpoint))
		}
	})
	return serve.Recipe{
		Tree: serve.TreeRef{
			Source: source.Ref{Format: "probackup", Path: fixture.Shop(t), Instance: "shop"}, Point: "TEI900",
		},
		Mountpoint: mountpoint, Name: "pg0:test", Layer: serve.Layer{TempDir: t.TempDir()},
	}
}

func TestSeal(t *testing.T) {
	r := recipe(t)
	child, err := serve.Start(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.Mountpoint, "new"), []byte("changed"), 0o600); err != nil {
		t.Error(err)
	}
	if usage, err := child.Usage(); err != nil || usage < 0 {
		t.Errorf("usage %d, %v", usage, err)
	}
	sealed := filepath.Join(t.TempDir(), "image", "blocks")
	if err := os.Mkdir(filepath.Dir(sealed), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := child.Seal(sealed); err != nil {
		t.Fatal(err)
	}
	if err := child.Stop(); err != nil {
		t.Fatal(err)
	}
	r.Tree.Images = []string{sealed}
	tree, closer, err := serve.OpenTree(context.Background(), r.Tree, serve.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer closer.Close()
	got, err := fs.ReadFile(tree, "new")
	if err != nil || string(got) != "changed" {
		t.Errorf("the sealed tree has %q, %v", got, err)
	}
	if got, err = fs.ReadFile(tree, "PG_VERSION"); err != nil || string(got) != "15\n" {
		t.Errorf("below the changes there is %q, %v", got, err)
	}
}

func TestErrorsKeepTheirCodes(t *testing.T) {
	r := recipe(t)
	r.Tree.Point = "ABCDEF"
	_, err := serve.Start(context.Background(), r)
	if exit.Code(err) != exit.NotFound || !strings.Contains(err.Error(), "ABCDEF") {
		t.Errorf("an unknown backup: %v, code %d", err, exit.Code(err))
	}
	r.Mountpoint = filepath.Join(r.Mountpoint, "missing")
	if _, err = serve.Start(context.Background(), r); err == nil {
		t.Error("a mount point that is missing is taken")
	}
}

func TestStopInUse(t *testing.T) {
	r := recipe(t)
	child, err := serve.Start(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(filepath.Join(r.Mountpoint, "PG_VERSION"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := child.Unmount(); exit.Code(err) != exit.Busy {
		t.Errorf("unmount in use: %v", err)
	}
	if err := child.Stop(); exit.Code(err) != exit.Busy {
		t.Errorf("stop in use: %v", err)
	}
	if mounted, err := fusefs.Mounted(r.Mountpoint); mounted || err != nil {
		t.Errorf("mounted is %v, %v", mounted, err)
	}
}

func TestParentIsKilled(t *testing.T) {
	for _, orphan := range []bool{false, true} {
		r := recipe(t)
		r.Orphan = orphan
		child := killedParent(t, r)
		if !orphan {
			if err := child.WaitFor(time.Minute); err != nil {
				t.Errorf("the child of a killed parent goes on: %v", err)
			}
			continue
		}
		if _, err := os.Stat(filepath.Join(r.Mountpoint, "PG_VERSION")); err != nil {
			t.Errorf("the mount has gone with its parent: %v", err)
		}
		if err := fusefs.Unmount(r.Mountpoint); err != nil {
			t.Fatal(err)
		}
		if err := child.WaitFor(time.Minute); err != nil {
			t.Errorf("the child goes on without its mount: %v", err)
		}
	}
}

// killedParent mounts in a process of its own, kills it, and gives the process
// that serves the mount.
func killedParent(t *testing.T, r serve.Recipe) (child proc.ID) {
	t.Helper()
	cmd := exec.Command(os.Args[0], parent)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(cmd.Start(), json.NewEncoder(in).Encode(r), json.NewDecoder(out).Decode(&child)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	return child
}

func TestRecipeSurvivesJSON(t *testing.T) {
	want := serve.Recipe{
		Tree:       serve.TreeRef{Source: source.Ref{Format: "probackup", Path: "/b"}, Point: "TEI900", Images: []string{"/i/blocks"}},
		Mountpoint: "/m", Layer: serve.Layer{Dir: "/l", Limit: 7}, Orphan: true,
	}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got serve.Recipe
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
