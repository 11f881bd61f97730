package tests

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fukanchik/pg0/tests/fixture"
	"github.com/fukanchik/pg0/tests/program"
)

// mixMap is a mapping file over the shop: Monday's products in Thursday.
func mixMap(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "tables.toml")
	text := fmt.Sprintf(`version = 1
[sources.nightly]
format   = "probackup"
path     = %q
instance = "shop"
[points]
monday   = { source = "nightly", at = "TEI900" }
tuesday  = { source = "nightly", at = "TEK3O0" }
thursday = { source = "nightly", at = "TENT00" }
[base]
point = "thursday"
[[relation]]
name = "shop.public.products"
from = "monday"
`, fixture.Shop(t))
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// startProxy runs pg0 proxy until the test ends and returns the address that it
// listens on first.
func startProxy(t *testing.T, p *program.Program, args ...string) string {
	t.Helper()
	cmd := p.Command(context.Background(), append([]string{"proxy"}, args...)...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	line, err := lines.ReadString('\n')
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("pg0 proxy: %v\n%s", err, stderr.String())
		}
	})
	if err != nil {
		t.Fatalf("pg0 proxy: %v\n%s", err, stderr.String())
	}
	addresses := strings.TrimPrefix(strings.TrimSpace(line), "listening on ")
	first, _, _ := strings.Cut(addresses, ", ")
	return first
}

// certificate makes one for 127.0.0.1 that signs itself.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pg0"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyBytes, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyBytes}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// A proxied mix: a mount of Monday's products in Thursday, and a proxy before it.
type proxied struct {
	*program.Program
	mountpoint string
	cert       string
	host, port string
	auditLog   string
}

func newProxied(t *testing.T, flags ...string) *proxied {
	t.Helper()
	p := &proxied{Program: program.New(t), auditLog: filepath.Join(t.TempDir(), "audit")}
	p.mountpoint = p.Mountpoint()
	p.Must("frankenstein", "--map", mixMap(t), "--start", p.mountpoint)
	conn := p.Connect(p.mountpoint, "shop")
	for _, sql := range []string{
		"create role visitor superuser login password 'secret'",
		"set password_encryption = md5", "create role old login password 'secret'",
	} {
		if _, err := conn.Exec(context.Background(), sql); err != nil {
			t.Fatal(err)
		}
	}
	var key string
	p.cert, key = certificate(t)
	flags = append(flags, "--listen", "127.0.0.1:0", "--tls-cert", p.cert, "--tls-key", key, "--audit-log", p.auditLog, "mix="+p.mountpoint)
	p.host, p.port, _ = strings.Cut(startProxy(t, p.Program, flags...), ":")
	return p
}

// dsn is how libpq and pgx reach the proxy.
func (p *proxied) dsn(database string, more ...string) string {
	return fmt.Sprintf("host=%s port=%s user=visitor password=secret sslmode=disable dbname=%s ", p.host, p.port, database) + strings.Join(more, " ")
}

// tool runs a program of PostgreSQL 15 and returns its output.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(filepath.Join("/usr/lib/postgresql/15/bin", name), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func (p *proxied) connect(t *testing.T, config string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// TestProxyClients lets real clients work through the proxy.
func TestProxyClients(t *testing.T) {
	p := newProxied(t)
	t.Run("psql", p.testPsql)
	t.Run("pgx", p.testPgx)
	t.Run("cancel", p.testCancel)
	t.Run("pgbench", p.testPgbench)
	t.Run("dump", p.testDump)
	t.Run("copy", p.testCopy)
	t.Run("python", p.testPython)
	p.testAudit(t)
}

func (p *proxied) testPsql(t *testing.T) {
	out := tool(t, "psql", "-XAt", p.dsn("shop"), "-c", "show pg0.mix", "-c", `\conninfo`)
	if !strings.Contains(out, "mix\n") || !strings.Contains(out, "NOTICE:  pg0: ") {
		t.Error(out)
	}
	secure := p.dsn("shop@mix", "sslmode=verify-full channel_binding=require sslrootcert="+p.cert)
	if out := tool(t, "psql", "-X", secure, "-c", `\conninfo`); !strings.Contains(out, "SSL connection") {
		t.Error(out)
	}
	if out := tool(t, "psql", "-XAt", p.dsn("shop", "user=old"), "-c", "select current_user"); !strings.HasSuffix(out, "old\n") {
		t.Error(out)
	}
	for _, wrong := range []string{"password=wrong", "user=old password=wrong", "user=nobody"} {
		out, err := exec.Command("psql", "-X", p.dsn("shop", wrong), "-c", "select 1").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "password authentication failed") {
			t.Errorf("%s: %s", wrong, out)
		}
	}
}

func (p *proxied) testPgx(t *testing.T) {
	config, err := pgx.ParseConfig(p.dsn("shop", "application_name=test"))
	if err != nil {
		t.Fatal(err)
	}
	var notices []string
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices = append(notices, n.Message) }
	ctx := context.Background()
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if got := conn.PgConn().ParameterStatus("pg0.mix"); got != "mix" {
		t.Errorf("pg0.mix is %q", got)
	}
	if _, err := conn.Exec(ctx, "set pg0.label = notice"); err != nil {
		t.Fatal(err)
	}
	for range 3 { // pgx describes a statement once
		var price float64
		if err := conn.QueryRow(ctx, "select price from products where id = $1", 1).Scan(&price); err != nil {
			t.Fatal(err)
		}
	}
	if len(notices) != 3 || !strings.HasPrefix(notices[0], "pg0: price from public.products of monday") {
		t.Errorf("notices %q", notices)
	}
	batch := &pgx.Batch{}
	for i := range 100 {
		batch.Queue("select $1::int + count(*) from orders", i)
	}
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		t.Error(err)
	}
}

func (p *proxied) testCancel(t *testing.T) {
	ctx := context.Background()
	one, two := p.connect(t, p.dsn("shop")), p.connect(t, p.dsn("shop"))
	started := make(chan error, 1)
	go func() {
		_, err := one.Exec(ctx, "select pg_sleep(60)")
		started <- err
	}()
	for running := false; !running; {
		err := two.QueryRow(ctx, "select exists (select from pg_stat_activity where query = 'select pg_sleep(60)' and state = 'active')").Scan(&running)
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := one.PgConn().CancelRequest(ctx); err != nil {
		t.Fatal(err)
	}
	var canceled *pgconn.PgError
	if err := <-started; !errors.As(err, &canceled) || canceled.Code != "57014" {
		t.Errorf("it ended with %v", err)
	}
}

func (p *proxied) testPgbench(t *testing.T) {
	tool(t, "psql", "-Xq", p.dsn("shop"), "-c", "create database bench")
	tool(t, "pgbench", "-iq", p.dsn("bench"))
	for _, mode := range []string{"simple", "extended", "prepared"} {
		if out := tool(t, "pgbench", "-n", "-M", mode, "-c", "4", "-t", "50", p.dsn("bench")); !strings.Contains(out, "processed: 200/200") {
			t.Errorf("%s: %s", mode, out)
		}
	}
}

func (p *proxied) testDump(t *testing.T) {
	file := filepath.Join(t.TempDir(), "dump")
	tool(t, "pg_dump", "-Fc", "-f", file, p.dsn("shop"))
	tool(t, "psql", "-Xq", p.dsn("shop"), "-c", "create database again")
	tool(t, "pg_restore", "--no-comments", "-d", p.dsn("again"), file)
	const count = "select count(*), sum(hashtext(p::text)) from products p"
	want := tool(t, "psql", "-XAtq", p.dsn("shop", "options='-c pg0.notice=off'"), "-c", count)
	if got := tool(t, "psql", "-XAtq", p.dsn("again", "options='-c pg0.notice=off'"), "-c", count); got != want {
		t.Errorf("%s came back as %s", want, got)
	}
}

// testCopy passes 100 MB each way.
func (p *proxied) testCopy(t *testing.T) {
	ctx := context.Background()
	conn := p.connect(t, p.dsn("shop"))
	const rows, wide = 100_000, 1000
	counted := new(counter)
	if _, err := conn.PgConn().CopyTo(ctx, counted, fmt.Sprintf("copy (select repeat('x', %d) from generate_series(1, %d)) to stdout", wide-1, rows)); err != nil {
		t.Fatal(err)
	}
	if *counted != rows*wide {
		t.Errorf("%d bytes came", *counted)
	}
	if _, err := conn.Exec(ctx, "create temp table t (a text)"); err != nil {
		t.Fatal(err)
	}
	line := append(bytes.Repeat([]byte{'y'}, wide-1), '\n')
	tag, err := conn.PgConn().CopyFrom(ctx, &repeated{line, rows}, "copy t from stdin")
	if err != nil || tag.RowsAffected() != rows {
		t.Errorf("%v, %v", tag, err)
	}
	if err := conn.QueryRow(ctx, "select 1").Scan(new(int)); err != nil {
		t.Error(err)
	}
}

// testPython has a driver that shares no code with the others.
func (p *proxied) testPython(t *testing.T) {
	out, err := exec.Command("/usr/bin/python3", filepath.Join("testdata", "driver.py"), p.host, p.port).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

type counter int

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// repeated reads a line some times.
type repeated struct {
	line []byte
	left int
}

func (r *repeated) Read(b []byte) (n int, err error) {
	for r.left > 0 && len(b)-n >= len(r.line) {
		n += copy(b[n:], r.line)
		r.left--
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// testAudit reads the lines of the sessions that have ended.
func (p *proxied) testAudit(t *testing.T) {
	text, err := os.ReadFile(p.auditLog)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, []byte("secret")) || bytes.Contains(text, []byte("select")) {
		t.Error("the audit log has a password or a statement")
	}
	touched := false
	for line := range bytes.Lines(text) {
		var session struct {
			User       string
			Mix        string
			Points     []string
			Statements int
		}
		if err := json.Unmarshal(line, &session); err != nil || session.Mix != "mix" {
			t.Fatalf("%s: %v", line, err)
		}
		touched = touched || session.User == "visitor" && session.Statements > 0 && strings.Join(session.Points, " ") == "monday"
	}
	if !touched {
		t.Errorf("no session has touched monday:\n%s", text)
	}
}

// TestProxyReadOnly tries to write.
func TestProxyReadOnly(t *testing.T) {
	p := newProxied(t, "--read-only")
	ctx := context.Background()
	conn := p.connect(t, p.dsn("shop"))
	for _, sql := range []string{
		"delete from products", "begin read write", "set default_transaction_read_only = off", "set transaction read write",
		"select set_config('default_transaction_read_only', 'off', false)",
		"do $$ begin execute 'set default_transaction_read_only = off'; end $$",
	} {
		var refused *pgconn.PgError
		if _, err := conn.Exec(ctx, sql); !errors.As(err, &refused) || refused.Code != "25006" {
			t.Errorf("%s: %v", sql, err)
		}
	}
	// Hidden from view, it ends the session.
	if _, err := conn.Exec(ctx, "prepare sneaky as select set_config(name, 'off', false) from pg_settings where name like 'default_transaction_read%'"); err == nil {
		t.Error("a computed name was taken")
	}
	if err := conn.QueryRow(ctx, "select 1").Scan(new(int)); err != nil {
		t.Error(err)
	}
}

// TestProxyPoints asks for points that are not mounted.
func TestProxyPoints(t *testing.T) {
	p := program.New(t)
	dir := t.TempDir()
	audit := filepath.Join(dir, "audit")
	socket, err := os.MkdirTemp("", "px")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(socket) })
	startProxy(t, p, "--listen", socket+":6432", "--map", mixMap(t), "--max-points", "1", "--idle", "1h", "--points-dir", dir, "--audit-log", audit)
	dsn := func(database string) string {
		return fmt.Sprintf("host=%s port=6432 user=postgres dbname=%s", socket, database)
	}
	out := tool(t, "psql", "-XAt", dsn("shop@monday"), "-c", "select count(*) from orders")
	if !strings.Contains(out, "NOTICE:  pg0: making point monday ready") || !strings.Contains(out, "everything here is from monday") {
		t.Error(out)
	}
	// Only one may be ready: the other makes room when nobody uses it.
	conn, err := pgx.Connect(context.Background(), dsn("shop@Monday"))
	if err != nil {
		t.Fatal(err)
	}
	for database, want := range map[string]string{
		"shop@tuesday": "1 points are in use", "shop@tusday": `Did you mean "tuesday"?`, "shop": "1 points are in use",
	} {
		out, err := exec.Command("psql", "-X", dsn(database), "-c", "select 1").CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %s", database, out)
		}
	}
	if err := conn.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	awaitSession(t, audit, 2)
	out = tool(t, "psql", "-XAt", dsn("shop@tuesday"), "-c", "show pg0.base")
	if !strings.Contains(out, "stopping point monday") || !strings.Contains(out, "tuesday (") {
		t.Error(out)
	}
	if out := p.Must("status"); strings.Contains(out, "monday") || !strings.Contains(out, "tuesday") {
		t.Errorf("status: %s", out)
	}
}

// awaitSession waits for the audit of a number of sessions.
func awaitSession(t *testing.T, audit string, n int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		text, err := os.ReadFile(audit)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Count(text, []byte("\n")) >= n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d sessions are to end:\n%s", n, text)
		}
	}
}
