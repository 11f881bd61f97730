package proxy

import (
	"context"
	"crypto/md5"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgproto3/v2"
	v5 "github.com/jackc/pgx/v5/pgproto3"
)

func TestStartLabelsTheSession(t *testing.T) {
	b := newBed(t, nil, nil)
	c := b.connect("application_name", "psql", "work_mem", "7MB", "options", "-c search_path=a\\ b")
	want := map[string]string{
		"user": "bob", "database": "shop", "work_mem": "7MB", "options": "-c search_path=a\\ b",
		"application_name": "psql [pg0 mix]",
		"pg0.mix":          "mix", "pg0.base": "thursday", "pg0.provenance": "all from thursday",
	}
	if diff := cmp.Diff(want, b.server.lastStartup()); diff != "" {
		t.Error("the server was told", diff)
	}
	for name, value := range map[string]string{"pg0.mix": "mix", "pg0.base": "thursday", "pg0.provenance": "all from thursday", "client_encoding": "UTF8"} {
		if c.params[name] != value {
			t.Errorf("the client was told that %s is %q", name, c.params[name])
		}
	}
	if diff := cmp.Diff([]string{"pg0: mixed"}, c.notices); diff != "" {
		t.Error(diff)
	}
	if c.pid == serverPID || c.pid == 0 {
		t.Errorf("the client has the process id %d", c.pid)
	}
	if diff := cmp.Diff([]string{"done hello", "ready I"}, c.query("hello")); diff != "" {
		t.Error(diff)
	}
}

func TestNoticeOnlyWhereItIsWanted(t *testing.T) {
	for _, tt := range []struct {
		notice Notice
		params []string
		want   int
	}{
		{NoticeInteractive, nil, 0},
		{NoticeInteractive, []string{"application_name", "pg_dump"}, 0},
		{NoticeInteractive, []string{"application_name", "psql"}, 1},
		{NoticeInteractive, []string{"application_name", "psql", "options", "-c pg0.notice=off"}, 0},
		{NoticeInteractive, []string{"application_name", "psql", "options", "--pg0.notice=off -c a=b"}, 0},
		{NoticeInteractive, []string{"options", "-c pg0.notice=on"}, 1},
		{NoticeNever, []string{"application_name", "psql"}, 0},
		{NoticeAlways, nil, 1},
		{NoticeAlways, []string{"pg0.notice", "off"}, 0},
	} {
		b := newBed(t, nil, func(c *Config, _ *fakeRouter) { c.Notice = tt.notice })
		if c := b.connect(tt.params...); len(c.notices) != tt.want {
			t.Errorf("%v %q: %q", tt.notice, tt.params, c.notices)
		}
	}
}

func TestLongNamesAndListsAreCut(t *testing.T) {
	b := newBed(t, nil, func(_ *Config, r *fakeRouter) {
		r.labels.Provenance = strings.Repeat("a.b.c from x; ", 1000)
		r.labels.ASCII, r.labels.Base = true, "müll"
	})
	c := b.connect("application_name", strings.Repeat("x", 80))
	told := b.server.lastStartup()
	if name := told["application_name"]; len(name) > 63 || !strings.HasSuffix(name, " [pg0 mix]") {
		t.Errorf("application_name %q", name)
	}
	if p := told["pg0.provenance"]; len(p) > maxProvenance || !strings.HasSuffix(p, "see view pg0.provenance") || p != c.params["pg0.provenance"] {
		t.Errorf("provenance has %d bytes: ...%s", len(p), p[max(0, len(p)-60):])
	}
	if told["pg0.base"] != `m\u00FCll` {
		t.Errorf("base %q", told["pg0.base"])
	}
}

// exchange sends bytes and reads one message that v5 understands.
func exchange(t *testing.T, conn net.Conn, packet []byte) v5.BackendMessage {
	t.Helper()
	if _, err := conn.Write(packet); err != nil {
		t.Fatal(err)
	}
	m, err := v5.NewFrontend(conn, conn).Receive()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestProtocolVersions(t *testing.T) {
	b := newBed(t, nil, nil)
	for _, tt := range []struct {
		version uint32
		params  []string
		want    []string
	}{
		{v5.ProtocolVersion32, nil, []string{}},
		{3<<16 | 9999, []string{"_pq_.test_protocol_negotiation", ""}, []string{"_pq_.test_protocol_negotiation"}},
		{3 << 16, []string{"_pq_.x", "1"}, []string{"_pq_.x"}},
	} {
		m := exchange(t, b.dial(b.unix), startup(tt.version, tt.params...))
		got, ok := m.(*v5.NegotiateProtocolVersion)
		if !ok || got.NewestMinorProtocol != 3<<16 {
			t.Fatalf("%x: %#v", tt.version, m)
		}
		if diff := cmp.Diff(tt.want, got.UnrecognizedOptions); diff != "" {
			t.Error(diff)
		}
	}
	// A newer client goes on with what was negotiated.
	c := newClient(t, b.dial(b.unix))
	if _, err := c.conn.Write(startup(v5.ProtocolVersion32)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readMessage(c.conn, 100); err != nil {
		t.Fatal(err)
	}
	if err := c.await("", nil); err != nil {
		t.Error(err)
	}
	for version, code := range map[uint32]string{2 << 16: codeNotSupported, 4 << 16: codeNotSupported} {
		if m, ok := exchange(t, b.dial(b.unix), startup(version)).(*v5.ErrorResponse); !ok || m.Code != code {
			t.Errorf("version %x: %#v", version, m)
		}
	}
}

func TestRefusedStarts(t *testing.T) {
	b := newBed(t, nil, nil)
	empty := append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, 9), 3<<16), 0)
	for name, tt := range map[string]struct {
		packet []byte
		code   string
	}{
		"replication":           {startup(3<<16, "replication", "true"), codeNotSupported},
		"logical replication":   {startup(3<<16, "replication", "database"), codeNotSupported},
		"no user":               {startup(3<<16, "user", ""), codeInvalidAuth},
		"empty":                 {empty, codeInvalidAuth},
		"unterminated":          {append([]byte{0, 0, 0, 13, 0, 3, 0, 0}, "user\x00"...), codeProtocolViolation},
		"no replication at all": {startup(3<<16, "replication", "off"), ""},
	} {
		m := exchange(t, b.dial(b.unix), tt.packet)
		e, isError := m.(*v5.ErrorResponse)
		if isError != (tt.code != "") || isError && (e.Code != tt.code || e.Severity != "FATAL") {
			t.Errorf("%s: %#v", name, m)
		}
	}
}

// md5Answer is that of the role md5.
func md5Answer(password string, salt [4]byte) string {
	inner := md5.Sum([]byte(password + "md5"))
	outer := md5.Sum(append([]byte(hex.EncodeToString(inner[:])), salt[:]...))
	return "md5" + hex.EncodeToString(outer[:])
}

// Verifiers as PostgreSQL 15 stores them for the password "secret", the second
// of a role named md5.
const (
	scramSecret = "SCRAM-SHA-256$4096:ha/gCBxhUYHZQad8TZTjvQ==$45IaQj/t2Ji3RvUtFTrQSeAetrDGnIz9XVR9DAt2vxg=:t0kbCFOzVdGZbUlbGfsbLJzygF0eZmdz/Uf94SYiI3Q="
	md5Secret   = "md55d80d273267dec78b5d118f9cae7cd26"
)

func authBed(t *testing.T, config *tls.Config) *bed {
	return newBed(t, nil, func(c *Config, r *fakeRouter) {
		c.TLS = config
		r.secrets = map[string]Secret{
			"bob": {Verifier: scramSecret}, "md5": {Verifier: md5Secret}, "old": {Verifier: scramSecret, Expired: true},
			"odd": {Verifier: "SCRAM-SHA-256$4096:!$a:b"}, "none": {},
		}
	})
}

func TestPasswords(t *testing.T) {
	b := authBed(t, nil)
	for _, tt := range []struct {
		role, password string
		ok             bool
	}{
		{"bob", "secret", true},
		{"bob", "wrong", false},
		{"bob", "", false},
		{"md5", "secret", true},
		{"md5", "wrong", false},
		{"old", "secret", false},
		{"odd", "secret", false},
		{"none", "", false},
		{"nobody", "secret", false},
	} {
		err := newClient(t, b.dial(b.tcp)).start(tt.password, "user", tt.role)
		if (err == nil) != tt.ok || err != nil && codeOf(err) != codeInvalidPassword {
			t.Errorf("%s with %q: %v", tt.role, tt.password, err)
		}
	}
	// A Unix socket is its owner's alone.
	if err := newClient(t, b.dial(b.unix)).start("", "user", "nobody"); err != nil {
		t.Error(err)
	}
}

// TestUnknownRoleLooksLikeAnother compares what a stranger can see.
func TestUnknownRoleLooksLikeAnother(t *testing.T) {
	b := authBed(t, nil)
	salt := func(role string) string {
		c := newClient(t, b.dial(b.tcp))
		c.conn.Write(startup(3<<16, "user", role))
		c.Receive()
		c.write(&pgproto3.SASLInitialResponse{AuthMechanism: "SCRAM-SHA-256", Data: []byte("n,,n=,r=abc")})
		m, err := c.Receive()
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(m.(*pgproto3.AuthenticationSASLContinue).Data), ",")
		return rest
	}
	if first, again := salt("nobody"), salt("nobody"); first != again || first == salt("somebody") {
		t.Error("salts of unknown roles change, or are the same for all")
	}
	if len(salt("nobody")) != len(salt("bob")) {
		t.Errorf("%s and %s", salt("nobody"), salt("bob"))
	}
}

func TestListenersBeyondThisMachine(t *testing.T) {
	b := newBed(t, nil, nil)
	addr := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}
	if b.proxy.CheckListener(addr) == nil {
		t.Error("TCP beyond this machine was taken without TLS")
	}
	serverTLS, _ := testTLS(t)
	secure := authBed(t, serverTLS)
	if err := secure.proxy.CheckListener(addr); err != nil {
		t.Error(err)
	}
}

func TestOpenErrorsAndProgress(t *testing.T) {
	refused := &Error{Code: CodeUnknownDatabase, Message: "there is no point", Hint: "Known are a, b."}
	b := newBed(t, nil, func(_ *Config, r *fakeRouter) {
		r.openError, r.say = refused, []string{"one", "two"}
	})
	c := newClient(t, b.dial(b.unix))
	if err := c.start(""); codeOf(err) != CodeUnknownDatabase {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"pg0: one", "pg0: two"}, c.notices); diff != "" {
		t.Error(diff)
	}
	b.router.openError = fmt.Errorf("it is away")
	if err := newClient(t, b.dial(b.unix)).start(""); codeOf(err) != CodeConnectionFailure {
		t.Error(err)
	}
}

func TestCancel(t *testing.T) {
	b := newBed(t, nil, nil)
	one, two := b.connect(), b.connect()
	if one.pid == two.pid {
		t.Fatal("two sessions have the same key")
	}
	cancel := func(pid, key uint32) {
		conn := b.dial(b.unix)
		if _, err := conn.Write(wire(&pgproto3.CancelRequest{ProcessID: pid, SecretKey: key})); err != nil {
			t.Fatal(err)
		}
		if !atEnd(conn) {
			t.Error("a cancel request is not answered by closing")
		}
	}
	cancel(one.pid, one.key+1)
	cancel(one.pid+1, one.key)
	cancel(serverPID, serverSecret)
	cancel(two.pid, one.key)
	if n := len(b.server.cancels); n != 0 {
		t.Errorf("%d forged requests were passed on", n)
	}
	cancel(two.pid, two.key)
	want := pgproto3.CancelRequest{ProcessID: serverPID, SecretKey: serverSecret}
	select {
	case got := <-b.server.cancels:
		if got != want {
			t.Errorf("%+v", got)
		}
	case <-time.After(patience):
		t.Error("a right request was not passed on")
	}
}

func TestTooManySessions(t *testing.T) {
	b := newBed(t, nil, func(c *Config, _ *fakeRouter) { c.MaxSessions = 2 })
	b.connect()
	two := b.connect()
	if err := newClient(t, b.dial(b.unix)).start(""); codeOf(err) != CodeTooManyConnections {
		t.Error(err)
	}
	two.write(&pgproto3.Terminate{})
	atEnd(two.conn)
	deadline := time.Now().Add(patience)
	for newClient(t, b.dial(b.unix)).start("") != nil {
		if time.Now().After(deadline) {
			t.Fatal("a place is not given back")
		}
	}
}

func TestSilentClientsMakeRoom(t *testing.T) {
	b := newBed(t, nil, func(c *Config, _ *fakeRouter) { c.MaxPending = 8 })
	busy := b.connect()
	var silent []net.Conn
	for range 50 {
		silent = append(silent, b.dial(b.unix))
	}
	for i := range 20 {
		if err := newClient(t, b.dial(b.unix)).start(""); err != nil {
			t.Fatalf("client %d among silent ones: %v", i, err)
		}
	}
	if got := busy.query("still here"); got[0] != "done still here" {
		t.Errorf("%q", got)
	}
	if !atEnd(silent[0]) {
		t.Error("the oldest silent client is still there")
	}
}

// TestStrangersTakeNoPlaces has clients that stop when they are asked for the
// password.
func TestStrangersTakeNoPlaces(t *testing.T) {
	b := newBed(t, nil, func(c *Config, r *fakeRouter) {
		c.MaxSessions = 2
		r.secrets = map[string]Secret{"bob": {Verifier: scramSecret}}
	})
	for range 10 {
		if _, err := newClient(t, b.dial(b.tcp)).conn.Write(startup(3 << 16)); err != nil {
			t.Fatal(err)
		}
	}
	if err := newClient(t, b.dial(b.tcp)).start("secret"); err != nil {
		t.Error(err)
	}
}

func TestSlowStartIsCutOff(t *testing.T) {
	b := newBed(t, nil, func(c *Config, _ *fakeRouter) { c.StartupTimeout = 50 * time.Millisecond })
	conn := b.dial(b.tcp)
	if _, err := conn.Write(startup(3 << 16)[:10]); err != nil {
		t.Fatal(err)
	}
	if !atEnd(conn) {
		t.Error("a client that sends half a packet stays")
	}
	// A session is not bound by it.
	c := b.connect()
	time.Sleep(100 * time.Millisecond)
	if got := c.query("x"); got[0] != "done x" {
		t.Errorf("%q", got)
	}
}

func TestShutdownDrains(t *testing.T) {
	proceed := make(chan struct{})
	b := newBed(t, func(c *serverConn) {
		if _, err := c.Receive(); err != nil {
			return
		}
		<-proceed
		c.conn.Write(wire(&pgproto3.CommandComplete{CommandTag: []byte("LATE")}, &pgproto3.ReadyForQuery{TxStatus: 'I'}))
		c.Receive()
	}, nil)
	idle, busy := b.connect(), b.connect()
	busy.write(&pgproto3.Query{String: "slow"})
	waitUntil(t, func() bool { return b.asked() == 1 })
	done := make(chan error, 1)
	go func() { done <- b.proxy.Shutdown(context.Background()) }()
	if code := idle.readError(); code != codeAdminShutdown {
		t.Errorf("an idle session ends with %q", code)
	}
	if err := newClientError(b); err == nil {
		t.Error("a client is taken while the proxy is shut down")
	}
	close(proceed)
	if diff := cmp.Diff([]string{"done LATE", "ready I"}, busy.read()); diff != "" {
		t.Error(diff)
	}
	if code := busy.readError(); code != codeAdminShutdown {
		t.Errorf("a busy session ends with %q", code)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func newClientError(b *bed) error {
	conn, err := net.Dial(b.unix.Addr().Network(), b.unix.Addr().String())
	if err != nil {
		return err
	}
	defer conn.Close()
	return newClient(b.t, conn).start("")
}

// asked is how many requests all sessions have made.
func (b *bed) asked() (n int64) {
	for _, s := range b.proxy.snapshot() {
		n += s.asked.Load()
	}
	return n
}

func waitUntil(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come")
		}
	}
}

func TestIdleSessionsEnd(t *testing.T) {
	b := newBed(t, nil, func(c *Config, _ *fakeRouter) { c.IdleTimeout = time.Hour })
	c := b.connect()
	b.proxy.endIdle(time.Hour, errIdle)
	if got := c.query("x"); got[0] != "done x" {
		t.Errorf("%q", got)
	}
	waitUntil(t, func() bool { return b.proxy.snapshot()[0].idle() })
	b.proxy.now.Add(int64(2 * time.Hour))
	b.proxy.endIdle(time.Hour, errIdle)
	if code := c.readError(); code != codeIdleTimeout {
		t.Errorf("ended with %q", code)
	}
}

func TestServerGoesAway(t *testing.T) {
	b := newBed(t, func(c *serverConn) { _, _ = c.Receive() }, nil)
	c := b.connect()
	c.write(&pgproto3.Query{String: "crash"})
	if code := c.readError(); code != CodeConnectionFailure {
		t.Errorf("ended with %q", code)
	}
	// A server that says why it ends is not talked over.
	b = newBed(t, func(c *serverConn) {
		_, _ = c.Receive()
		c.conn.Write(wire(&pgproto3.ErrorResponse{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: "57P01", Message: "bye"}))
	}, nil)
	c = b.connect()
	c.write(&pgproto3.Query{String: "stop"})
	if code := c.readError() + c.readError(); code != "57P01" {
		t.Errorf("ended with %q", code)
	}
}
