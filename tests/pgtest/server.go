package pgtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A Mode says how a server stops.
type Mode syscall.Signal

// The modes of pg_ctl stop. Immediate is a crash of the
// server.
const (
	Fast      = Mode(syscall.SIGINT)
	Smart     = Mode(syscall.SIGTERM)
	Immediate = Mode(syscall.SIGQUIT)
)

// Start starts the server and returns when it takes connections.
func (c *Cluster) Start() {
	c.T.Helper()
	args := []string{
		"-D", c.Dir, "-k", c.SocketDir, "-p", "5432", "-c", "listen_addresses=", "-c", "unix_socket_permissions=0777",
		"-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=20", "-c", "log_min_messages=info",
		"-c", "logging_collector=off", "-c", "log_destination=stderr",
	}
	for name, value := range c.Options.Settings {
		args = append(args, "-c", name+"="+value)
	}
	c.server = c.Command("postgres", args...)
	c.server.Stdout, c.server.Stderr = c.log, c.log
	if err := c.server.Start(); err != nil {
		c.T.Fatal(err)
	}
	c.done = make(chan struct{})
	go func(done chan struct{}) {
		_ = c.server.Wait() // Stop reports what the log says
		close(done)
	}(c.done)
	if err := c.awaitReady(); err != nil {
		c.T.Fatalf("server on %s: %v\n%s", c.Dir, err, c.Log())
	}
}

// awaitReady looks at the status line of postmaster.pid, as pg_ctl does.
func (c *Cluster) awaitReady() error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		select {
		case <-c.done:
			c.server = nil
			return fmt.Errorf("ended while starting")
		case <-deadline:
			return fmt.Errorf("not ready after %v", patience)
		case <-tick.C:
		}
		text, err := os.ReadFile(filepath.Join(c.Dir, "postmaster.pid"))
		lines := strings.Split(string(text), "\n")
		if err == nil && len(lines) > 7 && lines[0] == fmt.Sprint(c.server.Process.Pid) && strings.TrimSpace(lines[7]) == "ready" {
			return nil
		}
	}
}

// Stop stops the server and waits until it has gone.
func (c *Cluster) Stop(mode Mode) {
	c.T.Helper()
	if err := c.server.Process.Signal(syscall.Signal(mode)); err != nil {
		c.T.Errorf("stop the server on %s: %v", c.Dir, err)
	}
	select {
	case <-c.done:
		c.server = nil
	case <-time.After(patience):
		c.T.Fatalf("server on %s, pid %d, does not stop", c.Dir, c.server.Process.Pid)
	}
}

// PID is the process id of the running server.
func (c *Cluster) PID() int { return c.server.Process.Pid }
