package pgserver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fukanchik/pg0/relmap"
)

// A Setting is a line of a configuration file.
type Setting struct {
	Name, Value string
}

// ErrProtected is wrapped when somebody asks to change a setting that keeps a
// copy from hurting the cluster it was made of.
var ErrProtected = errors.New("protected setting")

// A Config is what a server on a copy of a cluster runs on. The zero values
// are right for all but Major and Control.
type Config struct {
	Major   int
	Control *relmap.Control // the limits of the cluster are kept

	SocketDir string
	Port      int    // 0 is 5432
	Listen    string // listen_addresses; empty is none
	Durable   bool   // a layer is kept: what is committed must survive
	Preload   []string
	Set       []Setting // by the user; see ParseSetting
	Extra     []Setting // of pg0 itself: recovery
	Memory    int64     // bytes for the server to plan with; 0 is this machine's
}

// protected names the settings that --set may not touch:
// those that reach outside, load code, or move files that pg0 writes.
var protected = []string{
	"archive_mode", "archive_command", "archive_library", "archive_cleanup_command", "recovery_end_command", "restore_command",
	"primary_conninfo", "primary_slot_name", "synchronous_standby_names", "sync_replication_slots",
	"max_logical_replication_workers", "shared_preload_libraries", "session_preload_libraries", "local_preload_libraries",
	"listen_addresses", "port", "unix_socket_directories", "unix_socket_permissions", "unix_socket_group",
	"data_directory", "config_file", "hba_file", "ident_file", "external_pid_file", "dynamic_library_path", "extension_control_path",
	"logging_collector", "log_directory", "log_filename", "log_destination", "ssl_passphrase_command", "oauth_validator_libraries",
	"autovacuum", "autovacuum_freeze_max_age", "autovacuum_multixact_freeze_max_age", "jit_provider",
	"include", "include_dir", "include_if_exists", "promote_trigger_file", "stats_temp_directory",
}

// ParseSetting reads NAME=VALUE of the flag --set.
func ParseSetting(text string) (Setting, error) {
	name, value, ok := strings.Cut(text, "=")
	name = strings.ToLower(strings.TrimSpace(name))
	key, _, known := parseLine(name + " = x")
	if !ok || !known || key != name {
		return Setting{}, fmt.Errorf("--set %s: write name=value, such as work_mem=64MB", text)
	}
	if strings.ContainsAny(value, "\n\r\x00") {
		return Setting{}, fmt.Errorf("--set %s: the value has a line break", name)
	}
	if slices.Contains(protected, name) || strings.HasPrefix(name, "recovery_target") {
		return Setting{}, fmt.Errorf("--set %s: %w: pg0 sets it so that the copy cannot reach outside", name, ErrProtected)
	}
	return Setting{name, strings.TrimSpace(value)}, nil
}

// backupSuffix marks the files of the backup beside those that pg0 wrote.
const backupSuffix = ".backup"

// ownFiles are written by pg0, in place of the cluster's.
var ownFiles = []string{"postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf"}

// Configure writes the configuration of a server into a data directory, which
// it does not serve itself. Files of the backup are kept beside as NAME.backup,
// once; service files of a server that no longer runs are removed. Notes say
// what of the backup's settings does not work on this machine.
func Configure(dir string, c Config) (notes []string, err error) {
	if err := keepOriginals(dir); err != nil {
		return nil, err
	}
	all, err := OriginalSettings(os.DirFS(dir))
	if err != nil {
		return nil, err
	}
	kept := carriedOver(all, HasLocale)
	kept, notes = usable(kept, all)
	files := map[string]string{
		"postgresql.conf":      c.text(kept),
		"postgresql.auto.conf": "# pg0 keeps this file empty; give settings with --set\n",
		"pg_hba.conf":          "# written by pg0: the socket's directory is private to its owner\nlocal all all trust\nlocal replication all trust\n",
		"pg_ident.conf":        "# written by pg0\n",
	}
	for _, name := range ownFiles {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(files[name]), 0o600); err != nil {
			return nil, fmt.Errorf("write the server's configuration: %w", err)
		}
	}
	return notes, removeService(dir)
}

// keepOriginals renames the configuration that came with the backup.
func keepOriginals(dir string) error {
	for _, name := range ownFiles {
		name = filepath.Join(dir, name)
		if _, err := os.Lstat(name + backupSuffix); err == nil {
			continue // the file there is pg0's own
		}
		err := os.Rename(name, name+backupSuffix)
		if errors.Is(err, fs.ErrNotExist) {
			// An empty one says that the backup had none, so that pg0's own is
			// not taken for the backup's next time.
			err = os.WriteFile(name+backupSuffix, nil, 0o600)
		}
		if err != nil {
			return fmt.Errorf("keep the backup's configuration: %w", err)
		}
	}
	return nil
}

// removeService removes files that would start a recovery, or that speak of a
// server elsewhere.
func removeService(dir string) error {
	for _, name := range []string{"recovery.signal", "standby.signal", "postmaster.opts"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// OriginalSettings reads the settings that the backed-up cluster had, of a tree
// with or without pg0's own files. Clusters whose configuration lies elsewhere,
// as Debian's, have only those of ALTER SYSTEM.
func OriginalSettings(tree fs.FS) (map[string]string, error) {
	all := map[string]string{}
	for _, name := range ownFiles[:2] {
		if _, err := fs.Stat(tree, name+backupSuffix); err == nil {
			name += backupSuffix
		}
		some, err := ParseConf(tree, name)
		if err != nil {
			return nil, err
		}
		for key, value := range some {
			all[key] = value
		}
	}
	return all, nil
}

// usable drops what would keep the server from starting, and says so.
func usable(kept []Setting, all map[string]string) (good []Setting, notes []string) {
	for _, s := range kept {
		if s.Name == "timezone" && !hasTimeZone(s.Value) {
			notes = append(notes, fmt.Sprintf("the backup's TimeZone %q is unknown on this machine: times print in UTC", s.Value))
			continue
		}
		good = append(good, s)
	}
	for _, name := range carried {
		value, ok := all[name]
		if ok && strings.HasPrefix(name, "lc_") && !HasLocale(value) {
			notes = append(notes, fmt.Sprintf("the backup's %s %q is missing on this machine: C is used", name, value))
		}
	}
	return good, notes
}

// hasTimeZone asks the time zones of this machine. PostgreSQL also takes POSIX
// forms, which begin with an abbreviation and an offset.
func hasTimeZone(name string) bool {
	if _, err := time.LoadLocation(name); err == nil && name != "Local" {
		return true
	}
	return strings.ContainsAny(name, "0123456789") && !strings.Contains(name, "/")
}

func (c Config) text(kept []Setting) string {
	var out strings.Builder
	out.WriteString("# Written by pg0 for a server on a copy. The backup's own file is postgresql.conf.backup.\n")
	for _, part := range []struct {
		title    string
		settings []Setting
	}{
		{"how data reads, as in the backup", kept},
		{"nothing reaches outside", c.protection()},
		{"limits of the cluster", c.limits()},
		{"this machine", c.machine()},
		{"durability", c.durability()},
		{"recovery", c.Extra},
		{"given with --set", c.Set},
	} {
		if len(part.settings) == 0 {
			continue
		}
		fmt.Fprintf(&out, "\n# %s\n", part.title)
		for _, s := range part.settings {
			fmt.Fprintf(&out, "%s = %s\n", s.Name, quote(s.Value))
		}
	}
	return out.String()
}

func (c Config) protection() []Setting {
	port := c.Port
	if port == 0 {
		port = 5432
	}
	return []Setting{
		{"listen_addresses", c.Listen},
		{"port", strconv.Itoa(port)},
		{"unix_socket_directories", quoteListItem(c.SocketDir)},
		{"unix_socket_permissions", "0700"},
		{"archive_mode", "off"},
		{"primary_conninfo", ""},
		{"primary_slot_name", ""},
		{"synchronous_standby_names", ""},
		{"max_logical_replication_workers", "0"},
		{"shared_preload_libraries", strings.Join(c.Preload, ", ")},
		{"session_preload_libraries", ""},
		{"local_preload_libraries", ""},
		{"autovacuum", "off"},
		{"autovacuum_freeze_max_age", "2000000000"},
		{"autovacuum_multixact_freeze_max_age", "2000000000"},
		{"logging_collector", "off"},
		{"log_destination", "stderr"},
		{"log_line_prefix", "%m [%p] "},
		{"log_timezone", "UTC"},
		{"dynamic_shared_memory_type", "posix"},
		{"cluster_name", "pg0"},
	}
}

// quoteListItem writes a directory as an element of a list setting.
func quoteListItem(dir string) string {
	if dir == "" {
		return ""
	}
	return `"` + strings.ReplaceAll(dir, `"`, `""`) + `"`
}

// limits keeps what recovery compares with pg_control, and what prepared
// transactions need to come back.
func (c Config) limits() []Setting {
	control := c.Control
	if control == nil {
		control = &relmap.Control{}
	}
	atLeast := func(value int32, least int) string { return strconv.Itoa(max(int(value), least)) }
	segment := max(int64(control.WALSegmentSize), 1<<20) >> 20
	return []Setting{
		{"max_connections", atLeast(control.MaxConnections, 100)},
		{"max_prepared_transactions", atLeast(control.MaxPreparedXacts, 0)},
		{"max_worker_processes", atLeast(control.MaxWorkers, 8)},
		{"max_wal_senders", atLeast(control.MaxWALSenders, 10)},
		{"max_locks_per_transaction", atLeast(control.MaxLocksPerXact, 64)},
		{"min_wal_size", strconv.FormatInt(max(2*segment, 80), 10) + "MB"},
		{"max_wal_size", strconv.FormatInt(max(4*segment, 1024), 10) + "MB"},
	}
}

func (c Config) durability() []Setting {
	settings := []Setting{
		{"wal_recycle", "off"},
		{"wal_init_zero", "off"},
	}
	if c.Durable {
		return settings
	}
	return append(settings, Setting{"fsync", "off"}, Setting{"synchronous_commit", "off"})
}
