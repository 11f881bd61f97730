package state_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0/cmd/internal/state"
)

func TestRecord(t *testing.T) {
	dir, err := state.Open(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	want := &state.Mount{
		ID: state.ID("/mnt/mix"), Mountpoint: "/mnt/mix", Kind: state.Mix, Since: time.Unix(1, 0).UTC(),
		Provenance: []state.Origin{{Relation: "*", Point: "monday", LSN: 7}},
	}
	if _, err := dir.Load(want.ID); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before it is saved: %v", err)
	}
	if err := dir.Save(want); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir.MountDir("starting"), 0o700); err != nil {
		t.Fatal(err)
	}
	list, err := dir.List()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]*state.Mount{want}, list); diff != "" {
		t.Error(diff)
	}
	if err := dir.Remove(want.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := dir.Load(want.ID); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after it is removed: %v", err)
	}
}

func TestID(t *testing.T) {
	long := state.ID("/mnt/" + strings.Repeat("x", 200) + "/ä b")
	if len(long) > 25 || strings.ContainsAny(long, "/ ä") {
		t.Errorf("ID %q", long)
	}
	if state.ID("/a/mix") == state.ID("/b/mix") {
		t.Error("two mount points share an ID")
	}
}

func TestSocketDirIsShortAndPrivate(t *testing.T) {
	short := t.TempDir()
	for _, base := range []string{short, filepath.Join(short, strings.Repeat("x", 100)), ""} {
		t.Setenv("XDG_RUNTIME_DIR", base)
		if base != "" {
			if err := os.MkdirAll(base, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		dir, err := state.SocketDir(state.ID(base + "/test"))
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o700 || len(dir)+len("/.s.PGSQL.65535") > 107 {
			t.Errorf("%s has mode %v", dir, info.Mode())
		}
		if err := state.RemoveSocketDir(dir); err != nil {
			t.Error(err)
		}
	}
}
