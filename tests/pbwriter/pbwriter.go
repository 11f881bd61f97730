// Package pbwriter writes catalogs in the format of pg_probackup for tests:
// large ones, odd ones, old ones and damaged ones that the tool itself would
// not make on demand. It shares no code with the reader; its output is held
// against the tool's own backups by its tests.
package pbwriter

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/tests/pgtest"
)

const (
	pageSize          = 8192
	blocksPerSegment  = 131072
	defaultProgram    = "2.5.16"
	defaultServer     = "15"
	defaultSegment    = 1 << 20
	blockHeaderSize   = 8
	mapEntrySize      = 24
	recordTruncated   = -2 // compressed_size of a marker that ends a file
	sizeUnchanged     = -1
	directoryOnDisk   = 4096 // what the tool counts for a directory
	modeDir, modeFile = 0o040000, 0o100000
)

// The algorithms of the public tool.
const (
	None = "none"
	Zlib = "zlib"
	PGLZ = "pglz"
)

// Versions that changed the format, as the tool writes them in one number.
const (
	versionExternals   = 20100 // external_dir_num; -1 printed with a sign
	versionDBOid       = 20200
	versionNBlocks     = 20300 // n_blocks in all modes
	versionContentCRC  = 20302
	versionHeaderMap   = 20400 // and records that are not padded
	versionOldCRC      = 20022 // CRC-32 of zlib up to 2.0.24
	versionControlCRC  = 20025 // pg_control's crc is the one inside it
	versionFullSize    = 20509
	versionOldCRCUntil = 20024
)

// A Catalog is one instance of a catalog being written. Its methods end the
// test on an error.
type Catalog struct {
	Dir         string // the catalog
	Instance    string
	SystemID    uint64
	SegmentSize int64 // of WAL, in bytes

	t       testing.TB
	backups map[string]*Written
}

// New makes an empty instance below dir, which may hold other instances. A
// segment size of 0 is 1 MB.
func New(t testing.TB, dir, instance string, systemID uint64, segmentSize int64) *Catalog {
	t.Helper()
	if segmentSize == 0 {
		segmentSize = defaultSegment
	}
	c := &Catalog{dir, instance, systemID, segmentSize, t, map[string]*Written{}}
	for _, sub := range []string{c.InstanceDir(), c.WALDir()} {
		c.must(os.MkdirAll(sub, 0o755))
	}
	c.must(os.Chmod(c.WALDir(), 0o777)) // a server of another user archives there
	conf := fmt.Sprintf("# Backup instance information\npgdata = /srv/%s/data\nsystem-identifier = %d\nxlog-seg-size = %d\n", instance, systemID, segmentSize)
	c.must(os.WriteFile(filepath.Join(c.InstanceDir(), "pg_probackup.conf"), []byte(conf), 0o644))
	return c
}

// Of makes an empty instance for a cluster, in a directory of its own.
func Of(t testing.TB, cluster *pgtest.Cluster) *Catalog {
	t.Helper()
	control, err := os.ReadFile(filepath.Join(cluster.Dir, "global/pg_control"))
	if err != nil {
		t.Fatal(err)
	}
	return New(t, filepath.Join(cluster.TempDir(), "catalog"), "main", le64(control, 0), int64(le32(control, 228)))
}

// InstanceDir is where the instance's backups lie.
func (c *Catalog) InstanceDir() string { return filepath.Join(c.Dir, "backups", c.Instance) }

// WALDir is the instance's archive.
func (c *Catalog) WALDir() string { return filepath.Join(c.Dir, "wal", c.Instance) }

func (c *Catalog) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// A Backup says what is written of a backup beside its files. The zero value of
// a field is the usual: status OK, by program 2.5.16, uncompressed, complete.
type Backup struct {
	Mode    string // FULL, DELTA, PAGE or PTRACK; FULL if empty
	Parent  string // id; needed by all modes but FULL
	Stream  bool
	Status  string
	Program string // a.b.c; decides on the layout
	Server  string // major version

	Compress string // None, Zlib or PGLZ
	Level    int
	// CompressFile chooses the algorithm for one data file; nil or an empty
	// string is Compress.
	CompressFile func(path string) string

	StartLSN, StopLSN pg0.LSN
	Timeline          uint32
	StartTime         time.Time // the id; 0 is ten seconds after the newest
	RecoveryXID       uint64
	NoChecksums       bool
	Replica           bool
	Externals         []string // in any order; Items number them sorted
	MergeDest         string   // id, with status MERGED or MERGING
	Note              string

	// Kind writes list lines as 2.6 does: with kind, without type bits in mode.
	Kind bool
	// Remote leaves what the tool leaves uninitialised in backups over ssh:
	// garbage in the header map's last entry and in all padding.
	Remote bool
	// NoHeaderMap leaves the map out though the list speaks of it.
	NoHeaderMap bool
	// Control and List change the text of backup.control and the list's lines
	// before they are written.
	Control func(text string) string
	List    func(lines []string) []string
}

// Written is a backup that was written.
type Written struct {
	Backup
	Catalog *Catalog
	ID      string
	Dir     string // of the backup
	Lines   []Line
	files   map[fileKey]fileState
}

// Path returns where the backup keeps a file of the data directory.
func (w *Written) Path(name string) string { return filepath.Join(w.Dir, "database", name) }

func (b *Backup) defaults(c *Catalog) {
	set(&b.Mode, "FULL")
	set(&b.Status, "OK")
	set(&b.Program, defaultProgram)
	set(&b.Server, defaultServer)
	set(&b.Compress, None)
	set(&b.Level, 1)
	set(&b.Timeline, 1)
	set(&b.StartLSN, 0x1000028)
	set(&b.StopLSN, b.StartLSN+0x100)
	if b.StartTime.IsZero() {
		b.StartTime = time.Date(2026, 5, 4, 9, 0, 0, 0, time.UTC)
		for _, w := range c.backups {
			if next := w.StartTime.Add(10 * time.Second); next.After(b.StartTime) {
				b.StartTime = next
			}
		}
	}
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// version is the program's version in one number.
func (b *Backup) version() int {
	n := 0
	for _, part := range strings.Split(b.Program, ".") {
		v, err := strconv.Atoi(part)
		if err != nil {
			panic("pbwriter: program version " + b.Program)
		}
		n = n*100 + v
	}
	return n
}

// ID gives the id of a backup that began at a time.
func ID(start time.Time) string {
	return strings.ToUpper(strconv.FormatInt(start.Unix(), 36))
}

// Backup returns a backup written before by its id.
func (c *Catalog) Backup(id string) *Written { return c.backups[id] }
