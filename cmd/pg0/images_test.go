package main

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/image"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/relmap"
)

// keepImage puts an image without blocks into the cache.
func keepImage(t *testing.T, dir state.Dir, key string, parents ...string) {
	t.Helper()
	cache := image.Cache(dir.Images())
	tmp, err := cache.Tmp(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := cache.Finish(tmp, &image.Meta{Key: key, Parents: parents}, &relmap.Definitions{}); err != nil {
		t.Fatal(err)
	}
}

func runImages(t *testing.T, dir state.Dir, args ...string) (code int) {
	t.Helper()
	var out bytes.Buffer
	root := rootCommand(&out, &out)
	root.SetArgs(append([]string{"--state-dir", string(dir), "images"}, args...))
	return exit.Code(root.ExecuteContext(context.Background()))
}

func TestImages(t *testing.T) {
	dir := state.Dir(t.TempDir())
	for key, parents := range map[string][]string{"aa11": nil, "aa22": {"aa11"}, "bb33": nil} {
		keepImage(t, dir, key, parents...)
	}
	if _, err := image.Cache(dir.Images()).Tmp("cc44"); err != nil { // as a killed maker leaves it
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		code int
		keys string
	}{
		{[]string{"remove", "zz"}, exit.NotFound, "aa11 aa22 bb33 cc44"},
		{[]string{"remove", "aa"}, exit.Usage, "aa11 aa22 bb33 cc44"},
		{[]string{"remove", "cc44"}, exit.Busy, "aa11 aa22 bb33 cc44"},
		{[]string{"remove", "aa11"}, exit.Busy, "aa11 aa22 bb33 cc44"},
		{[]string{"remove"}, exit.Usage, "aa11 aa22 bb33 cc44"},
		{[]string{"remove", "BB"}, exit.Done, "aa11 aa22 cc44"},
		{[]string{"prune", "--unused-for", "1h"}, exit.Done, "aa11 aa22"},
		{[]string{"prune"}, exit.Done, ""},
	} {
		if code := runImages(t, dir, test.args...); code != test.code {
			t.Errorf("%q: exit code %d, want %d", test.args, code, test.code)
		}
		if got := imageKeys(t, dir); got != test.keys {
			t.Errorf("after %q there are %q, want %q", test.args, got, test.keys)
		}
	}
}

// imageKeys lists the keys in the cache, sorted.
func imageKeys(t *testing.T, dir state.Dir) string {
	t.Helper()
	var out bytes.Buffer
	root := rootCommand(&out, &out)
	root.SetArgs([]string{"--json", "--state-dir", string(dir), "images", "list"})
	if err := root.ExecuteContext(context.Background()); err != nil {
		t.Fatal(err)
	}
	var entries []image.Entry
	if err := json.Unmarshal(out.Bytes(), &entries); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	var keys []string
	for _, entry := range entries {
		keys = append(keys, entry.Key)
	}
	slices.Sort(keys)
	return strings.Join(keys, " ")
}
