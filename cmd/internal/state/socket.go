package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// longestSocketDir leaves room in the 107 bytes of a socket's path for the
// name that PostgreSQL gives it: "/.s.PGSQL.65535" and ".lock" beside it.
const longestSocketDir = 107 - len("/.s.PGSQL.65535")

// SocketDir makes the private directory of PostgreSQL's socket for a mount:
// $XDG_RUNTIME_DIR/pg0/ID, or a directory below the temporary directory if
// that is missing or its path too long.
func SocketDir(id string) (string, error) {
	if base := os.Getenv("XDG_RUNTIME_DIR"); base != "" {
		dir := filepath.Join(base, "pg0", id)
		if len(dir) <= longestSocketDir && private(filepath.Dir(dir)) == nil {
			return dir, private(dir)
		}
	}
	parent := fmt.Sprintf("/tmp/pg0-%d", os.Getuid())
	dir := filepath.Join(parent, id)
	return dir, errors.Join(private(parent), private(dir))
}

// private makes a directory of mode 0700, or insists that an existing one is
// the caller's own: others may write to /tmp.
func private(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if err == nil || !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	if !info.IsDir() || owner != uint32(os.Getuid()) {
		return fmt.Errorf("%s belongs to user %d; PostgreSQL's socket needs a directory of your own: remove it or set XDG_RUNTIME_DIR", dir, owner)
	}
	return os.Chmod(dir, 0o700)
}

// RemoveSocketDir removes what SocketDir made, and PostgreSQL's sockets in it.
func RemoveSocketDir(dir string) error {
	if dir == "" {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	_ = os.Remove(filepath.Dir(dir)) // fails while other mounts use it
	return nil
}
