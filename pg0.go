// Package pg0 holds the nouns that every other package of pg0 speaks: a
// catalog keeps backups, a point is a cluster directory as it stood at one
// moment, and what crosses every arrow between packages is a Tree.
package pg0

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"time"
)

// ErrCorrupt marks damage in a backup. Errors that wrap it name the file, the
// backup and, for pages, the block.
var ErrCorrupt = errors.New("backup is corrupt")

// ErrUnusable marks a backup that exists and is listed but cannot be read: its
// chain is broken, its status forbids it, or its writer is unknown.
var ErrUnusable = errors.New("backup cannot be used")

// A Tree is a cluster directory, immutable for as long as it is open. Names are
// relative to the data directory and follow fs.ValidPath. Open does not follow
// symbolic links; the regular files it opens are Files. Lstat and ReadDir give
// the permissions that the cluster's own files had.
type Tree interface {
	fs.ReadDirFS
	fs.ReadLinkFS
}

// A File is a regular file of a Tree. ReadAt fills the buffer unless the file
// ends, is safe for parallel calls, and reports damage with ErrCorrupt; it
// never returns bytes that the point did not have.
type File interface {
	fs.File
	io.ReaderAt
}

// PointInfo says what a point is without opening it. Times are UTC. Zero means
// unknown for every field but Status.
type PointInfo struct {
	ID       string   `json:"id"`
	Parent   string   `json:"parent,omitempty"`
	Chain    []string `json:"chain,omitempty"` // this backup first, the full one last
	Mode     string   `json:"mode"`            // FULL, DELTA, PAGE, PTRACK
	Stream   bool     `json:"stream"`          // the WAL it needs lies in its own pg_wal
	Status   string   `json:"status"`
	Unusable string   `json:"unusable,omitempty"` // why Open would refuse it

	SystemID  uint64 `json:"system_id,string,omitempty"`
	Version   int    `json:"version"` // PostgreSQL's major version
	Timeline  uint32 `json:"timeline"`
	StartLSN  LSN    `json:"start_lsn"` // replay begins here
	StopLSN   LSN    `json:"stop_lsn"`  // files are consistent from here on
	Checksums bool   `json:"checksums"`
	BlockSize int    `json:"block_size"`
	Replica   bool   `json:"replica,omitempty"`
	Partial   bool   `json:"partial,omitempty"` // some relations are not in it, see Point.Holds

	StartTime    time.Time `json:"start_time"`
	EndTime      time.Time `json:"end_time,omitzero"`
	RecoveryTime time.Time `json:"recovery_time,omitzero"` // earliest time target it can serve
	RecoveryXID  uint64    `json:"recovery_xid,omitempty"` // earliest xid target it can serve

	Size     int64    `json:"size"`           // bytes stored for this backup alone
	Bytes    int64    `json:"bytes"`          // bytes of the cluster directory
	Note     string   `json:"note,omitempty"` // the administrator's own words
	Warnings []string `json:"warnings,omitempty"`

	// Digest changes when any byte list of the chain changes: it covers the
	// identity and the content checksum of every member.
	Digest string `json:"digest,omitempty"`
}

// A Point is an open cluster directory. Its Tree is valid until Close.
type Point struct {
	PointInfo
	Tree    Tree
	OnClose func() error

	// Holds says whether the files of a relation, named by the path of its first
	// segment such as base/5/16384, are what they were, or will be once WAL has
	// been replayed. Those of others have no content and must not be read. Nil:
	// all are.
	Holds func(relation string) bool
}

// Close releases what the point holds open.
func (p *Point) Close() error {
	if p.OnClose == nil {
		return nil
	}
	return p.OnClose()
}

// A Catalog is one place where one tool keeps backups of one cluster.
type Catalog interface {
	// Points lists all backups, oldest first, also those that cannot be used.
	// It reads metadata only.
	Points(ctx context.Context) ([]PointInfo, error)
	// Open opens a backup by its id, in any case. Errors wrap fs.ErrNotExist
	// for an unknown id, ErrUnusable and ErrCorrupt otherwise.
	Open(ctx context.Context, id string) (*Point, error)
}

// A WALArchive is a Catalog that keeps WAL as well.
type WALArchive interface {
	// WAL opens one segment or history file by the name PostgreSQL gives it,
	// decompressed. The error wraps fs.ErrNotExist for a missing one.
	WAL(ctx context.Context, name string) (File, error)
	// WALNames lists what WAL can open, sorted, compression suffixes removed;
	// an unfinished segment keeps its ".partial".
	WALNames(ctx context.Context) ([]string, error)
	// SegmentSize is the length of a WAL segment in bytes.
	SegmentSize() int64
}

// LSN is a byte position in the write-ahead log.
type LSN uint64

// String gives PostgreSQL's form: two hexadecimal halves.
func (l LSN) String() string {
	return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l))
}

// MarshalText gives the form of String.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads the form of String.
func (l *LSN) UnmarshalText(text []byte) error {
	v, err := ParseLSN(string(text))
	if err != nil {
		return err
	}
	*l = v
	return nil
}

// ParseLSN reads PostgreSQL's form, such as 0/2C079A0.
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	h, herr := strconv.ParseUint(hi, 16, 32)
	l, lerr := strconv.ParseUint(lo, 16, 32)
	if !ok || herr != nil || lerr != nil {
		return 0, fmt.Errorf("%q is not an LSN: two hexadecimal numbers with a slash between them, such as 0/2C079A0", s)
	}
	return LSN(h<<32 | l), nil
}
