package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fukanchik/pg0/relmap"
)

// ErrBusy is wrapped when an image is in use.
var ErrBusy = errors.New("image is in use")

// A Cache is the directory of all images. For a key there may be: KEY, the
// finished image; KEY.tmp, one being made or left behind by a maker that was
// killed; KEY.lock, held by its maker.
type Cache string

func (c Cache) dir(key string) string { return filepath.Join(string(c), key) }

const (
	tmpSuffix  = ".tmp"
	lockSuffix = ".lock"
)

// Has says whether there is a finished image of that key.
func (c Cache) Has(key string) bool {
	_, err := os.Stat(filepath.Join(c.dir(key), metaFile))
	return err == nil
}

// Meta reads what is known about an image.
func (c Cache) Meta(key string) (Meta, error) {
	var meta Meta
	err := readJSON(filepath.Join(c.dir(key), metaFile), &meta)
	return meta, err
}

// lockInterval is how often a lock that somebody else holds is tried: flock
// cannot be given up by a context.
const lockInterval = 20 * time.Millisecond

// Lock waits until nobody else makes the image of that key, and calls waiting
// once if somebody does. The lock ends with Close, or with the process.
func (c Cache) Lock(ctx context.Context, key string, waiting func()) (*os.File, error) {
	if err := os.MkdirAll(string(c), 0o700); err != nil {
		return nil, fmt.Errorf("directory of images: %w", err)
	}
	for waited := false; ; waited = true {
		file, err := lockFile(c.dir(key) + lockSuffix)
		if !errors.Is(err, ErrBusy) {
			return file, err
		}
		if !waited {
			waiting()
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lockInterval):
		}
	}
}

// lockFile locks a file that its owner may remove while it holds the lock.
func lockFile(name string) (*os.File, error) {
	for {
		file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		if err := flock(file, unix.LOCK_EX); err != nil {
			return nil, errors.Join(err, file.Close())
		}
		held, err := file.Stat()
		if err != nil {
			return nil, errors.Join(err, file.Close())
		}
		if now, err := os.Stat(name); err == nil && os.SameFile(now, held) {
			return file, nil
		}
		file.Close() // removed by the one who held it before
	}
}

// Unlock ends Lock and leaves no file behind.
func Unlock(lock *os.File) error {
	return errors.Join(os.Remove(lock.Name()), lock.Close())
}

func flock(file *os.File, how int) error {
	err := unix.Flock(int(file.Fd()), how|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%s: %w", file.Name(), ErrBusy)
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", file.Name(), err)
	}
	return nil
}

// use marks an image as used now, and as in use until the file is closed.
func (c Cache) use(key string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(c.dir(key), useFile), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	err = errors.Join(flock(file, unix.LOCK_SH), os.Chtimes(file.Name(), now, now))
	if err == nil {
		// Removed between opening and locking.
		_, err = os.Stat(file.Name())
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// Tmp makes the empty directory in which the image of a key is built. The
// caller holds its lock, and has cleaned away what a killed maker left there.
func (c Cache) Tmp(key string) (string, error) {
	dir := c.TmpDir(key)
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("remove an image left half made: %w", err)
	}
	return dir, os.MkdirAll(filepath.Dir(Blocks(dir)), 0o700)
}

// TmpDir is the name of that directory.
func (c Cache) TmpDir(key string) string { return c.dir(key) + tmpSuffix }

// Blocks is where Seal is to write in the directory that Tmp made.
func Blocks(tmp string) string { return filepath.Join(tmp, "image", blockDir) }

// Finish turns what was built in the directory of Tmp into the image of its
// key. The caller holds its lock.
func (c Cache) Finish(tmp string, meta *Meta, defs *relmap.Definitions) error {
	dir := filepath.Join(tmp, "image")
	bytes, err := diskUsage(dir)
	if err != nil {
		return err
	}
	meta.Format, meta.Bytes = Format, bytes
	err = errors.Join(
		writeJSON(filepath.Join(dir, defsFile), defs),
		writeSynced(filepath.Join(dir, useFile), nil),
		writeJSON(filepath.Join(dir, metaFile), meta),
		syncDir(dir),
	)
	if err != nil {
		return err
	}
	if err := os.Rename(dir, c.dir(meta.Key)); err != nil {
		return err
	}
	return errors.Join(syncDir(string(c)), os.RemoveAll(tmp))
}

func syncDir(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func diskUsage(dir string) (int64, error) {
	var total int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if d.Type().IsRegular() {
			total += info.Size()
		}
		return nil
	})
	return total, err
}

// An Entry is one image of the list.
type Entry struct {
	Meta
	LastUse time.Time `json:"last_use"`
	InUse   bool      `json:"in_use"`          // a running command has it open
	Users   []string  `json:"users,omitempty"` // mount points that show it
	// Unfinished: a maker is at work on it, or was killed.
	Unfinished bool   `json:"unfinished,omitempty"`
	Damaged    string `json:"damaged,omitempty"` // why it cannot be read
}

// List lists the images by last use, the newest first. users gives the mount
// points that show the images of a key.
func (c Cache) List(users map[string][]string) ([]Entry, error) {
	files, err := os.ReadDir(string(c))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for _, file := range files {
		if !file.IsDir() {
			continue
		}
		entry, err := c.entry(file.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // finished or removed just now
		}
		if err != nil {
			return nil, err
		}
		entry.Users = users[entry.Key]
		entries = append(entries, entry)
	}
	slices.SortStableFunc(entries, func(a, b Entry) int { return b.LastUse.Compare(a.LastUse) })
	return entries, nil
}

func (c Cache) entry(name string) (Entry, error) {
	key, unfinished := strings.CutSuffix(name, tmpSuffix)
	entry := Entry{Unfinished: unfinished, Meta: Meta{Key: key}}
	info, err := os.Stat(filepath.Join(c.dir(name), useFile))
	if err != nil {
		info, err = os.Stat(c.dir(name))
	}
	if err != nil {
		return entry, err
	}
	entry.LastUse = info.ModTime()
	if unfinished {
		entry.InUse = c.locked(c.dir(key) + lockSuffix)
		return entry, nil
	}
	entry.InUse = c.locked(filepath.Join(c.dir(name), useFile))
	if meta, err := c.Meta(name); err != nil {
		entry.Damaged = err.Error()
	} else {
		entry.Meta = meta
	}
	return entry, nil
}

// locked says whether somebody holds a lock on the file.
func (c Cache) locked(name string) bool {
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer file.Close()
	return flock(file, unix.LOCK_EX) != nil
}

// Remove removes a finished image. The error wraps ErrBusy while it is open or
// somebody wants to make it, and fs.ErrNotExist if there is none.
func (c Cache) Remove(key string) error {
	if _, err := os.Stat(c.dir(key)); err != nil {
		return err
	}
	// Until it is gone nobody may begin to make it anew where it is moved to.
	lock, err := lockFile(c.dir(key) + lockSuffix)
	if err != nil {
		return err
	}
	return errors.Join(c.remove(key), Unlock(lock))
}

func (c Cache) remove(key string) error {
	use, err := os.OpenFile(filepath.Join(c.dir(key), useFile), os.O_RDWR, 0)
	switch {
	case err == nil:
		defer use.Close()
		if err := flock(use, unix.LOCK_EX); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	// Renamed first: no other command finds it half removed.
	gone := c.TmpDir(key)
	if err := os.Rename(c.dir(key), gone); err != nil {
		return err
	}
	return os.RemoveAll(gone)
}
