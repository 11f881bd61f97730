package proxy

import (
	"context"
	"crypto/hmac"
	"crypto/md5" //nolint:gosec // the protocol's
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/xdg-go/scram"
)

// An authenticator checks passwords against what servers keep of them.
type authenticator struct {
	mock    [sha256.Size]byte // key of the salts of roles that do not exist
	binding scram.ChannelBinding
}

const (
	mechanism     = "SCRAM-SHA-256"
	mechanismPlus = "SCRAM-SHA-256-PLUS"
	// mockIterations is PostgreSQL's default.
	mockIterations = 4096
	// maxPassword bounds a message of a client that is not authenticated.
	maxPassword = 4096
)

func newAuthenticator(config *tls.Config) (*authenticator, error) {
	a := &authenticator{}
	_, _ = rand.Read(a.mock[:])
	if config == nil || len(config.Certificates) == 0 {
		return a, nil
	}
	leaf, err := x509.ParseCertificate(config.Certificates[0].Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	// Signature algorithms without a hash of their own have no binding; clients
	// then go without.
	a.binding, _ = scram.NewTLSServerEndpointBinding(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}})
	return a, nil
}

// check lets the client prove that it knows the password of role. A wrong
// password, a role without one and a role that does not exist look the same.
func (a *authenticator) check(ctx context.Context, c *greeting, route Route) error {
	role := c.role
	secret, err := route.Secret(ctx, role)
	if err != nil {
		return err
	}
	failed := &Error{Code: codeInvalidPassword, Message: fmt.Sprintf("password authentication failed for user %q", role)}
	var ok bool
	if md5Verifier, isMD5 := strings.CutPrefix(secret.Verifier, "md5"); isMD5 {
		ok, err = checkMD5(c, md5Verifier)
	} else {
		ok, err = a.checkSCRAM(c, role, secret.Verifier)
	}
	switch {
	case err != nil:
		return err
	case !ok || secret.Expired:
		return failed
	}
	return nil
}

// checkMD5 runs PostgreSQL's old exchange: md5(verifier, salt).
func checkMD5(c *greeting, verifier string) (bool, error) {
	var salt [4]byte
	_, _ = rand.Read(salt[:])
	answer, err := c.ask(&pgproto3.AuthenticationMD5Password{Salt: salt})
	if err != nil {
		return false, err
	}
	var password pgproto3.PasswordMessage
	if err := password.Decode(answer); err != nil {
		return false, violation("malformed password message")
	}
	sum := md5.Sum(append([]byte(verifier), salt[:]...)) //nolint:gosec // as above
	want := "md5" + hex.EncodeToString(sum[:])
	return hmac.Equal([]byte(want), []byte(password.Password)), nil
}

// checkSCRAM runs the exchange of RFC 7677, to its end also for a role that
// cannot succeed.
func (a *authenticator) checkSCRAM(c *greeting, role, verifier string) (bool, error) {
	stored, known := parseVerifier(verifier)
	if !known {
		stored = a.mockCredentials(role)
	}
	server, err := scram.SHA256.NewServer(func(string) (scram.StoredCredentials, error) { return stored, nil })
	if err != nil {
		return false, err
	}
	conversation := server.NewConversation()
	offer := &pgproto3.AuthenticationSASL{AuthMechanisms: []string{mechanism}}
	if c.secure && a.binding.IsSupported() {
		offer.AuthMechanisms = []string{mechanismPlus, mechanism}
		conversation = server.NewConversationWithChannelBinding(a.binding)
	}
	first, err := a.first(c, offer)
	if err != nil {
		return false, err
	}
	reply, err := conversation.Step(first)
	if err != nil {
		return false, violation("malformed SCRAM message: %v", err)
	}
	final, err := c.ask(&pgproto3.AuthenticationSASLContinue{Data: []byte(reply)})
	if err != nil {
		return false, err
	}
	reply, err = conversation.Step(string(final))
	if err != nil || !conversation.Valid() || !known {
		return false, nil
	}
	return true, c.send(&pgproto3.AuthenticationSASLFinal{Data: []byte(reply)})
}

// first offers mechanisms and returns the client's first message.
func (a *authenticator) first(c *greeting, offer *pgproto3.AuthenticationSASL) (string, error) {
	answer, err := c.ask(offer)
	if err != nil {
		return "", err
	}
	var initial pgproto3.SASLInitialResponse
	if err := initial.Decode(answer); err != nil {
		return "", violation("malformed SASL message")
	}
	bound := strings.HasPrefix(string(initial.Data), "p=")
	switch {
	case initial.AuthMechanism == mechanism && !bound:
	case initial.AuthMechanism == mechanismPlus && bound && len(offer.AuthMechanisms) > 1:
	default:
		return "", violation("client selected an invalid SASL authentication mechanism")
	}
	return string(initial.Data), nil
}

// mockCredentials are those of a role that does not exist: the same at every
// attempt, so that it cannot be told from one that does.
func (a *authenticator) mockCredentials(role string) scram.StoredCredentials {
	mac := hmac.New(sha256.New, a.mock[:])
	mac.Write([]byte(role))
	salt := mac.Sum(nil)[:16]
	var nobody [2][sha256.Size]byte
	_, _ = rand.Read(nobody[0][:])
	return scram.StoredCredentials{
		KeyFactors: scram.KeyFactors{Salt: string(salt), Iters: mockIterations},
		StoredKey:  nobody[0][:], ServerKey: nobody[1][:],
	}
}

var errVerifier = errors.New("not a SCRAM verifier")

// parseVerifier reads SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>
// as PostgreSQL's scram-common.c writes it.
func parseVerifier(text string) (stored scram.StoredCredentials, ok bool) {
	stored, err := splitVerifier(text)
	return stored, err == nil
}

func splitVerifier(text string) (stored scram.StoredCredentials, err error) {
	parts := strings.FieldsFunc(text, func(r rune) bool { return r == '$' || r == ':' })
	if len(parts) != 5 || parts[0] != mechanism || strings.Count(text, "$") != 2 || strings.Count(text, ":") != 2 {
		return stored, errVerifier
	}
	if stored.Iters, err = strconv.Atoi(parts[1]); err != nil || stored.Iters < 1 {
		return stored, errVerifier
	}
	var keys [3][]byte
	for i, part := range parts[2:] {
		if keys[i], err = base64.StdEncoding.DecodeString(part); err != nil {
			return stored, errVerifier
		}
	}
	if len(keys[1]) != sha256.Size || len(keys[2]) != sha256.Size {
		return stored, errVerifier
	}
	stored.Salt, stored.StoredKey, stored.ServerKey = string(keys[0]), keys[1], keys[2]
	return stored, nil
}
