// Package image keeps points that were made ready: for each of them one
// directory with the blocks that recovery changed over the backup's own files,
// what the server said about the cluster, and the definitions that it printed.
package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/reach"
	"github.com/fukanchik/pg0/cmd/internal/serve"
	"github.com/fukanchik/pg0/cmd/internal/source"
	"github.com/fukanchik/pg0/relmap"
)

// Format is the version of the layout of image directories and of what is in
// them. It is part of every key: images of another format are made anew.
const Format = 1

// The files of an image directory.
const (
	metaFile = "meta.json"
	defsFile = "defs.json"
	useFile  = "use"    // locked by who has the image open; its time is the last use
	blockDir = "blocks" // what cow.Store.Seal wrote
)

// Meta says what an image is.
type Meta struct {
	Format int          `json:"format"`
	Key    string       `json:"key"`
	Source source.Ref   `json:"source"`
	Choice reach.Choice `json:"choice"` // backup, target, and the record that recovery stopped at
	// Derived names what was done to the image Parents[len-1]; the parents are
	// keys, the one made by recovery first.
	Derived string   `json:"derived,omitempty"`
	Parents []string `json:"parents,omitempty"`
	// Change is the record of that change, in the words of who made it.
	Change json.RawMessage `json:"change,omitempty"`

	Recovered Recovered `json:"recovered"`
	Server    string    `json:"server"`   // version of the server that recovered it
	Role      string    `json:"role"`     // a superuser that may log in; OID 10 if that may
	Database  string    `json:"database"` // one to connect to
	Created   time.Time `json:"created"`
	Seconds   float64   `json:"seconds"` // that making it took
	Bytes     int64     `json:"bytes"`   // of the changed blocks on disk

	Prepared   []Prepared  `json:"prepared,omitempty"`
	Collations []Collation `json:"collations,omitempty"`
	Outside    []Outside   `json:"outside,omitempty"`
	Notes      []string    `json:"notes,omitempty"`
}

// Recovered says where recovery really stopped.
type Recovered struct {
	LSN      pg0.LSN   `json:"lsn"`                // end of the last record replayed
	Time     time.Time `json:"time,omitzero"`      // of the last transaction replayed
	XID      uint32    `json:"xid,omitempty"`      // its xid
	Timeline uint32    `json:"timeline"`           // the new one, that the image is on
	Redo     pg0.LSN   `json:"redo"`               // of the shutdown checkpoint
	Stopped  string    `json:"stopped,omitempty"`  // the server's own words
	Consists pg0.LSN   `json:"consists,omitempty"` // where it had become consistent
}

// A Prepared is a transaction that was prepared and not finished at the point:
// nothing of it is visible.
type Prepared struct {
	GID      string    `json:"gid"`
	XID      uint32    `json:"xid"`
	Database string    `json:"database"`
	Owner    string    `json:"owner"`
	Time     time.Time `json:"time"`
}

// A Collation has another version on this machine than the cluster's indexes
// were built under. Name is empty for the default of the database.
type Collation struct {
	Database string `json:"database"`
	Name     string `json:"name,omitempty"`
	Provider string `json:"provider"`
	Recorded string `json:"recorded"`
	Actual   string `json:"actual"`
}

// An Outside is something in the cluster that reaches outside or loads code
// when it is used.
type Outside struct {
	Kind     string `json:"kind"` // foreign server, subscription, login trigger, setting
	Database string `json:"database,omitempty"`
	Name     string `json:"name"`
	Detail   string `json:"detail,omitempty"`
}

// An Image is an open one. Its Tree is valid until Close; as long, nobody
// removes it.
type Image struct {
	Meta Meta
	Dir  string // of the image
	Tree pg0.Tree
	Defs *relmap.Definitions

	ref    serve.TreeRef
	closer io.Closer
	uses   []*os.File
}

// Ref describes the tree for a process that is to serve it.
func (i *Image) Ref() serve.TreeRef { return i.ref }

// Keys are those of all directories the image needs, its own last.
func (i *Image) Keys() []string { return append(append([]string{}, i.Meta.Parents...), i.Meta.Key) }

// Close lets go of the image.
func (i *Image) Close() error {
	err := i.closer.Close()
	for _, use := range i.uses {
		err = errors.Join(err, use.Close())
	}
	return err
}

// Open opens the image of a key over a catalog that has its backup; a zero ref
// is the one it was made from. The error wraps fs.ErrNotExist if there is no
// such image.
func (c Cache) Open(ctx context.Context, key string, ref source.Ref, logger *slog.Logger) (*Image, error) {
	image := &Image{Dir: c.dir(key)}
	if err := image.load(c, key); err != nil {
		return nil, errors.Join(err, closeAll(image.uses))
	}
	if ref != (source.Ref{}) {
		image.Meta.Source = ref
	}
	image.ref = serve.TreeRef{Source: image.Meta.Source, Point: image.Meta.Choice.Backup.ID}
	for _, key := range image.Keys() {
		image.ref.Images = append(image.ref.Images, filepath.Join(c.dir(key), blockDir))
	}
	var err error
	image.Tree, image.closer, err = serve.OpenTree(ctx, image.ref, serve.Options{Logger: logger})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("image of backup %s: %w", image.Meta.Choice.Backup.ID, err), closeAll(image.uses))
	}
	return image, nil
}

// load reads what is known about the image, and keeps it and its parents from
// being removed.
func (i *Image) load(c Cache, key string) error {
	use, err := c.use(key)
	if err != nil {
		return err
	}
	i.uses = append(i.uses, use)
	if i.Meta, err = c.Meta(key); err != nil {
		return err
	}
	for _, parent := range i.Meta.Parents {
		if use, err = c.use(parent); err != nil {
			return fmt.Errorf("image %s stands on another: %w", key, err)
		}
		i.uses = append(i.uses, use)
	}
	return readJSON(filepath.Join(i.Dir, defsFile), &i.Defs)
}

func closeAll(files []*os.File) error {
	var errs []error
	for _, file := range files {
		errs = append(errs, file.Close())
	}
	return errors.Join(errs...)
}

func readJSON(name string, value any) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, value); err != nil {
		return fmt.Errorf("%s: %w; remove it with pg0 images remove", name, err)
	}
	return nil
}

func writeJSON(name string, value any) error {
	text, err := json.MarshalIndent(value, "", " ")
	if err != nil {
		return err
	}
	return writeSynced(name, append(text, '\n'))
}

func writeSynced(name string, text []byte) error {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	return errors.Join(err, file.Sync(), file.Close())
}
