// Package filesuite holds tests of file operations that run on anything that
// behaves like a directory: a cow.Store, a mount of one, or a directory of the
// operating system, which is the truth that the others are compared with.
package filesuite

import (
	"errors"
	"os"
	"path/filepath"
	"sort"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An FS is a directory tree, changed by path.
type FS interface {
	Open(name string, flag int, perm os.FileMode) (File, error)
	Mkdir(name string, perm os.FileMode) error
	Unlink(name string) error
	Rmdir(name string) error
	Rename(from, to string) error
	Link(from, to string) error
	Symlink(target, name string) error
	Readlink(name string) (string, error)
	Lstat(name string) (Info, error)
	List(name string) ([]string, error)
	Chmod(name string, perm os.FileMode) error
	Chtimes(name string, mtime time.Time) error
	Truncate(name string, size int64) error
	SyncDir(name string) error
}

// A File is an open regular file.
type File interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	Truncate(size int64) error
	Allocate(off, n int64) error
	Sync() error
	Stat() (Info, error)
	Close() error
}

// Info is what stat says, as far as all file systems must agree.
type Info struct {
	Mode  uint32 // type and permissions, as st_mode
	Size  int64  // of regular files and links
	Nlink uint32 // of regular files
	Ino   uint64
	Mtime time.Time
}

// Dir is an FS in a directory of the operating system.
type Dir string

func (d Dir) path(name string) string { return filepath.Join(string(d), name) }

// Open opens a regular file.
func (d Dir) Open(name string, flag int, perm os.FileMode) (File, error) {
	f, err := os.OpenFile(d.path(name), flag, perm)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Mkdir makes a directory.
func (d Dir) Mkdir(name string, perm os.FileMode) error { return os.Mkdir(d.path(name), perm) }

// Unlink removes a name that is no directory.
func (d Dir) Unlink(name string) error { return syscall.Unlink(d.path(name)) }

// Rmdir removes an empty directory.
func (d Dir) Rmdir(name string) error { return syscall.Rmdir(d.path(name)) }

// Rename moves a name over another.
func (d Dir) Rename(from, to string) error { return syscall.Rename(d.path(from), d.path(to)) }

// Link makes a hard link.
func (d Dir) Link(from, to string) error { return os.Link(d.path(from), d.path(to)) }

// Symlink makes a symbolic link.
func (d Dir) Symlink(target, name string) error { return os.Symlink(target, d.path(name)) }

// Readlink reads a symbolic link.
func (d Dir) Readlink(name string) (string, error) { return os.Readlink(d.path(name)) }

// Chmod sets permissions.
func (d Dir) Chmod(name string, perm os.FileMode) error { return os.Chmod(d.path(name), perm) }

// Truncate sets a length by path.
func (d Dir) Truncate(name string, size int64) error { return os.Truncate(d.path(name), size) }

// Chtimes sets the time of modification.
func (d Dir) Chtimes(name string, mtime time.Time) error {
	return os.Chtimes(d.path(name), mtime, mtime)
}

// Lstat describes a name.
func (d Dir) Lstat(name string) (Info, error) {
	var st syscall.Stat_t
	if err := syscall.Lstat(d.path(name), &st); err != nil {
		return Info{}, err
	}
	return infoOf(&st), nil
}

// List gives the sorted names in a directory.
func (d Dir) List(name string) ([]string, error) {
	list, err := os.ReadDir(d.path(name))
	if err != nil {
		return nil, err
	}
	names := []string{}
	for _, e := range list {
		names = append(names, e.Name())
	}
	sort.Strings(names)
	return names, nil
}

// SyncDir makes the names in a directory durable.
func (d Dir) SyncDir(name string) error {
	f, err := os.Open(d.path(name))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func infoOf(st *syscall.Stat_t) Info {
	i := Info{Mode: st.Mode, Ino: st.Ino, Mtime: time.Unix(st.Mtim.Unix())}
	if st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		i.Size, i.Nlink = st.Size, uint32(st.Nlink)
	}
	return i
}

type osFile struct{ *os.File }

func (f osFile) Allocate(off, n int64) error { return unix.Fallocate(int(f.Fd()), 0, off, n) }

func (f osFile) Stat() (Info, error) {
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		return Info{}, err
	}
	return infoOf(&st), nil
}
