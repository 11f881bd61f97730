package proxy

import (
	"net"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A socket is one of the two of a session in a loop. It takes what is written
// to it: what the kernel does not is kept, and as long as there is something
// the other socket is not read. So it is at most what one read gives.
type socket struct {
	fd      int
	of      *looped
	peer    *socket
	pump    *pump // of what is read here
	reading bool  // its end has not come yet

	pending []byte
	store   *[chunk]byte // where pending is, unless it has grown
	broken  error        // nothing can be written any more
	shut    bool         // nothing will be written after what is pending
	watched uint32       // what the poller looks for
}

func (k *socket) interest() (events uint32) {
	if k.reading && !k.peer.lags() {
		events |= unix.EPOLLIN
	}
	if k.lags() {
		events |= unix.EPOLLOUT
	}
	return events
}

// lags says that the other end does not take what it is sent.
func (k *socket) lags() bool { return len(k.pending) > 0 }

// Write never blocks, and takes everything unless the connection is broken.
func (k *socket) Write(b []byte) (int, error) {
	if k.broken != nil {
		return 0, k.broken
	}
	n := 0
	if !k.lags() {
		if n, k.broken = k.write(b); k.broken != nil {
			return 0, k.broken
		}
		if n == len(b) {
			return n, nil
		}
	}
	if k.pending == nil {
		k.store = buffers.Get().(*[chunk]byte)
		k.pending = k.store[:0]
	}
	k.pending = append(k.pending, b[n:]...)
	return len(b), nil
}

// write returns 0 without an error if the kernel takes nothing now.
func (k *socket) write(b []byte) (int, error) {
	for {
		n, errno := transfer(unix.SYS_SENDTO, k.fd, b)
		switch errno {
		case 0:
			return n, nil
		case syscall.EAGAIN:
			return 0, nil
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}

// flush writes what is pending.
func (k *socket) flush() error {
	n, err := k.write(k.pending)
	if err != nil {
		k.broken = err
		k.drop()
		return err
	}
	if k.pending = k.pending[n:]; !k.lags() {
		k.drop()
	}
	return nil
}

// drop lets go of what is pending.
func (k *socket) drop() {
	if k.store != nil {
		buffers.Put(k.store)
	}
	k.pending, k.store = nil, nil
}

// transfer sends or receives what is possible at once. Both take less than Go's
// scheduler does to learn of a system call, so it does not learn of them.
func transfer(call uintptr, fd int, b []byte) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	return int(n), errno
}

// shutdown lets the other end know that nothing more comes, once it has all.
func (k *socket) shutdown() {
	k.shut = true
	if !k.lags() && k.fd >= 0 {
		_ = unix.Shutdown(k.fd, unix.SHUT_WR) // it may have left
	}
}

// duplicate returns a descriptor of a connection that Go's poller does not know.
func duplicate(conn syscall.Conn) (fd int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	controlled := raw.Control(func(old uintptr) {
		fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	})
	if controlled != nil {
		return -1, controlled
	}
	return fd, err
}

// connOf is the way back; the descriptor stays open.
func connOf(fd int) (net.Conn, error) {
	again, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(again), "socket")
	defer file.Close()
	return net.FileConn(file)
}
