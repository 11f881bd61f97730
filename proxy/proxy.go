// Package proxy stands before PostgreSQL servers: it speaks their protocol at
// start-up, checks passwords, finds the server that a database name asks for,
// and labels the session with where its rows come from. From then on it passes
// bytes both ways and looks into few messages.
package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Router finds servers by the database names that clients ask for.
type Router interface {
	// Route is called before the client is authenticated, so it must be cheap
	// and must not tell what exists.
	Route(ctx context.Context, database string) (Route, error)
}

// A Route is the way to one server. Errors of both methods that are *Error go
// to the client as they are.
type Route interface {
	// Secret is what a role must prove to know. A role that does not exist, or
	// has no password, has a zero Secret.
	Secret(ctx context.Context, role string) (Secret, error)
	// Open makes the server ready for one session of an authenticated role.
	// What it says meanwhile is shown to the client.
	Open(ctx context.Context, role string, say func(string)) (*Backend, error)
}

// A Secret is what pg_authid keeps of a role's password.
type Secret struct {
	Verifier string // rolpassword: SCRAM-SHA-256$... or md5...; empty: none
	Expired  bool   // rolvaliduntil has passed
}

// A Backend is a server that is ready for one session.
type Backend struct {
	Address  string // path of its Unix socket, which asks for no password
	Database string // the name that the server knows
	Labels   Labels
	// Relations are those that come from other points than the base. It is
	// asked at the start of a session, where the answer may be some seconds old,
	// and anew when labels are switched on. The answer is immutable.
	Relations func(ctx context.Context, anew bool) (*Relations, error)
	// Close says that the session has ended; nil if nobody wants to know.
	Close func()
}

// Labels say in words what a session looks at.
type Labels struct {
	Mix        string // name of the mount
	Base       string // the point that everything unnamed comes from
	Provenance string // all origins, base first
	Notice     string // one line for people
	Label      string // pg0.label of the role in this database, empty if not set
	// ServerSet says that the server's own configuration has the provenance,
	// which may be longer than a client can take.
	ServerSet bool
	ASCII     bool // the database is not in UTF-8: send nothing but ASCII
}

// Config says how to serve. Router, Audit and Logger are required.
type Config struct {
	Router Router
	Audit  *slog.Logger // one line a session
	Logger *slog.Logger

	Insecure bool        // believe every client, also over TCP
	TLS      *tls.Config // nil: no TLS

	MaxSessions    int           // 0: 500
	MaxPending     int           // connections that are not authenticated yet; 0: 1024
	StartupTimeout time.Duration // until a client is authenticated; 0: 30 s
	IdleTimeout    time.Duration // of sessions outside of transactions; 0: none
	KeepAlive      time.Duration // of TCP; 0: 60 s

	Notice        Notice
	Label         Label // of sessions that set none
	ReadOnly      bool
	LogStatements bool
}

// Notice says who gets a line about the mix at the start of a session.
type Notice int

// The kinds of Notice.
const (
	NoticeInteractive Notice = iota // clients that a person types at
	NoticeAlways
	NoticeNever
)

// A Server takes clients on any number of listeners.
type Server struct {
	Config
	auth *authenticator
	keys keyring

	ctx    context.Context // ends when nobody may start any more
	stop   context.CancelFunc
	work   sync.WaitGroup
	now    atomic.Int64 // coarse clock, in nanoseconds since the epoch
	idlers sync.Once

	mu        sync.Mutex
	listeners map[net.Listener]bool
	sessions  map[*session]bool
	reserved  int // sessions and those that are about to be one
	pending   pendingList
	draining  bool
	loops     []*loop
	maxLoops  int
	next      int // loop of the next session
}

// New makes a server with the defaults filled in.
func New(c Config) (*Server, error) {
	if c.MaxSessions <= 0 {
		c.MaxSessions = 500
	}
	if c.MaxPending <= 0 {
		c.MaxPending = 1024
	}
	if c.StartupTimeout <= 0 {
		c.StartupTimeout = 30 * time.Second
	}
	if c.KeepAlive <= 0 {
		c.KeepAlive = time.Minute
	}
	auth, err := newAuthenticator(c.TLS)
	if err != nil {
		return nil, err
	}
	if c.TLS != nil {
		c.TLS = c.TLS.Clone()
		c.TLS.NextProtos = []string{alpn}
		c.TLS.MinVersion = max(c.TLS.MinVersion, tls.VersionTLS12)
	}
	s := &Server{
		Config: c, auth: auth,
		listeners: map[net.Listener]bool{}, sessions: map[*session]bool{},
		maxLoops: (runtime.GOMAXPROCS(0) + processorsEach - 1) / processorsEach,
	}
	s.pending.limit = c.MaxPending
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.now.Store(time.Now().UnixNano())
	return s, nil
}

// ErrClosed is what Serve returns after Shutdown.
var ErrClosed = errors.New("proxy is shut down")

// acceptPause is for when the machine has run out of descriptors.
const acceptPause = 50 * time.Millisecond

// Serve takes clients until the listener fails or Shutdown is called. TCP
// beyond this machine is refused without TLS.
func (s *Server) Serve(l net.Listener) error {
	if err := s.CheckListener(l.Addr()); err != nil {
		return err
	}
	if !s.add(l) {
		return ErrClosed
	}
	defer s.forget(l)
	s.idlers.Do(func() { go s.watch() })
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			s.take(conn)
		case s.ctx.Err() != nil:
			return ErrClosed
		case isTemporary(err):
			s.Logger.Warn("take a client", "error", err)
			time.Sleep(acceptPause)
		default:
			return fmt.Errorf("listen on %s: %w", l.Addr(), err)
		}
	}
}

// CheckListener refuses TCP beyond this machine without TLS.
func (s *Server) CheckListener(addr net.Addr) error {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || tcp.IP.IsLoopback() || s.TLS != nil {
		return nil
	}
	return fmt.Errorf("%s can be reached from other machines, so it needs TLS", addr)
}

func (s *Server) add(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.listeners[l] = true
	return true
}

func (s *Server) forget(l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
	_ = l.Close() // already so in a shutdown
}

// take starts the conversation with a new client.
func (s *Server) take(conn net.Conn) {
	p := &pending{conn: conn}
	s.mu.Lock()
	if s.draining {
		s.mu.Unlock()
		_ = conn.Close()
		return
	}
	s.work.Add(1)
	evicted := s.pending.push(p)
	s.mu.Unlock()
	if evicted != nil {
		_ = evicted.conn.Close()
	}
	go s.greet(p)
}

// Shutdown ends the listeners and every session as soon as it is outside of a
// transaction. When the context ends, those that are left are cut off.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	s.stop()
	var closers []io.Closer
	for l := range s.listeners {
		closers = append(closers, l)
	}
	for p := range s.pending.all() {
		closers = append(closers, p.conn)
	}
	s.mu.Unlock()
	for _, c := range closers {
		_ = c.Close() // its user notices
	}
	done := make(chan struct{})
	go func() { s.work.Wait(); close(done) }()
	late, end := ctx.Done(), func() { s.endIdle(0, errShutdown) }
	for {
		end()
		select {
		case <-done:
			s.stopLoops()
			if late == nil {
				return ctx.Err()
			}
			return nil
		case <-late:
			// A session may be about to begin, so once is not enough.
			late, end = nil, s.cutOff
		case <-time.After(drainPause):
		}
	}
}

// drainPause is between two looks for sessions that can end.
const drainPause = 20 * time.Millisecond

func (s *Server) cutOff() {
	for _, one := range s.snapshot() {
		one.end(errShutdown)
	}
}

func (s *Server) snapshot() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*session, 0, len(s.sessions))
	for one := range s.sessions {
		all = append(all, one)
	}
	return all
}

// tick is how exact the coarse clock is.
const tick = time.Second

// watch keeps the coarse clock, and ends sessions that were idle too long.
func (s *Server) watch() {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case now := <-t.C:
			s.now.Store(now.UnixNano())
			if s.IdleTimeout > 0 {
				s.endIdle(s.IdleTimeout, errIdle)
			}
		}
	}
}

// endIdle ends the sessions that have been idle, outside of transactions, for
// some time.
func (s *Server) endIdle(least time.Duration, why *Error) {
	for _, one := range s.snapshot() {
		if one.idle() && time.Duration(s.now.Load()-one.active.Load()) >= least {
			one.end(why)
		}
	}
}

// reserve takes one of the places for sessions.
func (s *Server) reserve() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reserved >= s.MaxSessions {
		return false
	}
	s.reserved++
	return true
}

func (s *Server) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reserved--
}

// Sessions is the number of those that are open.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// isTemporary says that the next client may be taken: the kernel has run out of
// something, or this client has left already.
func isTemporary(err error) bool {
	for _, one := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, one) {
			return true
		}
	}
	return false
}
