package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/layer"
	"github.com/fukanchik/pg0/cmd/internal/pgserver"
	"github.com/fukanchik/pg0/cmd/internal/proc"
	"github.com/fukanchik/pg0/cmd/internal/serve"
	"github.com/fukanchik/pg0/cmd/internal/state"
)

// Main is the supervisor: it reads a Job from in, mounts, answers on out, and
// stays until the mount is gone. It returns the exit code.
func Main(in io.Reader, out io.WriteCloser, logger *slog.Logger) int {
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s := &supervisor{log: logger}
	err := s.begin(ctx, in)
	answer := failure(err)
	if err == nil {
		answer.Mount = &s.job.Mount
	} else {
		s.undo()
	}
	if err := json.NewEncoder(out).Encode(answer); err != nil {
		logger.Warn("nobody waits for the mount any more", "error", err)
	}
	out.Close()
	if err == nil {
		err = s.run(ctx)
	}
	if err != nil {
		logger.Error("mount has ended", "mountpoint", s.job.Mount.Mountpoint, "error", err)
	}
	return exit.Code(err)
}

type supervisor struct {
	job      Job
	log      *slog.Logger
	lock     *os.File // held while this process lives
	child    *serve.Child
	postgres *pgserver.Server // nil when none of ours runs
	proxy    *proxyChild      // nil when none runs
	control  net.Listener
}

// A call is a request and where its reply goes.
type call struct {
	Request
	reply chan Reply
}

func (s *supervisor) begin(ctx context.Context, in io.Reader) (err error) {
	if err := json.NewDecoder(in).Decode(&s.job); err != nil {
		return fmt.Errorf("read what to mount: %w", err)
	}
	m := &s.job.Mount
	dir := s.job.State.MountDir(m.ID)
	if s.lock, err = tryLock(dir); err != nil {
		return err
	}
	if m.Supervisor, err = proc.Self(); err != nil {
		return err
	}
	m.Since, m.Died = time.Now().UTC().Truncate(time.Second), ""
	if m.Created, err = makeMountpoint(m.Mountpoint); err != nil {
		return err
	}
	if before, err := s.job.State.Load(m.ID); err == nil && before.Created {
		m.Created = true // and could not be removed when the machine went down
	}
	// Saved before anything is started, so that a crash leaves nothing unnamed.
	if err := s.job.State.Save(m); err != nil {
		return err
	}
	if err := s.mount(ctx); err != nil {
		return err
	}
	if s.job.Start {
		if err := s.start(ctx, nil); err != nil {
			return err
		}
		if err := s.startProxy(); err != nil {
			return err
		}
	}
	if s.control, err = listen(dir); err != nil {
		return fmt.Errorf("control socket of the mount: %w", err)
	}
	return s.job.State.Save(m)
}

// makeMountpoint makes the directory if it is missing and says whether it did.
func makeMountpoint(dir string) (bool, error) {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

func (s *supervisor) mount(ctx context.Context) (err error) {
	recipe, m := s.job.Recipe, &s.job.Mount
	recipe.Orphan, recipe.Log = true, os.Stderr
	if s.child, err = serve.Start(ctx, recipe); err != nil {
		return err
	}
	m.Server = s.child.ID
	if err := s.job.State.Save(m); err != nil {
		return err
	}
	if s.job.Server == nil {
		return nil
	}
	if m.SocketDir, err = state.SocketDir(m.ID); err != nil {
		return fmt.Errorf("directory of PostgreSQL's socket: %w", err)
	}
	m.Port, m.Listen = s.job.Server.Port, s.job.Server.Listen
	notes, err := s.configure()
	m.Notes = append(m.Notes, notes...)
	if err != nil || m.Layer == "" || s.job.Attached {
		return err
	}
	return layer.Configured(m.Layer)
}

// undo takes away what begin has made, but leaves the log.
func (s *supervisor) undo() {
	if s.lock == nil {
		return // the mount is somebody else's
	}
	if s.postgres != nil {
		if err := s.endPostgres(s.postgres, pgserver.Immediate); err != nil {
			s.log.Error("stop PostgreSQL", "error", err)
		}
	}
	s.endProxy()
	if s.child != nil {
		if err := s.child.Unmount(); err != nil {
			s.log.Error("unmount", "error", err)
			if err := serve.Detach(s.job.Mount.Mountpoint); err != nil {
				s.log.Error("detach", "error", err)
			}
		}
	}
	dir := s.job.State.MountDir(s.job.Mount.ID)
	err := errors.Join(clear(&s.job.Mount), removeIfThere(filepath.Join(dir, "mount.json")), removeIfThere(filepath.Join(dir, controlSocket)))
	if err != nil {
		s.log.Error("clear away", "error", err)
	}
}

func removeIfThere(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// clear removes what lies outside of the state directory: a mount point of
// pg0's making and the directory of the socket.
func clear(m *state.Mount) error {
	var err error
	if m.Created {
		err = removeIfThere(m.Mountpoint)
	}
	return errors.Join(err, state.RemoveSocketDir(m.SocketDir))
}

// run watches the children and answers requests until the mount is gone.
func (s *supervisor) run(ctx context.Context) error {
	calls := make(chan call)
	go s.accept(calls)
	defer s.control.Close()
	asked := ctx.Done()
	for {
		select {
		case c := <-calls:
			reply, gone := s.handle(ctx, c.Request)
			c.reply <- reply
			<-c.reply // closed when it has been sent
			if gone {
				return nil
			}
		case <-s.child.Done():
			return s.serverEnded()
		case <-s.postgresDone():
			s.postgresEnded()
		case <-s.proxyDone():
			s.proxyEnded()
		case <-asked:
			asked = nil
			if err := s.umount(false); err != nil {
				s.log.Error("asked to end, but the mount is in use", "error", err)
				continue
			}
			return nil
		}
	}
}

// accept takes connections until the listener is closed.
func (s *supervisor) accept(calls chan<- call) {
	for {
		conn, err := s.control.Accept()
		if err != nil {
			return
		}
		go s.converse(conn, calls)
	}
}

func (s *supervisor) converse(conn net.Conn, calls chan<- call) {
	defer conn.Close()
	c := call{reply: make(chan Reply)}
	if err := json.NewDecoder(conn).Decode(&c.Request); err != nil {
		s.log.Warn("bad request", "error", err)
		return
	}
	calls <- c
	answer := <-c.reply
	if err := json.NewEncoder(conn).Encode(answer); err != nil {
		s.log.Warn("nobody takes the reply", "request", c.Op, "error", err)
	}
	close(c.reply)
}

func (s *supervisor) handle(ctx context.Context, r Request) (reply Reply, gone bool) {
	var err error
	switch r.Op {
	case Status:
	case Start:
		err = s.start(context.WithoutCancel(ctx), r.Server)
	case Stop:
		err = s.stop(r)
	case Umount:
		err = s.umount(r.Force)
		gone = err == nil
	default:
		err = fmt.Errorf("unknown request %q", r.Op)
	}
	reply = failure(err)
	if !gone {
		mount := s.job.Mount
		reply.Mount = &mount
		if usage, err := s.child.Usage(); err == nil {
			reply.Usage = usage
		}
	}
	return reply, gone
}

// serverEnded clears away what is left when the mount is no longer served. The
// record stays if it died, so that status can say why.
func (s *supervisor) serverEnded() error {
	m := &s.job.Mount
	cause := s.child.Err()
	var errs []error
	if s.postgres != nil {
		errs = append(errs, s.endPostgres(s.postgres, pgserver.Immediate))
	}
	s.endProxy()
	errs = append(errs, UnmountDead(m.Mountpoint), clear(m))
	if cause == nil { // unmounted by fusermount3
		return errors.Join(append(errs, s.job.State.Remove(m.ID))...)
	}
	m.Died, m.Postgres = cause.Error(), proc.ID{}
	return errors.Join(append(errs, s.job.State.Save(m), cause)...)
}
