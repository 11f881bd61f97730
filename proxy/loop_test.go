package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/jackc/pgproto3/v2"
)

// goroutines says that the beds' sessions without TLS are not driven by loops.
var goroutines bool

// TestMain runs everything over both drivers.
func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if f := flag.Lookup("test.fuzz"); code == 0 && (f == nil || f.Value.String() == "") {
		goroutines = true
		fmt.Println("again, with goroutines in the place of loops")
		code = m.Run()
	}
	os.Exit(code)
}

// looping is the number of sessions that are in loops.
func (b *bed) looping() (n int) {
	for _, one := range b.proxy.snapshot() {
		if one.looped.Load() != nil {
			n++
		}
	}
	return n
}

// TestSlowClientHoldsNobodyUp has clients that ask for much and read nothing.
func TestSlowClientHoldsNobodyUp(t *testing.T) {
	const total = 100 << 20
	sent := make(chan int, 1)
	b := newBed(t, func(c *serverConn) {
		m, err := c.Receive()
		if q, ok := m.(*pgproto3.Query); err != nil || !ok || q.String != "much" {
			echoAfter(c, m)
			return
		}
		row := wire(&pgproto3.DataRow{Values: [][]byte{make([]byte, 64<<10)}})
		n := 0
		for n < total {
			wrote, err := c.conn.Write(row)
			if n += wrote; err != nil {
				break
			}
		}
		sent <- n
	}, nil)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	slow := b.connect()
	slow.write(&pgproto3.Query{String: "much"})
	other := b.connect()
	for range 200 {
		if got := other.query("x"); got[0] != "done x" {
			t.Fatalf("%q", got)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if used := int64(after.HeapInuse) - int64(before.HeapInuse); used > 4<<20 {
		t.Errorf("what nobody reads takes %d kB", used>>10)
	}
	select {
	case n := <-sent:
		t.Errorf("the server could send %d bytes to a client that reads nothing", n)
	default:
	}
	if n, err := io.CopyN(io.Discard, slow.conn, total); err != nil {
		t.Errorf("it gets %d bytes in the end: %v", n, err)
	}
}

// echoAfter goes on as echo after a first message.
func echoAfter(c *serverConn, m pgproto3.FrontendMessage) {
	if q, ok := m.(*pgproto3.Query); ok {
		_, _ = c.conn.Write(wire(&pgproto3.CommandComplete{CommandTag: []byte(q.String)}, &pgproto3.ReadyForQuery{TxStatus: 'I'}))
	}
	echo(c)
}

// TestSlowServer has a server that reads late what a client sends at once.
func TestSlowServer(t *testing.T) {
	const total = 8 << 20
	start, got := make(chan bool), make(chan int64, 1)
	b := newBed(t, func(c *serverConn) {
		<-start
		n, _ := io.Copy(io.Discard, c.conn)
		got <- n
	}, nil)
	c := b.connect()
	message := append(binary.BigEndian.AppendUint32([]byte{'d'}, 4+1<<20), make([]byte, 1<<20)...)
	go func() {
		for range total >> 20 {
			_, _ = c.conn.Write(message)
		}
		_ = c.conn.(*net.UnixConn).CloseWrite()
	}()
	waitUntil(t, func() bool { return b.proxy.Sessions() == 1 && b.proxy.snapshot()[0].audit.received.Load() > 2<<16 })
	close(start)
	if n := <-got; n != total>>20*int64(len(message)) {
		t.Errorf("the server got %d bytes", n)
	}
}

// TestHalfClose has a client that says that it will ask nothing more, and waits
// for the answer.
func TestHalfClose(t *testing.T) {
	b := newBed(t, func(c *serverConn) {
		all, _ := io.ReadAll(c.conn)
		_, _ = c.conn.Write(wire(&pgproto3.CommandComplete{CommandTag: fmt.Appendf(nil, "%d", len(all))}, &pgproto3.ReadyForQuery{TxStatus: 'I'}))
	}, nil)
	for _, l := range []net.Listener{b.tcp, b.unix} {
		b.proxy.Insecure = true
		c := newClient(t, b.dial(l))
		if err := c.start(""); err != nil {
			t.Fatal(err)
		}
		c.write(&pgproto3.Query{String: "x"})
		_ = c.conn.(interface{ CloseWrite() error }).CloseWrite()
		if got := c.read(); got[0] != "done 7" {
			t.Errorf("%s: %q", l.Addr().Network(), got)
		}
		if !atEnd(c.conn) {
			t.Errorf("%s: it is not ended", l.Addr().Network())
		}
	}
}

// TestByteByByte sends every byte on its own, messages that are looked into and
// others.
func TestByteByByte(t *testing.T) {
	b := newLabelBed(t, LabelNotice, func(c *serverConn) {
		c.conn = &single{c.conn}
		tiny(c)
	})
	c := b.connect()
	c.conn = &single{c.conn}
	c.write(&pgproto3.Query{String: "products.price"})
	check(t, "simple", c.read(), "columns price", "row", "done SELECT 1", priceLabel, "ready I")
	c.write(&pgproto3.Parse{Query: "products.price"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{})
	check(t, "extended", c.read(), "parsed", "bound", "row", "done SELECT 1", priceLabel, "ready I")
}

// single writes one byte at a time.
type single struct{ net.Conn }

func (s *single) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := s.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

// TestSessionLeavesItsLoop changes pg0.label in the middle of a pipeline, all of
// it in one write: what is behind the change must be labelled.
func TestSessionLeavesItsLoop(t *testing.T) {
	b := newLabelBed(t, LabelOff, tiny)
	c := b.connect()
	waitUntil(t, func() bool { return b.proxy.Sessions() == 1 })
	checkLooping(b, 1)
	var all []byte
	for _, text := range []string{"products.price", "set pg0.label = notice", "products.price", "orders.id", "set pg0.label = off", "products.price"} {
		all = append(all, wire(&pgproto3.Query{String: text})...)
	}
	all = append(all, all[:7]...) // the head of one more message
	if _, err := c.conn.Write(all); err != nil {
		t.Fatal(err)
	}
	plain := []string{"columns price", "row", "done SELECT 1", "ready I"}
	check(t, "before", c.read(), plain...)
	check(t, "set", c.read(), "done SET", "ready I")
	check(t, "after", c.read(), "columns price", "row", "done SELECT 1", priceLabel, "ready I")
	check(t, "base", c.read(), "columns id", "row", "done SELECT 1", "ready I")
	check(t, "set off", c.read(), "done SET", "ready I")
	check(t, "at the end", c.read(), plain...)
	checkLooping(b, 0)
	if _, err := c.conn.Write(wire(&pgproto3.Query{String: "products.price"})[7:]); err != nil {
		t.Fatal(err)
	}
	check(t, "the rest of a message", c.read(), plain...)
}

// checkLooping wants that many sessions in loops; goroutines have none.
func checkLooping(b *bed, want int) {
	b.t.Helper()
	if goroutines {
		want = 0
	}
	if got := b.looping(); got != want {
		b.t.Errorf("%d sessions are in loops, want %d", got, want)
	}
}

// TestSetLabelBySyncLeavesTheLoop has the change in a prepared statement.
func TestSetLabelBySyncLeavesTheLoop(t *testing.T) {
	b := newLabelBed(t, LabelOff, tiny)
	c := b.connect()
	var all []byte
	for _, text := range []string{"set pg0.label = notice", "products.price"} {
		all = append(all, wire(&pgproto3.Parse{Query: text}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{})...)
	}
	if _, err := c.conn.Write(all); err != nil {
		t.Fatal(err)
	}
	check(t, "set", c.read(), "parsed", "bound", "done SET", "ready I")
	check(t, "after", c.read(), "parsed", "bound", "row", "done SELECT 1", priceLabel, "ready I")
	checkLooping(b, 0)
}

// TestLongMessageLeavesTheLoop has one that is looked into and longer than a
// buffer, from each side.
func TestLongMessageLeavesTheLoop(t *testing.T) {
	long := strings.Repeat("x", 3*chunk)
	asked := make(chan string, 1)
	b := newLabelBed(t, LabelNotice, func(c *serverConn) {
		m, _ := c.Receive()
		asked <- m.(*pgproto3.Query).String
		_, _ = c.conn.Write(wire(&pgproto3.ErrorResponse{Severity: "ERROR", SeverityUnlocalized: "ERROR", Message: long}, &pgproto3.ReadyForQuery{TxStatus: 'I'}))
		tiny(c)
	})
	for _, text := range []string{long, "short"} {
		c := b.connect()
		c.write(&pgproto3.Query{String: text})
		if got := <-asked; got != text {
			t.Errorf("the server was asked %d bytes", len(got))
		}
		if got := c.read(); len(got[0]) < len(long) {
			t.Errorf("%.80q", got)
		}
		check(t, "afterwards", c.query("products.price"), "columns price", "row", "done SELECT 1", priceLabel, "ready I")
		checkLooping(b, 0)
	}
}

// TestReset cuts the connection of each side without a farewell.
func TestReset(t *testing.T) {
	for _, status := range []byte{'I', 'T'} {
		servers := make(chan net.Conn, 2)
		b := newBed(t, func(c *serverConn) {
			servers <- c.conn
			_, _ = c.Receive()
			_, _ = c.conn.Write(wire(&pgproto3.ReadyForQuery{TxStatus: status}))
			_, _ = c.Receive()
		}, func(c *Config, _ *fakeRouter) { c.Insecure = true })
		c := newClient(t, b.dial(b.tcp))
		if err := c.start(""); err != nil {
			t.Fatal(err)
		}
		c.query("x")
		_ = c.conn.(*net.TCPConn).SetLinger(0)
		c.conn.Close()
		waitUntil(t, func() bool { return b.proxy.Sessions() == 0 })
		c = newClient(t, b.dial(b.tcp))
		if err := c.start(""); err != nil {
			t.Fatal(err)
		}
		c.query("x")
		<-servers
		(<-servers).Close()
		if code := c.readError(); code != CodeConnectionFailure {
			t.Errorf("the client is told %q", code)
		}
		waitUntil(t, func() bool { return b.proxy.Sessions() == 0 })
	}
}

// TestEndWhileTheClientReadsNothing cuts off a session that has much to say.
func TestEndWhileTheClientReadsNothing(t *testing.T) {
	b := newBed(t, func(c *serverConn) {
		for row := wire(&pgproto3.DataRow{Values: [][]byte{make([]byte, 60000)}}); ; {
			if _, err := c.conn.Write(row); err != nil {
				return
			}
		}
	}, nil)
	c := b.connect()
	waitUntil(t, func() bool { return b.proxy.Sessions() == 1 })
	session := b.proxy.snapshot()[0]
	waitUntil(t, func() bool { return session.audit.sent.Load() > 2<<16 })
	ctx, cut := context.WithCancel(context.Background())
	cut()
	if err := b.proxy.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("shut down: %v", err)
	}
	if !atEnd(c.conn) {
		t.Error("it is not ended")
	}
}

// TestNoDescriptorIsLeft counts them over sessions of every end.
func TestNoDescriptorIsLeft(t *testing.T) {
	b := newBed(t, nil, nil)
	b.connect().write(&pgproto3.Terminate{})
	waitUntil(t, func() bool { return b.proxy.Sessions() == 0 })
	before := descriptors(t)
	for i := range 30 {
		c := b.connect()
		switch c.query("x"); i % 3 {
		case 0:
			c.query("set pg0.label = notice")
		case 1:
			c.write(&pgproto3.Terminate{})
		}
		c.conn.Close()
	}
	waitUntil(t, func() bool { return b.proxy.Sessions() == 0 && descriptors(t) <= before })
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// A blocker is a collector that has to leave its loop now and then.
type blocker struct {
	collector
	random *rand.Rand
}

func (b *blocker) blocks(byte, []byte) bool { return b.random.IntN(8) == 0 }

// FuzzLeave drives a pump as a loop does until it has to leave, and goes on with
// the driver of goroutines: nothing may be lost, added or moved.
func FuzzLeave(f *testing.F) {
	f.Add([]byte("Q\x00\x00\x00\x06x\x00S\x00\x00\x00\x04"), uint64(1))
	f.Add(bytes.Repeat([]byte("D\x00\x00\x00\x05xB\x00\x00\x00\x05x"), 100), uint64(2))
	f.Add(append([]byte("B\x00\x01\x00\x00"), make([]byte, 1<<16)...), uint64(3))
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 0))
		side := &blocker{random: random}
		side.looks = func(kind byte, size int) bool { return kind%2 == 0 && size <= maxLook }
		from := &pieces{data: data, random: random}
		p := &pump{side: side, looped: true}
		var err error
		for err == nil && len(from.data) > 0 {
			if p.buf == nil {
				p.buf = buffers.Get().(*[chunk]byte)
			}
			p.n, _ = from.Read(p.buf[p.have:])
			err = p.spend()
		}
		if err == nil || err == errLeave {
			err = (&socket{pump: p}).carry(from).run()
		}
		if !bytes.HasPrefix(data, side.out.Bytes()) {
			t.Fatal("other bytes came out")
		}
		if err == nil && len(data)-side.out.Len() > headSize+maxLook {
			t.Fatalf("%d bytes are missing", len(data)-side.out.Len())
		}
	})
}
