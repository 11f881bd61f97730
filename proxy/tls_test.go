package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	v5 "github.com/jackc/pgx/v5/pgproto3"
)

// testTLS is a certificate for 127.0.0.1.
func testTLS(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pg0"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		&tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
}

var (
	sslRequest = []byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f}
	gssRequest = []byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30}
)

// encryption sends a request for encryption and returns the one byte of the answer.
func encryption(t *testing.T, conn net.Conn, packet []byte) string {
	t.Helper()
	if _, err := conn.Write(packet); err != nil {
		t.Fatal(err)
	}
	var answer [1]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return err.Error()
	}
	return string(answer[:])
}

func TestTLS(t *testing.T) {
	serverTLS, clientTLS := testTLS(t)
	b := authBed(t, serverTLS)
	for _, gssFirst := range []bool{false, true} {
		conn := b.dial(b.tcp)
		if gssFirst {
			if got := encryption(t, conn, gssRequest); got != "N" {
				t.Errorf("GSS: %q", got)
			}
		}
		if got := encryption(t, conn, sslRequest); got != "S" {
			t.Fatalf("SSL: %q", got)
		}
		checkSecure(t, tls.Client(conn, clientTLS))
	}
	// On a Unix socket, and without a certificate, there is none.
	if got := encryption(t, b.dial(b.unix), sslRequest); got != "N" {
		t.Errorf("SSL on a Unix socket: %q", got)
	}
	plain := authBed(t, nil)
	conn := plain.dial(plain.tcp)
	if got := encryption(t, conn, sslRequest) + encryption(t, conn, gssRequest); got != "NN" {
		t.Errorf("without TLS: %q", got)
	}
	if err := newClient(t, conn).start("secret"); err != nil {
		t.Errorf("after N: %v", err)
	}
}

func TestDirectTLS(t *testing.T) {
	serverTLS, clientTLS := testTLS(t)
	b := authBed(t, serverTLS)
	direct := clientTLS.Clone()
	direct.NextProtos = []string{"postgresql"}
	checkSecure(t, tls.Client(b.dial(b.tcp), direct))
	// Without the name of the protocol, and with another, it is refused.
	for _, protocols := range [][]string{nil, {"http/1.1"}} {
		direct.NextProtos = protocols
		conn := tls.Client(b.dial(b.tcp), direct)
		if err := newClient(t, conn).start("secret"); err == nil {
			t.Errorf("direct TLS with ALPN %q was taken", protocols)
		}
	}
}

// checkSecure opens sessions with and without channel binding.
func checkSecure(t *testing.T, conn *tls.Conn) {
	t.Helper()
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	state := conn.ConnectionState()
	c := newClient(t, conn)
	if _, err := conn.Write(startup(3 << 16)); err != nil {
		t.Fatal(err)
	}
	if err := c.await("secret", &state); err != nil {
		t.Fatalf("with channel binding: %v", err)
	}
	long := strings.Repeat("x", 100_000)
	if got := c.query(long); got[0] != "done "+long {
		t.Errorf("a long query came back with %d bytes", len(got[0]))
	}
}

// TestPlaintextDoesNotPassIntoTLS puts a start-up packet behind a request for
// TLS, as somebody in the middle would.
func TestPlaintextDoesNotPassIntoTLS(t *testing.T) {
	serverTLS, clientTLS := testTLS(t)
	b := authBed(t, serverTLS)
	conn := b.dial(b.tcp)
	packet := append(append([]byte{}, sslRequest...), startup(3<<16, "user", "mallory")...)
	if got := encryption(t, conn, packet); got != "S" {
		t.Fatal(got)
	}
	if err := tls.Client(conn, clientTLS).Handshake(); err == nil {
		t.Error("TLS began in the middle of what was sent in plain")
	}
}

func TestEncryptionIsAskedOnce(t *testing.T) {
	b := authBed(t, nil)
	conn := b.dial(b.tcp)
	if got := encryption(t, conn, sslRequest); got != "N" {
		t.Fatal(got)
	}
	if m, ok := exchange(t, conn, sslRequest).(*v5.ErrorResponse); !ok || m.Code != codeNotSupported {
		t.Errorf("a second request: %#v", m)
	}
}
