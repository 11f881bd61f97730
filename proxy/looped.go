package proxy

import (
	"cmp"
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A looped is a session in a loop. See loop for who may touch it.
type looped struct {
	*session
	loop   *loop
	client *socket
	server *socket
	ending bool // the client gets its last bytes
	done   bool // the session has ended or left the loop
}

// enter takes the sockets of the session out of Go's poller.
func (s *session) enter(l *loop) error {
	clientConn, ok := s.client.(syscall.Conn)
	if !ok {
		return errors.ErrUnsupported // TLS
	}
	client, err := duplicate(clientConn)
	if err != nil {
		return err
	}
	server, err := duplicate(s.backend)
	if err != nil {
		_ = unix.Close(client)
		return err
	}
	// These close no more than their descriptors.
	_ = s.client.Close()
	_ = s.backend.Close()
	x := &looped{session: s, loop: l}
	x.client = &socket{fd: client, of: x, reading: true, pump: &pump{side: (*clientSide)(s), looped: true}}
	x.server = &socket{fd: server, of: x, reading: true, pump: &pump{side: (*serverSide)(s), looped: true}}
	x.client.peer, x.server.peer = x.server, x.client
	x.server.pump.preload(s.leftover)
	s.leftover = nil
	s.toClient, s.toServer = x.client, x.server
	s.looped.Store(x)
	return nil
}

// begin is the first that the loop does with the session.
func (x *looped) begin() {
	x.loop.add(x.client)
	x.loop.add(x.server)
	if err := x.server.pump.again(); err != nil {
		x.failed(x.server, err)
	}
	x.watch()
}

func (x *looped) watch() {
	if x.done {
		return
	}
	if err := cmp.Or(x.loop.watch(x.client), x.loop.watch(x.server)); err != nil {
		x.end(asError(err))
	}
}

// event is called when something has happened to a socket.
func (x *looped) event(k *socket, events uint32) {
	if k.lags() && events&^unix.EPOLLIN != 0 {
		x.flush(k)
	}
	if events&^unix.EPOLLOUT != 0 {
		x.receive(k)
	}
	x.watch()
}

// burst is how many full buffers of one socket are passed on before others get
// their turn.
const burst = 4

// receive passes on what has come. It does not ask for more after less than a
// buffer: what comes later is reported.
func (x *looped) receive(k *socket) {
	for range burst {
		if x.done || !k.reading || k.peer.lags() || !k.pump.receive(k.fd) {
			return
		}
		n := k.pump.n
		if n <= 0 {
			x.ended(k)
			return
		}
		whole := k.pump.have+n < chunk
		if err := k.pump.spend(); err != nil {
			x.failed(k, err)
			return
		}
		if whole {
			return
		}
	}
}

// flush writes on to a socket that has room again.
func (x *looped) flush(k *socket) {
	if err := k.flush(); err != nil {
		x.ended(k.peer)
		return
	}
	switch {
	case k.lags():
	case k.shut:
		k.shutdown()
	case k == x.client:
		x.clientMu.Lock()
		(*serverSide)(x.session).delivered()
		x.clientMu.Unlock()
		if x.ending {
			x.finish()
		}
	}
}

// failed is called with what stopped the flow from a socket.
func (x *looped) failed(from *socket, err error) {
	var known *Error
	switch {
	case err == errLeave:
		x.leave()
	case errors.As(err, &known):
		x.end(known)
	default:
		x.ended(from)
	}
}

// ended is called when nothing more comes from a socket, or nobody is left to
// take it.
func (x *looped) ended(from *socket) {
	from.reading = false
	switch {
	case from == x.client:
		// The server first finishes what it was asked for.
		x.server.shutdown()
	case x.client.broken == nil && x.unexplained():
		x.end(x.serverGone())
	default:
		x.close()
	}
}

// end closes the session; the client is told why if it stands between two
// messages.
func (x *looped) end(why *Error) {
	if x.done {
		return
	}
	x.clientMu.Lock()
	if !x.session.ended {
		x.session.ended = true
		x.audit.because(why)
		if x.aligned {
			_, _ = x.client.Write(why.fatal()) // it may have left
		}
	}
	x.clientMu.Unlock()
	x.close()
}

// close ends the session once the client has what was sent to it.
func (x *looped) close() {
	x.client.reading, x.server.reading = false, false
	x.server.drop()
	x.loop.forget(x.server)
	switch {
	case !x.client.lags():
		x.finish()
	case !x.ending:
		x.ending = true
		time.AfterFunc(endPatience, func() { x.loop.post(x.finish) })
	}
}

func (x *looped) finish() {
	if x.done {
		return
	}
	x.done = true
	x.client.drop()
	x.loop.forget(x.client)
	x.loop.forget(x.server)
	go func() { // the audit log may take its time
		defer x.session.server.work.Done()
		x.session.finish()
	}()
}

// leave hands the session over to goroutines, which may block.
func (x *looped) leave() {
	client, err := connOf(x.client.fd)
	if err != nil {
		x.end(asError(err))
		return
	}
	server, err := connOf(x.server.fd)
	if err != nil {
		_ = client.Close()
		x.end(asError(err))
		return
	}
	x.done = true
	x.loop.forget(x.client)
	x.loop.forget(x.server)
	s := x.session
	s.server.keepAlive(client)
	s.client, s.backend = client, server.(*net.UnixConn)
	s.toClient, s.toServer = s.client, s.backend
	s.looped.Store(nil)
	s.server.work.Add(1) // and the one that the loop had
	go s.fromClient(x.client.carry(client), x.server.pending)
	go s.fromServer(x.server.carry(server), x.client.pending)
}

// carry makes a pump that goes on where that of the socket stopped.
func (k *socket) carry(from io.Reader) *pump {
	p := newPump(from, k.pump.side)
	p.rest, p.wanted, p.buf, p.have = k.pump.rest, k.pump.wanted, k.pump.buf, k.pump.have
	return p
}
