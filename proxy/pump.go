package proxy

import (
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// chunk is the size of a buffer. It is held only while bytes are under way.
	chunk = 32 << 10
	// headSize is that of a message's type and length.
	headSize = 5
	// maxLook is the longest message that is ever looked into as a whole.
	maxLook = 1 << 20
)

var buffers = sync.Pool{New: func() any { return new([chunk]byte) }}

// A side decides what is looked into of the messages that flow one way.
type side interface {
	// wants says whether a message is to be looked into; size is that of its
	// body. For other messages this is all that is seen of them. It is asked
	// once a message.
	wants(kind byte, size int) (bool, error)
	// look gets a message and returns what is sent instead.
	look(kind byte, body []byte, message []byte) (instead []byte, err error)
	// send passes bytes on; whole says whether the last of them ends a message.
	send(b []byte, whole bool) error
	// waits returns what has to be closed before anything is sent after the
	// message that was looked into last; nil if nothing.
	waits() <-chan struct{}
	// blocks says whether look, or what has to be waited for then, takes longer
	// than a loop that has other sessions may.
	blocks(kind byte, body []byte) bool
}

// errLeave says that the message which is next in the buffer cannot be handled
// in a loop.
var errLeave = errors.New("session has to leave its loop")

// A pump forwards messages as bytes. It follows their lengths, so that it knows
// where each begins, and keeps none but those that its side looks into.
type pump struct {
	from io.Reader
	raw  syscall.RawConn // of from, if it can be waited for without a buffer
	side side

	rest   int  // bytes still to come of a message that only flows through
	wanted bool // the side wants to look into the message that waits for its rest
	looped bool // it is driven by a loop, which may not be blocked

	// Of one read that waits without a buffer.
	buf   *[chunk]byte
	have  int // bytes at the start of a buffer that wait for the rest of theirs
	n     int
	err   error
	ready func(fd uintptr) bool
	small []byte // of an encrypted stream
}

func newPump(from io.Reader, side side) *pump {
	p := &pump{from: from, side: side}
	if conn, ok := from.(syscall.Conn); ok {
		if raw, err := conn.SyscallConn(); err == nil {
			p.raw, p.ready = raw, p.readReady
		}
	}
	return p
}

// preload is for what was read already; it is less than a buffer.
func (p *pump) preload(b []byte) {
	if len(b) > 0 {
		p.buf = buffers.Get().(*[chunk]byte)
		p.have = copy(p.buf[:], b)
	}
}

// run forwards until the reader ends, which is no error, or an error.
func (p *pump) run() error {
	if err := p.again(); err != nil {
		return err
	}
	for {
		if err := p.fill(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := p.spend(); err != nil {
			return err
		}
	}
}

// again forwards what is in the buffer from before.
func (p *pump) again() error {
	if p.have == 0 {
		return nil
	}
	p.n = 0
	return p.spend()
}

// fill reads into a buffer that is taken when there is something to read.
func (p *pump) fill() error {
	if p.raw == nil {
		return p.fillEncrypted()
	}
	p.n, p.err = 0, nil
	if err := p.raw.Read(p.ready); err != nil {
		return err
	}
	if p.err == nil && p.n == 0 {
		return io.EOF
	}
	return p.err
}

// readReady is called when bytes may wait; it returns false if there are none.
func (p *pump) readReady(fd uintptr) bool { return p.receive(int(fd)) }

// receive reads from a socket what is there.
func (p *pump) receive(fd int) bool {
	taken := p.buf == nil
	if taken {
		p.buf = buffers.Get().(*[chunk]byte)
	}
	p.n, p.err = 0, nil
	for errno := syscall.EINTR; errno == syscall.EINTR; {
		if p.n, errno = transfer(unix.SYS_RECVFROM, fd, p.buf[p.have:]); errno != 0 && errno != syscall.EINTR {
			p.n, p.err = 0, errno
		}
	}
	if p.err == syscall.EAGAIN {
		if taken {
			p.putBuffer()
		}
		return false
	}
	return true
}

func (p *pump) putBuffer() {
	buffers.Put(p.buf)
	p.buf = nil
}

// smallRead is how much of an encrypted stream is read without a buffer from
// the pool: TLS cannot be waited for in any other way than by reading.
const smallRead = 256

func (p *pump) fillEncrypted() error {
	if p.buf != nil {
		var err error
		p.n, err = p.from.Read(p.buf[p.have:])
		if p.n > 0 {
			return nil
		}
		return err
	}
	if p.small == nil {
		p.small = make([]byte, smallRead)
	}
	n, err := p.from.Read(p.small)
	if n == 0 {
		return err
	}
	p.buf = buffers.Get().(*[chunk]byte)
	p.n = copy(p.buf[:], p.small[:n])
	return nil
}

// spend forwards what fill has read.
func (p *pump) spend() error {
	data := p.buf[:p.have+p.n]
	used, err := p.forward(data)
	if err != nil && err != errLeave {
		p.have = 0
		p.putBuffer()
		return err
	}
	full := len(data) == chunk
	p.have = copy(p.buf[:], data[used:])
	switch {
	case err != nil:
		return err
	case p.have == chunk && p.looped:
		return errLeave
	case p.have == chunk:
		return p.long()
	case p.have == 0 && (p.raw != nil || p.looped || !full && p.n != smallRead):
		p.putBuffer()
	}
	return nil
}

// long reads the rest of a message that is to be looked into and that is longer
// than a buffer.
func (p *pump) long() error {
	size := 1 + int(binary.BigEndian.Uint32(p.buf[1:]))
	message := make([]byte, size)
	copy(message, p.buf[:])
	p.have = 0
	p.putBuffer()
	if _, err := io.ReadFull(p.from, message[chunk:]); err != nil {
		return err
	}
	_, err := p.forward(message)
	return err
}

// forward sends the messages in data, but for one at the end that is to be
// looked into and not there as a whole, and returns how many bytes it took.
func (p *pump) forward(data []byte) (used int, err error) {
	sent, at := 0, 0
	for at < len(data) {
		if p.rest > 0 {
			n := min(p.rest, len(data)-at)
			p.rest -= n
			at += n
			continue
		}
		if len(data)-at < headSize {
			break
		}
		kind, size := data[at], int(int32(binary.BigEndian.Uint32(data[at+1:])))-4
		if size < 0 {
			return at, violation("invalid message length")
		}
		if !p.wanted {
			if p.wanted, err = p.side.wants(kind, size); err != nil {
				return at, errors.Join(p.send(data[sent:at]), err)
			}
		}
		if !p.wanted {
			at += headSize
			p.rest = size
			continue
		}
		end := at + headSize + size
		if end > len(data) {
			break
		}
		if p.looped && p.side.blocks(kind, data[at+headSize:end]) {
			return at, cmp.Or(p.send(data[sent:at]), errLeave)
		}
		p.wanted = false
		instead, err := p.side.look(kind, data[at+headSize:end], data[at:end])
		if err != nil {
			return at, errors.Join(p.send(data[sent:at]), err)
		}
		at, sent, err = p.replace(data, instead, sent, at, end)
		if err != nil {
			return at, err
		}
	}
	return at, p.send(data[sent:at])
}

// replace sends another message in the place of one, unless it is the same and
// may go on with those before and after it.
func (p *pump) replace(data, instead []byte, sent, at, end int) (newAt, newSent int, err error) {
	waits := p.side.waits()
	if len(instead) == end-at && &instead[0] == &data[at] && waits == nil {
		return end, sent, nil
	}
	if err := p.send(data[sent:at]); err != nil {
		return at, sent, err
	}
	if err := p.send(instead); err != nil {
		return at, sent, err
	}
	if waits != nil {
		<-waits
	}
	return end, end, nil
}

func (p *pump) send(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	return p.side.send(b, p.rest == 0)
}
