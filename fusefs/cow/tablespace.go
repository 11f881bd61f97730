package cow

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
)

// Where tablespaces of a mounted cluster lie: below the mount, so that no write
// ever reaches the directory that a link led to on the original machine.
const (
	linkDir  = "pg_tblspc"
	spaceDir = ".pg0_tblspc"
)

// confine gives the target for a new symbolic link. A link below pg_tblspc,
// which PostgreSQL makes for CREATE TABLESPACE and when it replays one, leads
// to a directory of the store's own, with the version directory that PostgreSQL
// has just made behind the original target.
func (s *Store) confine(dir uint64, name, target string) (string, error) {
	own := "../" + spaceDir + "/" + name
	if target == own || !s.isLinkDir(dir) {
		return target, nil
	}
	top, err := s.ensureDir(RootIno, spaceDir)
	if err != nil {
		return "", err
	}
	space, err := s.ensureDir(top, name)
	if err != nil {
		return "", err
	}
	version, err := versionDir(s.base)
	if err != nil {
		return "", err
	}
	if _, err := s.ensureDir(space, version); err != nil {
		return "", err
	}
	return own, nil
}

func (s *Store) isLinkDir(dir uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	root := s.inodes.get(RootIno)
	in, _, err := s.find(root, linkDir)
	return err == nil && in != nil && in.ino == dir
}

// ensureDir gives the number of a directory, which it makes if it is missing.
func (s *Store) ensureDir(dir uint64, name string) (uint64, error) {
	a, err := s.Mkdir(dir, name, 0o700)
	if err == syscall.EEXIST {
		a, err = s.Lookup(dir, name)
	}
	if err != nil {
		return 0, err
	}
	s.Forget(a.Ino, 1)
	return a.Ino, nil
}

// versionDir is the name that PostgreSQL gives to its directory in a
// tablespace: TABLESPACE_VERSION_DIRECTORY in common/relpath.h. The catalog
// version is the fourth byte quad of pg_control on every supported release.
func versionDir(base fs.FS) (string, error) {
	major, err := fs.ReadFile(base, "PG_VERSION")
	if err != nil {
		return "", fmt.Errorf("version of the cluster: %w", err)
	}
	f, err := base.Open("global/pg_control")
	if err != nil {
		return "", fmt.Errorf("version of the catalogs: %w", err)
	}
	defer f.Close()
	var head [16]byte
	if n, err := f.Read(head[:]); n < len(head) {
		return "", fmt.Errorf("version of the catalogs: read %d of %d bytes: %w", n, len(head), err)
	}
	// PG_CONTROL is written in the byte order of its machine, which pg0
	// requires to be little-endian everywhere else too.
	return fmt.Sprintf("PG_%s_%d", strings.TrimSpace(string(major)), binary.LittleEndian.Uint32(head[12:])), nil
}
