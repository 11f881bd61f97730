package probackup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"syscall"
)

// A handle is an open file of a backup. It is closed when the cache and the
// last reader have let go of it.
type handle struct {
	file *os.File
	of   *stored
	refs atomic.Int32
	used atomic.Bool
}

func (h *handle) cost() int64   { return 1 }
func (h *handle) touched() bool { return h.used.Swap(false) }
func (h *handle) owner() *point { return h.of.member.point }

func (h *handle) evict() {
	if h.of.handle.CompareAndSwap(h, nil) {
		h.release()
	}
}

// acquire counts one more reader, unless the file is closed already.
func (h *handle) acquire() bool {
	for {
		n := h.refs.Load()
		if n == 0 {
			return false
		}
		if h.refs.CompareAndSwap(n, n+1) {
			if !h.used.Load() {
				h.used.Store(true)
			}
			return true
		}
	}
}

// release lets go. The file was open for reading only, so closing it has no
// error that a reader could act upon.
func (h *handle) release() {
	if h.refs.Add(-1) == 0 {
		h.file.Close()
	}
}

// open returns a handle to the stored file, acquired.
func (s *stored) open() (*handle, error) {
	if h := s.handle.Load(); h != nil && h.acquire() {
		return h, nil
	}
	mu := &s.member.point.fileLocks[s.stripe%lockStripes]
	mu.Lock()
	defer mu.Unlock()
	if h := s.handle.Load(); h != nil && h.acquire() {
		return h, nil
	}
	file, err := s.member.openFile(path.Join(databaseDir, s.file.path))
	if err == nil {
		err = s.identify(file)
	}
	if err != nil {
		return nil, err
	}
	h := &handle{file: file, of: s}
	h.refs.Store(2) // the cache and the caller
	s.handle.Store(h)
	s.member.point.catalog.files.add(h)
	return h, nil
}

// identify sees that a file opened again is the one that was looked at before:
// what is known of its pages, or of its bytes as a whole, holds for no other. It
// closes the file on error.
func (s *stored) identify(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return s.member.fault(s.file.path, err)
	}
	modified := info.ModTime().UnixNano()
	inode := uint64(0)
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		inode = sys.Ino
	}
	if s.seen && (s.inode != inode || s.modified != modified) {
		file.Close()
		return s.member.damaged(s.file.path, -1, errors.New("file was replaced while the backup was open"))
	}
	s.seen, s.inode, s.modified = true, inode, modified
	return nil
}

// openFile opens a regular file below the member's directory. The directory
// itself is held open: renaming it, as the end of a merge does, changes nothing.
func (m *member) openFile(name string) (*os.File, error) {
	file, err := m.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	name = strings.TrimPrefix(name, databaseDir+"/") // as the list has it
	if err != nil {
		return nil, m.fault(name, err)
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("is no regular file: %w", fs.ErrInvalid)
	}
	if err != nil {
		file.Close()
		return nil, m.fault(name, err)
	}
	return file, nil
}
