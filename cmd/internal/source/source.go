// Package source opens the catalogs of every backup tool that pg0 reads by one
// description, which fits into JSON and so into the state of a mount.
package source

import (
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
}

// String names the catalog for messages.
func (r Ref) String() string {
	if r.Instance == "" {
		return r.Path
	}
	return r.Path + " instance " + r.Instance
}

// A Catalog is an open catalog with its WAL.
type Catalog interface {
	pg0.Catalog
	pg0.WALArchive
	// SystemID is the system identifier of the cluster, 0 when unknown.
	SystemID() uint64
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
