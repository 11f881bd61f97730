package pgserver

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/fukanchik/pg0/cmd/internal/proc"
)

// ErrNotRunning is wrapped when no server runs on a data directory.
var ErrNotRunning = errors.New("no server is running")

// Options say how to start a server.
type Options struct {
	Bin     Bin
	DataDir string
	LogFile string // stderr of the server is appended; outside of the data directory
}

// A Server is a postmaster, started here or found running.
type Server struct {
	DataDir   string  `json:"data_dir"`
	SocketDir string  `json:"socket_dir"`
	Port      int     `json:"port"`
	LogFile   string  `json:"log_file,omitempty"`
	Process   proc.ID `json:"process"`

	done chan struct{} // closed when a child of ours has been waited for
	err  error         // how it ended; valid once done is closed
}

// Start runs a postmaster as a child in a session of its own and returns
// without waiting for it to be ready. It does not end with the context.
func Start(o Options) (*Server, error) {
	if os.Geteuid() == 0 {
		return nil, errors.New("PostgreSQL refuses to run as root: use an ordinary user, such as postgres")
	}
	log, err := os.OpenFile(o.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the server's log: %w", err)
	}
	defer log.Close()
	// A stale file would speak of another server until the new one writes its own.
	if _, err := Attach(o.DataDir); err == nil {
		return nil, fmt.Errorf("a server is already running on %s", o.DataDir)
	}
	cmd := exec.Command(o.Bin.Path("postgres"), "-D", o.DataDir)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = "/"
	cmd.Env = serverEnvironment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	s := &Server{DataDir: o.DataDir, LogFile: o.LogFile, done: make(chan struct{})}
	s.Process, err = proc.Of(cmd.Process.Pid)
	if err != nil && !errors.Is(err, proc.ErrGone) {
		return nil, err
	}
	go func() {
		s.err = cmd.Wait()
		close(s.done)
	}()
	return s, nil
}

// Single runs one statement on a stopped cluster, by a postgres without
// postmaster that asks for no role. Settings of that role hold all the same.
func (b Bin) Single(ctx context.Context, dataDir, database, sql string) error {
	cmd := exec.CommandContext(ctx, b.Path("postgres"), "--single", "-D", dataDir, database)
	cmd.Dir, cmd.Env, cmd.Stdin = "/", serverEnvironment(), strings.NewReader("set default_transaction_read_only = off\n"+sql+"\n")
	out, err := cmd.CombinedOutput()
	// It goes on after an error, and ends as if there had been none.
	if err != nil || strings.Contains(string(out), "ERROR:  ") {
		return fmt.Errorf("postgres --single on %s: %s: %w", dataDir, strings.TrimSpace(string(out)), cmp.Or(err, errStatement))
	}
	return nil
}

var errStatement = errors.New("the statement failed")

// serverEnvironment keeps the caller's locale and PG* variables from the
// server: messages are to be in English until it has read its configuration.
func serverEnvironment() []string {
	var env []string
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, "LC_") || name == "LANG" || name == "LANGUAGE" || name == "TZ" || strings.HasPrefix(name, "PG") {
			continue
		}
		env = append(env, entry)
	}
	return append(env, "LC_ALL=C", "TZ=UTC")
}

// Done is closed when a server that was started here has ended.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err says how a server ended that was started here: nil while it runs and
// after a clean stop.
func (s *Server) Err() error {
	select {
	case <-s.done:
	default:
		return nil
	}
	if s.err == nil {
		return nil
	}
	return fmt.Errorf("PostgreSQL on %s ended: %w; %s", s.DataDir, s.err, lastWords(s.LogFile))
}

// readyInterval is how often the postmaster's status is looked at. PostgreSQL
// has no way to tell a parent other than systemd.
const readyInterval = 5 * time.Millisecond

// Ready waits until the server takes connections, and learns its socket.
func (s *Server) Ready(ctx context.Context) error {
	tick := time.NewTicker(readyInterval)
	defer tick.Stop()
	for {
		file, err := readPidFile(s.DataDir)
		if err == nil && file.pid == s.Process.PID && file.status == "ready" {
			s.SocketDir, s.Port = file.socketDir, file.port
			return nil
		}
		select {
		case <-s.done:
			if err := s.Err(); err != nil {
				return err
			}
			return fmt.Errorf("PostgreSQL on %s stopped before it was ready; %s", s.DataDir, lastWords(s.LogFile))
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// Attach finds the server that runs on a data directory. The error wraps
// ErrNotRunning if there is none.
func Attach(dataDir string) (*Server, error) {
	file, err := readPidFile(dataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dataDir, ErrNotRunning)
	}
	if err != nil {
		return nil, err
	}
	id, err := proc.Of(file.pid)
	if errors.Is(err, proc.ErrGone) || err == nil && !isPostgres(file.pid) {
		return nil, fmt.Errorf("%s: postmaster.pid is of process %d, which has ended: %w", dataDir, file.pid, ErrNotRunning)
	}
	if err != nil {
		return nil, err
	}
	return &Server{DataDir: dataDir, SocketDir: file.socketDir, Port: file.port, Process: id}, nil
}

// isPostgres keeps a number used again by another program from being taken for
// the postmaster.
func isPostgres(pid int) bool {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return err == nil && strings.HasPrefix(string(name), "postgres")
}

type pidFile struct {
	pid       int
	port      int
	socketDir string
	status    string // starting, stopping, ready, standby
}

// readPidFile reads postmaster.pid, by the line numbers of miscadmin.h.
func readPidFile(dataDir string) (pidFile, error) {
	text, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if err != nil {
		return pidFile{}, err
	}
	lines := append(strings.Split(string(text), "\n"), make([]string, 8)...)
	file := pidFile{socketDir: lines[4], status: strings.TrimSpace(lines[7])}
	if file.pid, err = strconv.Atoi(strings.TrimSpace(lines[0])); err != nil {
		return pidFile{}, fmt.Errorf("%s/postmaster.pid: %w", dataDir, err)
	}
	// Still being written: the port is known a moment later.
	file.port, _ = strconv.Atoi(strings.TrimSpace(lines[3]))
	return file, nil
}

// A StopMode is one of pg_ctl's.
type StopMode int

// The modes of Stop.
const (
	Fast      StopMode = iota // disconnect clients, checkpoint
	Immediate                 // like a crash: the next start recovers
	Smart                     // wait for clients to leave
)

var stopSignals = map[StopMode]syscall.Signal{Fast: syscall.SIGINT, Immediate: syscall.SIGQUIT, Smart: syscall.SIGTERM}

// Stop asks the server to end and waits for it. A server that has ended
// already is no error.
func (s *Server) Stop(ctx context.Context, mode StopMode) error {
	err := s.Process.Signal(stopSignals[mode])
	if err != nil && !errors.Is(err, proc.ErrGone) {
		return fmt.Errorf("stop PostgreSQL on %s: %w", s.DataDir, err)
	}
	if s.done != nil {
		select {
		case <-s.done:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("stop PostgreSQL on %s: %w", s.DataDir, ctx.Err())
		}
	}
	if err := s.Process.Wait(ctx); err != nil {
		return fmt.Errorf("stop PostgreSQL on %s: %w", s.DataDir, err)
	}
	return nil
}

// wrongSetting is what PostgreSQL says of a line of its configuration before it
// gives up for all of them.
var wrongSetting = regexp.MustCompile(`LOG:  (.*(?:configuration parameter|for parameter|parameter ".*" (?:requires|cannot)|outside the valid range).*)`)

// lastWords quotes what the server said last that explains its end.
func lastWords(logFile string) string {
	file, err := os.Open(logFile)
	if err != nil {
		return "its log cannot be read: " + err.Error()
	}
	defer file.Close()
	last, setting := "", ""
	for lines := bufio.NewScanner(file); lines.Scan(); {
		line := lines.Text()
		if strings.Contains(line, "FATAL:  ") || strings.Contains(line, "PANIC:  ") || last == "" {
			last = line
		}
		if match := wrongSetting.FindStringSubmatch(line); match != nil {
			setting = match[1]
		}
	}
	if setting != "" && strings.HasSuffix(last, "contains errors") {
		return fmt.Sprintf("it said %q: change what --set gives; see %s", setting, logFile)
	}
	return fmt.Sprintf("it said %q; see %s", last, logFile)
}
