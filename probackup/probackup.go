// Package probackup reads backup catalogs of pg_probackup. It opens a backup
// with its chain as a tree of the cluster's files, gives any page of it without
// unpacking a file, checks each page before handing it out, and never writes
// below the catalog (the shared lock of Lock excepted).
package probackup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/fukanchik/pg0"
)

// Names that pg_probackup gives to the parts of a catalog.
const (
	backupsDir  = "backups"
	walDir      = "wal"
	configName  = "pg_probackup.conf"
	controlName = "backup.control"
	listName    = "backup_content.control"
	mapName     = "page_header_map"
	databaseDir = "database"
)

const (
	defaultIndexBytes  = 256 << 20
	defaultOpenFiles   = 256
	defaultSegmentSize = 16 << 20
)

// Options say how a catalog is read. The zero value is good.
type Options struct {
	// ToolExact gives the bytes of the tool's own restore also where it brings
	// back pages that the relation had lost before the backup.
	ToolExact bool
	// IndexBytes bounds the memory for page indexes; 0 means 256 MiB.
	IndexBytes int64
	// OpenFiles bounds the files of backups held open; 0 means 256.
	OpenFiles int
	// Logger gets warnings; nil discards them.
	Logger *slog.Logger
}

// A Catalog is one instance of a pg_probackup catalog.
type Catalog struct {
	dir      string // directory of the instance's backups
	wal      string // directory of the instance's WAL
	instance string
	options  Options
	log      *slog.Logger
	config   config
	files    *clock // open files
	indexes  *clock // page indexes
}

var (
	_ pg0.Catalog    = (*Catalog)(nil)
	_ pg0.WALArchive = (*Catalog)(nil)
)

// Instances lists the instances of the catalog in dir, sorted.
func Instances(dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(dir, backupsDir))
	if errors.Is(err, fs.ErrNotExist) {
		if _, derr := os.Stat(dir); derr != nil {
			return nil, fmt.Errorf("no backup catalog: %w; give the directory that pg_probackup knows as -B", derr)
		}
		return nil, missing(fmt.Sprintf("%s is no pg_probackup catalog: it has no directory %q; give the directory that pg_probackup knows as -B", dir, backupsDir))
	}
	if err != nil {
		return nil, fmt.Errorf("list instances of the catalog: %w; be a user that may read backups", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Open opens one instance of the catalog in dir. An empty instance means the
// only one. The error wraps fs.ErrNotExist when there is no such instance.
func Open(dir, instance string, o Options) (*Catalog, error) {
	names, err := Instances(dir)
	if err != nil {
		return nil, err
	}
	if instance, err = chooseInstance(dir, instance, names); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	c := &Catalog{
		dir:      filepath.Join(dir, backupsDir, instance),
		wal:      filepath.Join(dir, walDir, instance),
		instance: instance,
		options:  o,
		log:      o.Logger,
		files:    newClock(int64(o.OpenFiles)),
		indexes:  newClock(o.IndexBytes),
	}
	if c.config, err = readConfig(filepath.Join(c.dir, configName)); err != nil {
		return nil, err
	}
	if c.config.systemID == 0 {
		c.config.systemID = c.systemIDOfBackups()
	}
	return c, nil
}

func (o Options) withDefaults() Options {
	if o.IndexBytes <= 0 {
		o.IndexBytes = defaultIndexBytes
	}
	if o.OpenFiles <= 0 {
		o.OpenFiles = defaultOpenFiles
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

func chooseInstance(dir, instance string, names []string) (string, error) {
	if instance == "" && len(names) == 1 {
		return names[0], nil
	}
	for _, name := range names {
		if name == instance {
			return name, nil
		}
	}
	list := strings.Join(names, ", ")
	switch {
	case len(names) == 0:
		return "", missing(fmt.Sprintf("catalog %s has no instance: pg_probackup add-instance makes one", dir))
	case instance == "":
		return "", fmt.Errorf("catalog %s has %d instances, choose one with --instance: %s", dir, len(names), list)
	}
	return "", missing(fmt.Sprintf("catalog %s has no instance %q, it has: %s", dir, instance, list))
}

// missing is the error of what is not there; it is fs.ErrNotExist.
type missing string

func (m missing) Error() string        { return string(m) }
func (m missing) Is(target error) bool { return target == fs.ErrNotExist } //nolint:errorlint // it is what errors.Is asks

// SystemID is the system identifier of the instance's cluster, 0 when neither
// its configuration nor a backup tells it.
func (c *Catalog) SystemID() uint64 { return c.config.systemID }

// SegmentSize is the length of a WAL segment in bytes.
func (c *Catalog) SegmentSize() int64 { return c.config.segmentSize }

// Points lists the backups of the instance, oldest first.
func (c *Catalog) Points(ctx context.Context) ([]pg0.PointInfo, error) {
	set, err := c.readBackups(ctx)
	if err != nil {
		return nil, err
	}
	infos := make([]pg0.PointInfo, 0, len(set.all))
	for _, b := range set.all {
		infos = append(infos, set.info(b))
	}
	return infos, nil
}

// systemIDOfBackups asks the pg_control of any backup that has one.
func (c *Catalog) systemIDOfBackups() uint64 {
	names, err := filepath.Glob(filepath.Join(c.dir, "*", databaseDir, controlFile))
	if err != nil {
		return 0
	}
	for _, name := range names {
		if data, err := os.ReadFile(name); err == nil {
			if control, err := parsePGControl(data); err == nil {
				return control.systemID
			}
		}
	}
	return 0
}
