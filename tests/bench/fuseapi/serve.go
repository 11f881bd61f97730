package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/fusefs"
	"github.com/fukanchik/pg0/fusefs/cow"
)

// serveMount serves base at mnt until standard input ends.
func serveMount(api, base, mnt string) error {
	unmount := func() error { return fusefs.Unmount(mnt) }
	switch api {
	case "raw":
		s, err := cow.Open(os.DirFS(base).(pg0.Tree), cow.Options{})
		if err != nil {
			return err
		}
		m, err := fusefs.Mount(mnt, s, fusefs.Options{})
		if err != nil {
			return err
		}
		unmount = m.Unmount
	case "node":
		if err := mountNodes(base, mnt); err != nil {
			return err
		}
	default:
		return fmt.Errorf("no API %q", api)
	}
	fmt.Println("ready")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	return unmount()
}

// mountNodes serves the same files through the node API with the same options.
func mountNodes(base, mnt string) error {
	timeout := time.Hour
	root := &node{path: base}
	_, err := fs.Mount(mnt, root, &fs.Options{
		EntryTimeout: &timeout, AttrTimeout: &timeout, NegativeTimeout: &timeout, NullPermissions: true,
		UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()),
		MountOptions: fuse.MountOptions{
			FsName: "pg0", Name: fusefs.Subtype, Options: []string{"default_permissions"},
			MaxWrite: 1 << 20, MaxBackground: 64, ExplicitDataCacheControl: true,
			EnableSymlinkCaching: true, DisableXAttrs: true, DisableReadDirPlus: true, DisableSplice: true,
			DisabledCapabilities: fuse.CAP_PASSTHROUGH, ExtraCapabilities: fuse.CAP_WRITEBACK_CACHE,
			DirectMountStrict: os.Geteuid() == 0,
		},
	})
	return err
}

// A node is one file or directory of the base.
type node struct {
	fs.Inode
	path string
	file *os.File
}

var (
	_ fs.NodeLookuper  = (*node)(nil)
	_ fs.NodeGetattrer = (*node)(nil)
	_ fs.NodeOpener    = (*node)(nil)
	_ fs.NodeReader    = (*node)(nil)
)

// Lookup makes the node of a name.
func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	child := &node{path: filepath.Join(n.path, name)}
	var st syscall.Stat_t
	if err := syscall.Lstat(child.path, &st); err != nil {
		return nil, fs.ToErrno(err)
	}
	out.FromStat(&st)
	return n.NewInode(ctx, child, fs.StableAttr{Mode: st.Mode, Ino: st.Ino}), 0
}

// Getattr is stat.
func (n *node) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	var st syscall.Stat_t
	if err := syscall.Lstat(n.path, &st); err != nil {
		return fs.ToErrno(err)
	}
	out.FromStat(&st)
	return 0
}

// Open opens the file once and lets the kernel keep its pages.
func (n *node) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if n.file == nil {
		f, err := os.Open(n.path)
		if err != nil {
			return nil, 0, fs.ToErrno(err)
		}
		n.file = f
	}
	return nil, fuse.FOPEN_KEEP_CACHE, 0
}

// Read reads into the buffer of the request.
func (n *node) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	k, err := n.file.ReadAt(dest, off)
	if err != nil && err != io.EOF {
		return nil, fs.ToErrno(err)
	}
	return fuse.ReadResultData(dest[:k]), 0
}
