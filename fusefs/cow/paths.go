package cow

import (
	"errors"
	"io/fs"
	"path"
	"syscall"
)

// The methods of this file change a store by path, while nobody has it mounted:
// that is how a server's configuration gets into a cluster directory.

// WriteFile stores a regular file, in the place of the one that has the name.
func (s *Store) WriteFile(name string, data []byte, perm fs.FileMode) error {
	err := s.at(name, func(dir uint64, base string) error {
		if err := s.Unlink(dir, base); err != nil && err != syscall.ENOENT {
			return err
		}
		a, err := s.Create(dir, base, uint32(perm.Perm()))
		if err != nil {
			return err
		}
		defer s.Forget(a.Ino, 1)
		_, err = s.WriteAt(a.Ino, data, 0)
		return err
	})
	return pathError("write", name, err)
}

// MkdirAll makes a directory and those above it. One that exists is fine.
func (s *Store) MkdirAll(name string, perm fs.FileMode) error {
	if name == "." {
		return nil
	}
	if err := s.MkdirAll(path.Dir(name), perm); err != nil {
		return err
	}
	err := s.at(name, func(dir uint64, base string) error {
		a, err := s.Mkdir(dir, base, uint32(perm.Perm()))
		if err == nil {
			s.Forget(a.Ino, 1)
		}
		return err
	})
	if errors.Is(err, syscall.EEXIST) {
		err = nil
	}
	return pathError("mkdir", name, err)
}

// RemoveAll removes a file, or a directory with all that it holds. A missing
// one is fine.
func (s *Store) RemoveAll(name string) error {
	err := s.at(name, func(dir uint64, base string) error { return s.removeAll(dir, base) })
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return pathError("remove", name, err)
}

func (s *Store) removeAll(dir uint64, name string) error {
	err := s.Unlink(dir, name)
	if err != syscall.EISDIR {
		return err
	}
	a, err := s.Lookup(dir, name)
	if err != nil {
		return err
	}
	defer s.Forget(a.Ino, 1)
	list, err := s.ReadDir(a.Ino)
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := s.removeAll(a.Ino, e.Name); err != nil {
			return err
		}
	}
	return s.Rmdir(dir, name)
}

// Resize cuts or extends a regular file.
func (s *Store) Resize(name string, size int64) error {
	err := s.at(name, func(dir uint64, base string) error {
		a, err := s.Lookup(dir, base)
		if err != nil {
			return err
		}
		defer s.Forget(a.Ino, 1)
		_, err = s.SetAttr(a.Ino, SetAttr{Size: &size})
		return err
	})
	return pathError("resize", name, err)
}

// at calls f with the directory and the last part of a path.
func (s *Store) at(name string, f func(dir uint64, base string) error) error {
	if name == "." {
		return fs.ErrInvalid
	}
	s.mu.Lock()
	dir, err := s.resolve(path.Dir(name))
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return f(dir.ino, path.Base(name))
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}
