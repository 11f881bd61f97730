package cow_test

import (
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/fusefs/cow"
	"github.com/fukanchik/pg0/tests/filesuite"
)

// FuzzJournal gives a store arbitrary records, in a batch whose checksums hold.
// It must take them or refuse them, and what it takes must be readable.
func FuzzJournal(f *testing.F) {
	base, layer := filesuite.Base(f), f.TempDir()
	s := mustOpen(f, base, cow.Options{Dir: layer})
	change(f, s)
	if err := s.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(cow.Payload(readFile(f, filepath.Join(layer, "journal"))))
	f.Add([]byte{1, 1, 2, 0, 0x80, 0x83, 2, 0, 1, 'x', 0, 0, 0})
	f.Fuzz(func(t *testing.T, payload []byte) {
		d := newDisks()
		for name, n := range map[string]int{"data": 64 * block, "wal": 8 * block} {
			d.put(name, make([]byte, n))
		}
		d.put("journal", cow.Frame(cow.KindLayer, payload))
		s, err := cow.Open(filesuite.Tree(base), cow.WithDisks(inMemory, d.open))
		if err != nil {
			return
		}
		walk(s.Tree())
		if _, err := s.Touched(); err != nil {
			t.Log(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// FuzzImage does the same to the index of an image.
func FuzzImage(f *testing.F) {
	base := filesuite.Base(f)
	s := mustOpen(f, base, cow.Options{TempDir: f.TempDir()})
	defer s.Close()
	change(f, s)
	dir, _ := seal(f, s, filesuite.Tree(base))
	blocks := readFile(f, filepath.Join(dir, "blocks"))
	f.Add(cow.Payload(readFile(f, filepath.Join(dir, "index"))))
	f.Fuzz(func(t *testing.T, payload []byte) {
		dir := t.TempDir()
		writeFile(t, filepath.Join(dir, "index"), cow.Frame(cow.KindImage, payload))
		writeFile(t, filepath.Join(dir, "blocks"), blocks)
		image, closer, err := cow.OpenImage(filesuite.Tree(base), dir)
		if err != nil {
			return
		}
		walk(image)
		if err := closer.Close(); err != nil {
			t.Error(err)
		}
	})
}

// walk reads something of every file of a tree; errors are fine.
func walk(tree pg0.Tree) {
	buf := make([]byte, 2*block)
	_ = fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if f, err := tree.Open(name); err == nil {
			_, _ = f.(pg0.File).ReadAt(buf, 0)
			_, _ = f.Read(buf)
			_ = f.Close()
		}
		return nil
	})
}
