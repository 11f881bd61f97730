package cow

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"
	"sync/atomic"
)

// The head of a journal and of an image's index: magic, format version, kind,
// block size.
const (
	headSize     = 16
	kindLayer    = 'L'
	kindImage    = 'I'
	formatNumber = 1
)

var magic = [8]byte{'p', 'g', '0', '-', 'c', 'o', 'w', '\n'}

// A frame is a batch of records that becomes durable as one: magic, length of
// the payload, its own number, CRC of the payload, CRC of these fields.
const frameHead = 24

var frameMagic = [4]byte{'p', 'g', '0', 'F'}

// maxFrame is when a batch is written without anybody asking for it.
const maxFrame = 1 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A journal is the list of changes of a persistent layer. Records gather in
// memory and reach the file only after the blocks that they speak of are
// durable, so a record on disk never points to bytes that a crash has lost.
type journal struct {
	fresh func() (disk, error) // opens the file that shall replace this one

	commitMu sync.Mutex // guards disk, frame, failed: one commit at a time
	disk     disk
	frame    uint64 // number of the next frame
	failed   error

	length    atomic.Int64  // where the next frame goes
	compactAt atomic.Int64  // the length that is too long
	durable   atomic.Uint64 // records on stable storage

	mu      sync.Mutex // guards the rest
	buf     []byte     // a frame in the making, its head left blank
	spare   []byte
	last    uint64 // records appended
	touched [classes]bool
}

// append notes a record and returns its position. It does nothing for a store
// that nothing outlives. The caller holds the lock of what the record is about.
func (s *Store) append(r record) uint64 {
	j := s.j
	if j == nil {
		return 0
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.buf) == 0 {
		j.buf = append(j.buf, make([]byte, frameHead)...)
	}
	j.buf = r.encode(j.buf)
	j.last++
	if r.op == opBlocks || r.op == opSize {
		j.touched[r.class] = true
	}
	return j.last
}

// relieve writes the batch when it has grown large. No locks may be held.
func (s *Store) relieve() {
	j := s.j
	if j == nil {
		return
	}
	j.mu.Lock()
	full, last := len(j.buf) >= maxFrame, j.last
	j.mu.Unlock()
	if full {
		// Whoever wants the changes durable gets the error from Sync.
		if err := s.commit(last); err != nil {
			s.log.Error("layer: write the journal", "layer", s.dir, "error", err)
		}
	}
	if at := j.compactAt.Load(); j.length.Load() > at {
		if err := s.compact(); err != nil {
			j.compactAt.Store(2 * at)
			s.log.Error("layer: compact the journal", "layer", s.dir, "error", err)
		}
	}
}

// commit makes all records up to a position durable, and the blocks before
// them. It fails forever after a failed sync.
func (s *Store) commit(pos uint64) error {
	j := s.j
	if j == nil || j.durable.Load() >= pos {
		return nil
	}
	j.commitMu.Lock()
	defer j.commitMu.Unlock()
	if j.durable.Load() >= pos {
		return nil // somebody else's commit took ours along
	}
	if j.failed != nil {
		return j.failed
	}
	j.mu.Lock()
	buf, last, touched := j.buf, j.last, j.touched
	j.buf, j.spare, j.touched = j.spare[:0], nil, [classes]bool{}
	j.mu.Unlock()
	for class, d := range s.data {
		if touched[class] {
			if err := d.flush(); err != nil {
				j.failed = err
				return err
			}
		}
	}
	if err := j.writeFrame(buf); err != nil {
		j.putBack(buf, touched)
		return err
	}
	j.mu.Lock()
	j.spare = buf[:0]
	j.mu.Unlock()
	j.durable.Store(last)
	s.freeDurable(last)
	return nil
}

// writeFrame completes a batch and makes it durable. A failed write leaves
// garbage that the next try covers; a failed sync is final.
func (j *journal) writeFrame(buf []byte) error {
	sealFrame(buf, j.frame)
	if _, err := j.disk.WriteAt(buf, j.length.Load()); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := j.disk.Sync(); err != nil {
		j.failed = fmt.Errorf("journal: sync: %w", err)
		return j.failed
	}
	j.length.Add(int64(len(buf)))
	j.frame++
	return nil
}

// putBack keeps a batch that could not be written, before the records that came
// since.
func (j *journal) putBack(buf []byte, touched [classes]bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.buf) > frameHead {
		buf = append(buf, j.buf[frameHead:]...)
	}
	j.buf = buf
	for class := range touched {
		j.touched[class] = j.touched[class] || touched[class]
	}
}

// sealFrame fills in the head that the batch left blank.
func sealFrame(buf []byte, number uint64) {
	copy(buf, frameMagic[:])
	binary.LittleEndian.PutUint32(buf[4:], uint32(len(buf)-frameHead))
	binary.LittleEndian.PutUint64(buf[8:], number)
	binary.LittleEndian.PutUint32(buf[16:], crc32.Checksum(buf[frameHead:], castagnoli))
	binary.LittleEndian.PutUint32(buf[20:], crc32.Checksum(buf[:20], castagnoli))
}

func fileHead(kind byte) []byte {
	b := make([]byte, headSize)
	copy(b, magic[:])
	b[8], b[9] = formatNumber, kind
	binary.LittleEndian.PutUint32(b[12:], BlockSize)
	return b
}

// checkHead refuses a file of another kind, version or block size.
func checkHead(b []byte, kind byte) error {
	switch {
	case len(b) < headSize || !bytes.Equal(b[:8], magic[:]):
		return corrupt("this is no file of pg0's")
	case b[8] != formatNumber:
		return fmt.Errorf("format %d is not known to this version of pg0, which knows %d", b[8], formatNumber)
	case !bytes.Equal(b[8:headSize], fileHead(kind)[8:]):
		return corrupt("the head is damaged")
	}
	return nil
}

// A frameReader walks over the frames behind the head of a file.
type frameReader struct {
	b      []byte
	off    int // of the next frame
	number uint64
}

// next returns the payload of the next frame. It returns nil at the end and
// when the frame there is not whole.
func (r *frameReader) next() []byte {
	payload, ok := frameAt(r.b[r.off:], r.number)
	if !ok {
		return nil
	}
	r.off += frameHead + len(payload)
	r.number++
	return payload
}

// frameAt reads the frame at the start of b, which must have the given number.
func frameAt(b []byte, number uint64) ([]byte, bool) {
	n, ok := frameLength(b)
	if !ok || binary.LittleEndian.Uint64(b[8:]) != number || n > len(b)-frameHead {
		return nil, false
	}
	payload := b[frameHead : frameHead+n]
	return payload, crc32.Checksum(payload, castagnoli) == binary.LittleEndian.Uint32(b[16:])
}

func frameLength(b []byte) (int, bool) {
	if len(b) < frameHead || !bytes.Equal(b[:4], frameMagic[:]) ||
		crc32.Checksum(b[:20], castagnoli) != binary.LittleEndian.Uint32(b[20:]) {
		return 0, false
	}
	return int(binary.LittleEndian.Uint32(b[4:])), true
}

// errTorn says that a file ends in a batch that a crash cut short.
var errTorn = errors.New("the last batch is incomplete")

// tail judges what follows the last whole frame: nothing (nil), a batch that
// was never acknowledged (errTorn), or damage, recognized by a later frame.
func (r *frameReader) tail() error {
	rest := r.b[r.off:]
	if len(rest) == 0 {
		return nil
	}
	for i := 0; ; {
		k := bytes.Index(rest[i:], frameMagic[:])
		if k < 0 {
			return errTorn
		}
		i += k
		if _, ok := frameLength(rest[i:]); ok && binary.LittleEndian.Uint64(rest[i+8:]) > r.number {
			return corrupt("batch %d at offset %d is damaged, and later ones exist", r.number, r.off)
		}
		i++
	}
}
