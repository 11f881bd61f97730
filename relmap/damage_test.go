package relmap_test

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/relmap"
)

// changed is a tree in which some files have other content; nil is a missing
// file.
type changed struct {
	fs.FS
	files map[string][]byte
}

func (c changed) Open(name string) (fs.File, error) {
	content, ok := c.files[name]
	switch {
	case !ok:
		return c.FS.Open(name)
	case content == nil:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return fstest.MapFS{name: {Data: content}}.Open(name)
}

// testDamage checks that damage is refused and its place named.
func (o *odd) testDamage(t *testing.T) {
	tree := os.DirFS(o.dir)
	_, d := o.open(t)
	class, err := d.Path(d.Relation("pg_catalog", "pg_class"))
	if err != nil {
		t.Fatal(err)
	}
	local := path.Join(path.Dir(class), "pg_filenode.map")
	tests := []struct {
		name, file string
		damage     func([]byte) []byte
		want       error
		message    string
	}{
		{"no cluster", "PG_VERSION", missing, fs.ErrNotExist, "PG_VERSION"},
		{"older major", "PG_VERSION", to("11\n"), nil, "PostgreSQL 11; pg0 reads 12 to 18"},
		{"no major", "PG_VERSION", to("fifteen"), pg0.ErrCorrupt, "fifteen"},
		{"another product", "PG_VERSION", otherVersion, nil, "another product"},
		{"flipped bit of control", "global/pg_control", flip(70), pg0.ErrCorrupt, "global/pg_control"},
		{"short control", "global/pg_control", cut(200), pg0.ErrCorrupt, "200 bytes"},
		{"control of other machine", "global/pg_control", swapVersion, pg0.ErrCorrupt, "byte order"},
		{"control of other major", "global/pg_control", set(8, 0xa2, 3), pg0.ErrCorrupt, "version 930"},
		{"flipped bit of shared map", "global/pg_filenode.map", flip(20), pg0.ErrCorrupt, "global/pg_filenode.map"},
		{"no map", local, missing, fs.ErrNotExist, local},
		{"short map", local, cut(100), pg0.ErrCorrupt, local},
		{"no map's magic", local, flip(0), pg0.ErrCorrupt, local},
		{"no pg_class", class, missing, fs.ErrNotExist, class},
		{"broken page header", class, flip(8192 + 19), pg0.ErrCorrupt, class + ": block 1"},
		{"empty pg_class", class, cut(0), pg0.ErrCorrupt, "pg_class has no file for catalog"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			content, err := fs.ReadFile(tree, test.file)
			if err != nil {
				t.Fatal(err)
			}
			err = load(changed{tree, map[string][]byte{test.file: test.damage(slices.Clone(content))}})
			switch {
			case err == nil:
				t.Fatal("no error")
			case test.want != nil && !errors.Is(err, test.want):
				t.Errorf("error %q is not %q", err, test.want)
			case !strings.Contains(err.Error(), test.message):
				t.Errorf("error %q does not say %q", err, test.message)
			}
		})
	}
}

func load(tree fs.FS) error {
	cluster, err := relmap.Open(tree)
	if err != nil {
		return err
	}
	_, err = cluster.Database(database)
	return err
}

func missing([]byte) []byte { return nil }

func to(text string) func([]byte) []byte {
	return func([]byte) []byte { return []byte(text) }
}

func otherVersion(content []byte) []byte {
	if string(content) == "12\n" {
		return []byte("13\n")
	}
	return []byte("12\n")
}

func flip(at int) func([]byte) []byte {
	return func(content []byte) []byte {
		content[at] ^= 0x10
		return content
	}
}

func cut(at int) func([]byte) []byte {
	return func(content []byte) []byte { return content[:at:at] }
}

func set(at int, bytes ...byte) func([]byte) []byte {
	return func(content []byte) []byte {
		copy(content[at:], bytes)
		return content
	}
}

func swapVersion(content []byte) []byte {
	slices.Reverse(content[8:12])
	return content
}

func (o *odd) testUnknown(t *testing.T) {
	cluster, d := o.open(t)
	if _, err := cluster.Database("none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a database that is not there gives %v", err)
	}
	if _, err := cluster.Role(1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a role that is not there gives %v", err)
	}
	if r := d.Relation("public", "rolled_back"); r != nil {
		t.Errorf("a table that was rolled back is there: %v", r)
	}
}
