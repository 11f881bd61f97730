package filesuite

import (
	"errors"
	"io"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/fukanchik/pg0/fusefs/cow"
)

// Store is an FS that calls a cow.Store directly, as the kernel would through
// FUSE: it looks names up one by one and gives back each reference.
type Store struct{ S *cow.Store }

// walk calls f with the inode of a path.
func (s Store) walk(name string, f func(ino uint64) error) error {
	ino := uint64(cow.RootIno)
	if name != "." {
		for part := range strings.SplitSeq(name, "/") {
			a, err := s.S.Lookup(ino, part)
			if err != nil {
				return err
			}
			defer s.S.Forget(a.Ino, 1)
			ino = a.Ino
		}
	}
	return f(ino)
}

func (s Store) at(name string, f func(dir uint64, base string) error) error {
	return s.walk(path.Dir(name), func(dir uint64) error {
		if a, err := s.S.GetAttr(dir); err != nil || !a.IsDir() {
			return errors.Join(err, syscall.ENOTDIR)
		}
		return f(dir, path.Base(name))
	})
}

// Open opens a regular file and keeps a reference until Close.
func (s Store) Open(name string, flag int, perm os.FileMode) (f File, err error) {
	err = s.at(name, func(dir uint64, base string) error {
		a, err := s.S.Lookup(dir, base)
		switch {
		case err == syscall.ENOENT && flag&os.O_CREATE != 0:
			a, err = s.S.Create(dir, base, uint32(perm))
		case err == nil && flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0:
			s.S.Forget(a.Ino, 1)
			return syscall.EEXIST
		}
		if err != nil {
			return err
		}
		if a.IsDir() && flag&(os.O_RDWR|os.O_WRONLY) != 0 {
			s.S.Forget(a.Ino, 1)
			return syscall.EISDIR
		}
		f = storeFile{s.S, a.Ino}
		if flag&os.O_TRUNC != 0 {
			return f.Truncate(0)
		}
		return nil
	})
	return f, err
}

// Mkdir makes a directory.
func (s Store) Mkdir(name string, perm os.FileMode) error {
	return s.at(name, func(dir uint64, base string) error {
		a, err := s.S.Mkdir(dir, base, uint32(perm))
		return s.done(a, err)
	})
}

func (s Store) done(a cow.Attr, err error) error {
	if err == nil {
		s.S.Forget(a.Ino, 1)
	}
	return err
}

// Unlink removes a name that is no directory.
func (s Store) Unlink(name string) error { return s.at(name, s.S.Unlink) }

// Rmdir removes an empty directory.
func (s Store) Rmdir(name string) error { return s.at(name, s.S.Rmdir) }

// Rename moves a name over another.
func (s Store) Rename(from, to string) error {
	return s.at(from, func(dir uint64, base string) error {
		return s.at(to, func(toDir uint64, toBase string) error {
			return s.S.Rename(dir, base, toDir, toBase, false)
		})
	})
}

// Link makes a hard link.
func (s Store) Link(from, to string) error {
	return s.walk(from, func(ino uint64) error {
		return s.at(to, func(dir uint64, base string) error {
			a, err := s.S.Link(ino, dir, base)
			return s.done(a, err)
		})
	})
}

// Symlink makes a symbolic link.
func (s Store) Symlink(target, name string) error {
	return s.at(name, func(dir uint64, base string) error {
		a, err := s.S.Symlink(dir, base, target)
		return s.done(a, err)
	})
}

// Readlink reads a symbolic link.
func (s Store) Readlink(name string) (target string, err error) {
	err = s.walk(name, func(ino uint64) error {
		target, err = s.S.ReadLink(ino)
		return err
	})
	return target, err
}

// Lstat describes a name.
func (s Store) Lstat(name string) (i Info, err error) {
	err = s.walk(name, func(ino uint64) error {
		i, err = stat(s.S, ino)
		return err
	})
	return i, err
}

func stat(s *cow.Store, ino uint64) (Info, error) {
	a, err := s.GetAttr(ino)
	if err != nil {
		return Info{}, err
	}
	i := Info{Mode: a.Mode, Ino: a.Ino, Mtime: time.Unix(0, a.Mtime)}
	if !a.IsDir() {
		i.Size, i.Nlink = a.Size, a.Nlink
	}
	return i, nil
}

// List gives the sorted names in a directory.
func (s Store) List(name string) (names []string, err error) {
	names = []string{}
	err = s.walk(name, func(ino uint64) error {
		list, err := s.S.ReadDir(ino)
		for _, e := range list {
			names = append(names, e.Name)
		}
		return err
	})
	return names, err
}

func (s Store) set(name string, a cow.SetAttr) error {
	return s.walk(name, func(ino uint64) error {
		_, err := s.S.SetAttr(ino, a)
		return err
	})
}

// Chmod sets permissions.
func (s Store) Chmod(name string, perm os.FileMode) error {
	p := uint32(perm)
	return s.set(name, cow.SetAttr{Perm: &p})
}

// Chtimes sets the time of modification.
func (s Store) Chtimes(name string, mtime time.Time) error {
	t := mtime.UnixNano()
	return s.set(name, cow.SetAttr{Mtime: &t})
}

// Truncate sets a length by path.
func (s Store) Truncate(name string, size int64) error {
	return s.set(name, cow.SetAttr{Size: &size})
}

// SyncDir makes the names in a directory durable.
func (s Store) SyncDir(name string) error {
	return s.walk(name, func(ino uint64) error { return s.S.Sync(ino, false) })
}

type storeFile struct {
	s   *cow.Store
	ino uint64
}

func (f storeFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.s.ReadAt(f.ino, p, off)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

func (f storeFile) WriteAt(p []byte, off int64) (int, error) { return f.s.WriteAt(f.ino, p, off) }

func (f storeFile) Truncate(size int64) error {
	_, err := f.s.SetAttr(f.ino, cow.SetAttr{Size: &size})
	return err
}

func (f storeFile) Allocate(off, n int64) error { return f.s.Fallocate(f.ino, off, n, false) }
func (f storeFile) Sync() error                 { return f.s.Sync(f.ino, false) }
func (f storeFile) Stat() (Info, error)         { return stat(f.s, f.ino) }

func (f storeFile) Close() error {
	f.s.Forget(f.ino, 1)
	return nil
}
