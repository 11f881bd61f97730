package probackup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fukanchik/pg0"
)

// ErrLocked says that another process works on a backup and lets no reader in.
var ErrLocked = errors.New("backup is locked")

// Lock files of pg_probackup 2.4.6 and later, in the directory of a backup.
const (
	exclusiveLock = "backup.pid"       // one process that changes the backup
	sharedLock    = "backup_ro.pid"    // processes that read it, one a line
	sharedTemp    = "backup_ro.pidtmp" // replaces the former by rename
)

const (
	lockTimeout = 60 * time.Second // as long as the tool waits
	lockPoll    = 100 * time.Millisecond
)

// held counts the locks of this process on each directory: the lock file knows
// processes only, and one process can have several points open.
var held = struct {
	sync.Mutex
	count map[string]int
}{count: map[string]int{}}

// Lock takes the tool's shared lock on a backup and its chain, so that merge and
// delete leave them alone until release is called or this process ends. It is
// the only thing in this package that writes below a catalog. It waits for a
// process that is changing a backup, one minute or until ctx ends, and then
// fails with ErrLocked. On a read-only file system there is nothing to lock, as
// the tool sees it; a warning says so. Locks do not guard the WAL archive.
func (c *Catalog) Lock(ctx context.Context, id string) (release func() error, err error) {
	set, err := c.readBackups(ctx)
	if err != nil {
		return nil, err
	}
	b, err := set.find(id)
	if err != nil {
		return nil, err
	}
	chain, reason := set.check(b)
	if reason != "" {
		return nil, fmt.Errorf("backup %s: %w: %s", b.id, pg0.ErrUnusable, reason)
	}
	var locked []string
	release = sync.OnceValue(func() error { return unlockAll(locked) })
	for _, m := range chain {
		dir := filepath.Join(c.dir, m.dir)
		err := lockShared(ctx, dir, m.id)
		if errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w: the lock is a file in the directory of the backup, which this user may not write", err)
		}
		if err != nil {
			return nil, errors.Join(err, release())
		}
		if _, err := os.Lstat(filepath.Join(dir, sharedLock)); errors.Is(err, fs.ErrNotExist) {
			c.log.Warn("the file system is read-only here, so the backup could not be locked: other machines may change it", "backup", m.id)
		}
		locked = append(locked, dir)
	}
	return release, nil
}

func unlockAll(dirs []string) error {
	var errs []error
	for _, dir := range slices.Backward(dirs) {
		errs = append(errs, unlockShared(dir))
	}
	return errors.Join(errs...)
}

// lockShared enters this process into the shared lock file of a directory,
// holding the exclusive lock for that moment.
func lockShared(ctx context.Context, dir, id string) error {
	held.Lock()
	defer held.Unlock()
	if held.count[dir] == 0 {
		err := lockExclusive(ctx, filepath.Join(dir, exclusiveLock), id)
		if err == nil {
			err = errors.Join(rewriteAlone(dir, os.Getpid()), os.Remove(filepath.Join(dir, exclusiveLock)))
		}
		if err != nil && !errors.Is(err, syscall.EROFS) {
			return fmt.Errorf("lock backup %s: %w", id, err)
		}
	}
	held.count[dir]++
	return nil
}

// unlockShared takes this process out of the lock file again. It must not ask
// for the exclusive lock: who holds that may be waiting for this process.
func unlockShared(dir string) error {
	held.Lock()
	defer held.Unlock()
	if held.count[dir]--; held.count[dir] > 0 {
		return nil
	}
	delete(held.count, dir)
	if err := rewriteAlone(dir, 0); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("release lock: %w", err)
	}
	return nil
}

// rewriteAlone rewrites the shared lock file while no other process of this
// program does: one that leaves must not drop one that comes. Where directories
// cannot be locked, as on some network file systems, that is as good as the
// tool's own way.
func rewriteAlone(dir string, add int) error {
	if guard, err := os.Open(dir); err == nil {
		defer guard.Close()
		_ = unix.Flock(int(guard.Fd()), unix.LOCK_EX)
	}
	return rewriteShared(dir, add)
}

// rewriteShared replaces the shared lock file by one that names the living
// processes of the old one without this one, and add unless that is 0.
func rewriteShared(dir string, add int) error {
	name := filepath.Join(dir, sharedLock)
	text, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var lines bytes.Buffer
	for word := range strings.FieldsSeq(string(text)) {
		if pid, err := strconv.Atoi(word); err == nil && pid != os.Getpid() && alive(pid) {
			fmt.Fprintf(&lines, "%d\n", pid)
		}
	}
	if add != 0 {
		fmt.Fprintf(&lines, "%d\n", add)
	}
	if lines.Len() == 0 {
		return os.Remove(name)
	}
	temp := filepath.Join(dir, sharedTemp)
	if err := os.WriteFile(temp, lines.Bytes(), 0o600); err != nil {
		return err
	}
	return os.Rename(temp, name)
}

// lockExclusive makes the exclusive lock file. One left by a dead process is
// taken away.
func lockExclusive(ctx context.Context, name, id string) error {
	deadline := time.NewTimer(lockTimeout)
	defer deadline.Stop()
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for empty := 0; ; {
		err := writeLock(name)
		if !errors.Is(err, os.ErrExist) {
			return err
		}
		pid, err := lockOwner(name)
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue
		case err != nil:
			return err
		case pid == 0 && empty < 50: // just made, the number is not written yet
			empty++
		case pid == 0 || !alive(pid):
			if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			continue
		}
		select {
		case <-tick.C:
			continue
		case <-ctx.Done():
		case <-deadline.C:
		}
		return fmt.Errorf("%w by process %d, which is making, merging or deleting backup %s: try again when it has ended", ErrLocked, pid, id)
	}
}

func writeLock(name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
	return errors.Join(err, f.Close())
}

// lockOwner reads the process number from a lock file, 0 when it has none.
func lockOwner(name string) (int, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil || pid < 0 {
		return 0, nil
	}
	return pid, nil
}

// alive tells whether a process of this machine exists, also one of another
// user. The own number in an old file is that of a dead one.
func alive(pid int) bool {
	if pid <= 0 || pid == os.Getpid() {
		return false
	}
	if err := syscall.Kill(pid, 0); err != nil && !errors.Is(err, syscall.EPERM) {
		return false
	}
	// One that has ended and that nobody has waited for yet reads nothing more.
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, found := bytes.Cut(text[bytes.LastIndexByte(text, ')')+1:], []byte(" "))
	return err != nil || !found || !bytes.HasPrefix(state, []byte("Z"))
}
