package livepg

import (
	"io/fs"
	"os"
	"syscall"

	"github.com/fukanchik/pg0"
)

// tree is a cluster directory on disk. os.Root keeps names inside of it.
type tree struct{ root *os.Root }

var _ pg0.Tree = tree{}

// Open opens a file or directory. A link itself is not opened.
func (t tree) Open(name string) (fs.File, error) {
	if err := valid("open", name); err != nil {
		return nil, err
	}
	return t.root.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
}

// ReadDir lists a directory in the order of names.
func (t tree) ReadDir(name string) ([]fs.DirEntry, error) {
	return fs.ReadDir(t.root.FS(), name)
}

// ReadLink gives where a link points to.
func (t tree) ReadLink(name string) (string, error) {
	if err := valid("readlink", name); err != nil {
		return "", err
	}
	return t.root.Readlink(name)
}

// Lstat describes a file, or a link itself.
func (t tree) Lstat(name string) (fs.FileInfo, error) {
	if err := valid("lstat", name); err != nil {
		return nil, err
	}
	return t.root.Lstat(name)
}

func valid(op, name string) error {
	if !fs.ValidPath(name) {
		return &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return nil
}
