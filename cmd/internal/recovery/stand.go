package recovery

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fukanchik/pg0/cmd/internal/image"
	"github.com/fukanchik/pg0/cmd/internal/pgserver"
	"github.com/fukanchik/pg0/cmd/internal/proc"
	"github.com/fukanchik/pg0/cmd/internal/serve"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/relmap"
)

// A stand is a private mount with a server on it, in which an image is made.
type stand struct {
	*Maker
	tmp     string
	started time.Time
	meta    image.Meta
	defs    *relmap.Definitions

	bin     pgserver.Bin
	child   *serve.Child
	left    residue
	control *relmap.Control
	server  *pgserver.Server
	log     follower
	cleared func() error // removes what no server may see, once this one has stopped; may be nil
}

func (s *stand) mnt() string { return filepath.Join(s.tmp, mountDir) }

// run takes the steps on a mount of the tree, and makes the image of what they
// leave.
func (s *stand) run(ctx context.Context, tree serve.TreeRef, steps ...func(context.Context) error) (err error) {
	// Left there by a run that failed.
	if err := os.RemoveAll(s.logFile(s.meta.Key)); err != nil {
		return err
	}
	if s.bin, err = s.Maker.bin(s.meta.Choice.Backup.Version); err != nil {
		return err
	}
	s.meta.Server = s.bin.Version
	s.step(StageMount)
	if err := s.mount(ctx, tree); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	for _, step := range append(steps, s.ask, s.stop, s.tidy) {
		if err := step(ctx); err != nil {
			return errors.Join(s.blame(err), s.kill())
		}
	}
	return errors.Join(s.pass(), s.seal())
}

// serveLog is what the process that serves the mount has to say.
const serveLog = "serve.log"

// blame adds what the mount has said to the error of a server that it gave
// nothing but an I/O error.
func (s *stand) blame(err error) error {
	said, readErr := os.ReadFile(filepath.Join(s.tmp, serveLog))
	if readErr != nil {
		return err
	}
	for line := range bytes.Lines(said) {
		if bytes.Contains(line, []byte("input/output error")) {
			return fmt.Errorf("%w; the mount said: %s", err, bytes.TrimSpace(line))
		}
	}
	return err
}

// pass hands on what the mount has said although all went well.
func (s *stand) pass() error {
	said, err := os.ReadFile(filepath.Join(s.tmp, serveLog))
	for line := range bytes.Lines(said) {
		s.Logger.Warn("while an image was made", "mount", string(bytes.TrimSpace(line)))
	}
	return err
}

// mount serves a tree copy-on-write in a private directory.
func (s *stand) mount(ctx context.Context, tree serve.TreeRef) error {
	id := make([]byte, 5)
	rand.Read(id) //nolint:errcheck // it never fails
	var err error
	if s.left.SocketDir, err = state.SocketDir("image-" + hex.EncodeToString(id)); err != nil {
		return err
	}
	if err := errors.Join(s.saveResidue(), os.Mkdir(s.mnt(), 0o700), os.Mkdir(filepath.Join(s.tmp, walDir), 0o700)); err != nil {
		return err
	}
	said, err := os.Create(filepath.Join(s.tmp, serveLog))
	if err != nil {
		return err
	}
	defer said.Close()
	s.child, err = serve.Start(ctx, serve.Recipe{
		Tree: tree, Mountpoint: s.mnt(), Layer: serve.Layer{TempDir: s.tmp}, Name: "pg0-image", Log: said,
	})
	if err != nil {
		return errors.Join(err, state.RemoveSocketDir(s.left.SocketDir))
	}
	s.left.Server = s.child.ID
	s.yield(s.child.ID)
	return s.saveResidue()
}

func (s *stand) saveResidue() error {
	text, err := json.Marshal(s.left)
	if err != nil {
		return err
	}
	name := filepath.Join(s.tmp, residueFile)
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

func (s *stand) config() pgserver.Config {
	return pgserver.Config{Major: s.bin.Major, Control: s.control, SocketDir: s.left.SocketDir, Preload: s.Preload}
}

// start runs postgres on the mount.
func (s *stand) start() (err error) {
	s.log = follower{name: s.logFile(s.meta.Key)}
	s.server, err = pgserver.Start(pgserver.Options{Bin: s.bin, DataDir: s.mnt(), LogFile: s.log.name})
	if err != nil {
		return err
	}
	s.left.Postgres = s.server.Process
	s.yield(s.server.Process)
	return s.saveResidue()
}

// ask takes what only the server can say.
func (s *stand) ask(ctx context.Context) error {
	s.step(StageAsk)
	cluster, err := relmap.Open(os.DirFS(s.mnt()))
	if err != nil {
		return err
	}
	databases, err := cluster.Databases()
	if err != nil {
		return err
	}
	const bootstrapSuperuser = 10
	if s.meta.Role, err = cluster.Role(bootstrapSuperuser); err != nil {
		return err
	}
	if err := s.allowLogin(ctx); err != nil {
		return err
	}
	c := census{server: s.server, major: s.bin.Major, role: s.meta.Role, meta: &s.meta}
	err = c.take(ctx, databases)
	s.defs = c.defs
	return err
}

// allowLogin sees to it that the bootstrap superuser may log in. Where the
// cluster forbids that, only a server without roles can be asked to allow it.
func (s *stand) allowLogin(ctx context.Context) error {
	const anyDatabase, invalidAuthorization = "template1", "28000"
	conn, err := s.server.Connect(ctx, anyDatabase, s.meta.Role)
	if err == nil {
		return conn.Close(ctx)
	}
	var refused *pgconn.PgError
	if !errors.As(err, &refused) || refused.Code != invalidAuthorization {
		return nil // another database may do
	}
	if err := s.server.Stop(ctx, pgserver.Fast); err != nil {
		return err
	}
	if err := s.bin.Single(ctx, s.mnt(), anyDatabase, "alter role "+pgx.Identifier{s.meta.Role}.Sanitize()+" login"); err != nil {
		return err
	}
	s.meta.Notes = append(s.meta.Notes, fmt.Sprintf("role %q may log in, other than in the backup: pg0 needs it", s.meta.Role))
	if err := s.start(); err != nil {
		return err
	}
	return s.server.Ready(ctx)
}

// stop shuts the server down cleanly.
func (s *stand) stop(ctx context.Context) error {
	s.step(StageStop)
	if err := s.server.Stop(ctx, pgserver.Fast); err != nil {
		return err
	}
	control, err := relmap.ReadControl(os.DirFS(s.mnt()))
	if err != nil {
		return err
	}
	if control.State != relmap.StateShutdowned {
		return fmt.Errorf("PostgreSQL did not shut down cleanly: pg_control says %s", control.State)
	}
	s.control = control
	s.meta.Recovered.Redo, s.meta.Recovered.Timeline = control.Redo, control.Timeline
	return nil
}

// tidy leaves of the run what the next server needs.
func (s *stand) tidy(context.Context) error {
	if s.cleared != nil {
		if err := s.cleared(); err != nil {
			return err
		}
	}
	keep := neededWAL(s.control)
	if err := emptyDir(filepath.Join(s.mnt(), "pg_wal"), keep); err != nil {
		return err
	}
	for _, name := range []string{"backup_label.old", "tablespace_map.old"} {
		if err := os.Remove(filepath.Join(s.mnt(), name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	config := s.config()
	config.SocketDir = ""
	_, err := pgserver.Configure(s.mnt(), config)
	return err
}

// seal turns the changes into the image.
func (s *stand) seal() error {
	s.step(StageSeal)
	if err := s.child.Seal(image.Blocks(s.tmp)); err != nil {
		return err
	}
	// The mount is gone by now, which Finish needs in order to remove the rest.
	if err := s.child.Stop(); err != nil {
		return err
	}
	s.child = nil
	s.meta.Created = time.Now().UTC()
	s.meta.Seconds = time.Since(s.started).Seconds()
	return s.cache().Finish(s.tmp, &s.meta, s.defs)
}

// killPatience bounds the end of a server that is no longer wanted.
const killPatience = 30 * time.Second

// kill ends the server of a run that failed.
func (s *stand) kill() error {
	if s.server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), killPatience)
	defer cancel()
	err := s.server.Stop(ctx, pgserver.Immediate)
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.Join(err, s.server.Process.Signal(syscall.SIGKILL))
	}
	if errors.Is(err, proc.ErrGone) {
		return nil
	}
	return err
}

// close takes away what of the run is outside of its directory.
func (s *stand) close() error {
	var err error
	if s.child != nil {
		err = s.child.Stop()
	}
	return errors.Join(err, state.RemoveSocketDir(s.left.SocketDir))
}
