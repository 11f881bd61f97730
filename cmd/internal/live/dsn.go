package live

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/jackc/pgservicefile"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fukanchik/pg0/cmd/internal/exit"
)

// config reads the DSN, and what libpq's environment and files add to it.
func (s Source) config(ctx context.Context) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(s.DSN)
	if err != nil {
		return nil, exit.Error(exit.Usage, fmt.Errorf("source %s: dsn: %w", s.Name, hideDSN(err)))
	}
	if err := s.checkKeywords(config.RuntimeParams); err != nil {
		return nil, err
	}
	if s.PasswordCommand != "" {
		if config.Password, err = s.password(ctx); err != nil {
			return nil, err
		}
	}
	s.encrypt(config)
	config.ConnectTimeout = connectTimeout
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	for name, value := range map[string]string{
		"application_name": "pg0", "search_path": "pg_catalog", "client_encoding": "UTF8", "datestyle": "ISO, MDY",
		"timezone": "UTC", "lock_timeout": "5s", "statement_timeout": "60s", "default_transaction_read_only": "on",
	} {
		config.RuntimeParams[name] = value
	}
	return config, nil
}

// Keywords of libpq that pgx takes for settings of the server. The first are of
// no consequence here; of the others it matters that they are not known.
var (
	idleKeywords = []string{
		"fallback_application_name", "gsslib", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval",
		"load_balance_hosts", "sslcompression", "tcp_user_timeout",
	}
	unknownKeywords = []string{
		"gssdelegation", "gssencmode", "hostaddr", "replication", "requirepeer", "requiressl", "ssl_max_protocol_version",
		"ssl_min_protocol_version", "sslcrl", "sslcrldir",
	}
)

// checkKeywords leaves the settings of the server alone.
func (s Source) checkKeywords(params map[string]string) error {
	for _, key := range idleKeywords {
		delete(params, key)
	}
	if mode := params["gssencmode"]; mode == "disable" || mode == "prefer" {
		delete(params, "gssencmode")
	}
	for _, key := range unknownKeywords {
		if _, given := params[key]; given {
			return exit.Error(exit.Usage, fmt.Errorf("source %s: dsn: pg0 does not know the keyword %s", s.Name, key))
		}
	}
	return nil
}

// hideDSN takes the text of a DSN out of an error: it may hold a password.
func hideDSN(err error) error {
	var parse *pgconn.ParseConfigError
	if errors.As(err, &parse) {
		if inner := errors.Unwrap(parse); inner != nil {
			return fmt.Errorf("it cannot be read: %w", inner)
		}
		return errors.New("it is neither a URI nor a list of keyword=value")
	}
	return err
}

// password runs the command. Its output never appears in an error.
func (s Source) password(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", s.PasswordCommand)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("source %s: password_command: %w", s.Name, err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	if line == "" {
		return "", fmt.Errorf("source %s: password_command printed nothing", s.Name)
	}
	return line, nil
}

// encrypt keeps a connection to another machine from falling back to plain
// text, unless the DSN, its service or PGSSLMODE says how it is to be.
func (s Source) encrypt(config *pgx.ConnConfig) {
	if s.setting("sslmode") != "" {
		return
	}
	kept := config.Fallbacks[:0]
	for _, f := range config.Fallbacks {
		if f.TLSConfig != nil || isLocal(f.Host) {
			kept = append(kept, f)
		}
	}
	config.Fallbacks = kept
}

// isLocal says whether a connection stays on this machine.
func isLocal(host string) bool {
	ip := net.ParseIP(host)
	return strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") || host == "localhost" || ip != nil && ip.IsLoopback()
}

// setting finds a connection parameter where libpq does: in the DSN, its
// service, the environment.
func (s Source) setting(key string) string {
	if value := dsnValue(s.DSN, key); value != "" {
		return value
	}
	if name := cmp.Or(dsnValue(s.DSN, "service"), os.Getenv("PGSERVICE")); name != "" {
		if value := serviceSettings(name)[key]; value != "" {
			return value
		}
	}
	return os.Getenv("PG" + strings.ToUpper(key))
}

// serviceSettings reads what the service file says of a service. Whether it can
// be read is pgx's to say.
func serviceSettings(name string) map[string]string {
	file := os.Getenv("PGSERVICEFILE")
	if file == "" {
		if me, err := user.Current(); err == nil {
			file = filepath.Join(me.HomeDir, ".pg_service.conf")
		}
	}
	services, err := pgservicefile.ReadServicefile(file)
	if err != nil {
		return nil
	}
	service, err := services.GetService(name)
	if err != nil {
		return nil
	}
	return service.Settings
}

// dsnValue finds a keyword in a DSN of either form.
func dsnValue(dsn, key string) string {
	if strings.Contains(dsn, "://") {
		if u, err := url.Parse(dsn); err == nil {
			return u.Query().Get(key)
		}
		return ""
	}
	match := regexp.MustCompile(`(?:^|\s)` + key + `\s*=\s*(?:'((?:[^'\\]|\\.)*)'|(\S+))`).FindStringSubmatch(dsn)
	if match == nil {
		return ""
	}
	return match[1] + match[2]
}
