package proxy

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgproto3/v2"
)

// A tinyServer is PostgreSQL for statements that are lists of columns, such as
// "orders.id products.price now": it describes them and gives one row. It keeps
// prepared statements and portals, and skips to Sync after an error.
type tinyServer struct {
	*serverConn
	status     byte
	statements map[string]string
	portals    map[string]string
	skip       bool
}

var tables = map[string]uint32{"orders": 20001, "products": 20002, "prices": 20003}

func tiny(c *serverConn) {
	s := &tinyServer{c, 'I', map[string]string{}, map[string]string{}, false}
	for {
		m, err := c.Receive()
		if err != nil {
			return
		}
		if _, sync := m.(*pgproto3.Sync); s.skip && !sync {
			continue
		}
		out := wire(s.answer(m)...)
		if _, err := c.conn.Write(out); err != nil {
			return
		}
	}
}

var failure = &pgproto3.ErrorResponse{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: "42601", Message: "no"}

func (s *tinyServer) answer(m pgproto3.FrontendMessage) []pgproto3.Message {
	switch m := m.(type) {
	case *pgproto3.Query:
		var out []pgproto3.Message
		for text := range strings.SplitSeq(m.String, ";") {
			if text = strings.TrimSpace(text); text == "fail" {
				out = append(out, failure)
				break
			}
			if d := describeText(text); d != nil {
				out = append(out, d)
			}
			out = append(out, s.execute(text)...)
		}
		return append(out, &pgproto3.ReadyForQuery{TxStatus: s.status})
	case *pgproto3.Parse:
		if m.Query == "fail" {
			return s.fail()
		}
		s.statements[m.Name] = m.Query
		return []pgproto3.Message{&pgproto3.ParseComplete{}}
	case *pgproto3.Bind:
		s.portals[m.DestinationPortal] = s.statements[m.PreparedStatement]
		return []pgproto3.Message{&pgproto3.BindComplete{}}
	case *pgproto3.Describe:
		if m.ObjectType == 'S' {
			return []pgproto3.Message{&pgproto3.ParameterDescription{}, descriptionOf(s.statements[m.Name])}
		}
		return []pgproto3.Message{descriptionOf(s.portals[m.Name])}
	case *pgproto3.Execute:
		if s.portals[m.Portal] == "failing" {
			return s.fail()
		}
		if m.MaxRows > 0 {
			return []pgproto3.Message{&pgproto3.DataRow{}, &pgproto3.PortalSuspended{}}
		}
		return s.execute(s.portals[m.Portal])
	case *pgproto3.Close:
		return []pgproto3.Message{&pgproto3.CloseComplete{}}
	case *pgproto3.Sync:
		s.skip = false
		return []pgproto3.Message{&pgproto3.ReadyForQuery{TxStatus: s.status}}
	}
	return nil
}

func (s *tinyServer) fail() []pgproto3.Message {
	s.skip = true
	return []pgproto3.Message{failure}
}

func (s *tinyServer) execute(text string) []pgproto3.Message {
	tag := strings.ToUpper(strings.Fields(text + " x")[0])
	switch tag {
	case "BEGIN":
		s.status = 'T'
	case "COMMIT", "ROLLBACK":
		s.status = 'I'
	case "SET", "RESET", "INSERT":
	default:
		return []pgproto3.Message{&pgproto3.DataRow{}, &pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")}}
	}
	return []pgproto3.Message{&pgproto3.CommandComplete{CommandTag: []byte(tag)}}
}

func descriptionOf(text string) pgproto3.Message {
	if d := describeText(text); d != nil {
		return d
	}
	return &pgproto3.NoData{}
}

func describeText(text string) pgproto3.Message {
	d := &pgproto3.RowDescription{}
	for column := range strings.FieldsSeq(text) {
		table, name, ok := strings.Cut(column, ".")
		if !ok {
			name = column
		}
		if strings.ToLower(name) != name || len(d.Fields) == 0 && (name == "set" || name == "reset" || name == "begin" || name == "commit" || name == "rollback" || name == "insert") {
			return nil
		}
		d.Fields = append(d.Fields, pgproto3.FieldDescription{Name: []byte(name), TableOID: tables[table]})
	}
	return d
}

func labelBed(t *testing.T, label Label) *client { return newLabelBed(t, label, tiny).connect() }

func newLabelBed(t *testing.T, label Label, script func(*serverConn)) *bed {
	t.Helper()
	return newBed(t, script, func(c *Config, r *fakeRouter) {
		c.Label = label
		r.relations.Base.Time = "noon"
		r.relations.ByOID = map[uint32]Relation{
			20002: {Name: "public.products", Origins: []Origin{{"monday", "09:00"}}},
			20003: {Name: "public.prices", Origins: []Origin{{"monday", "09:00"}, {"thursday", "noon"}}},
		}
	})
}

const (
	priceLabel = "NOTICE: pg0: price from public.products of monday (09:00)"
	mixedLabel = "NOTICE: pg0: id from the base, thursday (noon); price from public.products of monday (09:00)"
)

func check(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s:%s", what, diff)
	}
}

func TestLabelsOfSimpleQueries(t *testing.T) {
	c := labelBed(t, LabelNotice)
	check(t, "base", c.query("orders.id now"), "columns id now", "row", "done SELECT 1", "ready I")
	check(t, "graft", c.query("products.price"), "columns price", "row", "done SELECT 1", priceLabel, "ready I")
	check(t, "mix", c.query("orders.id products.price"), "columns id price", "row", "done SELECT 1", mixedLabel, "ready I")
	check(t, "view", c.query("prices.x"), "columns x", "row", "done SELECT 1", "NOTICE: pg0: x from public.prices of monday (09:00) and thursday (noon)", "ready I")
	check(t, "several", c.query("products.price; insert; orders.id; fail"),
		"columns price", "row", "done SELECT 1", priceLabel, "done INSERT", "columns id", "row", "done SELECT 1", "ERROR 42601: no", "ready I")
	check(t, "after an error", c.query("orders.id"), "columns id", "row", "done SELECT 1", "ready I")
}

func TestLabelsOfPreparedStatements(t *testing.T) {
	c := labelBed(t, LabelNotice)
	c.write(&pgproto3.Parse{Name: "p", Query: "products.price"}, &pgproto3.Describe{ObjectType: 'S', Name: "p"}, &pgproto3.Sync{})
	check(t, "prepare", c.read(), "parsed", "parameters", "columns price", "ready I")
	for range 2 {
		c.write(&pgproto3.Bind{PreparedStatement: "p"}, &pgproto3.Execute{}, &pgproto3.Sync{})
		check(t, "execute", c.read(), "bound", "row", "done SELECT 1", priceLabel, "ready I")
	}
	// Nobody asks for a description: pg0 does, and keeps the answer.
	c.write(&pgproto3.Parse{Name: "q", Query: "products.price"}, &pgproto3.Bind{PreparedStatement: "q"}, &pgproto3.Execute{}, &pgproto3.Sync{})
	check(t, "never described", c.read(), "parsed", "bound", "row", "done SELECT 1", priceLabel, "ready I")
	c.write(&pgproto3.Parse{Query: "insert"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{})
	check(t, "no rows", c.read(), "parsed", "bound", "done INSERT", "ready I")
	// The name is given to another statement.
	c.write(&pgproto3.Parse{Name: "p", Query: "orders.id"}, &pgproto3.Bind{PreparedStatement: "p"}, &pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{}, &pgproto3.Sync{})
	check(t, "another statement", c.read(), "parsed", "bound", "columns id", "row", "done SELECT 1", "ready I")
	// A portal that is read in parts has one label.
	c.write(&pgproto3.Bind{DestinationPortal: "c", PreparedStatement: "q"}, &pgproto3.Execute{Portal: "c", MaxRows: 1}, &pgproto3.Execute{Portal: "c"}, &pgproto3.Close{ObjectType: 'P', Name: "c"}, &pgproto3.Sync{})
	check(t, "parts", c.read(), "bound", "row", "suspended", priceLabel, "row", "done SELECT 1", "closed", "ready I")
}

func TestLabelsInPipelines(t *testing.T) {
	c := labelBed(t, LabelNotice)
	group := []pgproto3.FrontendMessage{&pgproto3.Parse{Query: "products.price"}, &pgproto3.Bind{}, &pgproto3.Execute{}}
	broken := []pgproto3.FrontendMessage{&pgproto3.Parse{Query: "fail"}, &pgproto3.Bind{}, &pgproto3.Execute{}}
	late := []pgproto3.FrontendMessage{&pgproto3.Parse{Query: "failing"}, &pgproto3.Bind{}, &pgproto3.Execute{}}
	sync := &pgproto3.Sync{}
	all := append(append(append([]pgproto3.FrontendMessage{}, group...), group...), sync)
	all = append(append(append(all, broken...), group...), sync)
	all = append(append(append(all, late...), group...), sync)
	all = append(append(all, group...), sync)
	var out []byte
	for _, m := range all {
		out = append(out, wire(m)...)
	}
	if _, err := c.conn.Write(out); err != nil {
		t.Fatal(err)
	}
	one := []string{"parsed", "bound", "row", "done SELECT 1", priceLabel}
	check(t, "two", c.read(), append(append(append([]string{}, one...), one...), "ready I")...)
	check(t, "a broken one", c.read(), "ERROR 42601: no", "ready I")
	check(t, "a late error", c.read(), "parsed", "bound", "ERROR 42601: no", "ready I")
	check(t, "after errors", c.read(), append(append([]string{}, one...), "ready I")...)
}

func TestSetLabel(t *testing.T) {
	c := labelBed(t, LabelOff)
	off := []string{"columns price", "row", "done SELECT 1", "ready I"}
	on := []string{"columns price", "row", "done SELECT 1", priceLabel, "ready I"}
	renamed := []string{"columns price@monday", "row", "done SELECT 1", "ready I"}
	check(t, "off", c.query("products.price"), off...)
	check(t, "set", c.query("set pg0.label = notice"), "done SET", "ready I")
	check(t, "notice", c.query("products.price"), on...)
	check(t, "set", c.query("set pg0.label = columns"), "done SET", "ready I")
	check(t, "columns", c.query("products.price"), renamed...)
	check(t, "columns of views", c.query("prices.x orders.id"), "columns x@monday+thursday id", "row", "done SELECT 1", "ready I")
	check(t, "a wrong value", c.query("set pg0.label = loud"), "done SET", `WARNING: pg0.label: "loud" is none of off, notice, columns; it stays as it was`, "ready I")
	check(t, "still columns", c.query("products.price"), renamed...)
	check(t, "reset", c.query("reset all"), "done RESET", "ready I")
	check(t, "off again", c.query("products.price"), off...)
}

func TestSetLabelPrepared(t *testing.T) {
	c := labelBed(t, LabelOff)
	// As drivers do: prepared and described in one group, executed in another.
	c.write(&pgproto3.Parse{Name: "s", Query: "SET pg0.label TO notice"}, &pgproto3.Describe{ObjectType: 'S', Name: "s"}, &pgproto3.Sync{})
	check(t, "prepare", c.read(), "parsed", "parameters", "no data", "ready I")
	check(t, "not executed yet", c.query("products.price"), "columns price", "row", "done SELECT 1", "ready I")
	// What follows in the pipeline is labelled.
	var out []byte
	for _, m := range []pgproto3.Message{
		&pgproto3.Bind{PreparedStatement: "s"}, &pgproto3.Execute{}, &pgproto3.Sync{},
		&pgproto3.Parse{Query: "products.price"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{},
	} {
		out = append(out, wire(m)...)
	}
	if _, err := c.conn.Write(out); err != nil {
		t.Fatal(err)
	}
	check(t, "execute", c.read(), "bound", "done SET", "ready I")
	check(t, "next", c.read(), "parsed", "bound", "row", "done SELECT 1", priceLabel, "ready I")
}

func TestSetLabelInTransactions(t *testing.T) {
	is := func(c *client, when string, on bool) {
		t.Helper()
		if got := strings.Contains(strings.Join(c.query("products.price"), " "), priceLabel); got != on {
			t.Errorf("%s: labelled is %v", when, got)
		}
	}
	c := labelBed(t, LabelOff)
	run := func(texts ...string) {
		for _, text := range texts {
			c.query(text)
		}
	}
	run("begin", "set pg0.label = notice")
	is(c, "in the block", true)
	run("rollback")
	is(c, "after a rollback", false)
	run("begin", "set pg0.label = notice", "set local pg0.label = off")
	is(c, "local", false)
	run("commit")
	is(c, "after a commit", true)
	run("begin", "set local pg0.label = off", "commit")
	is(c, "local ends", true)
	run("set local pg0.label = off")
	is(c, "local without a block", true)
	run("set pg0.label = off; fail")
	is(c, "not alone in its text", true)
}

func TestLabelOfRoleAndOptions(t *testing.T) {
	for _, tt := range []struct {
		all    Label
		role   string
		params []string
		want   bool
	}{
		{LabelOff, "notice", nil, true},
		{LabelNotice, "off", nil, false},
		{LabelOff, "off", []string{"options", "-c pg0.label=notice"}, true},
		{LabelNotice, "", []string{"pg0.label", "off"}, false},
		{LabelNotice, "nonsense", nil, true},
	} {
		b := newBed(t, tiny, func(c *Config, r *fakeRouter) {
			c.Label, r.labels.Label = tt.all, tt.role
			r.relations.ByOID = map[uint32]Relation{20002: {Name: "public.products", Origins: []Origin{{Point: "monday"}}}}
		})
		got := strings.Join(b.connect(tt.params...).query("products.price"), " ")
		if strings.Contains(got, "of monday") != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
}

// TestUnknownRelationsAreNotSilent has a server that cannot be asked.
func TestUnknownRelationsAreNotSilent(t *testing.T) {
	b := newBed(t, tiny, func(c *Config, r *fakeRouter) {
		c.Label, r.unread = LabelNotice, errors.New("it is away")
	})
	got := b.connect().query("products.price")
	if want := "NOTICE: pg0: cannot tell where these columns come from: it is away"; got[3] != want {
		t.Errorf("%q", got)
	}
}

func TestLabelsNameFewColumns(t *testing.T) {
	c := labelBed(t, LabelNotice)
	got := c.query(strings.Repeat("products.x ", 20))
	want := "NOTICE: pg0: x, x, x, x, x, x, x, x and 12 more columns from public.products of monday (09:00)"
	if got[3] != want {
		t.Errorf("%q", got)
	}
}

// TestCopyInTheExtendedProtocol sends Sync before the data, which the server
// ignores: the session is idle again all the same.
func TestCopyInTheExtendedProtocol(t *testing.T) {
	for _, label := range []Label{LabelOff, LabelNotice} {
		b := newBed(t, func(c *serverConn) {
			for {
				m, err := c.Receive()
				if err != nil {
					return
				}
				switch m.(type) {
				case *pgproto3.Execute:
					c.conn.Write(wire(&pgproto3.ParseComplete{}, &pgproto3.BindComplete{}, &pgproto3.CopyInResponse{}))
				case *pgproto3.CopyDone:
					c.conn.Write(wire(&pgproto3.CommandComplete{CommandTag: []byte("COPY 1")}))
				case *pgproto3.Query:
					c.conn.Write(wire(&pgproto3.CommandComplete{CommandTag: []byte("X")}, &pgproto3.ReadyForQuery{TxStatus: 'I'}))
				case *pgproto3.Terminate:
					c.conn.Write(wire(&pgproto3.ReadyForQuery{TxStatus: 'I'}))
				}
			}
		}, func(c *Config, _ *fakeRouter) { c.Label = label })
		c := b.connect()
		c.write(&pgproto3.Parse{Query: "copy"}, &pgproto3.Bind{}, &pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{}, &pgproto3.Sync{})
		for range 3 {
			if _, err := c.Receive(); err != nil {
				t.Fatal(err)
			}
		}
		c.write(&pgproto3.CopyData{Data: []byte("1\n")}, &pgproto3.CopyDone{})
		if _, err := c.Receive(); err != nil {
			t.Fatal(err)
		}
		s := b.proxy.snapshot()[0]
		if got := s.asked.Load() - s.answered.Load(); got != 0 {
			t.Errorf("label %d: %d requests are open", label, got)
		}
		if got := c.query("x"); len(got) != 2 {
			t.Errorf("label %d: %q", label, got)
		}
	}
}
