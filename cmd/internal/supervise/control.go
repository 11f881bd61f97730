package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/state"
)

// Operations that a supervisor takes.
const (
	Status = "status"
	Start  = "start"
	Stop   = "stop"
	Umount = "umount"
)

// A Request goes to the supervisor of a mount, one a connection.
type Request struct {
	Op     string  `json:"op"`
	Force  bool    `json:"force,omitempty"`  // umount: also end what pg0 did not start
	Mode   string  `json:"mode,omitempty"`   // stop: smart, fast or immediate
	Server *Server `json:"server,omitempty"` // start: nil is what mount was given
}

// A Reply answers a Request.
type Reply struct {
	Error string       `json:"error,omitempty"`
	Code  int          `json:"code,omitempty"`
	Mount *state.Mount `json:"mount,omitempty"`
	Usage int64        `json:"usage,omitempty"` // bytes of the layer on disk
}

func (r *Reply) err() error {
	if r.Error == "" {
		return nil
	}
	return exit.Error(r.Code, errors.New(r.Error))
}

func failure(err error) Reply {
	if err == nil {
		return Reply{}
	}
	return Reply{Error: err.Error(), Code: exit.Code(err)}
}

var (
	// ErrNoSupervisor is wrapped by Ask when nobody listens.
	ErrNoSupervisor = errors.New("no supervisor runs")
	// ErrEnded is wrapped by Ask when the supervisor ended instead of answering:
	// the mount went away by itself meanwhile, or the supervisor was killed.
	ErrEnded = errors.New("its supervisor ended")
)

// Ask sends a request to the supervisor of a mount and waits for the reply. A
// cancelled context stops the waiting, not what was asked for.
func Ask(ctx context.Context, dir state.Dir, id string, r Request) (*Reply, error) {
	conn, err := dial(ctx, dir.MountDir(id))
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("mount %s: %w", id, ErrNoSupervisor)
	}
	if err != nil {
		return nil, fmt.Errorf("ask the supervisor of mount %s: %w", id, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var reply Reply
	if err = json.NewEncoder(conn).Encode(r); err == nil {
		err = json.NewDecoder(conn).Decode(&reply)
	}
	if ctx.Err() == nil && (errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)) {
		return nil, fmt.Errorf("mount %s: %w", id, ErrEnded)
	}
	if err != nil {
		return nil, errors.Join(ctx.Err(), fmt.Errorf("the supervisor of mount %s gave no answer: %w", id, err))
	}
	return &reply, reply.err()
}

const controlSocket = "control.sock"

// throughDescriptor calls use with a name of the control socket that is short
// however long the path of the directory is: sockets take 107 bytes.
func throughDescriptor(dir string, use func(address string) error) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	return use(fmt.Sprintf("/proc/self/fd/%d/%s", fd, controlSocket))
}

func dial(ctx context.Context, dir string) (conn net.Conn, err error) {
	err = throughDescriptor(dir, func(address string) error {
		conn, err = new(net.Dialer).DialContext(ctx, "unix", address)
		return err
	})
	return conn, err
}

func listen(dir string) (listener net.Listener, err error) {
	// One left by a supervisor that was killed; the lock says that it is gone.
	if err := os.Remove(filepath.Join(dir, controlSocket)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	err = throughDescriptor(dir, func(address string) error {
		listener, err = net.Listen("unix", address)
		return err
	})
	if err == nil {
		// Its name would be removed through a descriptor that is closed by then.
		listener.(*net.UnixListener).SetUnlinkOnClose(false)
	}
	return listener, err
}

// tryLock takes the lock that the supervisor of a mount holds while it lives.
// The error has exit code 7 if another holds it.
func tryLock(dir string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	var stat unix.Stat_t
	if err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
		err = unix.Fstat(int(file.Fd()), &stat)
	}
	removed := err == nil && stat.Nlink == 0 // by an unmount that ended just now
	if removed || errors.Is(err, unix.EWOULDBLOCK) {
		err = exit.Error(exit.Busy, errors.New("another pg0 is at work on this mount point; see pg0 status"))
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}
