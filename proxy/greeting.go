package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Codes of PostgreSQL's pqcomm.h in the place of a protocol version.
const (
	codeCancel = 80877102
	codeSSL    = 80877103
	codeGSS    = 80877104

	protocol3 = pgproto3.ProtocolVersion30
	// alpn is the name of the protocol in TLS.
	alpn = "postgresql"
	// tlsRecord is the first byte of a TLS handshake.
	tlsRecord = 0x16
	// minStartup and maxStartup are the lengths of MAX_STARTUP_PACKET_LENGTH.
	minStartup = 8
	maxStartup = 10_000
)

// A greeting is the conversation with a client until its session begins.
type greeting struct {
	server *Server
	conn   net.Conn
	secure bool // by TLS
	local  bool // over a Unix socket
	remote string

	role     string
	database string
	params   map[string]string // of the start-up packet, without user and database
	options  *options
	unknown  []string // protocol options
	minor    uint32   // of the protocol that the client asks for
}

// errGone ends a conversation in which nobody is to be answered.
var errGone = errors.New("client has left")

// greet runs from a new connection to the session, or to its end.
func (s *Server) greet(p *pending) {
	defer s.work.Done()
	g := &greeting{server: s, conn: p.conn, remote: p.conn.RemoteAddr().String()}
	_, g.local = p.conn.RemoteAddr().(*net.UnixAddr)
	if g.local {
		g.remote = "local"
	}
	g.configure()
	session, err := g.begin(p)
	if err != nil {
		g.refuse(err)
		_ = g.conn.Close()
		return
	}
	if session != nil {
		session.run()
	}
}

func (g *greeting) configure() {
	_ = g.conn.SetDeadline(time.Now().Add(g.server.StartupTimeout))
	g.server.keepAlive(g.conn)
}

func (s *Server) keepAlive(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{
			Enable: true, Idle: s.KeepAlive, Interval: s.KeepAlive / 4, Count: 4,
		})
	}
}

// begin returns nil without an error for a connection that was there only to
// cancel something.
func (g *greeting) begin(p *pending) (*session, error) {
	body, err := g.startup()
	if err != nil {
		return nil, err
	}
	if binary.BigEndian.Uint32(body) == codeCancel {
		g.server.leavePending(p)
		g.server.cancel(body)
		_ = g.conn.Close()
		return nil, nil
	}
	if err := g.parse(body); err != nil {
		return nil, err
	}
	route, err := g.authenticate()
	if err != nil {
		return nil, err
	}
	// Only now: whoever does not know a password takes no place.
	if !g.server.reserve() {
		return nil, errTooMany
	}
	g.server.leavePending(p)
	_ = g.conn.SetDeadline(time.Time{})
	session, err := g.open(route)
	if err != nil {
		g.server.release()
		return nil, err
	}
	return session, nil
}

func (s *Server) leavePending(p *pending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending.remove(p)
}

// authenticate lets in who knows the password, and finds the way to the server.
func (g *greeting) authenticate() (Route, error) {
	ctx, done := context.WithTimeout(g.server.ctx, g.server.StartupTimeout)
	defer done()
	if err := g.negotiate(); err != nil {
		return nil, err
	}
	route, err := g.server.Router.Route(ctx, g.database)
	if err != nil {
		return nil, err
	}
	if !g.local && !g.server.Insecure {
		if err := g.server.auth.check(ctx, g, route); err != nil {
			return nil, err
		}
	}
	if err := g.send(&pgproto3.AuthenticationOk{}); err != nil {
		return nil, errGone
	}
	return route, nil
}

// startup answers requests for encryption and returns the packet after them:
// version and what follows it.
func (g *greeting) startup() ([]byte, error) {
	var asked struct{ ssl, gss bool }
	for {
		body, err := g.packet(!asked.ssl && !g.secure)
		if err != nil {
			return nil, err
		}
		switch code := binary.BigEndian.Uint32(body); {
		case code == codeSSL && len(body) == 4 && !asked.ssl && !g.secure:
			asked.ssl = true
			err = g.answerSSL()
		case code == codeGSS && len(body) == 4 && !asked.gss && !g.secure:
			asked.gss = true
			_, err = g.conn.Write([]byte{'N'})
		default:
			return body, nil
		}
		if err != nil {
			return nil, errGone
		}
	}
}

// packet reads one packet without a type, and not a byte more: what comes
// after a request for encryption must be encrypted.
func (g *greeting) packet(tlsAllowed bool) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(g.conn, head[:1]); err != nil {
		return nil, errGone
	}
	if head[0] == tlsRecord && tlsAllowed && g.server.TLS != nil && !g.local {
		if err := g.directTLS(head[0]); err != nil {
			return nil, errGone
		}
		return g.packet(false)
	}
	if _, err := io.ReadFull(g.conn, head[1:]); err != nil {
		return nil, errGone
	}
	size := binary.BigEndian.Uint32(head[:])
	if size < minStartup || size > maxStartup {
		return nil, errGone // no PostgreSQL client: it would not understand an answer
	}
	body := make([]byte, size-4)
	if _, err := io.ReadFull(g.conn, body); err != nil {
		return nil, errGone
	}
	return body, nil
}

func (g *greeting) answerSSL() error {
	if g.server.TLS == nil || g.local {
		_, err := g.conn.Write([]byte{'N'})
		return err
	}
	if _, err := g.conn.Write([]byte{'S'}); err != nil {
		return err
	}
	return g.encrypt(g.conn)
}

// directTLS is for a client that begins with TLS. It has to name the protocol,
// so that nobody can lead a client of another one here.
func (g *greeting) directTLS(first byte) error {
	if err := g.encrypt(&prefixed{Conn: g.conn, prefix: []byte{first}}); err != nil {
		return err
	}
	if g.conn.(*tls.Conn).ConnectionState().NegotiatedProtocol != alpn {
		return errors.New("direct TLS without ALPN")
	}
	return nil
}

func (g *greeting) encrypt(conn net.Conn) error {
	secure := tls.Server(conn, g.server.TLS)
	if err := secure.Handshake(); err != nil {
		return err
	}
	g.conn, g.secure = secure, true
	return nil
}

// A prefixed connection gives back bytes that were read already.
type prefixed struct {
	net.Conn
	prefix []byte
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.prefix) > 0 {
		n := copy(b, p.prefix)
		p.prefix = p.prefix[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

// parse reads a start-up packet.
func (g *greeting) parse(body []byte) error {
	version := binary.BigEndian.Uint32(body)
	if major := version >> 16; major != protocol3>>16 {
		return &Error{Code: codeNotSupported, Message: fmt.Sprintf("unsupported frontend protocol %d.%d: pg0 proxy supports 3.0", major, version&0xffff)}
	}
	g.minor = version & 0xffff
	var message pgproto3.StartupMessage
	// Every minor version has the same packet.
	same := append(binary.BigEndian.AppendUint32(nil, protocol3), body[4:]...)
	if bytes.Equal(body[4:], []byte{0}) {
		return &Error{Code: codeInvalidAuth, Message: "no PostgreSQL user name specified in startup packet"}
	}
	if err := message.Decode(same); err != nil {
		return violation("invalid startup packet layout: %v", err)
	}
	return g.accept(message.Parameters)
}

func (g *greeting) accept(params map[string]string) error {
	g.params = map[string]string{}
	for name, value := range params {
		switch {
		case name == "user":
			g.role = value
		case name == "database":
			g.database = value
		case name == "replication":
			if asksReplication(value) {
				return errReplicate
			}
		case strings.HasPrefix(name, "_pq_."):
			g.unknown = append(g.unknown, name)
		default:
			g.params[name] = value
		}
	}
	if g.role == "" {
		return &Error{Code: codeInvalidAuth, Message: "no PostgreSQL user name specified in startup packet"}
	}
	if g.database == "" {
		g.database = g.role
	}
	g.options = readOptions(g.params)
	if tcp, ok := g.conn.RemoteAddr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() && !g.secure {
		return errNoTLS
	}
	return nil
}

// asksReplication reads the value as PostgreSQL does: a boolean or "database".
func asksReplication(value string) bool {
	switch strings.ToLower(value) {
	case "", "0", "f", "fa", "fal", "fals", "false", "n", "no", "of", "off":
		return false
	}
	return true
}

// negotiate tells a client of a newer protocol what is spoken here.
func (g *greeting) negotiate() error {
	if g.minor == 0 && len(g.unknown) == 0 {
		return nil
	}
	if g.send(&pgproto3.NegotiateProtocolVersion{NewestMinorProtocol: protocol3, UnrecognizedOptions: g.unknown}) != nil {
		return errGone
	}
	return nil
}

func (g *greeting) send(m pgproto3.BackendMessage) error {
	_, err := g.conn.Write(encode(m))
	return err
}

// ask sends a request for a password and returns the body of the answer.
func (g *greeting) ask(m pgproto3.BackendMessage) ([]byte, error) {
	if err := g.send(m); err != nil {
		return nil, errGone
	}
	kind, body, err := readMessage(g.conn, maxPassword)
	if err != nil {
		return nil, errGone
	}
	if kind != 'p' {
		return nil, violation("expected password response, got message type %q", kind)
	}
	return body, nil
}

// readMessage reads one message, and not a byte more.
func readMessage(r io.Reader, limit int) (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	size := int(binary.BigEndian.Uint32(head[1:])) - 4
	if size < 0 || size > limit {
		return 0, nil, violation("invalid message length")
	}
	body = make([]byte, size)
	_, err = io.ReadFull(r, body)
	return head[0], body, err
}

// refuse tells the client why there is no session.
func (g *greeting) refuse(err error) {
	var known *Error
	switch {
	case errors.Is(err, errGone):
		return
	case g.server.ctx.Err() != nil:
		known = errShutdown
	default:
		known = asError(err)
	}
	level := g.server.Logger.Info
	if known.Code == CodeConnectionFailure {
		level = g.server.Logger.Warn
	}
	level("client is refused", "remote", g.remote, "user", g.role, "database", g.database, "code", known.Code, "error", err)
	_ = g.conn.SetWriteDeadline(time.Now().Add(g.server.StartupTimeout))
	_, _ = g.conn.Write(known.fatal()) // it may have left
}
