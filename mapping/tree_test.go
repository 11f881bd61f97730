package mapping_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"path"
	"testing"
	"testing/fstest"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/mapping"
)

// checkTree reads a composed tree as a tree and every graft in odd pieces.
func checkTree(t *testing.T, tree pg0.Tree, plan *mapping.Plan) {
	t.Helper()
	sub := map[string]bool{}
	for _, g := range plan.Grafts {
		for _, part := range g.Parts {
			for _, f := range part.Files {
				sub[path.Dir(f.Path)] = true
				checkPieces(t, tree, f)
			}
			for _, hidden := range part.Hide {
				if _, err := tree.Open(hidden); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("open %s: %v", hidden, err)
				}
				if _, err := tree.Lstat(hidden); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("lstat %s: %v", hidden, err)
				}
			}
		}
	}
	for dir := range sub {
		checkDir(t, tree, dir)
	}
}

// checkDir compares what a directory lists with what its files say.
func checkDir(t *testing.T, tree pg0.Tree, dir string) {
	t.Helper()
	entries, err := tree.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		again, err := tree.Lstat(path.Join(dir, e.Name()))
		if err != nil || again.Size() != info.Size() || again.Mode() != info.Mode() {
			t.Errorf("%s/%s is listed as %v, %v: %v", dir, e.Name(), info, again, err)
		}
		if i > 0 && entries[i-1].Name() >= e.Name() {
			t.Errorf("%s lists %s before %s", dir, entries[i-1].Name(), e.Name())
		}
	}
}

// testConformance runs the standard library's tests of a tree over a small one:
// two sequences in a directory of their own.
func testConformance(t *testing.T, donor, base *moment) {
	images := map[string]*mapping.Image{donor.name: donor.image, base.name: base.image}
	plan, err := mapping.Resolve(parse(t, base.name, "[[relation]]\nname = \"shop.public.tickets\"\nfrom = \""+donor.name+"\""), images, base.image)
	if err != nil {
		t.Fatal(err)
	}
	served := plan.Grafts[0].Parts[0].Files[0]
	small := func(image *mapping.Image, name string) *mapping.Image {
		data, err := fs.ReadFile(image.Tree, name)
		if err != nil {
			t.Fatal(err)
		}
		copied := *image
		copied.Tree = fstest.MapFS{name: {Data: data, Mode: 0o600}, path.Dir(name) + "/1_fsm": {Data: data}, "PG_VERSION": {Data: []byte("15\n")}}
		return &copied
	}
	plan.Grafts[0].Parts[0].Hide = []string{path.Dir(served.Path) + "/1_fsm"}
	images = map[string]*mapping.Image{donor.name: small(donor.image, served.Donor)}
	tree := compose(t, plan, images, small(base.image, served.Path))
	if err := fstest.TestFS(tree, served.Path, "PG_VERSION"); err != nil {
		t.Error(err)
	}
}

// checkPieces compares reads at odd places with the whole file.
func checkPieces(t *testing.T, tree pg0.Tree, f mapping.PartFile) {
	t.Helper()
	opened, err := tree.Open(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	file := opened.(pg0.File)
	whole, err := io.ReadAll(file)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(whole)) != f.Size {
		t.Fatalf("%s has %d bytes, the plan says %d", f.Path, len(whole), f.Size)
	}
	random := rand.New(rand.NewPCG(1, uint64(f.Size)))
	for range 20 {
		off, length := random.Int64N(f.Size+100), random.Int64N(40000)
		buf := make([]byte, length)
		n, err := file.ReadAt(buf, off)
		want := whole[min(off, f.Size):min(off+length, f.Size)]
		if !bytes.Equal(buf[:n], want) || (err == nil) != (int64(n) == length) || err != nil && !errors.Is(err, io.EOF) {
			t.Fatalf("%s at %d for %d: %d bytes, %v", f.Path, off, length, n, err)
		}
	}
}
