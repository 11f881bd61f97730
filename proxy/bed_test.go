package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgproto3/v2"
	"github.com/xdg-go/scram"
)

// patience is for what must happen, but not for what must not.
const patience = 20 * time.Second

// A bed is a proxy before a scripted server, each on a real socket.
type bed struct {
	t      testing.TB
	proxy  *Server
	server *fakeServer
	tcp    net.Listener
	unix   net.Listener
	audit  *lockedBuffer
	router *fakeRouter
}

// A lockedBuffer takes a log.
type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// A fakeRouter leads everywhere to one server.
type fakeRouter struct {
	secrets   map[string]Secret
	labels    Labels
	relations *Relations
	unread    error // why they cannot be read
	server    *fakeServer
	openError error
	say       []string
	closed    sync.WaitGroup
}

func (r *fakeRouter) Route(context.Context, string) (Route, error) { return r, nil }

func (r *fakeRouter) Secret(_ context.Context, role string) (Secret, error) {
	return r.secrets[role], nil
}

func (r *fakeRouter) Open(_ context.Context, _ string, say func(string)) (*Backend, error) {
	for _, text := range r.say {
		say(text)
	}
	if r.openError != nil {
		return nil, r.openError
	}
	r.closed.Add(1)
	return &Backend{
		Address: r.server.address, Database: "shop", Labels: r.labels, Close: r.closed.Done,
		Relations: func(context.Context, bool) (*Relations, error) {
			if r.unread != nil {
				return nil, r.unread
			}
			return r.relations, nil
		},
	}, nil
}

// A fakeServer is a PostgreSQL that does what a script says.
type fakeServer struct {
	address string
	script  func(*serverConn)

	mu       sync.Mutex
	startups []map[string]string
	cancels  chan pgproto3.CancelRequest
}

// A serverConn is the server's end of a session, after its start.
type serverConn struct {
	*pgproto3.Backend
	conn net.Conn
}

const (
	serverPID    = 4711
	serverSecret = 0x01020304
)

func newFakeServer(t testing.TB, script func(*serverConn)) *fakeServer {
	t.Helper()
	dir, err := os.MkdirTemp("", "px")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &fakeServer{address: filepath.Join(dir, "s"), script: script, cancels: make(chan pgproto3.CancelRequest, 16)}
	l, err := net.Listen("unix", s.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(conn)
		}
	}()
	return s
}

func (s *fakeServer) serve(conn net.Conn) {
	defer conn.Close()
	b := pgproto3.NewBackend(pgproto3.NewChunkReader(conn), conn)
	first, err := b.ReceiveStartupMessage()
	if err != nil {
		return
	}
	switch first := first.(type) {
	case *pgproto3.CancelRequest:
		s.cancels <- *first
		return
	case *pgproto3.StartupMessage:
		s.mu.Lock()
		s.startups = append(s.startups, maps.Clone(first.Parameters))
		s.mu.Unlock()
	}
	out := wire(
		&pgproto3.AuthenticationOk{}, &pgproto3.ParameterStatus{Name: "client_encoding", Value: "UTF8"},
		&pgproto3.BackendKeyData{ProcessID: serverPID, SecretKey: serverSecret}, &pgproto3.ReadyForQuery{TxStatus: 'I'},
	)
	if _, err := conn.Write(out); err != nil {
		return
	}
	script := s.script
	if script == nil {
		script = echo
	}
	script(&serverConn{b, conn})
}

func (s *fakeServer) lastStartup() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.startups[len(s.startups)-1]
}

// wire is what goes over the wire for messages.
func wire(messages ...pgproto3.Message) (out []byte) {
	for _, m := range messages {
		var err error
		if out, err = m.Encode(out); err != nil {
			panic(err)
		}
	}
	return out
}

// echo answers each query with its text as the command's tag.
func echo(c *serverConn) {
	for {
		m, err := c.Receive()
		if _, leaves := m.(*pgproto3.Terminate); leaves || err != nil {
			return
		}
		if q, ok := m.(*pgproto3.Query); ok {
			out := wire(&pgproto3.CommandComplete{CommandTag: []byte(q.String)}, &pgproto3.ReadyForQuery{TxStatus: 'I'})
			if _, err := c.conn.Write(out); err != nil {
				return
			}
		}
	}
}

// newBed starts a proxy before a server; change may change both.
func newBed(t testing.TB, script func(*serverConn), change func(*Config, *fakeRouter)) *bed {
	t.Helper()
	b := &bed{t: t, audit: &lockedBuffer{}, server: newFakeServer(t, script)}
	b.router = &fakeRouter{
		server: b.server, relations: &Relations{Base: Origin{Point: "thursday"}},
		labels: Labels{Mix: "mix", Base: "thursday", Provenance: "all from thursday", Notice: "pg0: mixed"},
	}
	c := Config{Router: b.router, Audit: slog.New(slog.NewJSONHandler(b.audit, nil)), Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&c, b.router)
	}
	var err error
	if b.proxy, err = New(c); err != nil {
		t.Fatal(err)
	}
	if goroutines {
		b.proxy.maxLoops = 0
	}
	b.tcp = b.listen("tcp", "127.0.0.1:0")
	b.unix = b.listen("unix", b.server.address+"p")
	t.Cleanup(func() {
		ctx, done := context.WithTimeout(context.Background(), patience)
		defer done()
		ctx, cut := context.WithCancel(ctx)
		cut() // what a test leaves open is cut off
		_ = b.proxy.Shutdown(ctx)
		b.router.closed.Wait()
	})
	return b
}

func (b *bed) listen(network, address string) net.Listener {
	l, err := net.Listen(network, address)
	if err != nil {
		b.t.Fatal(err)
	}
	go func() {
		if err := b.proxy.Serve(l); !errors.Is(err, ErrClosed) {
			b.t.Errorf("serve: %v", err)
		}
	}()
	return l
}

// dial connects to one of the proxy's listeners.
func (b *bed) dial(l net.Listener) net.Conn {
	b.t.Helper()
	conn, err := net.Dial(l.Addr().Network(), l.Addr().String())
	if err != nil {
		b.t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	b.t.Cleanup(func() { conn.Close() })
	return conn
}

// A client speaks by the older library, which shares no code with the proxy's.
type client struct {
	*pgproto3.Frontend
	t    testing.TB
	conn net.Conn
	pid  uint32
	key  uint32

	params  map[string]string
	notices []string
}

func newClient(t testing.TB, conn net.Conn) *client {
	return &client{Frontend: pgproto3.NewFrontend(pgproto3.NewChunkReader(conn), conn), t: t, conn: conn, params: map[string]string{}}
}

// connect opens a session over the Unix socket.
func (b *bed) connect(params ...string) *client {
	b.t.Helper()
	c := newClient(b.t, b.dial(b.unix))
	if err := c.start("", params...); err != nil {
		b.t.Fatal(err)
	}
	return c
}

// startup makes a packet of names and values.
func startup(version uint32, params ...string) []byte {
	m := pgproto3.StartupMessage{ProtocolVersion: version, Parameters: map[string]string{"user": "bob", "database": "shop"}}
	for i := 0; i+1 < len(params); i += 2 {
		m.Parameters[params[i]] = params[i+1]
	}
	return wire(&m)
}

// start runs the conversation up to the first ReadyForQuery.
func (c *client) start(password string, params ...string) error {
	if _, err := c.conn.Write(startup(pgproto3.ProtocolVersionNumber, params...)); err != nil {
		return err
	}
	return c.await(password, nil)
}

// await follows a start-up to its end. binding is for SCRAM-SHA-256-PLUS.
func (c *client) await(password string, binding *tls.ConnectionState) error {
	var talk *scram.ClientConversation
	for {
		m, err := c.Receive()
		if err != nil {
			return err
		}
		var answer pgproto3.FrontendMessage
		switch m := m.(type) {
		case *pgproto3.ReadyForQuery:
			return nil
		case *pgproto3.ErrorResponse:
			return pgError(*m)
		case *pgproto3.ParameterStatus:
			c.params[m.Name] = m.Value
		case *pgproto3.NoticeResponse:
			c.notices = append(c.notices, m.Message)
		case *pgproto3.BackendKeyData:
			c.pid, c.key = m.ProcessID, m.SecretKey
		case *pgproto3.AuthenticationMD5Password:
			answer = &pgproto3.PasswordMessage{Password: md5Answer(password, m.Salt)}
		case *pgproto3.AuthenticationSASL:
			talk, answer, err = firstSASL(password, binding, m.AuthMechanisms)
		case *pgproto3.AuthenticationSASLContinue:
			var text string
			text, err = talk.Step(string(m.Data))
			answer = &pgproto3.SASLResponse{Data: []byte(text)}
		case *pgproto3.AuthenticationSASLFinal:
			_, err = talk.Step(string(m.Data))
		}
		if err == nil && answer != nil {
			err = c.Send(answer)
		}
		if err != nil {
			return err
		}
	}
}

func firstSASL(password string, binding *tls.ConnectionState, offered []string) (*scram.ClientConversation, pgproto3.FrontendMessage, error) {
	scramClient, err := scram.SHA256.NewClient("", password, "")
	if err != nil {
		return nil, nil, err
	}
	talk, mechanism := scramClient.NewConversation(), "SCRAM-SHA-256"
	if binding != nil {
		bound, err := scram.NewTLSServerEndpointBinding(binding)
		if err != nil {
			return nil, nil, err
		}
		if offered[0] != "SCRAM-SHA-256-PLUS" {
			return nil, nil, errors.New("no channel binding offered")
		}
		talk, mechanism = scramClient.NewConversationWithChannelBinding(bound), offered[0]
	}
	text, err := talk.Step("")
	return talk, &pgproto3.SASLInitialResponse{AuthMechanism: mechanism, Data: []byte(text)}, err
}

type pgError pgproto3.ErrorResponse

func (e pgError) Error() string { return e.Severity + " " + e.Code + ": " + e.Message }

// codeOf is the SQLSTATE of an error.
func codeOf(err error) string {
	var known pgError
	if errors.As(err, &known) {
		return known.Code
	}
	return ""
}

func (c *client) write(messages ...pgproto3.FrontendMessage) {
	c.t.Helper()
	for _, m := range messages {
		if _, err := c.conn.Write(wire(m)); err != nil {
			c.t.Fatal(err)
		}
	}
}

// read gives short words for what comes, up to and with ReadyForQuery.
func (c *client) read() (words []string) {
	c.t.Helper()
	for {
		m, err := c.Receive()
		if err != nil {
			c.t.Fatalf("after %q: %v", words, err)
		}
		words = append(words, word(m))
		if _, ready := m.(*pgproto3.ReadyForQuery); ready {
			return words
		}
	}
}

func word(m pgproto3.BackendMessage) string {
	switch m := m.(type) {
	case *pgproto3.ReadyForQuery:
		return "ready " + string(m.TxStatus)
	case *pgproto3.CommandComplete:
		return "done " + string(m.CommandTag)
	case *pgproto3.ErrorResponse:
		return m.Severity + " " + m.Code + ": " + m.Message
	case *pgproto3.NoticeResponse:
		return m.Severity + ": " + m.Message
	case *pgproto3.RowDescription:
		text := "columns"
		for _, f := range m.Fields {
			text += " " + string(f.Name)
		}
		return text
	case *pgproto3.ParseComplete:
		return "parsed"
	case *pgproto3.BindComplete:
		return "bound"
	case *pgproto3.CloseComplete:
		return "closed"
	case *pgproto3.NoData:
		return "no data"
	case *pgproto3.PortalSuspended:
		return "suspended"
	case *pgproto3.ParameterDescription:
		return "parameters"
	case *pgproto3.DataRow:
		return "row"
	case *pgproto3.CopyInResponse:
		return "copy"
	}
	return "other"
}

func (c *client) query(text string) []string {
	c.t.Helper()
	c.write(&pgproto3.Query{String: text})
	return c.read()
}

// readError reads the message that ends a session.
func (c *client) readError() (code string) {
	for {
		m, err := c.Receive()
		if err != nil {
			return ""
		}
		if e, ok := m.(*pgproto3.ErrorResponse); ok {
			return e.Code
		}
	}
}

// atEnd says whether the connection has been closed.
func atEnd(conn net.Conn) bool {
	_, err := io.Copy(io.Discard, conn)
	return err == nil || !errors.Is(err, os.ErrDeadlineExceeded)
}
