// Package supervise keeps a mount alive in the background: a process in a
// session of its own runs the process that serves the mount and, if asked,
// PostgreSQL on it, watches both, and takes everything away when one dies or
// somebody asks.
package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/pgserver"
	"github.com/fukanchik/pg0/cmd/internal/proc"
	"github.com/fukanchik/pg0/cmd/internal/serve"
	"github.com/fukanchik/pg0/cmd/internal/state"
)

// Command is the hidden command of pg0 that runs Main.
const Command = "supervise"

// A Job is all that the supervisor of a mount needs to know.
type Job struct {
	State  state.Dir    `json:"state"`
	Mount  state.Mount  `json:"mount"` // what is known before mounting
	Recipe serve.Recipe `json:"recipe"`
	Server *Server      `json:"server,omitempty"` // nil: a bare backup, which no server runs on
	Start  bool         `json:"start,omitempty"`  // PostgreSQL, once mounted
	Proxy  string       `json:"proxy,omitempty"`  // address of a proxy before it
	// Attached says that the layer was mounted before: the configuration in it
	// is its owner's.
	Attached bool `json:"attached,omitempty"`
}

// A Server says how PostgreSQL runs on a mount.
type Server struct {
	Bin     pgserver.Bin       `json:"bin"`
	Port    int                `json:"port"`
	Listen  string             `json:"listen,omitempty"` // TCP addresses; scram only
	Preload []string           `json:"preload,omitempty"`
	Set     []pgserver.Setting `json:"set,omitempty"`
	Durable bool               `json:"durable,omitempty"`
	// RollBack rolls prepared transactions back once it runs.
	RollBack bool `json:"rollback,omitempty"`
	// Rebuild names, by database, indexes to be rebuilt while they are not valid.
	Rebuild map[string][]string `json:"rebuild,omitempty"`
}

// Launch mounts in the background and returns when the mount, and the server
// if one is to start, is ready. A context cancelled by then undoes everything.
func Launch(ctx context.Context, job Job) (*state.Mount, error) {
	dir := job.State.MountDir(job.Mount.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	job.Mount.Log = filepath.Join(dir, "log")
	answers, process, err := spawn(job)
	if err != nil {
		return nil, fmt.Errorf("start the supervisor of %s: %w", job.Mount.Mountpoint, err)
	}
	defer answers.Close()
	stop := context.AfterFunc(ctx, func() { _ = process.Signal(syscall.SIGTERM) })
	defer stop()
	var reply Reply
	if err := json.NewDecoder(answers).Decode(&reply); err != nil {
		return nil, died(ctx, job, err)
	}
	if err := reply.err(); err != nil {
		_ = process.Wait(context.WithoutCancel(ctx)) // nothing of it is left once this returns
		return nil, errors.Join(ctx.Err(), err)
	}
	return reply.Mount, nil
}

// died explains a supervisor that ended without an answer, and clears away what
// it left.
func died(ctx context.Context, job Job, err error) error {
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("the supervisor of %s died while it mounted; see %s", job.Mount.Mountpoint, job.Mount.Log)
	}
	if m, loadErr := job.State.Load(job.Mount.ID); loadErr == nil {
		err = errors.Join(err, CleanUp(context.WithoutCancel(ctx), job.State, m, true))
	}
	return errors.Join(ctx.Err(), err)
}

func spawn(job Job) (answers *os.File, process proc.ID, err error) {
	text, err := json.Marshal(job)
	if err != nil {
		return nil, proc.ID{}, err
	}
	log, err := os.OpenFile(job.Mount.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, proc.ID{}, err
	}
	defer log.Close()
	answers, out, err := os.Pipe()
	if err != nil {
		return nil, proc.ID{}, err
	}
	defer out.Close()
	cmd := exec.Command("/proc/self/exe", Command)
	cmd.Args[0] = "pg0"
	cmd.Dir = "/"
	cmd.Stdin = strings.NewReader(string(text))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{out}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err = cmd.Start(); err == nil {
		process, err = proc.Of(cmd.Process.Pid)
		go func() { _ = cmd.Wait() }() // its answer tells how it went
	}
	if err != nil {
		answers.Close()
		return nil, proc.ID{}, err
	}
	return answers, process, nil
}

// Foreground waits until the mount is gone. A cancelled context asks for that.
func Foreground(ctx context.Context, dir state.Dir, m *state.Mount) error {
	err := m.Supervisor.Wait(ctx)
	if ctx.Err() == nil {
		return err
	}
	if _, err := Ask(context.WithoutCancel(ctx), dir, m.ID, Request{Op: Umount, Force: true}); err != nil && !errors.Is(err, ErrNoSupervisor) {
		return exit.Error(exit.Interrupted, err)
	}
	return m.Supervisor.Wait(context.WithoutCancel(ctx))
}
