package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/state"
)

// DefaultPort is that of pgbouncer, which clients of a proxy may try.
const DefaultPort = 6432

// Listen opens HOST:PORT, or DIRECTORY[:PORT] for a Unix socket that clients of
// PostgreSQL find there. The socket is private to its owner.
func Listen(address string) (net.Listener, error) {
	if !strings.Contains(address, "/") {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return nil, fmt.Errorf("--listen %s: %w", address, err)
		}
		return l, nil
	}
	directory, port := address, DefaultPort
	if i := strings.LastIndexByte(address, ':'); i > strings.LastIndexByte(address, '/') {
		number, err := strconv.Atoi(address[i+1:])
		if err != nil || number < 1 || number > 65535 {
			return nil, exit.Error(exit.Usage, fmt.Errorf("--listen %s: %q is no port", address, address[i+1:]))
		}
		directory, port = address[:i], number
	}
	return listenUnix(filepath.Join(directory, fmt.Sprintf(".s.PGSQL.%d", port)))
}

func listenUnix(name string) (net.Listener, error) {
	if err := removeStale(name); err != nil {
		return nil, err
	}
	// Nobody else may connect, not even before the mode is set.
	mask := syscall.Umask(0o177)
	l, err := net.Listen("unix", name)
	syscall.Umask(mask)
	if err != nil {
		return nil, fmt.Errorf("--listen %s: %w", name, err)
	}
	return l, nil
}

// removeStale removes the socket of a process that is no more.
func removeStale(name string) error {
	conn, err := net.Dial("unix", name)
	switch {
	case err == nil:
		_ = conn.Close()
		return exit.Error(exit.Busy, fmt.Errorf("--listen %s: another process listens there", name))
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(name)
	}
	return nil
}

// PointsDir makes the directory below which points are mounted: the one that is
// asked for, or one that belongs to this mapping file and state directory.
func PointsDir(asked, mapFile string, dir state.Dir) (string, error) {
	if asked != "" {
		asked, err := filepath.Abs(asked)
		if err != nil {
			return "", err
		}
		return filepath.EvalSymlinks(asked)
	}
	sum := sha256.Sum256([]byte(mapFile + "\x00" + string(dir)))
	parent := filepath.Join(os.TempDir(), fmt.Sprintf("pg0-%d", os.Getuid()))
	name := filepath.Join(parent, "points-"+hex.EncodeToString(sum[:4]))
	for _, one := range []string{parent, name} {
		if err := makePrivate(one); err != nil {
			return "", err
		}
	}
	return filepath.EvalSymlinks(name)
}

func makePrivate(name string) error {
	err := os.Mkdir(name, 0o700)
	if err == nil || !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(name)
	if err != nil {
		return err
	}
	if !info.IsDir() || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Getuid()) {
		return fmt.Errorf("%s belongs to somebody else: give --points-dir", name)
	}
	return nil
}
