package livepg_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/livepg"
)

// taken makes a catalog with one point of two files and a link.
func taken(t *testing.T) (*livepg.Catalog, string) {
	t.Helper()
	c, err := livepg.Open(filepath.Join(t.TempDir(), "new"))
	if err != nil {
		t.Fatal(err)
	}
	taking, err := c.Begin(time.Date(2026, 5, 6, 14, 0, 2, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"PG_VERSION": "15\n", "base/5/16384": "rows"} {
		name = filepath.Join(taking.Data(), name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc", filepath.Join(taking.Data(), "out")); err != nil {
		t.Fatal(err)
	}
	r := &livepg.Record{
		PointInfo:   pg0.PointInfo{Mode: livepg.Mode, Status: "OK", SystemID: 42, Version: 15, Partial: true},
		SegmentSize: 1 << 20, Hollow: []string{"base/5/16390"}, Files: map[string]int64{"PG_VERSION": 3, "base/5/16384": 4},
	}
	if points, err := c.Points(context.Background()); err != nil || len(points) != 0 {
		t.Errorf("before the end: %v, %v", points, err)
	}
	if err := taking.Finish(r); err != nil {
		t.Fatal(err)
	}
	return c, taking.ID
}

func TestCatalog(t *testing.T) {
	c, id := taken(t)
	ctx := context.Background()
	points, err := c.Points(ctx)
	if err != nil || len(points) != 1 || points[0].ID != id || c.SystemID() != 42 || c.SegmentSize() != 1<<20 {
		t.Errorf("%+v, %v", points, err)
	}
	if _, err := c.Open(ctx, "nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unknown point: %v", err)
	}
	p, err := c.Open(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.Holds("base/5/16390") || !p.Holds("base/5/16384") || !p.Holds("base/5/99999") {
		t.Error("only the hollow relation is not held")
	}
	file, err := p.Tree.Open("base/5/16384")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	buf := make([]byte, 2)
	if n, err := file.(pg0.File).ReadAt(buf, 2); n != 2 || err != nil || string(buf) != "ws" {
		t.Errorf("ReadAt %q, %d, %v", buf, n, err)
	}
	if _, err := p.Tree.Open("out"); err == nil {
		t.Error("a link is followed")
	}
	if _, err := p.Tree.Open("out/passwd"); err == nil {
		t.Error("a link leads out of the tree")
	}
	if link, err := p.Tree.ReadLink("out"); link != "/etc" || err != nil {
		t.Errorf("link %q, %v", link, err)
	}
	base, err := fs.Sub(p.Tree, "base")
	if err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(base, "5/16384"); err != nil {
		t.Error(err)
	}
}

func TestVerify(t *testing.T) {
	c, id := taken(t)
	var found []livepg.Damage
	report := func(d livepg.Damage) { found = append(found, d) }
	none := func(int64, int64) {}
	if err := c.Verify(context.Background(), id, report, none); err != nil || found != nil {
		t.Errorf("%v, %v", found, err)
	}
	if err := os.Truncate(filepath.Join(c.Dir(), id, "data", "base/5/16384"), 1); err != nil {
		t.Fatal(err)
	}
	err := c.Verify(context.Background(), id, report, none)
	want := []livepg.Damage{{Backup: id, File: "base/5/16384", Block: -1, Reason: "1 bytes can be read, 4 were taken"}}
	if diff := cmp.Diff(want, found); diff != "" || !errors.Is(err, pg0.ErrCorrupt) {
		t.Error(diff, err)
	}
}

// TestBegin clears away what a killed maker left, and not what a living one
// works on.
func TestBegin(t *testing.T) {
	c, _ := taken(t)
	first, err := c.Begin(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(c.Dir(), "dead.tmp")
	if err := errors.Join(os.Mkdir(dead, 0o700), os.WriteFile(filepath.Join(dead, "lock"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	second, err := c.Begin(time.Now().Add(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dead); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left: %v", err)
	}
	for _, taking := range []*livepg.Taking{first, second} {
		if err := taking.Abandon(); err != nil {
			t.Errorf("it was removed under its maker: %v", err)
		}
		if _, err := os.Stat(taking.Data()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("abandoned: %v", err)
		}
	}
}

// TestRemove leaves a point alone whose maker may be about to use it.
func TestRemove(t *testing.T) {
	c, _ := taken(t)
	taking, err := c.Begin(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := taking.Finish(&livepg.Record{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(taking.ID); !errors.Is(err, livepg.ErrBusy) {
		t.Errorf("while its maker runs: %v", err)
	}
	if err := taking.Release(); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(taking.ID); err != nil {
		t.Error(err)
	}
	if points, err := c.Points(context.Background()); err != nil || len(points) != 1 {
		t.Errorf("%v, %v", points, err)
	}
	if err := c.Remove(taking.ID); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("again: %v", err)
	}
}

// FuzzRecord reads damaged records.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"id":"X","partial":true,"hollow":["base/5/1"],"files":{"a":1}}`))
	f.Add([]byte(`{"id":"Y"`))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		name := filepath.Join(dir, "X", "point.json")
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, "X", "data"), 0o700), os.WriteFile(name, text, 0o600)); err != nil {
			t.Fatal(err)
		}
		c, err := livepg.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		points, err := c.Points(context.Background())
		if err != nil || len(points) != 1 {
			t.Fatalf("%v, %v", points, err)
		}
		p, err := c.Open(context.Background(), "x")
		if (err != nil) != (points[0].Unusable != "") {
			t.Errorf("open: %v; the list says %q", err, points[0].Unusable)
		}
		if err == nil {
			p.Close()
		}
	})
}
