package recovery

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/image"
	"github.com/fukanchik/pg0/cmd/internal/pgserver"
	"github.com/fukanchik/pg0/cmd/internal/proc"
	"github.com/fukanchik/pg0/cmd/internal/reach"
	"github.com/fukanchik/pg0/cmd/internal/serve"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/relmap"
)

// A run makes one image.
type run struct {
	*Maker
	tmp     string
	started time.Time
	choice  *reach.Choice
	point   *pg0.Point
	archive pg0.WALArchive
	meta    image.Meta
	defs    *relmap.Definitions

	bin     pgserver.Bin
	child   *serve.Child
	left    residue
	control *relmap.Control
	feed    *feeder
	server  *pgserver.Server
	log     follower
}

func (r *run) mnt() string { return filepath.Join(r.tmp, mountDir) }

// recover makes the image in r.tmp and puts it into the cache.
func (r *run) recover(ctx context.Context) (err error) {
	if err := refuseTablespaces(r.choice); err != nil {
		return err
	}
	if r.bin, err = r.Maker.bin(r.choice.Backup.Version); err != nil {
		return err
	}
	r.meta.Server = r.bin.Version
	r.step(StageMount)
	tree := serve.TreeRef{Source: r.meta.Source, Point: r.choice.Backup.ID}
	if err := r.mount(ctx, tree); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	for _, step := range []func(context.Context) error{r.prepare, r.replay, r.ask, r.stop, r.tidy} {
		if err := step(ctx); err != nil {
			return errors.Join(err, r.kill())
		}
	}
	return r.seal()
}

// refuseTablespaces: replaying the creation of a tablespace changes the
// directory at its original path, which may be production's own.
func refuseTablespaces(choice *reach.Choice) error {
	if len(choice.Tablespaces) == 0 {
		return nil
	}
	t := choice.Tablespaces[0]
	return tablespaceRefusal(t)
}

func tablespaceRefusal(t reach.Tablespace) error {
	return exit.Error(exit.Refused, fmt.Errorf("WAL at %s creates tablespace %d in %s: replaying it would touch that directory; choose a target before %s, or a backup made after it",
		t.LSN, t.OID, t.Path, t.LSN))
}

// mount serves a tree copy-on-write in a private directory.
func (r *run) mount(ctx context.Context, tree serve.TreeRef) error {
	id := make([]byte, 5)
	rand.Read(id) //nolint:errcheck // it never fails
	var err error
	if r.left.SocketDir, err = state.SocketDir("image-" + hex.EncodeToString(id)); err != nil {
		return err
	}
	if err := errors.Join(r.saveResidue(), os.Mkdir(r.mnt(), 0o700), os.Mkdir(filepath.Join(r.tmp, walDir), 0o700)); err != nil {
		return err
	}
	r.child, err = serve.Start(ctx, serve.Recipe{
		Tree: tree, Mountpoint: r.mnt(), Layer: serve.Layer{TempDir: r.tmp}, Name: "pg0-image",
	})
	if err != nil {
		return errors.Join(err, state.RemoveSocketDir(r.left.SocketDir))
	}
	r.left.Server = r.child.ID
	return r.saveResidue()
}

func (r *run) saveResidue() error {
	text, err := json.Marshal(r.left)
	if err != nil {
		return err
	}
	name := filepath.Join(r.tmp, residueFile)
	if err := os.WriteFile(name+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

func readResidue(tmp string, left *residue) error {
	text, err := os.ReadFile(filepath.Join(tmp, residueFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(text, left)
}

// prepare writes the configuration of a server that recovers.
func (r *run) prepare(context.Context) error {
	var err error
	if r.control, err = relmap.ReadControl(os.DirFS(r.mnt())); err != nil {
		return err
	}
	// PostgreSQL looks for WAL here when restore_command has none, and would
	// replay what nobody looked through. The feeder has these segments too.
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

func (r *run) config() pgserver.Config {
	return pgserver.Config{Major: r.bin.Major, Control: r.control, SocketDir: r.left.SocketDir, Preload: r.Preload}
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
		{Name: "lc_messages", Value: "C"}, // the log is read
		{Name: "log_min_messages", Value: "warning"},
		{Name: "log_checkpoints", Value: "off"},
		{Name: "full_page_writes", Value: "off"}, // nothing of this layer outlives a crash
		{Name: "max_wal_size", Value: "64GB"},    // no restartpoints: they would write pages twice
		{Name: "checkpoint_timeout", Value: "1d"},
	}
	if r.bin.Major >= 15 {
		settings = append(settings, pgserver.Setting{Name: "log_startup_progress_interval", Value: "500ms"})
	}
	for _, s := range r.choice.Settings() {
		// A number needs a history file, which a stream backup of a later
		// timeline may lack; "current" does not.
		if s.Name == "recovery_target_timeline" && r.choice.Timeline == r.control.Timeline {
			s.Value = "current"
		}
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
	ctx, cancel := context.WithCancel(ctx)
	r.feed = newFeeder(r)
	go r.feed.listen(ctx, listener)
	r.feed.begin(ctx, r.choice.Backup.Timeline, r.choice.Backup.StartLSN)
	return func() {
		cancel()
		listener.Close()
		r.feed.wait()
	}, nil
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
			return r.recovered(err)
		case <-tick.C:
			if err := r.log.read(); err != nil {
				return errors.Join(err, r.kill())
			}
			r.replayed(r.log.facts.current)
		}
	}
}

// start runs postgres on the mount.
func (r *run) start() (err error) {
	r.log = follower{name: filepath.Join(r.tmp, logFile)}
	r.server, err = pgserver.Start(pgserver.Options{Bin: r.bin, DataDir: r.mnt(), LogFile: r.log.name})
	if err != nil {
		return err
	}
	r.left.Postgres = r.server.Process
	return r.saveResidue()
}

// recovered checks that recovery ended where it should.
func (r *run) recovered(ready error) error {
	if err := r.feed.refusal(); err != nil {
		return err
	}
	if ready != nil {
		return ready
	}
	if err := r.log.read(); err != nil {
		return err
	}
	f, stop := r.log.facts, r.choice.Stop
	if f.stopped == "" {
		return fmt.Errorf("PostgreSQL ended recovery at %s without reaching the target %s; see %s", f.redone, r.choice.Target, filepath.Join(r.State.Images(), failedLog))
	}
	if stop.Record != 0 && !stop.Before && f.redone != stop.Record {
		return fmt.Errorf("PostgreSQL replayed to the record at %s, not to that at %s: the WAL has changed meanwhile, try again", f.redone, stop.Record)
	}
	r.meta.Recovered = image.Recovered{
		LSN: stop.LSN, Time: stop.Time, XID: stop.XID, Timeline: f.timeline, Stopped: f.stopped, Consists: f.consistent,
	}
	return nil
}

// ask takes what only the server can say.
func (r *run) ask(ctx context.Context) error {
	r.step(StageAsk)
	cluster, err := relmap.Open(os.DirFS(r.mnt()))
	if err != nil {
		return err
	}
	databases, err := cluster.Databases()
	if err != nil {
		return err
	}
	const bootstrapSuperuser = 10
	if r.meta.Role, err = cluster.Role(bootstrapSuperuser); err != nil {
		return err
	}
	c := census{server: r.server, major: r.bin.Major, role: r.meta.Role, meta: &r.meta}
	err = c.take(ctx, databases)
	r.defs = c.defs
	return err
}

// stop shuts the server down cleanly.
func (r *run) stop(ctx context.Context) error {
	r.step(StageStop)
	if err := r.server.Stop(ctx, pgserver.Fast); err != nil {
		return err
	}
	control, err := relmap.ReadControl(os.DirFS(r.mnt()))
	if err != nil {
		return err
	}
	if control.State != relmap.StateShutdowned {
		return fmt.Errorf("PostgreSQL did not shut down cleanly: pg_control says %s", control.State)
	}
	r.control = control
	r.meta.Recovered.Redo, r.meta.Recovered.Timeline = control.Redo, control.Timeline
	return nil
}

// tidy leaves of the run what the next server needs.
func (r *run) tidy(context.Context) error {
	keep := neededWAL(r.control)
	if err := emptyDir(filepath.Join(r.mnt(), "pg_wal"), keep); err != nil {
		return err
	}
	for _, name := range []string{"backup_label.old", "tablespace_map.old"} {
		if err := os.Remove(filepath.Join(r.mnt(), name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	config := r.config()
	config.SocketDir = ""
	_, err := pgserver.Configure(r.mnt(), config)
	return err
}

// seal turns the changes into the image.
func (r *run) seal() error {
	r.step(StageSeal)
	if err := r.child.Seal(image.Blocks(r.tmp)); err != nil {
		return err
	}
	// The mount is gone by now, which Finish needs in order to remove the rest.
	if err := r.child.Stop(); err != nil {
		return err
	}
	r.child = nil
	r.meta.Created = time.Now().UTC()
	r.meta.Seconds = time.Since(r.started).Seconds()
	return r.cache().Finish(r.tmp, &r.meta, r.defs)
}

// killPatience bounds the end of a server that is no longer wanted.
const killPatience = 30 * time.Second

// kill ends the server of a run that failed.
func (r *run) kill() error {
	if r.server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), killPatience)
	defer cancel()
	err := r.server.Stop(ctx, pgserver.Immediate)
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.Join(err, r.server.Process.Signal(9))
	}
	if errors.Is(err, proc.ErrGone) {
		return nil
	}
	return err
}

// close takes away what of the run is outside of its directory.
func (r *run) close() error {
	var err error
	if r.child != nil {
		err = r.child.Stop()
	}
	return errors.Join(err, state.RemoveSocketDir(r.left.SocketDir))
}
