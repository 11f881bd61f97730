package live

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/mapping"
)

// functions are those that the role must be able to execute.
func (p *Production) functions() []string {
	var list []string
	if p.Version >= 15 {
		list = append(list, "pg_backup_start(text, boolean)", "pg_backup_stop(boolean)")
	} else {
		list = append(list, "pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)")
	}
	if p.PGData == "" {
		list = append(list, "pg_read_binary_file(text, bigint, bigint, boolean)", "pg_ls_dir(text, boolean, boolean)", "pg_stat_file(text, boolean)")
	}
	return list
}

// checkPrivileges refuses a role that lacks something, with the statements that
// mend it.
func (p *Production) checkPrivileges(ctx context.Context) error {
	var super, replication bool
	err := p.conn.QueryRow(ctx, "select rolsuper, rolreplication from pg_roles where rolname = current_user").Scan(&super, &replication)
	if err != nil {
		return fmt.Errorf("source %s: ask for privileges: %w", p.Name, err)
	}
	if super {
		return nil
	}
	role := pgx.Identifier{p.User}.Sanitize()
	var missing, mend []string
	if !replication {
		missing = append(missing, "attribute REPLICATION, for the stream of WAL")
		mend = append(mend, "ALTER ROLE "+role+" REPLICATION")
	}
	for _, function := range p.functions() {
		var may bool
		err := p.conn.QueryRow(ctx, "select coalesce(has_function_privilege(to_regprocedure('pg_catalog.' || $1), 'execute'), false)", function).Scan(&may)
		if err != nil {
			return fmt.Errorf("source %s: ask for privileges: %w", p.Name, err)
		}
		if !may {
			missing = append(missing, "EXECUTE on "+function)
			mend = append(mend, "GRANT EXECUTE ON FUNCTION pg_catalog."+function+" TO "+role)
		}
	}
	if missing == nil {
		return nil
	}
	return exit.Error(exit.Refused, fmt.Errorf("source %s: role %s of database %s lacks %s; a superuser mends it there with: %s",
		p.Name, role, p.Database, strings.Join(missing, ", "), strings.Join(mend, "; ")))
}

// checkStream refuses a server that has no WAL sender or no replication slot
// left, or does not let the role have one.
func (p *Production) checkStream(ctx context.Context) error {
	var level string
	var senders, slots, taken int
	err := p.conn.QueryRow(ctx, `select current_setting('wal_level'), current_setting('max_wal_senders')::int, current_setting('max_replication_slots')::int,
	(select count(*)::int from pg_replication_slots)`).Scan(&level, &senders, &slots, &taken)
	if err != nil {
		return fmt.Errorf("source %s: ask for settings: %w", p.Name, err)
	}
	switch {
	case level == "minimal":
		return p.unfit("wal_level = minimal lets no backup be taken: it has to be replica, from a start of the server on")
	case senders == 0:
		return p.unfit("max_wal_senders = 0 lets no WAL be streamed: it has to be above, from a start of the server on")
	case taken >= slots:
		return p.unfit("all %d replication slots are taken: raise max_replication_slots, from a start of the server on", slots)
	}
	conn, err := p.walSender(ctx)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

func (p *Production) unfit(format string, args ...any) error {
	return exit.Error(exit.Refused, fmt.Errorf("source %s: %s", p.Name, fmt.Sprintf(format, args...)))
}

// refuseSender says what to do about a WAL sender that cannot be had. What the
// server says is its own.
func (p *Production) refuseSender(ctx context.Context, err error) error {
	const invalidAuthorization, tooMany = "28000", "53300"
	var said *pgconn.PgError
	switch {
	case ctx.Err() != nil || !errors.As(err, &said):
		return fmt.Errorf("source %s: stream WAL: %w", p.Name, err)
	case said.Code == invalidAuthorization:
		return p.unfit("%s; WAL is streamed over a replication connection: pg_hba.conf must let role %s have one, such as by the line \"%s\", and then: select pg_reload_conf()",
			said.Message, p.config.User, p.hbaLine())
	case said.Code == tooMany:
		return p.unfit("%s; WAL is streamed by a WAL sender, and none is free: raise max_wal_senders, or try again later", said.Message)
	}
	return fmt.Errorf("source %s: stream WAL: %w", p.Name, err)
}

// hbaLine is a line of pg_hba.conf that lets the role stream WAL.
func (p *Production) hbaLine() string {
	role := mapping.QuoteIdent(p.config.User)
	here, err := netip.ParseAddrPort(p.conn.PgConn().Conn().LocalAddr().String())
	if err != nil {
		return "local replication " + role + " peer"
	}
	address := here.Addr().Unmap().WithZone("")
	kind := "host"
	if _, encrypted := p.conn.PgConn().Conn().(*tls.Conn); encrypted {
		kind = "hostssl"
	}
	return fmt.Sprintf("%s replication %s %s/%d scram-sha-256", kind, role, address, address.BitLen())
}

// checkPGData refuses a data directory that is not that of the server.
func (p *Production) checkPGData(ctx context.Context) error {
	wrong := func(format string, args ...any) error {
		return exit.Error(exit.Refused, fmt.Errorf("source %s: pgdata %s is not the data directory of the server that dsn leads to: %s",
			p.Name, p.PGData, fmt.Sprintf(format, args...)))
	}
	file, err := os.Open(filepath.Join(p.PGData, "postmaster.pid"))
	if errors.Is(err, os.ErrNotExist) {
		return wrong("no server runs there")
	}
	if err != nil {
		return fmt.Errorf("source %s: pgdata: %w; without pgdata the files come through SQL", p.Name, err)
	}
	defer file.Close()
	// pid, data directory, start time, port: miscadmin.h, LOCK_FILE_LINE_*
	var lines []string
	for scan := bufio.NewScanner(file); scan.Scan(); {
		lines = append(lines, strings.TrimSpace(scan.Text()))
	}
	if len(lines) < 4 {
		return wrong("its postmaster.pid is incomplete")
	}
	var port string
	var since time.Time
	if err := p.conn.QueryRow(ctx, "select current_setting('port'), pg_postmaster_start_time()").Scan(&port, &since); err != nil {
		return fmt.Errorf("source %s: %w", p.Name, err)
	}
	started, err := strconv.ParseInt(lines[2], 10, 64)
	// A recovery may lie between the two, but no other start.
	if gap := since.Sub(time.Unix(started, 0)); err != nil || gap < -time.Second || gap > time.Minute {
		return wrong("the server there has been running since another time")
	}
	if lines[3] != port {
		return wrong("the server there listens on port %s, not %s", lines[3], port)
	}
	system, err := systemIDOf(p.PGData)
	if err != nil {
		return fmt.Errorf("source %s: pgdata: %w", p.Name, err)
	}
	if system != p.SystemID {
		return wrong("its system identifier is %d, not %d", system, p.SystemID)
	}
	return nil
}

// systemIDOf reads the first field of pg_control.
func systemIDOf(dir string) (uint64, error) {
	text, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(controlFile)))
	if err != nil {
		return 0, err
	}
	if len(text) < 8 {
		return 0, fmt.Errorf("%s is too short", controlFile)
	}
	return le.Uint64(text), nil
}
