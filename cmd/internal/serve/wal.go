package serve

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/fukanchik/pg0"
)

// walDir is where PostgreSQL keeps its WAL.
const walDir = "pg_wal"

// moveWAL gives the tree with its WAL in a directory outside of the mount, so
// that WAL and its flushes never pass through the file system: in the mount
// there is a link to it, as initdb --waldir makes one. The directory is filled
// from the tree when it does not exist.
func moveWAL(tree pg0.Tree, dir string) (pg0.Tree, error) {
	_, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = fillWAL(tree, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("WAL of the layer: %w", err)
	}
	was, err := tree.Lstat(walDir)
	if err != nil {
		return nil, err
	}
	return &linked{Tree: tree, link: link{walDir, dir, was.ModTime()}}, nil
}

// fillWAL copies what the tree has of WAL. The directory has its name once
// everything in it is durable.
func fillWAL(tree pg0.Tree, dir string) error {
	part := dir + ".new"
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	if err := copyDir(tree, walDir, part); err != nil {
		return err
	}
	if err := os.Rename(part, dir); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

func copyDir(tree pg0.Tree, from, to string) error {
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	list, err := tree.ReadDir(from)
	if err != nil {
		return err
	}
	for _, entry := range list {
		below, target := path.Join(from, entry.Name()), filepath.Join(to, entry.Name())
		if entry.IsDir() {
			err = copyDir(tree, below, target)
		} else {
			err = copyFile(tree, below, target)
		}
		if err != nil {
			return err
		}
	}
	return syncDir(to)
}

func copyFile(tree pg0.Tree, from, to string) error {
	in, err := tree.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync(), out.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// bytesBelow is the length of all files of a directory. A file that goes away
// meanwhile does not count.
func bytesBelow(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil
		}
		if info, err := entry.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	return n
}

// linked is a tree in which a symbolic link stands in the place of a directory
// of the root.
type linked struct {
	pg0.Tree
	link link
}

var errIsLink = errors.New("is a symbolic link")

// Open opens everything but the link, which is for ReadLink.
func (l *linked) Open(name string) (fs.File, error) {
	if name == l.link.name {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errIsLink}
	}
	return l.Tree.Open(name)
}

// ReadDir lists the link among the entries of the root.
func (l *linked) ReadDir(name string) ([]fs.DirEntry, error) {
	list, err := l.Tree.ReadDir(name)
	if name != "." || err != nil {
		return list, err
	}
	list = slices.Clone(list)
	for i, entry := range list {
		if entry.Name() == l.link.name {
			list[i] = fs.FileInfoToDirEntry(l.link)
		}
	}
	return list, nil
}

// Lstat describes the link itself.
func (l *linked) Lstat(name string) (fs.FileInfo, error) {
	if name == l.link.name {
		return l.link, nil
	}
	return l.Tree.Lstat(name)
}

// ReadLink gives the directory behind the link.
func (l *linked) ReadLink(name string) (string, error) {
	if name == l.link.name {
		return l.link.target, nil
	}
	return l.Tree.ReadLink(name)
}

// link describes the link of a linked tree.
type link struct {
	name, target string
	time         time.Time
}

func (i link) Name() string       { return i.name }
func (i link) Size() int64        { return int64(len(i.target)) }
func (i link) Mode() fs.FileMode  { return fs.ModeSymlink | 0o777 }
func (i link) ModTime() time.Time { return i.time }
func (i link) IsDir() bool        { return false }
func (i link) Sys() any           { return nil }
