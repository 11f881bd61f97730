package cow_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/fusefs/cow"
	"github.com/fukanchik/pg0/tests/filesuite"
)

// seal makes an image of a store and opens it over a base.
func seal(t testing.TB, s *cow.Store, base pg0.Tree) (dir string, image pg0.Tree) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "images", "image")
	if err := s.Seal(dir); err != nil {
		t.Fatal(err)
	}
	image, closer, err := cow.OpenImage(base, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closer.Close() })
	return dir, image
}

func TestSeal(t *testing.T) {
	base := filesuite.Tree(filesuite.Base(t))
	s, err := cow.Open(base, cow.Options{TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	change(t, s)
	dir, image := seal(t, s, base)
	if diff := cmp.Diff(filesuite.DumpTree(t, s.Tree()), filesuite.DumpTree(t, image)); diff != "" {
		t.Errorf("the image differs from the store:\n%s", diff)
	}
	// Of 12 blocks written, those of zeros in a new part are not kept.
	info, err := os.Stat(filepath.Join(dir, "blocks"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() != 10*block {
		t.Errorf("the image has %d blocks", info.Size()/block)
	}
	if err := s.Seal(dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("sealed over an image: %v", err)
	}

	// An image is a base for the next one.
	s2, err := cow.Open(image, cow.Options{TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s2.Close()
	fsys := filesuite.Store{S: s2}
	if err := errors.Join(fsys.Truncate("new/dir/file", 100), fsys.Rename("base/2/renamed", "back"), s2.RemoveAll("base/1/103")); err != nil {
		t.Fatal(err)
	}
	_, second := seal(t, s2, image)
	if diff := cmp.Diff(filesuite.DumpTree(t, s2.Tree()), filesuite.DumpTree(t, second)); diff != "" {
		t.Errorf("the second image differs from its store:\n%s", diff)
	}
}

// TestSealRandom seals what random operations have made.
func TestSealRandom(t *testing.T) {
	for seed := range uint64(4) {
		base, model := filesuite.Base(t), t.TempDir()
		filesuite.CopyDir(t, base, model)
		s := openStore(t, base, cow.Options{})
		r := filesuite.NewRandom(t, 100+seed, filesuite.Store{S: s}, filesuite.Dir(model))
		for range 3 {
			r.Run(300)
			_, image := seal(t, s, filesuite.Tree(base))
			if diff := cmp.Diff(filesuite.DumpTree(t, s.Tree()), filesuite.DumpTree(t, image)); diff != "" {
				t.Fatal(diff)
			}
		}
		r.Check()
	}
}

// TestDamagedImage flips every byte of the index and one byte in every block.
func TestDamagedImage(t *testing.T) {
	base := filesuite.Tree(filesuite.Base(t))
	s, err := cow.Open(base, cow.Options{TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	change(t, s)
	dir, _ := seal(t, s, base)
	index := readFile(t, filepath.Join(dir, "index"))
	for n := range index {
		index[n] ^= 1
		writeFile(t, filepath.Join(dir, "index"), index)
		_, closer, err := cow.OpenImage(base, dir)
		if err == nil {
			closer.Close()
			t.Fatalf("byte %d of the index is damaged, which went unnoticed", n)
		}
		if !errors.Is(err, pg0.ErrCorrupt) && n != 8 {
			t.Fatalf("byte %d of the index: %v", n, err)
		}
		index[n] ^= 1
	}
	for n := range len(index) {
		writeFile(t, filepath.Join(dir, "index"), index[:n])
		if _, _, err := cow.OpenImage(base, dir); !errors.Is(err, pg0.ErrCorrupt) {
			t.Fatalf("the index is cut to %d bytes: %v", n, err)
		}
	}
	writeFile(t, filepath.Join(dir, "index"), index)
	damageBlocks(t, base, dir)
}

func damageBlocks(t *testing.T, base pg0.Tree, dir string) {
	t.Helper()
	name := filepath.Join(dir, "blocks")
	blocks := readFile(t, name)
	writeFile(t, name, blocks[:len(blocks)-1])
	if _, _, err := cow.OpenImage(base, dir); !errors.Is(err, pg0.ErrCorrupt) {
		t.Errorf("the blocks are cut short: %v", err)
	}
	for off := 100; off < len(blocks); off += block {
		blocks[off] ^= 1
		writeFile(t, name, blocks)
		blocks[off] ^= 1
		image, closer, err := cow.OpenImage(base, dir)
		if err != nil {
			t.Fatal(err)
		}
		if damaged := unreadable(t, image); len(damaged) != 1 {
			t.Errorf("block %d is damaged, and %v cannot be read", off/block, damaged)
		}
		closer.Close()
	}
}

// unreadable lists the files that give an error, which must name the place.
func unreadable(t *testing.T, tree pg0.Tree) (names []string) {
	t.Helper()
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		_, err = fs.ReadFile(tree, name)
		if err == nil {
			return nil
		}
		names = append(names, name)
		if !errors.Is(err, pg0.ErrCorrupt) || !strings.Contains(err.Error(), "image block") {
			t.Errorf("%s: %v", name, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return names
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t testing.TB, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
