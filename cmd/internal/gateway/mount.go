package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fukanchik/pg0/cmd/internal/pgserver"
	"github.com/fukanchik/pg0/cmd/internal/provenance"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/proxy"
)

// A mount is a server that the proxy leads to.
type mount struct {
	Named
	dir state.Dir
	id  string

	mu        sync.Mutex // one question at a time
	admin     *pgx.Conn  // nil while nobody has asked for some time
	timer     *time.Timer
	relations map[string]cached // by database
}

func newMount(dir state.Dir, n Named) *mount {
	return &mount{Named: n, dir: dir, id: state.ID(n.Mountpoint), relations: map[string]cached{}}
}

// record is what pg0 knows of the mount now.
func (m *mount) record() (*state.Mount, error) {
	record, err := m.dir.Load(m.id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, unreachable(fmt.Sprintf("pg0 has mounted nothing at %s", m.Mountpoint), "See pg0 status.")
	}
	return record, err
}

func unreachable(message, hint string) *proxy.Error {
	return &proxy.Error{Code: proxy.CodeConnectionFailure, Message: message, Hint: hint}
}

// server finds the server that runs on the mount, whoever has started it.
func (m *mount) server() (*state.Mount, *pgserver.Server, error) {
	record, err := m.record()
	if err != nil {
		return nil, nil, err
	}
	if !record.Alive() {
		return nil, nil, unreachable(fmt.Sprintf("the mount %s is dead", m.Mountpoint), "Clear it with pg0 umount and mount it again.")
	}
	server := &pgserver.Server{DataDir: m.Mountpoint, SocketDir: record.SocketDir, Port: record.Port, Process: record.Postgres}
	if !record.Postgres.Alive() {
		if server, err = pgserver.Attach(m.Mountpoint); err != nil {
			return nil, nil, unreachable(fmt.Sprintf("no server is running on %s", m.Mountpoint), "Start it with pg0 start "+m.Mountpoint+".")
		}
	}
	return record, server, nil
}

// adminIdle is how long a connection for questions stays open unused: it is
// one of those that the server has places for.
const adminIdle = 5 * time.Second

// adminPatience is how long an answer may take.
const adminPatience = 20 * time.Second

// ask runs a query as the superuser of the cluster.
func (m *mount) ask(ctx context.Context, query string, args []any, scan ...any) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	ctx, done := context.WithTimeout(ctx, adminPatience)
	defer done()
	for again := m.admin != nil; ; again = false {
		err := m.askOnce(ctx, query, args, scan)
		if err == nil || errors.Is(err, pgx.ErrNoRows) {
			m.timer.Reset(adminIdle)
			return err
		}
		m.drop()
		// A connection that was kept may be of a server that is no more.
		if !again || ctx.Err() != nil {
			return err
		}
	}
}

func (m *mount) askOnce(ctx context.Context, query string, args, scan []any) error {
	if m.admin == nil {
		if err := m.connect(ctx); err != nil {
			return err
		}
	}
	return m.admin.QueryRow(ctx, query, args...).Scan(scan...)
}

// connect prefers a database that nobody wants to drop or to copy.
func (m *mount) connect(ctx context.Context) error {
	record, server, err := m.server()
	if err != nil {
		return err
	}
	if m.admin, err = server.Connect(ctx, "postgres", record.Role); err != nil {
		m.admin, err = server.Connect(ctx, record.Database, record.Role)
	}
	if err != nil {
		return err
	}
	m.timer = time.AfterFunc(adminIdle, m.close)
	return nil
}

func (m *mount) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop()
}

// drop closes the connection for questions; the lock is held.
func (m *mount) drop() {
	if m.admin == nil {
		return
	}
	m.timer.Stop()
	ctx, done := context.WithTimeout(context.Background(), time.Second)
	defer done()
	_ = m.admin.Close(ctx) // it is gone either way
	m.admin = nil
}

func (m *mount) secret(ctx context.Context, role string) (secret proxy.Secret, err error) {
	const query = `select coalesce(rolpassword, ''), coalesce(rolvaliduntil < now(), false) from pg_authid where rolname = $1`
	err = m.ask(ctx, query, []any{role}, &secret.Verifier, &secret.Expired)
	if errors.Is(err, pgx.ErrNoRows) {
		return proxy.Secret{}, nil
	}
	return secret, err
}

func (m *mount) has(ctx context.Context, database string) (has bool, err error) {
	err = m.ask(ctx, `select exists (select from pg_database where datname = $1)`, []any{database}, &has)
	return has, err
}

// sessionQuery asks for what a session must know of its database and role. The
// setting of a role in a database comes before that of the role, this before
// that of the database, this before that for all.
const sessionQuery = `
select coalesce((select pg_encoding_to_char(encoding) from pg_database where datname = $1), ''),
  coalesce(current_setting('pg0.provenance', true), '') <> '',
  coalesce((select substr(c, strpos(c, '=') + 1)
    from pg_db_role_setting s, unnest(s.setconfig) c
    where lower(split_part(c, '=', 1)) = 'pg0.label'
      and s.setrole in (0, (select oid from pg_roles where rolname = $2))
      and s.setdatabase in (0, (select oid from pg_database where datname = $1))
    order by s.setrole = 0, s.setdatabase = 0 limit 1), '')`

// open leads a session to the server.
func (m *mount) open(ctx context.Context, role, database string) (*proxy.Backend, error) {
	record, server, err := m.server()
	if err != nil {
		return nil, err
	}
	labels := proxy.Labels{
		Mix: m.Name, Base: provenance.Base(record), Provenance: provenance.Text(record), Notice: provenance.Notice(record),
	}
	var encoding string
	if err := m.ask(ctx, sessionQuery, []any{database, role}, &encoding, &labels.ServerSet, &labels.Label); err != nil {
		return nil, err
	}
	labels.ASCII = encoding != "UTF8"
	return &proxy.Backend{
		Address:  fmt.Sprintf("%s/.s.PGSQL.%d", server.SocketDir, server.Port),
		Database: database,
		Labels:   labels,
		Relations: func(ctx context.Context, anew bool) (*proxy.Relations, error) {
			return m.grafts(ctx, database, anew)
		},
	}, nil
}
