package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/proc"
)

// Command is the hidden command of pg0 that runs Main.
const Command = "serve"

// ErrDied is reported when the serving process has ended unasked: its mount is
// dead.
var ErrDied = errors.New("the process that serves the mount has died")

// A request goes to the child, a reply comes back for each of them and one for
// the recipe. They are JSON values one after the other.
type request struct {
	Op  string `json:"op"` // seal, unmount, usage
	Dir string `json:"dir,omitempty"`
}

type reply struct {
	Error string `json:"error,omitempty"`
	Code  int    `json:"code,omitempty"`
	Usage int64  `json:"usage,omitempty"`
}

func (r reply) err() error {
	if r.Error == "" {
		return nil
	}
	return exit.Error(r.Code, errors.New(r.Error))
}

// A Child is a running process that serves a mount. It ends with its parent
// unless the recipe says Orphan. Its methods may be called in parallel.
type Child struct {
	Dir string  // the mount point
	ID  proc.ID // the process

	cmd     *exec.Cmd
	mu      sync.Mutex // one request at a time
	send    *os.File
	enc     *json.Encoder
	dec     *json.Decoder
	receive *os.File
	done    chan struct{}
	result  error // of the process; valid once done is closed
}

// Start mounts by the recipe and returns when the mount is ready. The error
// carries the exit code that the child found fitting. A context cancelled by
// then undoes the mount.
func Start(ctx context.Context, r Recipe) (*Child, error) {
	c, err := spawn(r)
	if err != nil {
		return nil, fmt.Errorf("start the process that serves %s: %w", r.Mountpoint, err)
	}
	if err := c.exchange(r, nil); err != nil {
		c.reap() // its end says no more than its reply
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, errors.Join(ctx.Err(), c.Stop())
	}
	return c, nil
}

// spawn runs pg0 serve with two pipes: requests on its standard input, replies
// on descriptor 3.
func spawn(r Recipe) (*Child, error) {
	in, send, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	receive, out, err := os.Pipe()
	if err != nil {
		send.Close()
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command("/proc/self/exe", Command)
	cmd.Args[0] = "pg0"
	cmd.Dir = "/" // never inside a mount
	cmd.Stdin, cmd.ExtraFiles = in, []*os.File{out}
	if cmd.Stderr = os.Stderr; r.Log != nil {
		cmd.Stderr = r.Log
	}
	// Out of reach of Ctrl-C: the parent decides in which order things end. A
	// session of its own also has its own share of the CPU.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	c := &Child{
		Dir: r.Mountpoint, cmd: cmd, send: send, receive: receive,
		enc: json.NewEncoder(send), dec: json.NewDecoder(receive), done: make(chan struct{}),
	}
	if err = cmd.Start(); err == nil {
		c.ID, err = proc.Of(cmd.Process.Pid)
	}
	if err != nil {
		send.Close()
		receive.Close()
		return nil, err
	}
	go func() {
		c.result = cmd.Wait()
		close(c.done)
	}()
	return c, nil
}

// exchange sends one value and waits for its reply.
func (c *Child) exchange(value any, answer *reply) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if answer == nil {
		answer = new(reply)
	}
	// A broken pipe shows as the missing reply as well.
	if err := c.enc.Encode(value); err != nil && !errors.Is(err, syscall.EPIPE) {
		return err
	}
	err := c.dec.Decode(answer)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%s: %w", c.Dir, ErrDied)
	}
	if err != nil {
		return err
	}
	return answer.err()
}

// Done is closed when the process has ended.
func (c *Child) Done() <-chan struct{} { return c.done }

// Err says how the process ended: nil if it did so in order. It is valid once
// Done is closed.
func (c *Child) Err() error {
	if c.result == nil {
		return nil
	}
	return fmt.Errorf("%s: %w: %w", c.Dir, ErrDied, c.result)
}

// Unmount takes the mount away; the child keeps the changes for Seal. It is an
// error with exit code 7 while a process uses the mount.
func (c *Child) Unmount() error { return c.exchange(request{Op: "unmount"}, nil) }

// Seal unmounts, if that has not been done, and writes the changes to dir, which
// must not exist.
func (c *Child) Seal(dir string) error {
	return c.exchange(request{Op: "seal", Dir: dir}, nil)
}

// Usage is the number of bytes that the layer takes on disk.
func (c *Child) Usage() (int64, error) {
	var answer reply
	err := c.exchange(request{Op: "usage"}, &answer)
	return answer.Usage, err
}

// Stop unmounts and ends the process. Where a process still uses the mount it
// is detached, and what uses it fails from then on.
func (c *Child) Stop() error {
	if err := c.Unmount(); err != nil && !errors.Is(err, ErrDied) {
		return errors.Join(err, c.end())
	}
	return c.end()
}

// patience is for a child that has nothing left to do but to end.
const patience = 30 * time.Second

// end closes the pipe, which tells the child to give up, and waits for it.
func (c *Child) end() error {
	c.reap()
	return c.Err()
}

func (c *Child) reap() {
	c.send.Close()
	select {
	case <-c.done:
	case <-time.After(patience):
		_ = c.ID.Signal(syscall.SIGKILL)
		<-c.done
	}
	c.receive.Close()
}
