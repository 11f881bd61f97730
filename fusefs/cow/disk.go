package cow

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Names of the files in a layer directory.
const (
	journalName = "journal"
	newJournal  = "journal.new"
)

var dataNames = [classes]string{"data", "wal"}

// punchBytes is the shortest run for which a hole is worth a system call.
const punchBytes = 128 << 10

// A disk is one file of a layer.
type disk interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	Size() (int64, error)
	Truncate(size int64) error
	// Punch gives a range back to the file system; it reads as zeros then.
	Punch(off, n int64) error
	// Sync returns when all that was written is on stable storage.
	Sync() error
	// Rename gives the file another name in its directory, durably.
	Rename(name string) error
	Close() error
}

type osDisk struct{ *os.File }

func openFile(name string) (disk, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return &osDisk{f}, nil
}

func openUnlinked(dir string) (disk, error) {
	f, err := os.CreateTemp(dir, "pg0-layer-")
	if err != nil {
		return nil, fmt.Errorf("temporary layer: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &osDisk{f}, nil
}

func (d *osDisk) Size() (int64, error) {
	info, err := d.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (d *osDisk) Punch(off, n int64) error {
	return unix.Fallocate(int(d.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

// Sync leaves out what reading the data back does not need, such as times.
func (d *osDisk) Sync() error {
	for {
		err := unix.Fdatasync(int(d.Fd()))
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func (d *osDisk) Rename(name string) error {
	dir := filepath.Dir(d.Name())
	if err := os.Rename(d.Name(), filepath.Join(dir, name)); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// A dataFile holds blocks in slots.
type dataFile struct {
	disk
	slots int64    // how many the file held when it was opened
	sums  []uint32 // CRC of each slot, of an image only

	gen    atomic.Uint64 // writes done
	synced atomic.Uint64 // the generation that is on stable storage
	mu     sync.Mutex    // guards failed
	failed error
}

// write stores bytes and returns the generation that includes them.
func (d *dataFile) write(p []byte, off int64) (uint64, error) {
	if _, err := d.WriteAt(p, off); err != nil {
		return 0, err
	}
	return d.gen.Add(1), nil
}

// flush makes everything written so far durable. Once it failed it fails
// forever: nobody knows what the kernel has dropped.
func (d *dataFile) flush() error {
	d.mu.Lock()
	failed := d.failed
	d.mu.Unlock()
	if failed != nil {
		return failed
	}
	gen := d.gen.Load()
	if d.synced.Load() >= gen {
		return nil
	}
	if err := d.Sync(); err != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.failed = fmt.Errorf("sync: %w", err)
		return d.failed
	}
	for {
		old := d.synced.Load()
		if old >= gen || d.synced.CompareAndSwap(old, gen) {
			return nil
		}
	}
}

// punch is a courtesy to the file system; what it cannot do costs only space.
func (d *dataFile) punch(off, n int64) {
	if d.Punch(off, n) == nil {
		d.gen.Add(1)
	}
}
