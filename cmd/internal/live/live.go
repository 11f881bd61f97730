// Package live takes points of a running PostgreSQL: the files of some
// relations, or of all, between the start and the stop of a backup, with the
// WAL in between. What it leaves is a point that livepg opens. It also tells
// what a foreign data wrapper needs to reach that server.
package live

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/exit"
)

// A Source is a running server as a mapping file describes it.
type Source struct {
	Name            string
	DSN             string // never printed: it may hold a password
	PGData          string // the data directory, where it can be read here
	Rate            int64  // bytes a second; 0 is no limit
	Connections     int    // for copying; 0 is DefaultConnections
	PasswordCommand string // a shell command that prints the password
}

// DefaultConnections is how many files are copied at a time.
const DefaultConnections = 2

// connectTimeout bounds the way to a server.
const connectTimeout = 15 * time.Second

// A Production is a session with a running server.
type Production struct {
	Source
	Facts
	config *pgx.ConnConfig
	conn   *pgx.Conn // holds the backup
	since  time.Time // when the server was started
	relay  relay
	log    *slog.Logger

	throttle *throttle // of all that is read
}

// Facts are what the server says of itself.
type Facts struct {
	SystemID       uint64
	Version        int // major
	CatalogVersion int64
	BlockSize      int
	SegmentSize    int64 // of WAL
	Checksums      bool
	Replica        bool
	Database       string // of the session
	User           string
	Where          string // host and port, for people
}

// Open connects to the server and checks that what pg0 needs is granted.
func Open(ctx context.Context, s Source, log *slog.Logger) (*Production, error) {
	p, err := Dial(ctx, s, log)
	if err != nil {
		return nil, err
	}
	if err := p.prepare(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// Dial connects to the server, for questions that anybody may ask.
func Dial(ctx context.Context, s Source, log *slog.Logger) (*Production, error) {
	config, err := s.config(ctx)
	if err != nil {
		return nil, err
	}
	p := &Production{Source: s, config: config, log: log}
	if p.conn, err = p.session(ctx, config.Database); err != nil {
		return nil, err
	}
	if err := p.facts(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// prepare checks the grants and opens the way that files take.
func (p *Production) prepare(ctx context.Context) error {
	if err := p.checkPrivileges(ctx); err != nil {
		return err
	}
	if err := p.checkStream(ctx); err != nil {
		return err
	}
	p.throttle = newThrottle(p.Rate)
	if p.PGData == "" {
		p.relay = &sqlRelay{p: p, throttle: p.throttle}
		return nil
	}
	if err := p.checkPGData(ctx); err != nil {
		return err
	}
	p.relay = &fileRelay{dir: p.PGData, throttle: p.throttle}
	return nil
}

// Close ends all sessions. The server then ends a backup that was not stopped,
// and drops the slot.
func (p *Production) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	var err error
	if p.relay != nil {
		err = p.relay.close(ctx)
	}
	return errors.Join(err, p.conn.Close(ctx))
}

// Beside says whether the server runs on this machine.
func (p *Production) Beside() bool { return p.PGData != "" || isLocal(p.config.Host) }

// session opens a connection to a database of the server.
func (p *Production) session(ctx context.Context, database string) (*pgx.Conn, error) {
	config := p.config.Copy()
	config.Database = database
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		err = fmt.Errorf("source %s: %w%s", p.Name, err, p.hint(err))
		if ctx.Err() == nil {
			err = exit.Error(exit.Failed, err) // whatever a socket that is missing would say
		}
		return nil, err
	}
	version, err := strconv.Atoi(strings.FieldsFunc(conn.PgConn().ParameterStatus("server_version"), func(r rune) bool { return r < '0' || r > '9' })[0])
	if err == nil && version >= 14 {
		// A session that waits must not be ended, and one whose client is gone must.
		_, err = conn.Exec(ctx, "set idle_session_timeout = 0; set client_connection_check_interval = '2s'", pgx.QueryExecModeSimpleProtocol)
	}
	if err == nil {
		err = p.same(ctx, conn)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("source %s: %w", p.Name, err), conn.Close(ctx))
	}
	return conn, nil
}

// same makes sure that all sessions are with one server: a dsn may name several
// hosts, and a name may have several addresses.
func (p *Production) same(ctx context.Context, conn *pgx.Conn) error {
	var since time.Time
	if err := conn.QueryRow(ctx, "select pg_postmaster_start_time()").Scan(&since); err != nil {
		return err
	}
	switch {
	case p.since.IsZero():
		p.since = since
	case !p.since.Equal(since):
		return errors.New("the server was restarted, or the dsn leads to several: give it one host")
	}
	return nil
}

// hint says what to do about a connection that the server refused.
func (p *Production) hint(err error) string {
	if strings.Contains(err.Error(), "server refused TLS connection") {
		return "; connections to other machines are encrypted: set ssl = on there, or write sslmode=disable into the dsn"
	}
	return ""
}

// facts asks the server for what it is.
func (p *Production) facts(ctx context.Context) error {
	f := &p.Facts
	var number int
	var system int64
	var segment int64
	err := p.conn.QueryRow(ctx, `select current_setting('server_version_num')::int, s.system_identifier, s.catalog_version_no::int8,
	current_setting('block_size')::int, (select setting::int8 * case unit when '8kB' then 8192 else 1 end from pg_settings where name = 'wal_segment_size'),
	current_setting('data_checksums') = 'on', pg_is_in_recovery(), current_database()::text, current_user::text
from pg_control_system() s`).Scan(&number, &system, &f.CatalogVersion, &f.BlockSize, &segment, &f.Checksums, &f.Replica, &f.Database, &f.User)
	if err != nil {
		return fmt.Errorf("source %s: ask the server what it is: %w", p.Name, err)
	}
	f.Version, f.SystemID, f.SegmentSize = number/10000, uint64(system), segment
	f.Where = p.config.Host
	if !strings.HasPrefix(f.Where, "/") {
		f.Where = net.JoinHostPort(f.Where, strconv.Itoa(int(p.config.Port)))
	}
	if f.BlockSize != 8192 {
		return exit.Error(exit.Refused, fmt.Errorf("source %s: block size %d: pg0 reads 8192", p.Name, f.BlockSize))
	}
	return nil
}

// Directory names where the points of a source are kept below a state
// directory. It depends on where the server is, not on who asks.
func (p *Production) Directory(state string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d\n%s\n%s\n", p.SystemID, p.Where, p.PGData))
	return filepath.Join(state, "live", hex.EncodeToString(sum[:8]))
}

// lsn reads PostgreSQL's text form.
func lsn(text string) (pg0.LSN, error) { return pg0.ParseLSN(strings.TrimSpace(text)) }
