package recovery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/wal"
)

// A feeder keeps the WAL that a recovery asks for ready in a directory:
// decompressed, confined to the mount, and some segments ahead of replay.
type feeder struct {
	dir     string
	archive pg0.WALArchive
	way     wal.Segments // where to look for what lies on two segments
	stream  fs.FS        // the backup's own files: a stream backup has WAL in pg_wal
	own     bool         // the backup's own WAL is asked before the archive
	size    int64        // of a segment
	last    pg0.LSN
	log     *slog.Logger

	slots chan struct{} // one for each segment that may be read at a time

	mu       sync.Mutex
	segments map[string]*segment
	reached  pg0.LSN // the segment asked for last begins here
	refused  error   // the first reason to stop recovery
	reading  sync.WaitGroup
}

// A segment is a file that is being read, or has been.
type segment struct {
	ready chan struct{}
	err   error
}

// ahead is how many segments are read ahead of replay, keep how many stay
// behind it.
const (
	ahead = 8
	keep  = 4
)

// refuse remembers why recovery has to stop.
func (f *feeder) refuse(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refused == nil {
		f.refused = err
	}
}

// refusal is why recovery was stopped, nil if it was not.
func (f *feeder) refusal() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refused
}

// get waits for a file of WAL and returns its path. The error wraps
// fs.ErrNotExist if neither archive nor backup has it.
func (f *feeder) get(ctx context.Context, name string) (string, error) {
	seg, isSegment := wal.ParseSegment(name, f.size)
	if !isSegment {
		if _, ok := wal.ParseHistoryName(name); !ok {
			return "", fmt.Errorf("%s: %w", name, fs.ErrNotExist)
		}
		return filepath.Join(f.dir, name), f.await(ctx, f.start(ctx, name))
	}
	wanted := f.start(ctx, name)
	f.prefetch(ctx, seg)
	return filepath.Join(f.dir, name), f.await(ctx, wanted)
}

func (f *feeder) await(ctx context.Context, s *segment) error {
	select {
	case <-s.ready:
		return s.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// prefetch starts reading the segments behind seg, and forgets those that
// replay has left. Nothing behind the end of the recovery is read.
func (f *feeder) prefetch(ctx context.Context, seg wal.Segment) {
	for n := uint64(1); n <= ahead; n++ {
		next := wal.Segment{Timeline: seg.Timeline, Number: seg.Number + n}
		if startOf(next, f.size) >= f.last {
			break
		}
		f.start(ctx, next.Name(f.size))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reached = startOf(seg, f.size)
	for name, s := range f.segments {
		old, ok := wal.ParseSegment(name, f.size)
		if !ok || old.Number+keep >= seg.Number {
			continue
		}
		select {
		case <-s.ready:
			delete(f.segments, name)
			_ = os.Remove(filepath.Join(f.dir, name)) // it goes with the directory at the latest
		default: // still being read
		}
	}
}

// start reads a file, unless that was begun before.
func (f *feeder) start(ctx context.Context, name string) *segment {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s, ok := f.segments[name]; ok {
		return s
	}
	s := &segment{ready: make(chan struct{})}
	f.segments[name] = s
	f.reading.Go(func() {
		defer close(s.ready)
		f.slots <- struct{}{}
		defer func() { <-f.slots }()
		if s.err = ctx.Err(); s.err == nil {
			s.err = f.read(ctx, name)
		}
	})
	return s
}

// begin reads the first segments before PostgreSQL asks for them.
func (f *feeder) begin(ctx context.Context, timeline uint32, at pg0.LSN) {
	first := wal.Segment{Timeline: timeline, Number: uint64(at) / uint64(f.size)}
	f.start(ctx, first.Name(f.size))
	f.prefetch(ctx, first)
}

// position is the LSN that replay has reached at least.
func (f *feeder) position() pg0.LSN {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reached
}

// wait returns when nothing is being read any more; its context is done.
func (f *feeder) wait() { f.reading.Wait() }

// read brings one file of WAL into the directory.
func (f *feeder) read(ctx context.Context, name string) error {
	data, err := f.find(ctx, name)
	if err != nil {
		return err
	}
	if seg, ok := wal.ParseSegment(name, f.size); ok {
		if int64(len(data)) > f.size {
			return fmt.Errorf("WAL segment %s has %d bytes instead of %d: %w", name, len(data), f.size, pg0.ErrCorrupt)
		}
		// An unfinished segment ends where its writer was; PostgreSQL wants it whole.
		data = append(data, make([]byte, f.size-int64(len(data)))...)
		// Replaying the creation of a tablespace touches the directory at its
		// original path: on the production host, production's own.
		if _, err := wal.Confine(ctx, f.way, seg, data); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(f.dir, name), data, 0o600)
}

// find reads a file of WAL from where it is. To a backup's own end its own WAL
// is enough, and an archive cannot change the result; beyond it the archive's
// copy of a segment has more.
func (f *feeder) find(ctx context.Context, name string) ([]byte, error) {
	origins := []func() ([]byte, error){
		func() ([]byte, error) { return f.fromArchive(ctx, name) },
		func() ([]byte, error) { return f.fromArchive(ctx, name+".partial") },
		func() ([]byte, error) { return readAll(f.stream.Open("pg_wal/" + name)) },
	}
	if f.own {
		origins = append(origins[2:], origins[:2]...)
	}
	for _, origin := range origins {
		data, err := origin()
		if !errors.Is(err, fs.ErrNotExist) {
			return data, err
		}
	}
	return nil, fmt.Errorf("WAL %s: %w", name, fs.ErrNotExist)
}

func (f *feeder) fromArchive(ctx context.Context, name string) ([]byte, error) {
	file, err := f.archive.WAL(ctx, name)
	if err != nil {
		return nil, err
	}
	return readAll(file, nil)
}

func readAll(file fs.File, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	data := make([]byte, 0, info.Size()+1)
	buffer := make([]byte, 1<<18)
	for {
		n, err := file.Read(buffer)
		data = append(data, buffer[:n]...)
		if errors.Is(err, io.EOF) {
			return data, file.Close()
		}
		if err != nil {
			return nil, errors.Join(err, file.Close())
		}
	}
}

// startOf is the LSN that a segment begins at.
func startOf(s wal.Segment, size int64) pg0.LSN { return pg0.LSN(s.Number * uint64(size)) }
