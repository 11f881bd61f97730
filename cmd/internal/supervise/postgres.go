package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/pgserver"
	"github.com/fukanchik/pg0/cmd/internal/proc"
	"github.com/fukanchik/pg0/cmd/internal/provenance"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/relmap"
)

// patience is how long a server may take to stop before it is stopped harder.
const patience = time.Minute

// postgresDone never fires while no server of ours runs.
func (s *supervisor) postgresDone() <-chan struct{} {
	if s.postgres == nil {
		return nil
	}
	return s.postgres.Done()
}

// configure writes the server's configuration into the mount. A layer that was
// mounted before keeps its own, but for what says where clients connect.
func (s *supervisor) configure() (notes []string, err error) {
	m, server := &s.job.Mount, s.job.Server
	// No server can run on a mount that was made just now: this is of one that
	// was killed on the layer. Its number may be in use again.
	if err := removeIfThere(filepath.Join(m.Mountpoint, "postmaster.pid")); err != nil {
		return nil, err
	}
	if s.job.Attached {
		return nil, s.reconfigure(server)
	}
	control, err := relmap.ReadControl(os.DirFS(m.Mountpoint))
	if err != nil {
		return nil, err
	}
	notes, err = pgserver.Configure(m.Mountpoint, pgserver.Config{
		Major: m.Version, Control: control,
		SocketDir: m.SocketDir, Port: server.Port, Listen: server.Listen,
		Durable: server.Durable, Preload: server.Preload, Set: server.Set,
		Extra: append(walWithin(s.job.Recipe.Layer.Limit, int64(control.WALSegmentSize)), labels(m)...),
	})
	if err != nil {
		return nil, err
	}
	return notes, allowTCP(m.Mountpoint, server.Listen)
}

// walWithin keeps WAL to a small part of a layer that has a limit: where tables
// find no room a statement fails, but where WAL finds none the server does.
func walWithin(limit, segment int64) []pgserver.Setting {
	if limit == 0 {
		return nil
	}
	const part, fewestSegments = 16, 2 // PostgreSQL insists on two
	size := strconv.FormatInt(max(limit/part, fewestSegments*segment)>>20, 10) + "MB"
	return []pgserver.Setting{{Name: "min_wal_size", Value: size}, {Name: "max_wal_size", Value: size}}
}

// labels let sessions ask what they look at, such as show pg0.provenance.
func labels(m *state.Mount) []pgserver.Setting {
	return []pgserver.Setting{
		{Name: "pg0.mix", Value: provenance.Name(m)},
		{Name: "pg0.base", Value: provenance.Base(m)},
		{Name: "pg0.provenance", Value: provenance.Text(m)},
	}
}

// reconfigure changes lines of the configuration that is there.
func (s *supervisor) reconfigure(server *Server) error {
	m := &s.job.Mount
	settings := append([]pgserver.Setting{
		{Name: "unix_socket_directories", Value: `"` + strings.ReplaceAll(m.SocketDir, `"`, `""`) + `"`},
		{Name: "port", Value: strconv.Itoa(server.Port)},
		{Name: "listen_addresses", Value: server.Listen},
	}, append(labels(m), server.Set...)...)
	if len(server.Preload) > 0 {
		settings = append(settings, pgserver.Setting{Name: "shared_preload_libraries", Value: strings.Join(server.Preload, ", ")})
	}
	if err := changeSettings(filepath.Join(m.Mountpoint, "postgresql.conf"), settings); err != nil {
		return err
	}
	return allowTCP(m.Mountpoint, server.Listen)
}

// start runs PostgreSQL on the mount and waits until it takes connections.
func (s *supervisor) start(ctx context.Context, server *Server) error {
	m := &s.job.Mount
	if s.job.Server == nil {
		return exit.Error(exit.Refused, fmt.Errorf("%s shows a bare backup, which is not recovered: mount the point without --raw to start a server on it", m.Mountpoint))
	}
	if running, err := pgserver.Attach(m.Mountpoint); err == nil {
		return exit.Error(exit.Busy, fmt.Errorf("a server is already running on %s (pid %d)", m.Mountpoint, running.Process.PID))
	}
	if server != nil {
		if err := s.reconfigure(server); err != nil {
			return err
		}
		old := s.job.Server
		server.Durable, server.RollBack, server.Rebuild = old.Durable, old.RollBack, old.Rebuild
		s.job.Server = server
		m.Port, m.Listen = server.Port, server.Listen
	}
	postgres, err := pgserver.Start(pgserver.Options{
		Bin: s.job.Server.Bin, DataDir: m.Mountpoint,
		LogFile: s.job.State.PostgresLog(m.ID),
	})
	if err != nil {
		return err
	}
	s.postgres, m.Postgres = postgres, postgres.Process
	// Saved at once: it must be found, and stopped, if this process is killed.
	err = s.job.State.Save(m)
	if err == nil {
		err = postgres.Ready(ctx)
	}
	if err == nil {
		err = s.afterStart(ctx)
	}
	if err != nil {
		return errors.Join(err, s.endPostgres(postgres, pgserver.Immediate))
	}
	return s.job.State.Save(m)
}

// afterStart does what was asked for and can only be done by SQL.
func (s *supervisor) afterStart(ctx context.Context) error {
	m := &s.job.Mount
	if s.job.Server.RollBack {
		if err := rollBack(ctx, s.postgres, m.Database, m.Role); err != nil {
			return err
		}
	}
	for database, indexes := range s.job.Server.Rebuild {
		if err := rebuild(ctx, s.postgres, database, m.Role, indexes); err != nil {
			return err
		}
	}
	if m.Listen == "" {
		return nil
	}
	rows, err := s.postgres.Query(ctx, m.Database, m.Role,
		`select count(*) from pg_authid where rolcanlogin and rolpassword like 'SCRAM-SHA-256$%'`)
	if err != nil {
		return err
	}
	if rows[0][0] == "0" {
		m.Notes = append(m.Notes, "no role has a scram password, so nobody can log in over TCP: set one with \\password through the socket")
	}
	return nil
}

// rebuild makes the indexes of a mix that no file of a donor can stand for.
// Those that an earlier start made in the layer are left alone.
func rebuild(ctx context.Context, server *pgserver.Server, database, role string, indexes []string) error {
	conn, err := server.Connect(ctx, database, role)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, index := range indexes {
		var valid bool
		if err := conn.QueryRow(ctx, "select indisvalid from pg_index where indexrelid = $1::regclass", index).Scan(&valid); err != nil {
			return fmt.Errorf("index %s: %w", index, err)
		}
		if valid {
			continue
		}
		if _, err := conn.Exec(ctx, "reindex index "+index); err != nil {
			return fmt.Errorf("rebuild index %s: %w", index, err)
		}
	}
	return nil
}

// rollBack ends all prepared transactions of the cluster. It asks for them in
// the given database: not every cluster has one called postgres.
func rollBack(ctx context.Context, server *pgserver.Server, database, role string) error {
	rows, err := server.Query(ctx, database, role, "select gid, database from pg_prepared_xacts order by 1")
	if err != nil {
		return err
	}
	for _, row := range rows {
		conn, err := server.Connect(ctx, row[1], role)
		if err != nil {
			return err
		}
		sql := "rollback prepared '" + strings.ReplaceAll(row[0], "'", "''") + "'"
		_, err = conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
		if err = errors.Join(err, conn.Close(ctx)); err != nil {
			return fmt.Errorf("prepared transaction %q of database %q: %w", row[0], row[1], err)
		}
	}
	return nil
}

// stopModes are pg_ctl's words.
var stopModes = map[string]pgserver.StopMode{
	"": pgserver.Fast, "fast": pgserver.Fast, "smart": pgserver.Smart, "immediate": pgserver.Immediate,
}

func (s *supervisor) stop(r Request) error {
	m := &s.job.Mount
	mode, ok := stopModes[r.Mode]
	if !ok {
		return exit.Error(exit.Usage, fmt.Errorf("unknown mode %q: smart, fast or immediate", r.Mode))
	}
	running, err := s.running()
	if errors.Is(err, pgserver.ErrNotRunning) {
		return exit.Error(exit.NotFound, fmt.Errorf("no server is running on %s", m.Mountpoint))
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := running.Stop(ctx, mode); err != nil {
		return exit.Error(exit.Busy, fmt.Errorf("%w; try again with --mode immediate", err))
	}
	s.forgetPostgres()
	return nil
}

// running is the server on the mount, whoever started it.
func (s *supervisor) running() (*pgserver.Server, error) {
	if s.postgres != nil {
		return s.postgres, nil
	}
	return pgserver.Attach(s.job.Mount.Mountpoint)
}

// endPostgres stops a server, the harder the longer it takes.
func (s *supervisor) endPostgres(server *pgserver.Server, mode pgserver.StopMode) error {
	err := stopHarder(server, mode)
	s.forgetPostgres()
	return err
}

func stopHarder(server *pgserver.Server, mode pgserver.StopMode) error {
	for _, mode := range []pgserver.StopMode{mode, pgserver.Immediate} {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err := server.Stop(ctx, mode)
		cancel()
		if err == nil {
			return nil
		}
	}
	return endHard(server.Process)
}

// forgetPostgres takes note of a server's end.
func (s *supervisor) forgetPostgres() {
	s.postgres, s.job.Mount.Postgres = nil, proc.ID{}
	if err := s.job.State.Save(&s.job.Mount); err != nil {
		s.log.Error("save the record of the mount", "error", err)
	}
}

func (s *supervisor) postgresEnded() {
	if err := s.postgres.Err(); err != nil {
		s.log.Error("PostgreSQL has ended", "error", err)
	}
	s.forgetPostgres()
}

// umount stops a server of ours and takes the mount away. One that pg0 did not
// start, and other users of the mount, are an error with exit code 7, unless
// force ends them.
func (s *supervisor) umount(force bool) error {
	m, own := &s.job.Mount, s.job.Mount.Postgres
	var err error
	if s.postgres != nil {
		err = s.endPostgres(s.postgres, pgserver.Fast)
	} else {
		err = endForeign(m.Mountpoint, force)
	}
	if err != nil && !force {
		return err
	}
	s.endProxy() // its sessions ended with the server
	if err == nil {
		err = s.unmountChild(force)
	}
	switch {
	case err == nil:
		<-s.child.Done() // it writes the layer before it ends
		err = s.child.Err()
	case force:
		s.log.Warn("detach a mount that is in use", "error", err)
		if err = errors.Join(detach(m.Mountpoint, s.child.ID), endHard(own)); err != nil {
			return err
		}
	default:
		return err
	}
	return errors.Join(err, clear(m), s.job.State.Remove(m.ID))
}

// unmountChild asks the serving process to unmount. With force one that does not
// answer is not waited for.
func (s *supervisor) unmountChild(force bool) error {
	done := make(chan error, 1)
	go func() { done <- s.child.Unmount() }()
	var limit <-chan time.Time
	if force {
		limit = time.After(patience)
	}
	select {
	case err := <-done:
		return err
	case <-limit:
		return errors.New("the process that serves the mount does not answer")
	}
}

// endForeign stops a server that somebody else has started, if force allows it.
func endForeign(mountpoint string, force bool) error {
	server, err := pgserver.Attach(mountpoint)
	if errors.Is(err, pgserver.ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	if !force {
		return exit.Error(exit.Busy, fmt.Errorf("a server that pg0 did not start is running on %s (pid %d): stop it with pg_ctl -D %s stop, or give --force", mountpoint, server.Process.PID, mountpoint))
	}
	return stopHarder(server, pgserver.Fast)
}
