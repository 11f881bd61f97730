package wal_test

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

const megabyte = 1 << 20

// memory is an archive in memory with segments of 1 MB.
type memory map[string][]byte

func (m memory) WAL(_ context.Context, name string) (pg0.File, error) {
	file, err := fstest.MapFS{name: &fstest.MapFile{Data: m[name]}}.Open(name)
	if _, ok := m[name]; !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	if err != nil {
		return nil, err
	}
	return file.(pg0.File), nil
}

func (m memory) WALNames(context.Context) ([]string, error) {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

func (m memory) SegmentSize() int64 { return megabyte }

func (m memory) clone() memory {
	c := memory{}
	for name, data := range m {
		c[name] = bytes.Clone(data)
	}
	return c
}

// archiveOf reads the archive of a catalog whose only instance is shop.
func archiveOf(t testing.TB, catalog string) memory {
	t.Helper()
	m := memory{}
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
