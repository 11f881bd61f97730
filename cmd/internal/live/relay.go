package live

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"
)

var le = binary.LittleEndian

// A relay brings files of a running server's data directory here. Names are
// relative to that directory. Files may change and vanish meanwhile; one that
// is not there gives fs.ErrNotExist.
type relay interface {
	// list names what a directory holds.
	list(ctx context.Context, dir string) ([]entry, error)
	// copy copies a file as it reads now, and returns its length. worker is
	// below the number of connections; one worker copies one file at a time.
	copy(ctx context.Context, worker int, name, dest string, progress func(int64)) (int64, error)
	close(ctx context.Context) error
}

type entry struct {
	name string
	size int64
	dir  bool
}

// fileRelay reads the data directory on this machine.
type fileRelay struct {
	dir      string
	throttle *throttle
}

func (r *fileRelay) path(name string) string { return filepath.Join(r.dir, filepath.FromSlash(name)) }

func (r *fileRelay) list(_ context.Context, dir string) ([]entry, error) {
	found, err := os.ReadDir(r.path(dir))
	if err != nil {
		return nil, err
	}
	list := make([]entry, 0, len(found))
	for _, f := range found {
		info, err := os.Stat(r.path(dir + "/" + f.Name())) // through the links of tablespaces
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, entry{f.Name(), info.Size(), info.IsDir()})
	}
	return list, nil
}

func (r *fileRelay) copy(ctx context.Context, _ int, name, dest string, progress func(int64)) (int64, error) {
	from, err := os.Open(r.path(name))
	if err != nil {
		return 0, err
	}
	defer from.Close()
	return writeTo(dest, func(to *os.File) (int64, error) {
		if unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) == nil {
			info, err := to.Stat()
			if err != nil {
				return 0, err
			}
			progress(info.Size())
			return info.Size(), nil
		}
		return r.bytes(ctx, from, to, progress)
	})
}

func (r *fileRelay) bytes(ctx context.Context, from, to *os.File, progress func(int64)) (total int64, err error) {
	buf := make([]byte, r.throttle.chunk())
	for {
		if err := r.throttle.wait(ctx, len(buf)); err != nil {
			return total, err
		}
		n, err := io.ReadFull(from, buf)
		if _, writeErr := to.Write(buf[:n]); writeErr != nil {
			return total, writeErr
		}
		writeOut(to, total, n)
		total += int64(n)
		progress(int64(n))
		if n < len(buf) {
			r.throttle.giveBack(len(buf) - n)
		}
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return total, nil
		case err != nil:
			return total, err
		}
	}
}

func (r *fileRelay) close(context.Context) error { return nil }

// writeTo makes a file and fills it.
func writeTo(name string, fill func(*os.File) (int64, error)) (int64, error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return 0, err
	}
	to, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return 0, err
	}
	n, err := fill(to)
	return n, errors.Join(err, to.Close())
}

// writeOut begins to write to disk what a file has got. All at once at the end
// would be felt by a server on the same disk. Without it nothing is amiss.
func writeOut(file *os.File, at int64, n int) {
	_ = unix.SyncFileRange(int(file.Fd()), at, int64(n), unix.SYNC_FILE_RANGE_WRITE)
}

// sqlRelay reads files through the server's own functions.
type sqlRelay struct {
	p        *Production
	throttle *throttle

	mu    sync.Mutex
	conns map[int]*pgx.Conn // one for each worker
}

func (r *sqlRelay) list(ctx context.Context, dir string) ([]entry, error) {
	rows, err := r.p.conn.Query(ctx, `select f, s.size, s.isdir from pg_ls_dir($1, true, false) f, pg_stat_file($1 || '/' || f, true) s
where s.size is not null`, dir)
	if err != nil {
		return nil, fmt.Errorf("list %s of the server: %w", dir, err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e entry, err error) {
		err = row.Scan(&e.name, &e.size, &e.dir)
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("list %s of the server: %w", dir, err)
	}
	return list, nil
}

func (r *sqlRelay) worker(ctx context.Context, worker int) (*pgx.Conn, error) {
	r.mu.Lock()
	conn := r.conns[worker]
	r.mu.Unlock()
	if conn != nil {
		return conn, nil
	}
	conn, err := r.p.session(ctx, r.p.Database)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns == nil {
		r.conns = map[int]*pgx.Conn{}
	}
	r.conns[worker] = conn
	return conn, nil
}

func (r *sqlRelay) copy(ctx context.Context, worker int, name, dest string, progress func(int64)) (int64, error) {
	conn, err := r.worker(ctx, worker)
	if err != nil {
		return 0, err
	}
	first, err := r.read(ctx, conn, name, 0)
	if err != nil {
		return 0, err
	}
	return writeTo(dest, func(to *os.File) (total int64, err error) {
		for piece := first; ; {
			if _, err := to.Write(piece); err != nil {
				return total, err
			}
			writeOut(to, total, len(piece))
			total += int64(len(piece))
			progress(int64(len(piece)))
			if len(piece) < r.throttle.chunk() {
				return total, nil
			}
			piece, err = r.read(ctx, conn, name, total)
			if errors.Is(err, fs.ErrNotExist) {
				return total, nil // a segment that goes away ends where it was read to
			}
			if err != nil {
				return total, err
			}
		}
	})
}

// read reads up to a chunk; fewer bytes are the end of the file.
func (r *sqlRelay) read(ctx context.Context, conn *pgx.Conn, name string, at int64) ([]byte, error) {
	chunk := r.throttle.chunk()
	if err := r.throttle.wait(ctx, chunk); err != nil {
		return nil, err
	}
	const text, binary = 0, 1
	result := conn.PgConn().ExecParams(ctx, "select pg_read_binary_file($1::text, $2::int8, $3::int8, true)",
		[][]byte{[]byte(name), []byte(strconv.FormatInt(at, 10)), []byte(strconv.Itoa(chunk))}, nil, []int16{text, text, text}, []int16{binary}).Read()
	if result.Err != nil {
		return nil, fmt.Errorf("read %s of the server: %w", name, result.Err)
	}
	bytes := result.Rows[0][0]
	r.throttle.giveBack(chunk - len(bytes))
	if bytes == nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	return bytes, nil
}

func (r *sqlRelay) close(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, conn := range r.conns {
		errs = append(errs, conn.Close(ctx))
	}
	r.conns = nil
	return errors.Join(errs...)
}
