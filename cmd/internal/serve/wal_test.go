package serve

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// files is a tree without links.
type files struct{ fstest.MapFS }

func (f files) Lstat(name string) (fs.FileInfo, error) { return f.MapFS.Stat(name) }

func (f files) ReadLink(name string) (string, error) {
	return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
}

func TestMoveWAL(t *testing.T) {
	tree := files{fstest.MapFS{
		"PG_VERSION":                          {Data: []byte("15\n")},
		"pg_wal/000000010000000000000001":     {Data: []byte("first")},
		"pg_wal/archive_status":               {Mode: fs.ModeDir | 0o700},
		"pg_wal/summaries/a.summary":          {Data: []byte("of 17")},
		"base/5/pg_wal/is not at the root.gz": {},
	}}
	dir := filepath.Join(t.TempDir(), "wal")
	// What a killed process has left is not taken for the whole.
	if err := os.MkdirAll(filepath.Join(dir+".new", "half"), 0o700); err != nil {
		t.Fatal(err)
	}
	moved, err := moveWAL(tree, dir)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"000000010000000000000001": "first", "summaries/a.summary": "of 17", "archive_status": "", "summaries": ""}
	if diff := cmp.Diff(want, list(t, dir)); diff != "" {
		t.Errorf("directory of WAL (-want +got):\n%s", diff)
	}
	if target, err := moved.ReadLink("pg_wal"); err != nil || target != dir {
		t.Errorf("link to %q, %v", target, err)
	}
	if info, err := moved.Lstat("pg_wal"); err != nil || info.Mode().Type() != fs.ModeSymlink {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := moved.Open("pg_wal"); !errors.Is(err, errIsLink) {
		t.Errorf("open the link: %v", err)
	}
	root, err := moved.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range root {
		if isLink := entry.Type() == fs.ModeSymlink; isLink != (entry.Name() == "pg_wal") {
			t.Errorf("%v", entry)
		}
	}
	// PostgreSQL has gone on in it since.
	if err := os.Remove(filepath.Join(dir, "000000010000000000000001")); err != nil {
		t.Fatal(err)
	}
	if _, err := moveWAL(tree, dir); err != nil {
		t.Fatal(err)
	}
	if _, there := list(t, dir)["000000010000000000000001"]; there {
		t.Error("a directory that was there is filled again")
	}
	if n := bytesBelow(dir); n != 5 {
		t.Errorf("%d bytes", n)
	}
}

// list gives the files of a directory with their contents; directories are empty.
func list(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		all[rel] = ""
		if d.IsDir() {
			return nil
		}
		data, err := os.ReadFile(name)
		all[rel] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
