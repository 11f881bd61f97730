// Package recovery makes images: it lets a PostgreSQL of the backup's own major
// version recover a backup to its target on a copy-on-write mount, and keeps
// the blocks that this changed.
package recovery

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/image"
	"github.com/fukanchik/pg0/cmd/internal/pgserver"
	"github.com/fukanchik/pg0/cmd/internal/proc"
	"github.com/fukanchik/pg0/cmd/internal/reach"
	"github.com/fukanchik/pg0/cmd/internal/source"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/fusefs"
)

// A Maker makes images and keeps them in a cache.
type Maker struct {
	State    state.Dir
	BinDir   string   // --pg-bindir
	Preload  []string // libraries that the server cannot do without
	Program  string   // pg0 itself, for restore_command; empty: the running program
	Yield    bool     // leave CPU and disk to all others on this machine
	Logger   *slog.Logger
	Progress func(Progress) // may be nil; calls do not overlap

	reporting sync.Mutex
}

// yield lowers the priority of a process. One that cannot be lowered works all
// the same.
func (m *Maker) yield(process proc.ID) {
	if !m.Yield {
		return
	}
	if err := process.Yield(); err != nil {
		m.Logger.Warn("priority cannot be lowered", "pid", process.PID, "error", err)
	}
}

// yieldThread does that for the calling goroutine.
func (m *Maker) yieldThread() {
	if !m.Yield {
		return
	}
	if err := proc.YieldThread(); err != nil {
		m.Logger.Warn("priority of a thread cannot be lowered", "error", err)
	}
}

// cache is where the images are.
func (m *Maker) cache() image.Cache { return image.Cache(m.State.Images()) }

// Key names the image of a choice: equal keys have equal contents.
func Key(catalog source.Catalog, ref source.Ref, choice *reach.Choice) string {
	rule := "pages by their LSN"
	if ref.ToolExact {
		rule = "pages as the tool restores them"
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "format %d\nsystem %d\nbackup %s %s\n%s\n%s\n",
		image.Format, catalog.SystemID(), choice.Backup.ID, choice.Backup.Digest, choice.Key(), rule))
	return hex.EncodeToString(sum[:10])
}

// Make gives the image of a choice, made now if the cache has none. If another
// command is making it, Make waits for that one. The image is to be closed.
func (m *Maker) Make(ctx context.Context, ref source.Ref, catalog source.Catalog, choice *reach.Choice) (*image.Image, error) {
	if err := m.apart(ref); err != nil {
		return nil, err
	}
	key := Key(catalog, ref, choice)
	examined := *choice // completed while the image is made
	return m.get(ctx, key, ref, choice.Backup.ID, func(tmp string) error {
		point, err := catalog.Open(ctx, choice.Backup.ID)
		if err != nil {
			return err
		}
		run := &run{
			stand: stand{
				Maker: m, tmp: tmp, started: time.Now(),
				meta: image.Meta{Key: key, Source: ref, Choice: *choice},
			},
			choice: &examined, point: point, catalog: catalog,
		}
		err = errors.Join(run.recover(ctx), point.Close())
		if err == nil || ctx.Err() != nil {
			return err
		}
		// What was read of a backup that is being deleted says nothing of it.
		if changed := source.Changed(ctx, catalog, choice.Backup); changed != nil {
			m.Logger.Debug("recovery failed", "error", err)
			return changed
		}
		return err
	})
}

// apart refuses to keep images among backups: nothing is created there.
func (m *Maker) apart(ref source.Ref) error {
	dir, err := filepath.EvalSymlinks(string(m.State))
	for parent := string(m.State); errors.Is(err, fs.ErrNotExist) && parent != "/"; {
		parent = filepath.Dir(parent)
		dir, err = filepath.EvalSymlinks(parent)
	}
	if err != nil {
		return err
	}
	catalog, err := filepath.EvalSymlinks(ref.Path)
	if err != nil {
		return err
	}
	if rel, err := filepath.Rel(catalog, dir); err == nil && filepath.IsLocal(rel) {
		return exit.Error(exit.Refused, fmt.Errorf("state directory %s lies inside the backups of %s: give another with --state-dir", m.State, ref.Path))
	}
	return nil
}

// attempts bounds how often an image is made because another command removes it
// before it is opened.
const attempts = 3

// get opens the image of a key, and makes it before if there is none.
func (m *Maker) get(ctx context.Context, key string, ref source.Ref, name string, make func(tmp string) error) (*image.Image, error) {
	for n := 1; ; n++ {
		if err := m.ensure(ctx, key, name, make); err != nil {
			return nil, err
		}
		made, err := m.cache().Open(ctx, key, ref, m.Logger)
		if err == nil || n == attempts || m.cache().Has(key) {
			return made, err
		}
	}
}

// ensure calls make under the lock of the key if the cache lacks the image.
func (m *Maker) ensure(ctx context.Context, key, name string, make func(tmp string) error) error {
	cache := m.cache()
	if cache.Has(key) {
		return nil
	}
	if os.Geteuid() == 0 {
		return exit.Error(exit.Refused, fmt.Errorf("backup %s must be recovered first, and PostgreSQL refuses to run as root: use an ordinary user, such as postgres", name))
	}
	lock, err := cache.Lock(ctx, key, func() { m.report(Progress{Stage: StageWait, Backup: name}) })
	if err != nil {
		return err
	}
	defer image.Unlock(lock) //nolint:errcheck // the lock ends with the file in any case
	if cache.Has(key) {
		return nil // the other one has made it
	}
	if err := cleanUp(ctx, cache.TmpDir(key)); err != nil {
		return err
	}
	tmp, err := cache.Tmp(key)
	if err != nil {
		return err
	}
	if err := make(tmp); err != nil {
		return errors.Join(m.explain(ctx, key, fmt.Errorf("recover backup %s: %w", name, err)), os.RemoveAll(tmp))
	}
	return os.RemoveAll(m.logFile(key))
}

// logFile is the log of the server that makes an image. It stays if that fails.
func (m *Maker) logFile(key string) string { return filepath.Join(m.State.Images(), key+".log") }

// explain gives the exit code to the error of a recovery that failed.
func (m *Maker) explain(ctx context.Context, key string, err error) error {
	if ctx.Err() != nil {
		return errors.Join(exit.Error(exit.Interrupted, err), os.RemoveAll(m.logFile(key)))
	}
	if errors.Is(err, source.ErrChanged) {
		return err
	}
	if said, readErr := os.ReadFile(m.logFile(key)); readErr == nil && bytes.Contains(said, []byte("Input/output error")) {
		return exit.Error(exit.Corrupt, err) // the mount gives no other reason for it
	}
	return err
}

// residue is what a maker that is killed leaves outside of its directory. It is
// written before any of it comes into being.
type residue struct {
	SocketDir string  `json:"socket_dir"`
	Postgres  proc.ID `json:"postgres"`
	Server    proc.ID `json:"server"`
}

const (
	residueFile = "residue.json"
	mountDir    = "mnt"
	walDir      = "wal"
	recipeFile  = "wal-fetch.json"
)

// cleanUp ends and removes what a killed maker left behind.
func cleanUp(ctx context.Context, tmp string) error {
	if _, err := os.Lstat(tmp); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var left residue
	if err := readResidue(tmp, &left); err != nil {
		return err
	}
	for _, process := range []struct {
		id  proc.ID
		sig syscall.Signal
	}{{left.Postgres, syscall.SIGQUIT}, {left.Server, syscall.SIGKILL}} {
		if err := process.id.Signal(process.sig); err != nil && !errors.Is(err, proc.ErrGone) {
			return err
		}
		if err := process.id.Wait(ctx); err != nil {
			return err
		}
	}
	mountpoint := filepath.Join(tmp, mountDir)
	mounted, err := fusefs.Mounted(mountpoint)
	if err != nil {
		return err
	}
	if mounted {
		if err := fusefs.Unmount(mountpoint); err != nil {
			return fmt.Errorf("clear the mount of a recovery that was killed: %w", err)
		}
	}
	return state.RemoveSocketDir(left.SocketDir)
}

// Clear removes what killed makers left behind and nobody works on.
func (m *Maker) Clear(ctx context.Context) (cleared []string, err error) {
	cache := m.cache()
	entries, err := cache.List(nil)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if !entry.Unfinished || entry.InUse {
			continue
		}
		lock, err := cache.Lock(ctx, entry.Key, func() {})
		if err != nil {
			return cleared, err
		}
		err = errors.Join(cleanUp(ctx, cache.TmpDir(entry.Key)), os.RemoveAll(cache.TmpDir(entry.Key)), image.Unlock(lock))
		if err != nil {
			return cleared, err
		}
		cleared = append(cleared, entry.Key)
	}
	return cleared, m.clearLogs()
}

// clearLogs removes the logs of servers that failed and are not being tried
// again.
func (m *Maker) clearLogs() error {
	entries, err := os.ReadDir(m.State.Images())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, entry := range entries {
		key, isLog := strings.CutSuffix(entry.Name(), ".log")
		if _, absent := os.Lstat(m.cache().TmpDir(key)); isLog && absent != nil {
			err = errors.Join(err, os.Remove(m.logFile(key)))
		}
	}
	return err
}

// bin finds the server programs for a backup.
func (m *Maker) bin(major int) (pgserver.Bin, error) {
	bin, err := pgserver.Find(major, m.BinDir)
	if errors.Is(err, pgserver.ErrNoServer) {
		return bin, exit.Error(exit.Refused, err)
	}
	return bin, err
}
