package proxy

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgproto3/v2"
)

// An editor is a connection that changes how messages arrive, or the messages:
// it cuts writes into pieces, and edits the bytes of each.
type editor struct {
	net.Conn
	random *rand.Rand
	edit   func([]byte) []byte
}

func (e *editor) Write(b []byte) (int, error) {
	whole := len(b)
	if e.edit != nil {
		b = e.edit(bytes.Clone(b))
	}
	for len(b) > 0 {
		n := min(len(b), 1+e.random.IntN(1+e.random.IntN(2*chunk)))
		if _, err := e.Conn.Write(b[:n]); err != nil {
			return 0, err
		}
		b = b[n:]
	}
	return whole, nil
}

// anyMessage makes a message that is not looked into, of any length.
func anyMessage(random *rand.Rand, kinds string) []byte {
	size := random.IntN(1 << random.IntN(18))
	m := make([]byte, headSize+size)
	m[0] = kinds[random.IntN(len(kinds))]
	binary.BigEndian.PutUint32(m[1:], uint32(size+4))
	for i := headSize; i < len(m); i++ {
		m[i] = byte(random.Uint32())
	}
	return m
}

// stream is many messages and one that says that it ends.
func stream(random *rand.Rand, kinds string, last []byte) (out []byte) {
	for range 200 {
		out = append(out, anyMessage(random, kinds)...)
	}
	return append(out, last...)
}

// TestForwardsEveryByte sends messages of all lengths in pieces of all lengths,
// both ways at once.
func TestForwardsEveryByte(t *testing.T) {
	for seed := range uint64(4) {
		random := rand.New(rand.NewPCG(seed, 1))
		up := stream(random, "dBQPEDCHp", wire(&pgproto3.Terminate{}))
		down := stream(random, "DTdCnNAtsI123", wire(&pgproto3.ReadyForQuery{TxStatus: 'I'}))
		received := make(chan []byte, 1)
		b := newBed(t, func(c *serverConn) {
			got := make([]byte, len(up))
			_, _ = io.ReadFull(c.conn, got[:1]) // by then nobody reads ahead any more
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				cut := &editor{Conn: c.conn, random: rand.New(rand.NewPCG(seed, 2))}
				_, _ = cut.Write(down)
			}()
			_, _ = io.ReadFull(c.conn, got[1:])
			<-sent
			received <- got
		}, nil)
		c := b.connect()
		go func() {
			cut := &editor{Conn: c.conn, random: random}
			_, _ = cut.Write(up)
		}()
		got := make([]byte, len(down))
		if n, err := io.ReadFull(c.conn, got); err != nil {
			t.Fatalf("seed %d: %d of %d bytes: %v", seed, n, len(down), err)
		}
		if !bytes.Equal(got, down) {
			t.Errorf("seed %d: the client got other bytes", seed)
		}
		if !bytes.Equal(<-received, up) {
			t.Errorf("seed %d: the server got other bytes", seed)
		}
	}
}

// TestHugeMessagesStream passes a row of 64 MB each way in little memory.
func TestHugeMessagesStream(t *testing.T) {
	const size = 64 << 20
	head := func(kind byte) []byte {
		return binary.BigEndian.AppendUint32([]byte{kind}, size+4)
	}
	pass := func(w io.Writer, kind byte) {
		_, _ = w.Write(head(kind))
		block := make([]byte, 1<<20)
		for range size >> 20 {
			_, _ = w.Write(block)
		}
	}
	got := make(chan int64, 1)
	b := newBed(t, func(c *serverConn) {
		n, _ := io.CopyN(io.Discard, c.conn, size+headSize)
		got <- n
		pass(c.conn, 'D')
	}, nil)
	c := b.connect()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	pass(c.conn, 'd')
	if n := <-got; n != size+headSize {
		t.Errorf("the server got %d bytes", n)
	}
	if n, err := io.CopyN(io.Discard, c.conn, size+headSize); err != nil {
		t.Errorf("the client got %d bytes: %v", n, err)
	}
	runtime.ReadMemStats(&after)
	if used := int64(after.HeapSys) - int64(before.HeapSys); used > 24<<20 {
		t.Errorf("the heap grew by %d MB", used>>20)
	}
}

func TestGarbageEndsOneSession(t *testing.T) {
	b := newBed(t, nil, nil)
	other := b.connect()
	for name, garbage := range map[string][]byte{
		"negative length": {'Q', 0xff, 0xff, 0xff, 0xff},
		"short length":    {'Q', 0, 0, 0, 3},
	} {
		c := b.connect()
		if _, err := c.conn.Write(garbage); err != nil {
			t.Fatal(err)
		}
		if code := c.readError(); code != codeProtocolViolation {
			t.Errorf("%s: ended with %q", name, code)
		}
	}
	if got := other.query("x"); got[0] != "done x" {
		t.Errorf("%q", got)
	}
}

// TestGarbageFromTheServer edits what the server says.
func TestGarbageFromTheServer(t *testing.T) {
	for name, edit := range map[string]func([]byte) []byte{
		"length":      func(b []byte) []byte { b[1] = 0xff; return b },
		"description": func(b []byte) []byte { return append([]byte{'T', 0, 0, 0, 6, 0xff, 0xff}, b...) },
		"error":       func(b []byte) []byte { return append([]byte{'E', 0, 0, 0, 5, 'S'}, b...) },
		"parameter":   func(b []byte) []byte { return append([]byte{'S', 0, 0, 0, 5, 'S'}, b...) },
		"ready":       func(b []byte) []byte { return append([]byte{'Z', 0, 0, 0, 4}, b...) },
	} {
		b := newBed(t, func(c *serverConn) {
			c.conn = &editor{Conn: c.conn, random: rand.New(rand.NewPCG(1, 1)), edit: edit}
			echo(c)
		}, func(c *Config, r *fakeRouter) {
			c.Label = LabelNotice
			r.relations.ByOID = map[uint32]Relation{20000: {Name: "a"}}
		})
		c := b.connect()
		if _, err := c.conn.Write(wire(&pgproto3.Query{String: "x"})); err != nil {
			t.Fatal(err)
		}
		// What it gets is the client's to refuse; the proxy must live.
		_ = c.conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, _ = io.Copy(io.Discard, c.conn)
		if err := newClient(t, b.dial(b.unix)).start(""); err != nil {
			t.Errorf("%s: afterwards: %v", name, err)
		}
	}
}

// TestHostileStarts sends what no client sends, and looks after the others.
func TestHostileStarts(t *testing.T) {
	b := newBed(t, nil, nil)
	other := b.connect()
	endless := binary.BigEndian.AppendUint32(nil, maxStartup)
	endless = append(endless, 0, 3, 0, 0)
	for len(endless) < maxStartup {
		endless = append(endless, 'a', 0)
	}
	for name, packet := range map[string][]byte{
		"nothing":            {},
		"one byte":           {0},
		"http":               []byte("GET / HTTP/1.1\r\n\r\n"),
		"tls without tls":    {0x16, 3, 1, 0, 5},
		"too short":          {0, 0, 0, 7, 0, 0, 0},
		"too long":           {0, 0, 0x27, 0x11, 0, 3, 0, 0},
		"four gigabytes":     {0xff, 0xff, 0xff, 0xff, 0, 3, 0, 0},
		"truncated":          startup(3 << 16)[:20],
		"endless parameters": endless,
		"cancel too short":   {0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2e},
		"cancel too long":    append([]byte{0, 0, 2, 0, 0x04, 0xd2, 0x16, 0x2e}, make([]byte, 504)...),
	} {
		conn := b.dial(b.unix)
		_, _ = conn.Write(packet)
		_ = conn.(*net.UnixConn).CloseWrite()
		if !atEnd(conn) {
			t.Errorf("%s: it is not ended", name)
		}
	}
	if got := other.query("x"); got[0] != "done x" {
		t.Errorf("%q", got)
	}
}

// TestHalfOpenConnectionsTakeLittle opens many connections that say nothing.
func TestHalfOpenConnectionsTakeLittle(t *testing.T) {
	b := newBed(t, nil, func(c *Config, _ *fakeRouter) { c.MaxPending = 64 })
	other := b.connect()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range 2000 {
		conn, err := net.Dial("unix", b.unix.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(startup(3 << 16)[:8+i%8])
		if i%2 == 0 {
			conn.Close()
		} else if i > 1800 {
			defer conn.Close()
		} else {
			_ = conn.(*net.UnixConn).CloseWrite()
			conn.Close()
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if used := int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse); used > 8<<20 {
		t.Errorf("they take %d kB", used>>10)
	}
	if got := other.query("x"); got[0] != "done x" {
		t.Errorf("%q", got)
	}
}

// TestIdleSessionsTakeLittle counts this process: the proxy, and the two ends
// that a test has.
func TestIdleSessionsTakeLittle(t *testing.T) {
	const n, most = 200, 32 << 10
	b := newBed(t, func(c *serverConn) {
		_ = c.conn.(*net.UnixConn).SetReadBuffer(4096)
		_, _ = c.conn.Read(make([]byte, 1))
	}, nil)
	var before, after runtime.MemStats
	b.connect()
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range n {
		conn := b.dial(b.unix)
		if _, err := conn.Write(startup(3 << 16)); err != nil {
			t.Fatal(err)
		}
	}
	waitUntil(t, func() bool { return b.proxy.Sessions() == n+1 })
	runtime.GC()
	runtime.GC() // stacks shrink
	runtime.ReadMemStats(&after)
	used := int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse)
	t.Logf("%d bytes a session", used/n)
	if used/n > most {
		t.Errorf("a session takes %d bytes", used/n)
	}
}

func TestAuditSaysWhatWasDoneButNotWhatWasAsked(t *testing.T) {
	b := newBed(t, nil, nil)
	c := b.connect("application_name", "psql")
	c.query("select 'secret'")
	c.query("again")
	c.write(&pgproto3.Terminate{})
	atEnd(c.conn)
	waitUntil(t, func() bool { return strings.Contains(b.audit.String(), "session") })
	line := b.audit.String()
	for _, want := range []string{`"user":"bob"`, `"from":"local"`, `"database":"shop"`, `"mix":"mix"`, `"points":["thursday"]`, `"statements":2`, `"bytes_sent":`, `"duration":`} {
		if !strings.Contains(line, want) {
			t.Errorf("%s is missing in %s", want, line)
		}
	}
	if strings.Contains(line, "secret") {
		t.Error("it has the text of a statement")
	}
	loud := newBed(t, nil, func(c *Config, _ *fakeRouter) { c.LogStatements = true })
	loud.connect().query("select 'all'")
	if !strings.Contains(loud.audit.String(), "select 'all'") {
		t.Error("it lacks the statement that it was told to log")
	}
}

// TestReadOnly has a server that answers with the text it was asked.
func TestReadOnly(t *testing.T) {
	report := false
	b := newBed(t, func(c *serverConn) {
		for {
			m, err := c.Receive()
			if err != nil {
				return
			}
			text := ""
			switch m := m.(type) {
			case *pgproto3.Query:
				text = m.String
			case *pgproto3.Parse:
				text = m.Query
			default:
				continue
			}
			out := wire(&pgproto3.CommandComplete{CommandTag: []byte(text)})
			if report {
				out = append(out, wire(&pgproto3.ParameterStatus{Name: "default_transaction_read_only", Value: "off"})...)
			}
			_, _ = c.conn.Write(append(out, wire(&pgproto3.ReadyForQuery{TxStatus: 'I'})...))
		}
	}, func(c *Config, _ *fakeRouter) { c.ReadOnly = true })
	c := b.connect()
	if got := b.server.lastStartup()["default_transaction_read_only"]; got != "on" {
		t.Errorf("the server was told %q", got)
	}
	if got := c.query("select 1")[0]; got != "done select 1" {
		t.Error(got)
	}
	c.write(&pgproto3.Query{String: "begin read write"}, &pgproto3.Parse{Name: "x", Query: "set transaction read write"})
	for range 2 {
		if got := c.read()[0]; !strings.Contains(got, "25006") {
			t.Errorf("the server was asked %q", got)
		}
	}
	for _, params := range [][]string{
		{"options", "-c default_transaction_read_only=off"},
		{"options", "-cdefault-transaction-read-only=f"},
		{"default_transaction_read_only", "0"},
	} {
		if err := newClient(t, b.dial(b.unix)).start("", params...); codeOf(err) != codeReadOnly {
			t.Errorf("%q: %v", params, err)
		}
	}
	// What the texts do not show, the server tells.
	report = true
	c.write(&pgproto3.Query{String: "select cunning()"})
	if code := c.readError(); code != codeReadOnly {
		t.Errorf("ended with %q", code)
	}
	long := b.connect()
	_, _ = long.conn.Write(wire(&pgproto3.Query{String: strings.Repeat("x", maxLook+1)})) // it is ended at the first bytes
	if code := long.readError(); code != errLongText.Code {
		t.Errorf("a long text ended with %q", code)
	}
}

func TestSwitchesToWrite(t *testing.T) {
	for text, want := range map[string]bool{
		"select 1":                   false,
		"show transaction_read_only": false,
		"select current_setting('transaction_read_only')": false,
		"begin":                                       false,
		"begin read only":                             false,
		"set default_transaction_read_only = on":      false,
		"insert into t values ('read write')":         false,
		"select set_config('search_path', '', false)": false,
		"begin read write":                            true,
		"select 1; START /* x */ TRANSACTION isolation level serializable, READ -- y\n WRITE": true,
		"set default_transaction_read_only to off":                                            true,
		"set \"default_transaction_read_only\" = 'no'":                                        true,
		"set session characteristics as transaction read write":                               true,
		"SET LOCAL transaction_read_only = default":                                           true,
		"select set_config('default_transaction_read_only', 'off', false)":                    true,
		"select pg_catalog.set_config(E'transaction_read_only', 'off', false)":                true,
		"select set_config('default_' || 'transaction_read_only', 'off', false)":              true,
		"select set_config($1, $2, false)":                                                    true,
		"update pg_settings set setting = 'off' where name like 'default_tr%only'":            true,
		"do $$ begin execute 'set' || ' x'; end $$":                                           true,
		"do $x$ begin perform set_config('transaction_read_only', 'off', true); end $x$":      true,
		"do $$ begin raise notice 'set_config'; end $$":                                       false,
	} {
		if got := switchesToWrite(text); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

func TestLabelChange(t *testing.T) {
	type result struct {
		value string
		local bool
		ok    bool
	}
	for text, want := range map[string]result{
		"set pg0.label = notice":                    {"notice", false, true},
		"SET SESSION Pg0.Label TO 'columns' ;":      {"columns", false, true},
		"/* a /* b */ */ set local pg0.label=off--": {"off", true, true},
		`set "pg0"."label" = default`:               {"", false, true},
		"reset pg0.label":                           {"", false, true},
		"reset all":                                 {"", false, true},
		"discard all;":                              {"", false, true},
		"set pg0.label = notice; select 1":          {},
		"set pg0.labels = notice":                   {},
		"set pg0.label = ":                          {},
		"select 'set pg0.label = notice'":           {},
		"set":                                       {},
		"":                                          {},
		"set pg0.label = a, b":                      {},
	} {
		c, ok := labelChange(text)
		if !ok {
			c = change{}
		}
		if got := (result{c.value, c.local, ok}); got != want {
			t.Errorf("%s: %+v", text, got)
		}
	}
}

func FuzzLexer(f *testing.F) {
	f.Add("set pg0.label = 'x'; -- /* $a$ $a$ E'\\'' \"a\"\"b\" U&'x'")
	f.Add("$$ $a $a$b$a$ /* /* */")
	f.Fuzz(func(t *testing.T, text string) {
		l := lexer{text}
		for before := len(text) + 1; len(l.rest) < before; {
			before = len(l.rest)
			if l.next().kind == endToken {
				break
			}
		}
		if l.rest != "" {
			t.Fatalf("no progress at %q", l.rest)
		}
		labelChange(text)
		switchesToWrite(text)
		splitOptions(text)
	})
}

func FuzzVerifier(f *testing.F) {
	f.Add(scramSecret)
	f.Fuzz(func(t *testing.T, text string) {
		if stored, ok := parseVerifier(text); ok && (stored.Iters < 1 || len(stored.StoredKey) != 32 || len(stored.ServerKey) != 32) {
			t.Errorf("%q gives %+v", text, stored)
		}
	})
}

// FuzzStartup gives the proxy the bytes of a client that is not authenticated.
func FuzzStartup(f *testing.F) {
	f.Add(startup(3 << 16))
	f.Add(append(append([]byte{}, sslRequest...), gssRequest...))
	f.Add(wire(&pgproto3.CancelRequest{ProcessID: 1, SecretKey: 2}))
	f.Add(append(startup(3<<16|2, "_pq_.x", "y"), wire(&pgproto3.SASLInitialResponse{AuthMechanism: mechanism, Data: []byte("n,,n=,r=x")})...))
	b := newBed(f, nil, func(c *Config, r *fakeRouter) {
		r.secrets = map[string]Secret{"bob": {Verifier: scramSecret}}
	})
	f.Fuzz(func(t *testing.T, packet []byte) {
		conn, err := net.Dial("tcp", b.tcp.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = conn.Write(packet)
		_ = conn.(*net.TCPConn).CloseWrite()
		answer, _ := io.ReadAll(conn)
		if bytes.Contains(answer, []byte{'R', 0, 0, 0, 8, 0, 0, 0, 0}) {
			t.Error("somebody without the password came in")
		}
	})
}

// A collector is a side that looks into some messages and keeps what is sent.
type collector struct {
	looks func(kind byte, size int) bool
	out   bytes.Buffer
}

func (c *collector) wants(kind byte, size int) (bool, error) { return c.looks(kind, size), nil }

func (c *collector) look(_ byte, _ []byte, message []byte) ([]byte, error) { return message, nil }

func (c *collector) send(b []byte, _ bool) error {
	c.out.Write(b)
	return nil
}

func (c *collector) waits() <-chan struct{} { return nil }

// FuzzPump forwards messages in pieces: nothing may be lost, added or moved.
func FuzzPump(f *testing.F) {
	f.Add([]byte("Q\x00\x00\x00\x06x\x00S\x00\x00\x00\x04"), uint64(1))
	f.Add(bytes.Repeat([]byte("D\x00\x00\x00\x05x"), 100), uint64(2))
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 0))
		side := &collector{looks: func(kind byte, size int) bool { return kind%2 == 0 && size <= maxLook }}
		err := newPump(&pieces{data: data, random: random}, side).run()
		if !bytes.HasPrefix(data, side.out.Bytes()) {
			t.Fatal("other bytes came out")
		}
		if err == nil && len(data)-side.out.Len() > headSize+maxLook {
			t.Fatalf("%d bytes are missing", len(data)-side.out.Len())
		}
	})
}

// pieces gives data in pieces.
type pieces struct {
	data   []byte
	random *rand.Rand
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.data) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.data[:min(len(p.data), 1+p.random.IntN(40))])
	p.data = p.data[n:]
	return n, nil
}

func (c *collector) blocks(byte, []byte) bool { return false }
