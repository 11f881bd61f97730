package recovery

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fukanchik/pg0/cmd/internal/image"
	"github.com/fukanchik/pg0/cmd/internal/pgserver"
	"github.com/fukanchik/pg0/relmap"
)

// A Change is what Derive does to a cluster.
type Change struct {
	// Digest names the change: equal digests have equal effects.
	Digest string
	// Title says in a few words what is changed.
	Title string
	// Record is kept with the image, as Meta.Change.
	Record json.RawMessage
	// Do changes the cluster by sessions as its superuser. It is to close them.
	Do func(ctx context.Context, connect Connect) error
}

// Connect opens a session in a database, as a superuser with search_path
// pg_catalog.
type Connect func(ctx context.Context, database string) (*pgx.Conn, error)

// Derive gives the image of a changed cluster: a server on a copy-on-write
// mount of the parent makes the change, and the blocks it changed are kept like
// those of a recovery, under a key of both. The image is to be closed; it keeps
// its parent from being removed.
func (m *Maker) Derive(ctx context.Context, parent *image.Image, change Change) (*image.Image, error) {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n", parent.Meta.Key, change.Digest))
	key := hex.EncodeToString(sum[:10])
	return m.get(ctx, key, parent.Meta.Source, parent.Meta.Choice.Backup.ID, func(tmp string) error {
		meta := parent.Meta
		meta.Key, meta.Parents, meta.Derived, meta.Change = key, parent.Keys(), change.Title, change.Record
		meta.Prepared, meta.Collations, meta.Outside = nil, nil, nil // asked for again
		meta.Notes = slices.Clone(meta.Notes)
		s := &stand{Maker: m, tmp: tmp, started: time.Now(), meta: meta}
		return s.run(ctx, parent.Ref(), s.boot, func(ctx context.Context) error {
			s.step(StageChange)
			return change.Do(ctx, func(ctx context.Context, database string) (*pgx.Conn, error) {
				return s.server.Connect(ctx, database, s.meta.Role)
			})
		})
	})
}

// boot starts a server on the mount of an image.
func (s *stand) boot(ctx context.Context) error {
	var err error
	if s.control, err = relmap.ReadControl(os.DirFS(s.mnt())); err != nil {
		return err
	}
	config := s.config()
	config.Extra = workSettings()
	if _, err := pgserver.Configure(s.mnt(), config); err != nil {
		return err
	}
	if err := s.start(); err != nil {
		return err
	}
	return s.server.Ready(ctx)
}

// workSettings are for servers whose changes are thrown away if they crash.
func workSettings() []pgserver.Setting {
	return []pgserver.Setting{
		{Name: "lc_messages", Value: "C"}, // the log is read
		{Name: "log_checkpoints", Value: "off"},
		{Name: "full_page_writes", Value: "off"},
		{Name: "max_wal_size", Value: "64GB"}, // checkpoints would write pages twice
		{Name: "checkpoint_timeout", Value: "1d"},
	}
}
