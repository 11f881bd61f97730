// Package state keeps what pg0 knows about its mounts between commands: one
// directory a mount, below a state directory that also holds the images.
package state

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/proc"
)

// A Dir is a state directory.
type Dir string

// Open makes the state directory at an absolute path, private to its owner.
func Open(name string) (Dir, error) {
	if err := os.MkdirAll(name, 0o700); err != nil {
		return "", fmt.Errorf("pg0's state directory: %w; give another with --state-dir", err)
	}
	return Dir(name), nil
}

// Images is the directory of the image cache.
func (d Dir) Images() string { return filepath.Join(string(d), "images") }

// Mounts is the parent of the directories of single mounts.
func (d Dir) Mounts() string { return filepath.Join(string(d), "mounts") }

// MountDir is the directory of one mount.
func (d Dir) MountDir(id string) string { return filepath.Join(d.Mounts(), id) }

// ID names the mount at an absolute mount point: the same mount point always
// has the same one. It is short, since socket paths are limited.
func ID(mountpoint string) string {
	sum := sha256.Sum256([]byte(mountpoint))
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '_'
	}, filepath.Base(mountpoint))
	return name[:min(len(name), 16)] + "-" + hex.EncodeToString(sum[:4])
}

// A Mount is the record of one mount, written when it is ready and whenever it
// changes.
type Mount struct {
	ID         string    `json:"id"`
	Mountpoint string    `json:"mountpoint"`
	Created    bool      `json:"created"` // pg0 made the directory and removes it again
	Kind       Kind      `json:"kind"`
	Since      time.Time `json:"since"`
	Died       string    `json:"died,omitempty"` // why it is no longer served
	Log        string    `json:"log"`

	Supervisor proc.ID `json:"supervisor"`
	Server     proc.ID `json:"server"`
	Postgres   proc.ID `json:"postgres"` // zero when pg0 has started none
	Proxy      proc.ID `json:"proxy"`    // likewise

	ProxyListen string `json:"proxy_listen,omitempty"` // its address

	Version    int      `json:"version"` // PostgreSQL's major version
	SocketDir  string   `json:"socket_dir"`
	Port       int      `json:"port"`
	Listen     string   `json:"listen,omitempty"`
	Role       string   `json:"role"`
	Database   string   `json:"database"`
	Layer      string   `json:"layer,omitempty"` // empty: a temporary file
	Images     []string `json:"images,omitempty"`
	Provenance []Origin `json:"provenance"`
	Notes      []string `json:"notes,omitempty"`
}

// Kind says what a mount shows.
type Kind string

// The kinds of mounts.
const (
	Raw   Kind = "raw"   // a bare backup
	Point Kind = "point" // a recovered point
	Mix   Kind = "mix"   // a mix
)

// An Origin says which point one relation comes from, or with Relation "*" the
// base that everything else comes from.
type Origin struct {
	Relation string    `json:"relation"`
	Kind     string    `json:"kind,omitempty"`
	Point    string    `json:"point"`
	Source   string    `json:"source"`
	Backup   string    `json:"backup"`
	Target   string    `json:"target"`
	Time     time.Time `json:"recovered_to_time,omitzero"`
	LSN      pg0.LSN   `json:"recovered_to_lsn,omitempty"`
	XID      uint64    `json:"recovered_to_xid,omitempty"`
	Mode     string    `json:"mode"` // base, replace, adopt
}

// Alive says whether the mount is served.
func (m *Mount) Alive() bool { return m.Died == "" && m.Server.Alive() }

const record = "mount.json"

// Load reads the record of a mount. The error wraps fs.ErrNotExist if there is
// none.
func (d Dir) Load(id string) (*Mount, error) {
	name := filepath.Join(d.MountDir(id), record)
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var m Mount
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &m, nil
}

// Save replaces the record of a mount at once.
func (d Dir) Save(m *Mount) error {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	dir := d.MountDir(m.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp := filepath.Join(dir, fmt.Sprintf("%s.%d", record, os.Getpid()))
	if err := os.WriteFile(tmp, append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, record))
}

// Remove forgets a mount, its log included.
func (d Dir) Remove(id string) error { return os.RemoveAll(d.MountDir(id)) }

// List reads the records of all mounts. Damaged ones are left out and named in
// the error.
func (d Dir) List() ([]*Mount, error) {
	entries, err := os.ReadDir(d.Mounts())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var mounts []*Mount
	var bad []error
	for _, entry := range entries {
		m, err := d.Load(entry.Name())
		switch {
		case err == nil:
			mounts = append(mounts, m)
		case !errors.Is(err, fs.ErrNotExist): // one that is just being made has no record yet
			bad = append(bad, err)
		}
	}
	return mounts, errors.Join(bad...)
}

// PostgresLog is the file that a server started by pg0 logs to.
func (d Dir) PostgresLog(id string) string { return filepath.Join(d.MountDir(id), "postgres.log") }
