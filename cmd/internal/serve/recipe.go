// Package serve runs one FUSE mount in a process of its own: it hands a Recipe
// to a child, which opens the tree, mounts it and serves it until it is asked
// to stop. A process that serves a mount must never touch what it serves.
package serve

import (
	"os"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/source"
	"github.com/fukanchik/pg0/mapping"
)

// A Recipe says what to mount and where. It goes to the child as JSON.
type Recipe struct {
	Tree       TreeRef `json:"tree"`
	Mountpoint string  `json:"mountpoint"` // absolute, an empty directory
	Layer      Layer   `json:"layer"`
	Name       string  `json:"name"`               // shown as the device in /proc/mounts
	Orphan     bool    `json:"orphan,omitempty"`   // go on serving when the parent has died
	ReadOnly   bool    `json:"readonly,omitempty"` // no copy-on-write layer
	Memory     int64   `json:"memory,omitempty"`   // soft limit of the child in bytes; 0 = default

	// Log takes what the child reports; nil is the parent's standard error.
	Log *os.File `json:"-"`
}

// A Layer says where the changes go.
type Layer struct {
	Dir     string `json:"dir,omitempty"`      // kept there; empty: an unlinked temporary file
	TempDir string `json:"temp_dir,omitempty"` // of that file
	Limit   int64  `json:"limit,omitempty"`    // bytes; 0 = none
	WAL     string `json:"wal,omitempty"`      // directory of pg_wal, outside of the changes; empty: among them
}

// A TreeRef describes a tree by what it is made of: a backup, or a mix, and
// then sealed changes on top, in their order.
type TreeRef struct {
	Source source.Ref `json:"source,omitzero"`
	Point  string     `json:"point,omitempty"` // backup id
	Mix    *Mix       `json:"mix,omitempty"`
	Images []string   `json:"images,omitempty"` // directories of sealed changes
}

// A Mix is composed anew in the child from the plan and the images that it
// names: composing is deterministic.
type Mix struct {
	Plan   *mapping.Plan      `json:"plan"`
	Base   TreeRef            `json:"base"`
	Images map[string]TreeRef `json:"images"` // of the donors, by point
	Limit  pg0.LSN            `json:"limit"`  // donors' pages are clamped to it
}
