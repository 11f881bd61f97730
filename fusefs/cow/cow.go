// Package cow keeps changes to a read-only tree as blocks of its own. A Store
// shows the tree with every change applied, stores one block for one block
// written, and never writes to the tree. It knows nothing of FUSE: package
// fusefs translates between the two.
//
// A store lives in an unlinked temporary file and is gone when it is closed, or
// in a directory, where it survives a crash of the process and of the machine:
// docs/formats/layer.md describes those files.
//
// Locks, in the order they are taken: Store.gate (shared by every operation
// that changes something, exclusive for those that need the store to stand
// still), Store.mu (names, link counts, references), inode.mu (content and
// attributes of one file), then the leaves: allocator, journal buffer, open
// base files. Bytes of the base are read under no lock at all.
package cow

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fukanchik/pg0"
)

// BlockSize is the unit in which changes are kept, in bytes. It is PostgreSQL's
// own default, so that one page written is one block stored.
const BlockSize = 8192

// RootIno is the inode number of the top directory.
const RootIno = 1

// ErrBusy says that another process uses the same layer directory.
var ErrBusy = errors.New("layer is in use")

// Options say where a Store keeps its changes.
type Options struct {
	// Dir keeps the changes for the next Open. Empty means an unlinked
	// temporary file.
	Dir string
	// TempDir is where the temporary file is made; empty is os.TempDir.
	TempDir string
	// Limit is how many bytes of changed blocks may be stored, 0 for no limit.
	// More give ENOSPC.
	Limit int64
	// ReadOnly refuses every change with EROFS.
	ReadOnly bool
	// Logger gets what no caller can be told; nil is slog.Default.
	Logger *slog.Logger

	// disks opens the files of a layer; tests put faulty ones here.
	disks func(name string) (disk, error)
}

// A Store is a tree and the changes made to it. Its methods are safe for
// concurrent use and return errors that wrap a syscall.Errno, or pg0.ErrCorrupt
// for damage below.
type Store struct {
	base     pg0.Tree
	log      *slog.Logger
	dir      string
	limit    int64
	readOnly bool
	image    string // directory of the image this store shows, "" for a layer
	lock     *os.File

	gate sync.RWMutex

	mu      sync.Mutex
	next    uint64            // the next inode number
	byBase  map[string]*inode // inodes of files of the base, by their path there
	attach  []byte
	reserve int64 // slots of a limit that only WAL may take

	inodes inodeTable
	data   [classes]*dataFile
	space  allocators
	j      *journal // nil when nothing outlives the store
	files  openFiles
	closed atomic.Bool
}

// Open makes a Store over base. With Options.Dir it takes up the changes kept
// there; the error wraps ErrBusy while another process has them open, and
// pg0.ErrCorrupt when they are damaged.
func Open(base pg0.Tree, o Options) (*Store, error) {
	s, err := newStore(base, o)
	if err != nil {
		return nil, err
	}
	if o.Dir == "" {
		err = s.openTemporary(o)
	} else {
		err = s.openLayer(o)
	}
	if err != nil {
		return nil, errors.Join(err, s.release())
	}
	s.setReserve()
	return s, nil
}

// setReserve keeps some of a limit for WAL, if the base is a cluster.
func (s *Store) setReserve() {
	if info, err := s.base.Lstat("pg_wal"); err == nil && info.IsDir() {
		s.reserve = min(walReserve, s.limit/4) / BlockSize
	}
}

func newStore(base pg0.Tree, o Options) (*Store, error) {
	s := &Store{
		base: base, log: o.Logger, dir: o.Dir, limit: o.Limit, readOnly: o.ReadOnly,
		next: RootIno + 1, byBase: map[string]*inode{},
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	info, err := base.Lstat(".")
	if err != nil {
		return nil, fmt.Errorf("the top directory of the base: %w", err)
	}
	root := &inode{ino: RootIno, kind: syscall.S_IFDIR, base: ".", nlink: 1, placed: true, changed: true}
	root.setBaseAttr(info)
	s.byBase["."] = root
	s.inodes.put(root)
	return s, nil
}

func (s *Store) openTemporary(o Options) error {
	open := o.disks
	if open == nil {
		open = func(string) (disk, error) { return openUnlinked(o.TempDir) }
	}
	return s.openData(open)
}

func (s *Store) openData(open func(name string) (disk, error)) error {
	for class := range s.data {
		d, err := open(dataNames[class])
		if err != nil {
			return err
		}
		s.data[class] = &dataFile{disk: d}
		size, err := d.Size()
		if err != nil {
			return err
		}
		s.data[class].slots = size / BlockSize
	}
	return nil
}

func (s *Store) openLayer(o Options) error {
	open := o.disks
	if open == nil {
		if err := s.lockDir(); err != nil {
			return err
		}
		open = func(name string) (disk, error) { return openFile(filepath.Join(o.Dir, name)) }
	}
	if err := s.openData(open); err != nil {
		return err
	}
	d, err := open(journalName)
	if err != nil {
		return err
	}
	s.j = &journal{disk: d, fresh: func() (disk, error) { return open(newJournal) }}
	if err := s.load(); err != nil {
		return fmt.Errorf("layer %s: %w", o.Dir, err)
	}
	return nil
}

// lockDir makes the directory and takes it for this process. The lock goes with
// the process, however that ends.
func (s *Store) lockDir() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("layer %s: %w: another mount stands on it", s.dir, ErrBusy)
		}
		return fmt.Errorf("lock layer %s: %w", s.dir, err)
	}
	s.lock = f
	return nil
}

// Persistent tells whether the changes outlive the store.
func (s *Store) Persistent() bool { return s.j != nil }

// ReadOnly tells whether every change is refused.
func (s *Store) ReadOnly() bool { return s.readOnly }

// Limit is the most bytes of changed blocks the store takes, 0 for no limit.
func (s *Store) Limit() int64 { return s.limit }

// Usage is how many bytes of disk the changes take.
func (s *Store) Usage() int64 {
	n := s.space.used() * BlockSize
	if s.j != nil {
		n += s.j.length.Load()
	}
	return n
}

// Attach returns what SetAttach kept last, nil if nothing.
func (s *Store) Attach() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.attach
}

// SetAttach keeps a small record of what the store stands on. It is durable on
// return when the store is persistent.
func (s *Store) SetAttach(b []byte) error {
	if s.readOnly {
		return syscall.EROFS
	}
	s.gate.RLock()
	s.mu.Lock()
	s.attach = append([]byte(nil), b...)
	pos := s.append(record{op: opAttach, data: s.attach})
	s.mu.Unlock()
	s.gate.RUnlock()
	return s.commit(pos)
}

// Close gives back what the store holds, after making a persistent one durable.
// No other method may be called then.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	var err error
	if s.j != nil && !s.readOnly {
		err = s.SyncAll()
	}
	return errors.Join(err, s.release())
}

// release closes files without writing anything.
func (s *Store) release() error {
	var errs []error
	s.files.closeAll()
	for _, d := range s.data {
		if d != nil {
			errs = append(errs, d.Close())
		}
	}
	if s.j != nil {
		errs = append(errs, s.j.disk.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// now is the clock of all time stamps, in nanoseconds since 1970.
func now() int64 { return time.Now().UnixNano() }

// notExist tells a missing file from a failing base.
func notExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
