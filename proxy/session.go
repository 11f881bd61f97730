package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// A session is a client with its server.
type session struct {
	server    *Server
	client    net.Conn
	backend   *net.UnixConn
	address   string // of the server
	key       key    // that the client has
	serverKey pgproto3.BackendKeyData
	target    *Backend
	audit     audit

	// Of the stream; see pump.
	asked     atomic.Int64 // requests that end in ReadyForQuery
	answered  atomic.Int64
	status    atomic.Uint32 // of the transaction, by the last ReadyForQuery
	unsynced  atomic.Bool   // messages were sent that no Sync has followed
	simple    atomic.Bool   // the last request was a simple query
	copyIn    atomic.Bool   // Sync means nothing until the client ends its COPY
	active    atomic.Int64  // when something last happened, by the coarse clock
	ready     int64         // answers that the client is about to get; of the server side alone
	grafted   atomic.Bool   // results may come from other points than the base
	leftover  []byte        // what the server sent at once with ReadyForQuery
	labels    labeller
	encoding  atomic.Bool // the client takes UTF-8
	lastFatal atomic.Bool // the server has said itself why it ends
	left      atomic.Bool // the client has said that it leaves

	toClient io.Writer
	toServer io.Writer
	looped   atomic.Pointer[looped] // nil if goroutines drive the session

	clientMu sync.Mutex // held while something is written to the client
	aligned  bool       // the client stands between two messages
	ended    bool       // nothing may be written any more
}

// open makes the session: the server becomes ready, and what it says at the
// start goes to the client with pg0's labels among it.
func (g *greeting) open(route Route) (*session, error) {
	var broken error
	target, err := route.Open(g.server.ctx, g.role, func(text string) {
		if broken == nil {
			_ = g.conn.SetWriteDeadline(time.Now().Add(endPatience))
			_, broken = g.conn.Write(notice("NOTICE", codeSuccess, ascii("pg0: "+text)))
		}
	})
	if err != nil {
		return nil, err
	}
	_ = g.conn.SetWriteDeadline(time.Time{})
	s := &session{server: g.server, client: g.conn, target: target, address: target.Address, aligned: true}
	if broken != nil {
		s.letGo()
		return nil, errGone
	}
	if err := g.connect(s); err != nil {
		s.letGo()
		return nil, err
	}
	return s, nil
}

func (g *greeting) connect(s *session) error {
	if g.server.ReadOnly && g.options.write {
		return errReadOnly
	}
	ctx, done := context.WithTimeout(g.server.ctx, g.server.StartupTimeout)
	defer done()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", s.address)
	if err != nil {
		return fmt.Errorf("server of %s: %w", s.target.Labels.Mix, err)
	}
	s.backend = conn.(*net.UnixConn)
	_ = s.backend.SetDeadline(time.Now().Add(g.server.StartupTimeout))
	startup := pgproto3.StartupMessage{ProtocolVersion: protocol3, Parameters: g.startupParams(s)}
	packet, err := startup.Encode(nil)
	if err != nil {
		return violation("invalid startup packet: %v", err)
	}
	if _, err := s.backend.Write(packet); err != nil {
		return fmt.Errorf("server of %s: %w", s.target.Labels.Mix, err)
	}
	s.prepare(g)
	if err := g.relay(s); err != nil {
		return err
	}
	_ = s.backend.SetDeadline(time.Time{})
	return nil
}

// prepare fills in what the session knows from the start.
func (s *session) prepare(g *greeting) {
	s.key = g.server.keys.issue(s)
	s.active.Store(g.server.now.Load())
	s.status.Store('I')
	s.audit.begin(g, s.target)
	label := g.server.Label
	for _, text := range []string{s.target.Labels.Label, g.options.label} {
		if chosen, ok := ParseLabel(text); ok {
			label = chosen
		}
	}
	s.labels.init(label)
	s.readRelations(false)
}

// maxApplication is the length of a name in PostgreSQL.
const maxApplication = 63

// maxProvenance is what a client is told of the provenance: libpq drops
// parameters of 30,000 bytes, and a start-up packet has 10,000.
const maxProvenance = 4096

// startupParams are those of the client with pg0's.
func (g *greeting) startupParams(s *session) map[string]string {
	l := &s.target.Labels
	params := maps.Clone(g.params)
	params["user"], params["database"] = g.role, s.target.Database
	suffix := "[pg0 " + l.Mix + "]"
	if name := params["application_name"]; name != "" {
		suffix = name[:max(0, min(len(name), maxApplication-1-len(suffix)))] + " " + suffix
	}
	params["application_name"] = suffix
	for name, value := range l.settings() {
		if name != "pg0.provenance" || !l.ServerSet {
			params[name] = value
		}
	}
	if g.server.ReadOnly {
		params[readOnlySettings[0]] = "on"
	}
	return params
}

// settings are those that a session shows, and that its client is told.
func (l *Labels) settings() map[string]string {
	settings := map[string]string{"pg0.mix": l.Mix, "pg0.base": l.Base, "pg0.provenance": l.Provenance}
	for name, value := range settings {
		settings[name] = shorten(l.text(value), maxProvenance)
	}
	return settings
}

// text is what may be sent in the encoding of the database.
func (l *Labels) text(s string) string {
	if !l.ASCII {
		return s
	}
	return ascii(s)
}

func ascii(s string) string {
	var out strings.Builder
	for _, r := range s {
		if r < 0x80 {
			out.WriteRune(r)
		} else {
			fmt.Fprintf(&out, `\u%04X`, r)
		}
	}
	return out.String()
}

// shorten cuts a list at one of its separators.
func shorten(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	const more = "; and more, see view pg0.provenance"
	cut := s[:limit-len(more)]
	if i := strings.LastIndexAny(cut, ";,"); i > 0 {
		cut = cut[:i]
	}
	return strings.ToValidUTF8(cut, "") + more
}

// relay passes on what the server says until it is ready for the first query.
func (g *greeting) relay(s *session) error {
	reader := bufio.NewReader(s.backend)
	var out []byte
	for {
		kind, body, err := readMessage(reader, maxLook)
		if err != nil {
			return fmt.Errorf("server of %s: %w", s.target.Labels.Mix, err)
		}
		switch kind {
		case 'R':
			if len(body) != 4 || [4]byte(body) != [4]byte{} {
				return fmt.Errorf("server of %s asks for a password; pg0 expects its private socket to trust", s.target.Labels.Mix)
			}
			continue
		case 'E':
			// The server's own words, such as an unknown database.
			_, _ = g.conn.Write(append(out, message('E', body)...))
			return errGone
		case 'K':
			if err := s.serverKey.Decode(body); err != nil {
				return err
			}
			out = append(out, encode(&pgproto3.BackendKeyData{ProcessID: s.key.pid, SecretKey: s.key.secret[:]})...)
			continue
		case 'S':
			s.parameter(body)
		case 'Z':
			out = append(out, g.labels(s)...)
			out = append(out, message('Z', body)...)
			s.leftover, _ = reader.Peek(reader.Buffered())
			if _, err := g.conn.Write(out); err != nil {
				return errGone
			}
			return nil
		}
		out = append(out, message(kind, body)...)
	}
}

// parameter takes note of what the server reports.
func (s *session) parameter(body []byte) (name, value string) {
	var status pgproto3.ParameterStatus
	if status.Decode(body) != nil {
		return "", ""
	}
	if status.Name == "client_encoding" {
		s.encoding.Store(strings.EqualFold(status.Value, "UTF8"))
	}
	return status.Name, status.Value
}

func message(kind byte, body []byte) []byte {
	n := len(body) + 4
	out := make([]byte, 0, 1+n)
	out = append(out, kind, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	return append(out, body...)
}

// labels are the parameters and the line that tell a client what it sees.
func (g *greeting) labels(s *session) (out []byte) {
	l := &s.target.Labels
	settings := l.settings()
	for _, name := range []string{"pg0.mix", "pg0.base", "pg0.provenance"} {
		out = append(out, encode(&pgproto3.ParameterStatus{Name: name, Value: s.words(settings[name])})...)
	}
	if g.wantsNotice() && l.Notice != "" {
		out = append(out, notice("NOTICE", codeSuccess, s.words(l.Notice))...)
	}
	return out
}

// words are those that the client can show.
func (s *session) words(text string) string {
	if s.encoding.Load() {
		return text
	}
	return ascii(text)
}

// interactive are the names of clients that a person types at.
var interactive = []string{"psql", "pgcli", "usql", "pgadmin", "dbeaver", "datagrip", "beekeeper", "tableplus"}

func (g *greeting) wantsNotice() bool {
	if on, ok := parseBool(g.options.notice); ok {
		return on
	}
	if g.server.Notice != NoticeInteractive {
		return g.server.Notice == NoticeAlways
	}
	name := strings.ToLower(g.params["application_name"] + " " + g.params["fallback_application_name"])
	for _, client := range interactive {
		if strings.HasPrefix(name, client) {
			return true
		}
	}
	return false
}

// run passes bytes until one side has left.
func (s *session) run() {
	srv := s.server
	l := srv.loopFor(s)
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.sessions[s] = true
	if l != nil {
		srv.work.Add(1)
		l.post(s.looped.Load().begin)
		return
	}
	srv.work.Add(2)
	s.toClient, s.toServer = s.client, s.backend
	fromServer := newPump(s.backend, (*serverSide)(s))
	fromServer.preload(s.leftover)
	s.leftover = nil
	// New goroutines: the stack of this one has grown with the start-up.
	go s.fromClient(newPump(s.client, (*clientSide)(s)), nil)
	go s.fromServer(fromServer, nil)
}

// fromClient forwards until the client leaves, and lets the server know. owed
// goes to the server first.
func (s *session) fromClient(p *pump, owed []byte) {
	defer s.server.work.Done()
	_, err := s.backend.Write(owed)
	if err == nil {
		err = p.run()
	}
	var known *Error
	if errors.As(err, &known) {
		s.end(known)
		return
	}
	// The server first finishes what it was asked for.
	_ = s.backend.CloseWrite()
}

// fromServer forwards until the server ends the session, and ends it. owed goes
// to the client first.
func (s *session) fromServer(p *pump, owed []byte) {
	defer s.server.work.Done()
	err := (*serverSide)(s).pass(owed)
	if err == nil {
		err = p.run()
	}
	var known *Error
	switch {
	case errors.As(err, &known):
		s.end(known)
	case !errors.Is(err, errGone) && s.unexplained():
		s.end(s.serverGone())
	}
	s.finish()
}

// unexplained says that nobody has announced the end of the session.
func (s *session) unexplained() bool { return !s.lastFatal.Load() && !s.left.Load() }

func (s *session) serverGone() *Error {
	return &Error{Code: CodeConnectionFailure, Message: fmt.Sprintf("the server of %s has closed the connection", s.target.Labels.Mix)}
}

// idle says whether the session stands outside of a transaction and the server
// owes no answer.
func (s *session) idle() bool {
	return s.status.Load() == 'I' && !s.unsynced.Load() && s.asked.Load() <= s.answered.Load()
}

// end closes the session; the client is told why if it stands between two
// messages.
func (s *session) end(why *Error) {
	if x := s.looped.Load(); x != nil {
		x.loop.post(func() {
			if s.looped.Load() == x {
				x.end(why)
			} else {
				go s.end(why) // it has just left the loop
			}
		})
		return
	}
	// A client that takes nothing must not hold this up.
	_ = s.client.SetWriteDeadline(time.Now().Add(endPatience))
	s.clientMu.Lock()
	if !s.ended {
		s.ended = true
		s.audit.because(why)
		if s.aligned {
			_, _ = s.client.Write(why.fatal()) // it may have left
		}
	}
	s.clientMu.Unlock()
	_ = s.client.SetReadDeadline(time.Now())
	_ = s.backend.Close()
	s.labels.abandon()
}

// endPatience is how long a client may take for its last message.
const endPatience = 2 * time.Second

// finish takes the session away.
func (s *session) finish() {
	s.clientMu.Lock()
	s.ended = true
	s.clientMu.Unlock()
	_ = s.client.Close()
	s.labels.abandon()
	s.server.mu.Lock()
	delete(s.server.sessions, s)
	s.server.mu.Unlock()
	s.letGo()
	s.server.release()
	s.audit.write(s)
}

// letGo gives back what the session holds of the server.
func (s *session) letGo() {
	if s.key.pid != 0 {
		s.server.keys.revoke(s.key)
	}
	if s.backend != nil {
		_ = s.backend.Close()
	}
	if s.target.Close != nil {
		s.target.Close()
	}
}
