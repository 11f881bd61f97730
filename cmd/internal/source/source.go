// Package source opens the catalogs of every backup tool that pg0 reads by one
// description, which fits into JSON and so into the state of a mount.
package source

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/exit"
)

// A Ref says where a catalog is and how to read it.
type Ref struct {
	Format   string `json:"format"`             // "probackup"
	Path     string `json:"path"`               // absolute
	Instance string `json:"instance,omitempty"` // empty: the only one
	// ToolExact gives the bytes of the tool's own restore where the tool is wrong.
	ToolExact bool `json:"tool_exact,omitempty"`
	// Lock has every process that opens a backup hold the tool's shared lock on
	// it and its chain, as long as it has it open.
	Lock bool `json:"lock,omitempty"`
}

// String names the catalog for messages.
func (r Ref) String() string {
	if r.Instance == "" {
		return r.Path
	}
	return r.Path + " instance " + r.Instance
}

// Damage is one damaged place of a backup. Block is -1 when it is the file as
// a whole.
type Damage struct {
	Backup string `json:"backup"`
	File   string `json:"file"`
	Block  int64  `json:"block"`
	Reason string `json:"reason"`
}

// A Catalog is an open catalog with its WAL.
type Catalog interface {
	pg0.Catalog
	pg0.WALArchive
	// OpenWAL opens of a backup the WAL that it keeps itself, and may leave out
	// everything else: the point's tree is good for pg_wal alone. Errors are
	// those of Open.
	OpenWAL(ctx context.Context, id string) (*pg0.Point, error)
	// SystemID is the system identifier of the cluster, 0 when unknown.
	SystemID() uint64
	// Verify reads all that a backup and its chain store, jobs files at a time
	// (0: one for each processor). Damage goes to report, the bytes done and to
	// do to progress, never two calls at once. The error wraps pg0.ErrCorrupt
	// when anything is damaged.
	Verify(ctx context.Context, id string, jobs int, report func(Damage), progress func(done, total int64)) error
}

// An opener opens the catalogs of one format.
type opener func(Ref, *slog.Logger) (Catalog, error)

// Formats lists the known formats, sorted.
func Formats() []string {
	var names []string
	for name := range formats {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Open opens the catalog. An unknown format is an error of usage.
func (r Ref) Open(logger *slog.Logger) (Catalog, error) {
	open, ok := formats[r.Format]
	if !ok {
		return nil, exit.Error(exit.Usage, fmt.Errorf("format %q of %s is not known; there are: %s", r.Format, r.Path, strings.Join(Formats(), ", ")))
	}
	return open(r, logger)
}
