package cow

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/fukanchik/pg0"
)

// Tree shows the merged files. It is meant for a store that nobody changes.
func (s *Store) Tree() pg0.Tree { return &tree{s} }

type tree struct{ s *Store }

// resolve walks to a file without following symbolic links. Caller holds mu.
func (s *Store) resolve(name string) (*inode, error) {
	if !fs.ValidPath(name) {
		return nil, fs.ErrInvalid
	}
	in := s.inodes.get(RootIno)
	if name == "." {
		return in, nil
	}
	for part := range strings.SplitSeq(name, "/") {
		if !in.isDir() {
			return nil, syscall.ENOTDIR
		}
		next, _, err := s.find(in, part)
		if err != nil {
			return nil, err
		}
		if next == nil {
			return nil, fs.ErrNotExist
		}
		in = next
	}
	return in, nil
}

// info resolves a name and describes the file.
func (t *tree) info(op, name string) (*inode, fileInfo, error) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	in, err := t.s.resolve(name)
	if err != nil {
		return nil, fileInfo{}, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return in, fileInfo{name: path.Base(name), attr: in.attr()}, nil
}

func (t *tree) Lstat(name string) (fs.FileInfo, error) {
	_, info, err := t.info("lstat", name)
	if err != nil {
		return nil, err
	}
	return info, nil
}

func (t *tree) ReadLink(name string) (string, error) {
	in, _, err := t.info("readlink", name)
	if err != nil {
		return "", err
	}
	if in.kind != syscall.S_IFLNK {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	return in.target, nil
}

func (t *tree) ReadDir(name string) ([]fs.DirEntry, error) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	in, err := t.s.resolve(name)
	if err == nil && !in.isDir() {
		err = syscall.ENOTDIR
	}
	var list []DirEntry
	if err == nil {
		list, err = t.s.list(in)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	out := make([]fs.DirEntry, len(list))
	for i, e := range list {
		out[i] = dirEntry{t, path.Join(name, e.Name), Attr{Mode: e.Mode}.FileMode()}
	}
	return out, nil
}

// Open opens a regular file or a directory. A symbolic link is not followed.
func (t *tree) Open(name string) (fs.File, error) {
	in, info, err := t.info("open", name)
	if err != nil {
		return nil, err
	}
	switch in.kind {
	case syscall.S_IFDIR:
		return &openDir{t: t, name: name, info: info}, nil
	case syscall.S_IFLNK:
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.ELOOP}
	}
	return &openRegular{s: t.s, in: in, info: info, name: name}, nil
}

type fileInfo struct {
	name string
	attr Attr
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return i.attr.Size }
func (i fileInfo) Mode() fs.FileMode  { return i.attr.FileMode() }
func (i fileInfo) ModTime() time.Time { return time.Unix(0, i.attr.Mtime) }
func (i fileInfo) IsDir() bool        { return i.attr.IsDir() }
func (i fileInfo) Sys() any           { return nil }

type dirEntry struct {
	t    *tree
	path string
	mode fs.FileMode
}

func (e dirEntry) Name() string               { return path.Base(e.path) }
func (e dirEntry) IsDir() bool                { return e.mode.IsDir() }
func (e dirEntry) Type() fs.FileMode          { return e.mode.Type() }
func (e dirEntry) Info() (fs.FileInfo, error) { return e.t.Lstat(e.path) }
func (e dirEntry) String() string             { return fs.FormatDirEntry(e) }

// openRegular is a pg0.File of the merged tree.
type openRegular struct {
	s    *Store
	in   *inode
	info fileInfo
	name string
	off  int64
}

func (f *openRegular) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *openRegular) Close() error               { return nil }

func (f *openRegular) Read(p []byte) (int, error) {
	n, err := f.ReadAt(p, f.off)
	f.off += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (f *openRegular) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &fs.PathError{Op: "read", Path: f.name, Err: fs.ErrInvalid}
	}
	n, err := f.s.readInode(f.in, p, off)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

type openDir struct {
	t    *tree
	name string
	info fileInfo
	rest []fs.DirEntry
	read bool
}

func (d *openDir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *openDir) Close() error               { return nil }

func (d *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.name, Err: syscall.EISDIR}
}

// ReadDir follows fs.ReadDirFile.
func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if !d.read {
		list, err := d.t.ReadDir(d.name)
		if err != nil {
			return nil, err
		}
		d.rest, d.read = list, true
	}
	if n <= 0 {
		n = len(d.rest)
	} else if len(d.rest) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.rest))
	out := d.rest[:n]
	d.rest = d.rest[n:]
	return out, nil
}

// locate adds to an error which file and block it met, so that whoever logs it
// can name the place.
func (s *Store) locate(in *inode, off int64, err error) error {
	name := in.base
	if name == "" {
		s.mu.Lock()
		name = s.pathOf(in)
		s.mu.Unlock()
	}
	if s.image != "" && errors.Is(err, pg0.ErrCorrupt) {
		return fmt.Errorf("image %s: block %d of %s: %w", s.image, off/BlockSize, name, err)
	}
	return fmt.Errorf("block %d of %s: %w", off/BlockSize, name, err)
}

// pathOf finds a name of an inode that the layer has made, for messages. It
// looks through all directories. Caller holds mu.
func (s *Store) pathOf(in *inode) string {
	var parts []string
	for in != nil && in.ino != RootIno {
		if in.placed && in.base != "" {
			return path.Join(in.base, path.Join(parts...))
		}
		dir, name := s.holder(in)
		if dir == nil {
			name = in.origin + " (removed)"
		}
		parts = append([]string{name}, parts...)
		in = dir
	}
	return path.Join(parts...)
}

func (s *Store) holder(in *inode) (dir *inode, name string) {
	s.inodes.all(func(d *inode) {
		for n, e := range d.over {
			if e.node == in {
				dir, name = d, n
			}
		}
	})
	return dir, name
}
