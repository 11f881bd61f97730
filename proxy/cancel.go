package proxy

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// A key is what a client must know to cancel what its session does. Servers'
// own keys are never told: those of several servers could clash.
type key struct {
	pid    uint32 // positive as an int32: clients print it
	secret [4]byte
}

// A keyring finds sessions by their keys.
type keyring struct {
	mu       sync.Mutex
	sessions map[uint32]*session
}

// issue gives a session its key.
func (k *keyring) issue(s *session) key {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.sessions == nil {
		k.sessions = map[uint32]*session{}
	}
	for {
		var random [8]byte
		_, _ = rand.Read(random[:]) // it never fails: see crypto/rand
		issued := key{pid: binary.BigEndian.Uint32(random[:4]) & 0x7fffffff}
		copy(issued.secret[:], random[4:])
		if issued.pid != 0 && k.sessions[issued.pid] == nil {
			k.sessions[issued.pid] = s
			return issued
		}
	}
}

func (k *keyring) revoke(issued key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.sessions, issued.pid)
}

// find returns nil for a key that no session has.
func (k *keyring) find(pid uint32, secret []byte) *session {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.sessions[pid]
	if s == nil || subtle.ConstantTimeCompare(s.key.secret[:], secret) != 1 {
		return nil
	}
	return s
}

// cancelTimeout bounds one request to a server.
const cancelTimeout = 10 * time.Second

// cancel passes a request on to the server of the session that has the key.
// Nobody is told whether there is one.
func (s *Server) cancel(body []byte) {
	var request pgproto3.CancelRequest
	if err := request.Decode(body); err != nil {
		return
	}
	target := s.keys.find(request.ProcessID, request.SecretKey)
	if target == nil {
		s.Logger.Info("cancel request with an unknown key")
		return
	}
	if err := target.cancel(); err != nil {
		s.Logger.Warn("pass on a cancel request", "error", err)
	}
}

// cancel asks the server to end what the session does, and waits until it has
// taken note.
func (s *session) cancel() error {
	ctx, done := context.WithTimeout(context.Background(), cancelTimeout)
	defer done()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", s.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(cancelTimeout)); err != nil {
		return err
	}
	request := pgproto3.CancelRequest{ProcessID: s.serverKey.ProcessID, SecretKey: s.serverKey.SecretKey}
	if _, err := conn.Write(encode(&request)); err != nil {
		return err
	}
	// It closes once the signal is sent.
	_, err = io.Copy(io.Discard, conn)
	return err
}
