package pgserver

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// sessionSettings overrule what roles and databases of the backup bring along
// and that would load code, change what is printed, or keep pg0 from its work.
var sessionSettings = map[string]string{
	"application_name":          "pg0",
	"client_encoding":           "UTF8",
	"session_preload_libraries": "",
	"local_preload_libraries":   "",
	"session_replication_role":  "replica", // triggers of the backup, those on DDL as well, stay silent
	"role":                      "none",
	"row_security":              "off",

	"search_path":                 "pg_catalog",
	"quote_all_identifiers":       "off",
	"datestyle":                   "ISO, MDY",
	"timezone":                    "UTC",
	"intervalstyle":               "postgres",
	"bytea_output":                "hex",
	"extra_float_digits":          "1",
	"standard_conforming_strings": "on",
	"lc_monetary":                 "C",

	"default_transaction_read_only":       "off",
	"default_tablespace":                  "",
	"statement_timeout":                   "0",
	"lock_timeout":                        "0",
	"idle_in_transaction_session_timeout": "0",
	"jit":                                 "off",
}

// Connect opens a session on the server's socket.
func (s *Server) Connect(ctx context.Context, database, role string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig("")
	if err != nil {
		return nil, err
	}
	config.Host, config.Port = s.SocketDir, uint16(s.Port)
	config.Database, config.User = database, role
	config.Password, config.TLSConfig, config.Fallbacks = "", nil, nil
	config.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", fmt.Sprintf("%s/.s.PGSQL.%d", s.SocketDir, s.Port))
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	config.RuntimeParams = maps.Clone(sessionSettings)
	if major, err := majorOf(s.DataDir); err != nil {
		return nil, err
	} else if major >= 17 {
		config.RuntimeParams["event_triggers"] = "off" // login triggers of the backup would run
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect to database %q as %q: %w", database, role, err)
	}
	return conn, nil
}

// majorOf reads PG_VERSION.
func majorOf(dataDir string) (int, error) {
	text, err := os.ReadFile(filepath.Join(dataDir, "PG_VERSION"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// Query runs one statement in a session of its own and returns the values of
// its rows as text.
func (s *Server) Query(ctx context.Context, database, role, sql string) ([][]string, error) {
	conn, err := s.Connect(ctx, database, role)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	results, err := conn.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("query database %q: %w", database, err)
	}
	var rows [][]string
	for _, result := range results {
		if result.Err != nil {
			return nil, fmt.Errorf("query database %q: %w", database, result.Err)
		}
		for _, values := range result.Rows {
			row := make([]string, len(values))
			for i, value := range values {
				row[i] = string(value)
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}
