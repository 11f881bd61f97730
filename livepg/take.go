package livepg

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Taking is a point that is being taken: a directory that nobody sees before
// Finish. Its lock tells the next command whether its maker still lives: also
// between Finish and Release, when an image is made of the point.
type Taking struct {
	ID   string
	dir  string // of the catalog
	lock *os.File
}

// idLayout makes ids that sort by time.
const idLayout = "20060102T150405.000000Z"

// Begin makes the directory of a new point, and removes those of makers that
// were killed.
func (c *Catalog) Begin(now time.Time) (*Taking, error) {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of live points: %w", err)
	}
	if err := c.Clear(); err != nil {
		return nil, err
	}
	t := &Taking{ID: now.UTC().Format(idLayout), dir: c.dir}
	tmp := t.tmp()
	if err := errors.Join(os.Mkdir(tmp, 0o700), os.Mkdir(t.Data(), 0o700)); err != nil {
		return nil, err
	}
	// Locked before it has its name: who finds it unlocked takes its maker for
	// dead.
	var err error
	if t.lock, err = os.CreateTemp(tmp, lockFile+".*"); err != nil {
		return nil, err
	}
	return t, errors.Join(unix.Flock(int(t.lock.Fd()), unix.LOCK_EX), os.Rename(t.lock.Name(), filepath.Join(tmp, lockFile)))
}

const lockFile = "lock"

func (t *Taking) tmp() string { return filepath.Join(t.dir, t.ID+tmpSuffix) }

// Data is the cluster directory to be filled.
func (t *Taking) Data() string { return filepath.Join(t.tmp(), dataDir) }

// Finish makes the point visible. Nothing of it is written afterwards, and
// nobody removes it before Release.
func (t *Taking) Finish(r *Record) error {
	r.ID = t.ID
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(t.tmp(), recordFile), text, 0o600); err != nil {
		return err
	}
	return os.Rename(t.tmp(), filepath.Join(t.dir, t.ID))
}

// Release lets others remove the point.
func (t *Taking) Release() error { return t.lock.Close() }

// Abandon removes what was taken.
func (t *Taking) Abandon() error { return errors.Join(os.RemoveAll(t.tmp()), t.lock.Close()) }

// Clear removes points whose makers were killed.
func (c *Catalog) Clear() error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		dir := filepath.Join(c.dir, entry.Name())
		if !strings.HasSuffix(dir, tmpSuffix) || !abandoned(filepath.Join(dir, lockFile)) {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove a live point that was left half taken: %w", err)
		}
	}
	return nil
}

// abandoned says whether nobody holds the lock.
func abandoned(lock string) bool {
	file, err := os.Open(lock)
	if err != nil {
		return false // just being made
	}
	defer file.Close()
	return unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}

// ErrBusy is reported for a point whose maker still runs.
var ErrBusy = errors.New("the command that took the point still runs")

// Remove removes a point.
func (c *Catalog) Remove(id string) error {
	dir := filepath.Join(c.dir, id)
	if _, err := os.Lstat(dir); err != nil {
		return err
	}
	if lock := filepath.Join(dir, lockFile); !abandoned(lock) {
		return fmt.Errorf("live point %s: %w", id, ErrBusy)
	}
	// Renamed first, so that no other command finds it half removed.
	gone := dir + tmpSuffix
	if err := os.Rename(dir, gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(gone)
}
