// Package fusefs mounts a cow.Store. It translates between FUSE and the store
// and adds nothing: every rule about files lives below, where a test needs no
// mount.
//
// It speaks go-fuse's raw API: docs/decisions/2026-11-26-raw-fuse-api.md has
// the reasons. The inode numbers of the store are the node ids of the kernel, so
// a file has one identity from every path, and the kernel one page cache for it.
//
// A process must never touch files below its own mount: it can hang in the
// kernel, waiting for itself.
package fusefs

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/fukanchik/pg0/fusefs/cow"
)

// Subtype is what the kernel shows behind "fuse." for a mount of pg0's.
const Subtype = "pg0"

// timeout is how long the kernel may believe what it knows about names and
// attributes. Nothing changes but through the mount, so any time is right.
const timeout = time.Hour

// maxRequest is the longest read or write in one request, in bytes.
const maxRequest = 1 << 20

// Options say how a store is mounted.
type Options struct {
	// FSName is the source that /proc/mounts shows; empty is "pg0".
	FSName string
	// UID and GID own every file; zero is the user of this process.
	UID, GID int
	// StatDir is where df looks for free space: the directory that holds the
	// layer, outside the mount. Empty is the directory for temporary files.
	StatDir string
	// Logger gets one line for every failing request; nil is slog.Default.
	Logger *slog.Logger
}

// A Server serves one mount.
type Server struct {
	dir  string
	srv  *fuse.Server
	done chan struct{}
}

// Mount shows a store at a directory, which must be empty, and returns when it
// can be used. Only the user of this process can enter. The store stays open
// when the mount is gone.
//
// Pages that were written stay in the kernel until somebody asks for them to be
// stored, as on a disk. A store with a limit is told at once instead: only so
// can the writer learn that there is no room, and PostgreSQL report an error
// where it would otherwise stop.
func Mount(dir string, s *cow.Store, o Options) (*Server, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := checkMountPoint(dir); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	srv, err := fuse.NewServer(newFileSystem(s, o), dir, mountOptions(s, o))
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	m := &Server{dir: dir, srv: srv, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		srv.Serve()
	}()
	return m, nil
}

// checkMountPoint refuses a directory that is a mount of pg0's already, which it
// must not touch, and one that has files: the mount would hide them.
func checkMountPoint(dir string) error {
	switch mounted, err := Mounted(dir); {
	case err != nil:
		return err
	case mounted && Dead(dir):
		return fmt.Errorf("mount %s: the mount there has lost its server: pg0 umount %s clears it: %w", dir, dir, ErrBusy)
	case mounted:
		return fmt.Errorf("mount %s: something of pg0's is mounted there: %w", dir, ErrBusy)
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	if len(list) > 0 {
		return &fs.PathError{Op: "mount", Path: dir, Err: syscall.ENOTEMPTY}
	}
	return nil
}

func (o Options) withDefaults() Options {
	if o.FSName == "" {
		o.FSName = "pg0"
	}
	if o.UID == 0 {
		o.UID = os.Geteuid()
	}
	if o.GID == 0 {
		o.GID = os.Getegid()
	}
	if o.StatDir == "" {
		o.StatDir = os.TempDir()
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

func mountOptions(s *cow.Store, o Options) *fuse.MountOptions {
	m := &fuse.MountOptions{
		FsName:  o.FSName,
		Name:    Subtype,
		Options: []string{"default_permissions"},
		Logger:  slog.NewLogLogger(o.Logger.Handler(), slog.LevelWarn),

		MaxWrite:                maxRequest,
		MaxBackground:           64,
		MaxInflightRequestBytes: 256 << 20,

		// Without this a new modification time in an answer would throw the
		// pages of the file out of the kernel.
		ExplicitDataCacheControl: true,
		EnableSymlinkCaching:     true,
		DisableXAttrs:            true,
		// PostgreSQL lists directories and then opens few of the files.
		DisableReadDirPlus: true,
		// Replies come from memory; trying a pipe first costs three system
		// calls a read.
		DisableSplice: true,
		// The backing file that passthrough needs takes privileges, and it
		// excludes the write-back cache.
		DisabledCapabilities: fuse.CAP_PASSTHROUGH,

		PanicHandler: func(v any) fuse.Status {
			o.Logger.Error("panic in the file system", "value", v, "stack", string(debug.Stack()))
			return fuse.EIO
		},
	}
	switch {
	case s.ReadOnly():
		m.Options = append(m.Options, "ro")
	case s.Limit() == 0:
		m.ExtraCapabilities |= fuse.CAP_WRITEBACK_CACHE
	}
	if os.Geteuid() == 0 {
		// Root needs no helper to mount. mount(2) wants "ro" as a flag.
		m.DirectMountStrict = true
		if s.ReadOnly() {
			m.Options = []string{"default_permissions"}
			m.DirectMountFlags = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_RDONLY
		}
	}
	return m
}

// Wait returns when the mount is gone and the last request is answered.
func (m *Server) Wait() { <-m.done }

// Unmount takes the mount away and waits for the last request. The error wraps
// ErrBusy when processes still use it.
func (m *Server) Unmount() error {
	if err := Unmount(m.dir); err != nil && !errors.Is(err, ErrNotMounted) {
		return err
	}
	m.Wait()
	return nil
}
