package serve

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/fusefs"
	"github.com/fukanchik/pg0/fusefs/cow"
)

// memoryLimit is the default of Recipe.Memory. It keeps the heap of a server small: kernel memory that waits to be
// written through this process must never wait for this process to get memory.
const memoryLimit = 96 << 20

// Main is the child: it reads a Recipe and requests from in, answers on out, and
// serves until it is told to stop. It returns the exit code.
func Main(in io.Reader, out io.Writer, logger *slog.Logger) int {
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGINT)
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	s := &server{dec: json.NewDecoder(in), enc: json.NewEncoder(out), log: logger}
	err := s.open()
	s.answer(reply{}, err)
	if err == nil {
		err = s.run(term)
	}
	if err != nil {
		return exit.Code(err)
	}
	return 0
}

type server struct {
	dec    *json.Decoder
	enc    *json.Encoder
	log    *slog.Logger
	recipe Recipe
	tree   io.Closer
	store  *cow.Store
	mount  *fusefs.Server // nil once unmounted
	gone   chan struct{}  // closed when the kernel has let go of the mount
}

func (s *server) answer(r reply, err error) {
	if err != nil {
		r.Error, r.Code = err.Error(), exit.Code(err)
	}
	if err := s.enc.Encode(r); err != nil {
		s.log.Warn("nobody takes the reply", "error", err)
	}
}

func (s *server) open() error {
	if err := s.dec.Decode(&s.recipe); err != nil {
		return fmt.Errorf("read the recipe of the mount: %w", err)
	}
	debug.SetMemoryLimit(cmp.Or(s.recipe.Memory, memoryLimit))
	tree, closer, err := OpenTree(context.Background(), s.recipe.Tree, Options{Logger: s.log})
	if err != nil {
		return err
	}
	s.tree = closer
	layer := s.recipe.Layer
	if layer.WAL != "" {
		if tree, err = moveWAL(tree, layer.WAL); err != nil {
			return err
		}
	}
	s.store, err = cow.Open(tree, cow.Options{
		Dir: layer.Dir, TempDir: layer.TempDir, Limit: layer.Limit, Logger: s.log, ReadOnly: s.recipe.ReadOnly,
	})
	if errors.Is(err, cow.ErrBusy) {
		return exit.Error(exit.Busy, fmt.Errorf("layer %s is mounted already: %w", layer.Dir, err))
	}
	if err != nil {
		return fmt.Errorf("layer of %s: %w", s.recipe.Mountpoint, err)
	}
	s.mount, err = fusefs.Mount(s.recipe.Mountpoint, s.store, fusefs.Options{
		FSName: s.recipe.Name, StatDir: cmp.Or(layer.Dir, layer.TempDir), Logger: s.log,
	})
	if err != nil {
		return fmt.Errorf("mount %s: %w; pg0 doctor says what this machine lacks", s.recipe.Mountpoint, err)
	}
	s.gone = make(chan struct{})
	go func(mount *fusefs.Server) {
		mount.Wait()
		close(s.gone)
	}(s.mount)
	return nil
}

// run answers requests until the mount is gone and nobody can ask any more.
func (s *server) run(term <-chan os.Signal) error {
	requests := make(chan request)
	go s.read(requests)
	gone := s.gone
	for {
		select {
		case r, open := <-requests:
			switch {
			case open:
				s.serve(r)
			case s.mount == nil || !s.recipe.Orphan:
				return s.abandon()
			default:
				s.log.Warn("the supervisor has died; the mount stays until it is unmounted")
				requests = nil
			}
		case <-term:
			if err := s.unmount(); err != nil {
				s.log.Warn("asked to end, but the mount is in use", "error", err)
			}
		case <-gone:
			// Unmounted by somebody else, or by unmount.
			gone, s.mount = nil, nil
			if requests == nil || s.recipe.Orphan {
				return s.close()
			}
		}
	}
}

// read passes requests on; a closed channel says that the parent is gone.
func (s *server) read(requests chan<- request) {
	defer close(requests)
	for {
		var r request
		if err := s.dec.Decode(&r); err != nil {
			if !errors.Is(err, io.EOF) {
				s.log.Warn("bad request", "error", err)
			}
			return
		}
		requests <- r
	}
}

func (s *server) serve(r request) {
	switch r.Op {
	case "unmount":
		s.answer(reply{}, s.unmount())
	case "usage":
		s.answer(reply{Usage: s.usage()}, nil)
	case "seal":
		err := s.unmount()
		if err == nil {
			err = s.store.Seal(r.Dir)
		}
		s.answer(reply{}, err)
	default:
		s.answer(reply{}, fmt.Errorf("unknown request %q", r.Op))
	}
}

// usage is what the layer takes on disk, in bytes.
func (s *server) usage() int64 {
	n := s.store.Usage()
	if dir := s.recipe.Layer.WAL; dir != "" {
		n += bytesBelow(dir)
	}
	return n
}

func (s *server) unmount() error {
	if s.mount == nil {
		return nil
	}
	if err := s.mount.Unmount(); err != nil {
		return exit.Error(exit.Busy, fmt.Errorf("%s is in use: %w; end what uses it (fuser -vm %s)", s.recipe.Mountpoint, err, s.recipe.Mountpoint))
	}
	<-s.gone
	s.mount = nil
	return nil
}

// abandon ends without a parent. What still uses the mount would keep it, and
// this process, for ever: it is detached, and its users get errors.
func (s *server) abandon() error {
	if s.mount != nil {
		if err := s.unmount(); err != nil {
			s.log.Warn("detach a mount that is in use", "mountpoint", s.recipe.Mountpoint)
			err = Detach(s.recipe.Mountpoint)
			return errors.Join(err, s.store.Close())
		}
	}
	return s.close()
}

func (s *server) close() error {
	return errors.Join(s.store.Close(), s.tree.Close())
}
