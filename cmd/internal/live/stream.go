package live

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/fukanchik/pg0"
)

// A stream is a session with a WAL sender of the server. Its temporary slot
// keeps the WAL that has not come here yet, and ends with it.
type stream struct {
	conn     *pgconn.PgConn
	slot     string
	throttle *throttle
	advance  func(int64) // told of bytes that came
	confirm  bool        // let the server recycle what came

	dir         string // where the segments are written
	segmentSize uint64
	timeline    uint32
	file        *os.File      // the segment that is being written
	written     atomic.Uint64 // LSN: what is before it has come
	more        chan struct{} // written has grown
	done        chan struct{} // closed when nothing more comes
	err         error         // why; valid once done is closed
	cancel      context.CancelFunc
}

// walSender connects to a WAL sender of the server.
func (p *Production) walSender(ctx context.Context) (*pgconn.PgConn, error) {
	config := p.config.Copy()
	config.ValidateConnect = nil // it asks SQL, which a WAL sender does not know
	config.RuntimeParams["replication"] = "yes"
	config.RuntimeParams["statement_timeout"] = "0"
	conn, err := pgconn.ConnectConfig(ctx, &config.Config)
	if err != nil {
		return nil, p.refuseSender(ctx, err)
	}
	return conn, nil
}

// reserve makes the slot. From here on the server recycles no WAL before the
// redo of its last checkpoint.
func (p *Production) reserve(ctx context.Context) (*stream, error) {
	conn, err := p.walSender(ctx)
	if err != nil {
		return nil, err
	}
	s := &stream{
		conn: conn, slot: fmt.Sprintf("pg0_%d_%d", os.Getpid(), rand.Uint32()), throttle: p.throttle,
		segmentSize: uint64(p.SegmentSize), more: make(chan struct{}, 1), done: make(chan struct{}),
	}
	if _, err := conn.Exec(ctx, "CREATE_REPLICATION_SLOT "+pgx.Identifier{s.slot}.Sanitize()+" TEMPORARY PHYSICAL RESERVE_WAL").ReadAll(); err != nil {
		return nil, errors.Join(fmt.Errorf("make the temporary slot that keeps the WAL: %w", err), conn.Close(ctx))
	}
	if err := p.sees(ctx, s); err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	return s, nil
}

// sees makes sure that the WAL sender is one of the server that the files come
// from, and finds out whether that server would count it among its synchronous
// standbys: it must not, as what comes here is safe nowhere.
func (p *Production) sees(ctx context.Context, s *stream) error {
	var names string
	err := p.conn.QueryRow(ctx, "select current_setting('synchronous_standby_names') from pg_replication_slots where slot_name = $1 and active_pid = $2",
		s.slot, int32(s.conn.PID())).Scan(&names)
	if errors.Is(err, pgx.ErrNoRows) {
		return errors.New("the dsn leads to several servers: give it one host")
	}
	s.confirm = !strings.Contains(names, "*") && !strings.Contains(strings.ToLower(names), "pg0")
	return err
}

// receive begins to write segments into a directory, from the one that holds
// from. fail is called when the server ends the stream.
func (s *stream) receive(ctx context.Context, from pg0.LSN, timeline uint32, dir string, fail context.CancelCauseFunc) error {
	s.dir, s.timeline = dir, timeline
	begin := uint64(from) / s.segmentSize * s.segmentSize
	s.written.Store(begin)
	s.conn.Frontend().Send(&pgproto3.Query{String: fmt.Sprintf("START_REPLICATION SLOT %s PHYSICAL %s TIMELINE %d",
		pgx.Identifier{s.slot}.Sanitize(), pg0.LSN(begin), timeline)})
	if err := s.conn.Frontend().Flush(); err != nil {
		return fmt.Errorf("stream WAL: %w", err)
	}
	ctx, s.cancel = context.WithCancel(ctx)
	go func() {
		defer close(s.done)
		if s.err = s.run(ctx); s.err != nil && ctx.Err() == nil {
			s.err = fmt.Errorf("stream WAL from %s: %w", pg0.LSN(s.written.Load()), s.err)
			fail(s.err)
		}
	}()
	return nil
}

// statusInterval is how often the server is told how far the stream has come;
// its wal_sender_timeout is longer.
const statusInterval = 5 * time.Second

// run takes messages until the context or the stream ends.
func (s *stream) run(ctx context.Context) error {
	next := time.Now().Add(statusInterval)
	for {
		if !time.Now().Before(next) {
			if err := s.status(); err != nil {
				return err
			}
			next = time.Now().Add(statusInterval)
		}
		wait, cancel := context.WithDeadline(ctx, next)
		message, err := s.conn.ReceiveMessage(wait)
		cancel()
		if err != nil {
			if pgconn.Timeout(err) && ctx.Err() == nil {
				continue
			}
			return err
		}
		if err := s.take(ctx, message); err != nil {
			return err
		}
	}
}

// The streaming replication protocol: messages within CopyData, whose numbers
// are big-endian.
const (
	walData        = 'w' // start, end of WAL, time; 8 bytes each; then the bytes
	walDataHeader  = 1 + 3*8
	keepalive      = 'k' // end of WAL, time, whether a reply is wanted
	keepaliveBytes = 1 + 2*8 + 1
	standbyStatus  = 'r' // written, flushed, applied, time, whether a reply is wanted
)

// take handles one message of the server.
func (s *stream) take(ctx context.Context, message pgproto3.BackendMessage) error {
	switch m := message.(type) {
	case *pgproto3.CopyData:
		switch data := m.Data; {
		case len(data) >= walDataHeader && data[0] == walData:
			return s.wal(ctx, binary.BigEndian.Uint64(data[1:]), data[walDataHeader:])
		case len(data) >= keepaliveBytes && data[0] == keepalive && data[keepaliveBytes-1] != 0:
			return s.status()
		}
	case *pgproto3.ErrorResponse:
		return pgconn.ErrorResponseToPgError(m)
	case *pgproto3.CopyDone:
		return errors.New("the server's timeline ended: it was promoted")
	}
	return nil
}

// wal writes bytes of WAL, and waits as long as they take at the rate.
func (s *stream) wal(ctx context.Context, at uint64, data []byte) error {
	if at != s.written.Load() {
		return fmt.Errorf("the server sends %s", pg0.LSN(at))
	}
	n := len(data)
	for len(data) > 0 {
		offset := at % s.segmentSize
		if offset == 0 {
			if err := s.open(at / s.segmentSize); err != nil {
				return err
			}
		}
		part := data[:min(uint64(len(data)), s.segmentSize-offset)]
		if _, err := s.file.WriteAt(part, int64(offset)); err != nil {
			return err
		}
		writeOut(s.file, int64(offset), len(part))
		at, data = at+uint64(len(part)), data[len(part):]
	}
	s.written.Store(at)
	s.advance(int64(n))
	select {
	case s.more <- struct{}{}:
	default:
	}
	return s.throttle.wait(ctx, n)
}

// open begins a segment. One that ends early ends in zeros, which is what
// PostgreSQL takes for the end of WAL.
func (s *stream) open(number uint64) error {
	if s.file != nil {
		if err := s.file.Close(); err != nil {
			return err
		}
	}
	var err error
	if s.file, err = os.Create(s.segment(number)); err != nil {
		return err
	}
	return s.file.Truncate(int64(s.segmentSize))
}

func (s *stream) segment(number uint64) string {
	return filepath.Join(s.dir, segmentName(s.timeline, number, s.segmentSize))
}

// segmentName is XLogFileName of access/xlog_internal.h.
func segmentName(timeline uint32, number, size uint64) string {
	perID := (uint64(1) << 32) / size // XLogSegmentsPerXLogId
	return fmt.Sprintf("%08X%08X%08X", timeline, number/perID, number%perID)
}

// status tells the server how far the stream has come.
func (s *stream) status() error {
	written := s.written.Load()
	var flushed uint64 // 0: nothing is confirmed
	if s.confirm {
		flushed = written
	}
	text := []byte{standbyStatus}
	for _, n := range []uint64{written, flushed, 0, uint64(time.Since(postgresEpoch).Microseconds())} {
		text = binary.BigEndian.AppendUint64(text, n)
	}
	s.conn.Frontend().Send(&pgproto3.CopyData{Data: append(text, 0)})
	return s.conn.Frontend().Flush()
}

// postgresEpoch is the zero of TimestampTz.
var postgresEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// until waits for all WAL before an LSN, ends the stream, and gives the names
// of the segments from the first to the one that holds the last byte.
func (s *stream) until(ctx context.Context, first, end pg0.LSN) ([]string, error) {
	for s.written.Load() < uint64(end) {
		select {
		case <-s.more:
		case <-s.done:
			return nil, s.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err := s.close(); err != nil {
		return nil, err
	}
	last := (uint64(end) - 1) / s.segmentSize
	for n := last + 1; n <= (s.written.Load()-1)/s.segmentSize; n++ {
		if err := os.Remove(s.segment(n)); err != nil {
			return nil, err
		}
	}
	var names []string
	for n := uint64(first) / s.segmentSize; n <= last; n++ {
		names = append(names, segmentName(s.timeline, n, s.segmentSize))
	}
	return names, nil
}

// close ends the session, and with it the slot.
func (s *stream) close() error {
	if s.cancel != nil {
		s.cancel()
		<-s.done
		s.cancel = nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	_ = s.conn.Close(ctx) // it is closed in any case
	if s.file == nil {
		return nil
	}
	file := s.file
	s.file = nil
	return file.Close()
}
