package probackup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zlib"
)

// An inflater decodes zlib streams held in memory and can be used again.
type inflater struct {
	src bytes.Reader
	z   io.ReadCloser // nil until the first stream with a good header
	one [1]byte
}

var (
	errNotDone  = errors.New("zlib stream is longer than expected")
	errTrailing = errors.New("bytes follow the zlib stream")
)

// decode inflates src, one whole zlib stream, into dst and returns its length.
// It is an error if the stream does not end where src does or holds more than
// dst takes.
func (f *inflater) decode(dst, src []byte) (int, error) {
	f.src.Reset(src)
	if err := f.reset(); err != nil {
		return 0, fmt.Errorf("zlib: %w", err)
	}
	n, err := io.ReadFull(f.z, dst)
	switch {
	case err == nil:
		// Only the end of the stream verifies its checksum.
		if extra, err := f.z.Read(f.one[:]); extra > 0 || err == nil {
			return n, errNotDone
		} else if !errors.Is(err, io.EOF) {
			return n, fmt.Errorf("zlib: %w", err)
		}
	case f.ended(err):
	default:
		return n, fmt.Errorf("zlib: %w", err)
	}
	if f.src.Len() > 0 {
		return n, errTrailing
	}
	return n, nil
}

// ended tells a stream that ended before dst was full from one that was cut:
// ReadFull reports both as unexpected, the stream itself then says which.
func (f *inflater) ended(err error) bool {
	if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return false
	}
	_, err = f.z.Read(f.one[:])
	return err == io.EOF
}

func (f *inflater) reset() (err error) {
	if f.z == nil {
		f.z, err = zlib.NewReader(&f.src)
		return err
	}
	return f.z.(zlib.Resetter).Reset(&f.src, nil)
}

// A workspace is the memory that one read needs.
type workspace struct {
	raw   []byte // records as stored
	page  []byte // one decoded page
	plain []byte // a decoded part of the header map
	inflater
}

const rawBytes = 256 << 10

var workspaces = sync.Pool{New: func() any {
	return &workspace{raw: make([]byte, rawBytes), page: make([]byte, maxBlockSize)}
}}

func getWorkspace() *workspace { return workspaces.Get().(*workspace) }
func (w *workspace) free()     { workspaces.Put(w) }

// grow gives n bytes of a buffer that is made longer where it is too short.
func grow(b *[]byte, n int) []byte {
	if len(*b) < n {
		*b = make([]byte, n)
	}
	return (*b)[:n]
}
