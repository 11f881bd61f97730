package supervise

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/fusefs"
)

// Resolve gives the absolute path of a mount point, without symbolic links
// above its last element. It never touches the mount itself.
func Resolve(name string) (string, error) {
	name, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", exit.Error(exit.NotFound, fmt.Errorf("mount point %s: there is no directory %s: make it, or give another mount point", name, filepath.Dir(name)))
	}
	if err != nil {
		return "", fmt.Errorf("mount point %s: %w", name, err)
	}
	return filepath.Join(parent, filepath.Base(name)), nil
}

// CheckPlaces refuses a resolved mount point that is in use, not an empty
// directory, or lies inside a catalog, the layer or the state directory, or
// around one: a file system below itself hangs in the kernel. Nor may layer and
// state lie inside a catalog, where nothing is ever written. An empty layer is
// none.
func CheckPlaces(dir state.Dir, mountpoint, layer string, catalogs []string) error {
	if err := checkFree(dir, mountpoint); err != nil {
		return err
	}
	for _, catalog := range catalogs {
		if err := errors.Join(checkOutside(catalog, "layer", layer), checkOutside(catalog, "state directory", string(dir))); err != nil {
			return err
		}
	}
	for _, other := range append(catalogs, layer, string(dir)) {
		if other == "" {
			continue
		}
		real, err := existingPath(other)
		if err != nil {
			return err
		}
		switch {
		case contains(real, mountpoint):
			return refuse("mount point %s lies inside %s: choose a directory outside of it", mountpoint, other)
		case contains(mountpoint, real):
			return refuse("mount point %s contains %s: choose a directory apart from it", mountpoint, other)
		}
	}
	return checkEmpty(mountpoint)
}

// checkOutside refuses to write into a catalog.
func checkOutside(catalog, what, name string) error {
	if name == "" {
		return nil
	}
	real, err := existingPath(name)
	if err != nil {
		return err
	}
	backups, err := existingPath(catalog)
	if err != nil {
		return err
	}
	if contains(backups, real) {
		return refuse("%s %s lies inside the backups of %s: choose a directory outside of them", what, name, catalog)
	}
	return nil
}

func refuse(format string, args ...any) error {
	return exit.Error(exit.Refused, fmt.Errorf(format, args...))
}

func checkFree(dir state.Dir, mountpoint string) error {
	mounted, err := fusefs.Mounted(mountpoint)
	if err != nil {
		return err
	}
	if mounted && fusefs.Dead(mountpoint) {
		return exit.Error(exit.Busy, fmt.Errorf("%s is a dead mount (its server has died): clear it with pg0 umount %s", mountpoint, mountpoint))
	}
	m, err := dir.Load(state.ID(mountpoint))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if mounted || m != nil && (m.Alive() || m.Supervisor.Alive()) {
		return exit.Error(exit.Busy, fmt.Errorf("%s is mounted already: see pg0 status %s", mountpoint, mountpoint))
	}
	return nil
}

// existingPath resolves the links of a path of which the end may be missing.
func existingPath(name string) (string, error) {
	real, err := filepath.EvalSymlinks(name)
	if !errors.Is(err, fs.ErrNotExist) || name == filepath.Dir(name) {
		return real, err
	}
	parent, err := existingPath(filepath.Dir(name))
	return filepath.Join(parent, filepath.Base(name)), err
}

// contains says whether inner is outer or lies below it.
func contains(outer, inner string) bool {
	rel, err := filepath.Rel(outer, inner)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

func checkEmpty(mountpoint string) error {
	info, err := os.Lstat(mountpoint)
	if errors.Is(err, fs.ErrNotExist) {
		return checkParent(filepath.Dir(mountpoint))
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return refuse("mount point %s is not a directory: choose an empty or a new directory", mountpoint)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner != uint32(os.Geteuid()) {
		return refuse("mount point %s belongs to user %d: choose a directory of your own", mountpoint, owner)
	}
	entries, err := os.ReadDir(mountpoint)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return refuse("mount point %s is not empty: choose an empty or a new directory", mountpoint)
	}
	return nil
}

func checkParent(parent string) error {
	const writeAndSearch = 2 | 1
	if err := syscall.Access(parent, writeAndSearch); err != nil {
		return refuse("mount point cannot be made in %s: %w: choose a directory that you may write to", parent, err)
	}
	return nil
}
