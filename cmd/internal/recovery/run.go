package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/image"
	"github.com/fukanchik/pg0/cmd/internal/pgserver"
	"github.com/fukanchik/pg0/cmd/internal/reach"
	"github.com/fukanchik/pg0/cmd/internal/serve"
	"github.com/fukanchik/pg0/cmd/internal/source"
	"github.com/fukanchik/pg0/cmd/internal/wal"
	"github.com/fukanchik/pg0/relmap"
)

// A run recovers one backup.
type run struct {
	stand
	choice  *reach.Choice
	point   *pg0.Point
	catalog source.Catalog
	feed    *feeder
}

// recover makes the image in r.tmp and puts it into the cache. While the server
// replays, all WAL on the way is read here as well: what is wrong with it is
// known sooner, and said better.
func (r *run) recover(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wrong error // with the WAL; valid once examined is closed
	examined := make(chan struct{})
	go func() {
		defer close(examined)
		r.yieldThread()
		if wrong = reach.Examine(ctx, r.catalog, r.choice, nil); wrong != nil {
			cancel()
		}
	}()
	r.cleared = r.removeHollow
	tree := serve.TreeRef{Source: r.meta.Source, Point: r.choice.Backup.ID}
	err := r.run(ctx, tree, r.prepare, r.replay, func(context.Context) error {
		<-examined
		if wrong != nil {
			return wrong
		}
		return r.recovered()
	})
	if err == nil {
		return nil
	}
	cancel()
	<-examined
	if wrong != nil && !errors.Is(wrong, context.Canceled) {
		return wrong
	}
	return err
}

// prepare writes the configuration of a server that recovers.
func (r *run) prepare(context.Context) error {
	var err error
	if r.control, err = relmap.ReadControl(os.DirFS(r.mnt())); err != nil {
		return err
	}
	// PostgreSQL looks for WAL here when restore_command has none, and would
	// take their end for the end of all WAL. The feeder has these segments too.
	if err := emptyDir(filepath.Join(r.mnt(), "pg_wal"), func(string) bool { return false }); err != nil {
		return err
	}
	extra, err := r.recoverySettings()
	if err != nil {
		return err
	}
	config := r.config()
	config.Extra = extra
	if r.meta.Notes, err = pgserver.Configure(r.mnt(), config); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.mnt(), "recovery.signal"), nil, 0o600)
}

// recoverySettings make PostgreSQL replay to the record of the choice and end
// recovery there.
func (r *run) recoverySettings() ([]pgserver.Setting, error) {
	program := r.Program
	if program == "" {
		var err error
		if program, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	settings := []pgserver.Setting{
		{Name: "restore_command", Value: restoreCommand(program, filepath.Join(r.tmp, recipeFile))},
		{Name: "recovery_target_action", Value: "promote"},
		{Name: "hot_standby", Value: "off"},
	}
	settings = append(settings, workSettings()...)
	partial, err := r.partialSettings()
	if err != nil {
		return nil, err
	}
	settings = append(settings, partial...)
	if r.bin.Major >= 15 {
		settings = append(settings, pgserver.Setting{Name: "log_startup_progress_interval", Value: "500ms"})
	}
	for _, s := range r.choice.Settings() {
		settings = append(settings, pgserver.Setting(s))
	}
	return settings, nil
}

// startFeeder begins to read WAL while the server still starts.
func (r *run) startFeeder(ctx context.Context) (stop func(), err error) {
	recipe := fetchRecipe{Socket: filepath.Join(r.left.SocketDir, "wal")}
	text, err := json.Marshal(recipe)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(r.tmp, recipeFile), text, 0o600); err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", recipe.Socket)
	if err != nil {
		return nil, fmt.Errorf("socket for WAL: %w", err)
	}
	way, err := r.way(ctx)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	r.feed = newFeeder(r, way)
	go r.feed.listen(ctx, listener)
	r.feed.begin(ctx, r.choice.Backup.Timeline, r.choice.Backup.StartLSN)
	return func() {
		cancel()
		listener.Close()
		r.feed.wait()
	}, nil
}

// way is the way through the log that recovery takes.
func (r *run) way(ctx context.Context) (*wal.Path, error) {
	history, err := wal.LoadHistory(ctx, r.catalog, r.point.Tree, r.choice.Timeline)
	if errors.Is(err, fs.ErrNotExist) {
		history = wal.RootHistory(r.choice.Timeline) // of a stream backup without archive
	} else if err != nil {
		return nil, err
	}
	return wal.NewPath(ctx, r.catalog, r.point.Tree, history)
}

// replay runs the server until recovery has ended and it takes connections.
func (r *run) replay(ctx context.Context) error {
	stop, err := r.startFeeder(ctx)
	if err != nil {
		return err
	}
	defer stop()
	if err := r.start(); err != nil {
		return err
	}
	ready := make(chan error, 1)
	go func() { ready <- r.server.Ready(ctx) }()
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	for {
		select {
		case err := <-ready:
			return r.ended(err)
		case <-tick.C:
			if err := r.log.read(); err != nil {
				return err
			}
			r.replayed(r.log.facts.current)
		}
	}
}

// ended tells why the server is ready, or is not.
func (r *run) ended(ready error) error {
	if err := r.feed.refusal(); err != nil {
		return err
	}
	if ready != nil {
		return ready
	}
	return r.log.read()
}

// recovered checks that recovery ended where it should, and notes where.
func (r *run) recovered() error {
	f, stop := r.log.facts, r.choice.Stop
	if err := r.checkMissing(); err != nil {
		return err
	}
	if f.stopped == "" {
		return fmt.Errorf("PostgreSQL ended recovery at %s without reaching the target %s; see %s", f.redone, r.choice.Target, r.logFile(r.meta.Key))
	}
	if stop.Record != 0 && !stop.Before && f.redone != stop.Record {
		return fmt.Errorf("PostgreSQL replayed to the record at %s, not to that at %s: the WAL has changed meanwhile, try again", f.redone, stop.Record)
	}
	r.meta.Choice = *r.choice
	r.meta.Recovered = image.Recovered{
		LSN: stop.LSN, Time: stop.Time, XID: stop.XID, Timeline: f.timeline, Stopped: f.stopped, Consists: f.consistent,
	}
	if r.meta.Recovered.Time.IsZero() {
		// No transaction ended since the backup began: the tool knows of the one before.
		r.meta.Recovered.Time = r.choice.Backup.RecoveryTime
	}
	for _, t := range r.choice.Tablespaces {
		r.meta.Notes = append(r.meta.Notes, fmt.Sprintf("WAL at %s creates tablespace %d in %s: its files are below the mount, that directory was not touched", t.LSN, t.OID, t.Path))
	}
	return r.removeStandIn()
}

// removeStandIn removes the directory that replay makes for a tablespace where
// wal.Confine leads it. The tablespace itself is elsewhere: the mount has seen
// to that when the link to it was made.
func (r *run) removeStandIn() error {
	entries, err := os.ReadDir(r.mnt())
	if err != nil {
		return err
	}
	for _, entry := range entries {
		// TABLESPACE_VERSION_DIRECTORY of common/relpath.h
		if !strings.HasPrefix(entry.Name(), fmt.Sprintf("PG_%d_", r.bin.Major)) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(r.mnt(), entry.Name())); err != nil {
			return err
		}
	}
	return nil
}
