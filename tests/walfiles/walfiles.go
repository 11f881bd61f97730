// Package walfiles holds WAL archives in memory, for tests that leave files
// out, cut them, and damage them.
package walfiles

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/fukanchik/pg0"
)

// SegmentSize is that of the clusters of all fixtures.
const SegmentSize = 1 << 20

// An Archive maps the names that PostgreSQL gives its files to their bytes.
type Archive map[string][]byte

// WAL opens a file.
func (m Archive) WAL(_ context.Context, name string) (pg0.File, error) {
	file, err := fstest.MapFS{name: &fstest.MapFile{Data: m[name]}}.Open(name)
	if _, ok := m[name]; !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	if err != nil {
		return nil, err
	}
	return file.(pg0.File), nil
}

// WALNames lists the files, sorted.
func (m Archive) WALNames(context.Context) ([]string, error) {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// SegmentSize is the length of a segment.
func (m Archive) SegmentSize() int64 { return SegmentSize }

// Clone gives an archive that can be changed.
func (m Archive) Clone() Archive {
	c := Archive{}
	for name, data := range m {
		c[name] = bytes.Clone(data)
	}
	return c
}

// Load reads the archive of a pg_probackup catalog whose instance is shop.
func Load(t testing.TB, catalog string) Archive {
	t.Helper()
	m := Archive{}
	files, err := filepath.Glob(filepath.Join(catalog, "wal", "shop", "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no archive in %s: %v", catalog, err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		if strings.HasSuffix(name, ".backup") {
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if plain, ok := strings.CutSuffix(name, ".gz"); ok {
			name, data = plain, gunzip(t, data)
		}
		m[name] = data
	}
	return m
}

func gunzip(t testing.TB, data []byte) []byte {
	t.Helper()
	stream, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(stream)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}
