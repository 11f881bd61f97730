package wal

import (
	"bytes"
	"io/fs"
	"time"

	"github.com/fukanchik/pg0"
)

// A memoryFile is a file whose bytes are at hand. It is its own FileInfo.
type memoryFile struct {
	*bytes.Reader
	name string
}

func newMemoryFile(name string, data []byte) pg0.File {
	return &memoryFile{bytes.NewReader(data), name}
}

func (f *memoryFile) Stat() (fs.FileInfo, error) { return f, nil }
func (f *memoryFile) Close() error               { return nil }
func (f *memoryFile) Name() string               { return f.name }
func (f *memoryFile) Mode() fs.FileMode          { return 0o400 }
func (f *memoryFile) ModTime() time.Time         { return time.Time{} }
func (f *memoryFile) IsDir() bool                { return false }
func (f *memoryFile) Sys() any                   { return nil }
func (f *memoryFile) Size() int64                { return f.Reader.Size() }
