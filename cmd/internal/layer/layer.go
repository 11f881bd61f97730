// Package layer keeps, beside the changes of a --layer directory, what they
// stand on: a layer over other bytes than it was made over would be damage.
package layer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/serve"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/fusefs/cow"
	"github.com/fukanchik/pg0/mapping"
	"github.com/fukanchik/pg0/relmap"
)

// version of the attach record.
const version = 1

const (
	recordFile = "attach.json"
	storeDir   = "changes"
	walDir     = "pg_wal"
)

// A Record is the attach record of a layer.
type Record struct {
	Version int            `json:"version"`
	Kind    state.Kind     `json:"kind"`
	Attach  mapping.Record `json:"attach"`
	Tree    serve.TreeRef  `json:"tree"` // below the changes
	// Configured says that the server's configuration is in the layer. From
	// then on it belongs to the layer's owner.
	Configured bool `json:"configured"`
	// WAL says that pg_wal is a directory of its own beside the changes.
	WAL        bool           `json:"wal,omitempty"`
	Provenance []state.Origin `json:"provenance"`
}

// Store is the directory of the changes themselves.
func Store(dir string) string { return filepath.Join(dir, storeDir) }

// WAL is the directory of pg_wal of a layer whose record says so.
func WAL(dir string) string { return filepath.Join(dir, walDir) }

// Read reads the attach record. The error wraps fs.ErrNotExist for a directory
// that is no layer yet.
func Read(dir string) (*Record, error) {
	text, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		return nil, err
	}
	var r Record
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, recordFile), err)
	}
	if r.Version != version {
		return nil, fmt.Errorf("layer %s has a record of version %d, this pg0 reads %d", dir, r.Version, version)
	}
	return &r, nil
}

// Write replaces the attach record durably.
func Write(dir string, r *Record) error {
	r.Version = version
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("--layer: %w: choose a directory that you may write to", err)
	}
	name := filepath.Join(dir, recordFile)
	tmp, err := os.OpenFile(name+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = tmp.Write(append(text, '\n'))
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), name); err != nil {
		return err
	}
	parent, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), parent.Close())
}

// Configured notes that the server's configuration has been written to a layer.
func Configured(dir string) error {
	r, err := Read(dir)
	if err != nil {
		return err
	}
	r.Configured = true
	return Write(dir, r)
}

// Take readies a layer directory for what want describes: a new one, or one
// whose changes stand on the same bytes. A plan that joins a layer gets the
// limits that its grafts have there. The returned record is to be written
// before the layer is mounted. Errors that refuse have exit code 4.
func Take(ctx context.Context, dir string, want *Record, plan *mapping.Plan, logger *slog.Logger) (*Record, error) {
	old, err := Read(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return want, checkNew(dir)
	}
	if err != nil {
		return nil, err
	}
	if old.Kind != want.Kind {
		return nil, refuse("layer %s was made over %s, and this is %s: give another directory", dir, words[old.Kind], words[want.Kind])
	}
	if err := old.checkWAL(dir); err != nil {
		return nil, err
	}
	if want.Kind != state.Mix {
		if old.Attach.Base != want.Attach.Base {
			return nil, refuse("layer %s stands on another point (%s): give that one, or another directory", dir, point(old))
		}
		want.Configured, want.WAL = old.Configured, old.WAL
		return want, nil
	}
	return takeMix(ctx, dir, old, want, plan, logger)
}

// checkWAL refuses a layer that was in use and has lost its WAL since: that of
// what it stands on would be taken for it, and a server cannot start on that.
func (r *Record) checkWAL(dir string) error {
	if !r.WAL || !r.Configured {
		return nil
	}
	_, err := os.Stat(WAL(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return refuse("layer %s has lost its WAL: directory %s is missing: put it back, or give another layer", dir, WAL(dir))
	}
	return err
}

var words = map[state.Kind]string{state.Raw: "a bare backup", state.Point: "one point", state.Mix: "a mix"}

func point(r *Record) string {
	for _, o := range r.Provenance {
		if o.Relation == "*" {
			return o.Point + " of " + o.Source
		}
	}
	return "unknown"
}

func refuse(format string, args ...any) error {
	return exit.Error(exit.Refused, fmt.Errorf(format, args...))
}

// checkNew refuses a directory that holds something else.
func checkNew(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(entries) > 0 {
		return refuse("layer %s is not empty and has no record of what it stands on: give an empty or a new directory", dir)
	}
	return nil
}

func takeMix(ctx context.Context, dir string, old, want *Record, plan *mapping.Plan, logger *slog.Logger) (*Record, error) {
	var control relmap.Control
	// An equal plan is always taken, and needs no look into the layer.
	err := mapping.Compatible(old.Attach, plan, nil, control)
	if err != nil {
		var touched []string
		if touched, control, err = look(ctx, dir, old, logger); err != nil {
			return nil, err
		}
		err = mapping.Compatible(old.Attach, plan, touched, control)
	}
	if err != nil {
		return nil, exit.Error(exit.Refused, fmt.Errorf("layer %s: %w", dir, err))
	}
	want.Attach = mapping.Reattach(old.Attach, plan, control)
	want.Configured, want.WAL = old.Configured, old.WAL
	return want, nil
}

// look reads from a layer, over what it stands on, which files it has changed
// and its pg_control.
func look(ctx context.Context, dir string, r *Record, logger *slog.Logger) (touched []string, control relmap.Control, err error) {
	tree, closer, err := serve.OpenTree(ctx, r.Tree, serve.Options{Logger: logger})
	if err != nil {
		return nil, control, fmt.Errorf("what layer %s stands on: %w", dir, err)
	}
	defer closer.Close()
	store, err := cow.Open(tree, cow.Options{Dir: Store(dir), ReadOnly: true, Logger: logger})
	if errors.Is(err, cow.ErrBusy) {
		return nil, control, exit.Error(exit.Busy, fmt.Errorf("layer %s is mounted", dir))
	}
	if err != nil {
		return nil, control, fmt.Errorf("layer %s: %w", dir, err)
	}
	defer store.Close()
	read, err := relmap.ReadControl(store.Tree())
	if err != nil {
		return nil, control, fmt.Errorf("layer %s: %w", dir, err)
	}
	touched, err = store.Touched()
	return touched, *read, err
}
