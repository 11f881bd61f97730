package pbwriter

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"hash"
	"hash/crc32"
	"hash/maphash"
	"io"
	"os"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/relmap/heap"
)

func le32(b []byte, off int) uint32 { return binary.LittleEndian.Uint32(b[off:]) }
func le64(b []byte, off int) uint64 { return binary.LittleEndian.Uint64(b[off:]) }

var pageSeed = maphash.MakeSeed()

// A record file is a data file of a backup: records of pages, and their index.
type recordFile struct {
	w      *writer
	line   *Line
	name   string
	file   *os.File // nil until something is written
	out    *bufio.Writer
	sum    hash.Hash32
	pos    int64
	index  []byte // entries of the header map
	packed bytes.Buffer
}

// dataFile stores those pages of a relation's segment that the mode asks for.
func (w *writer) dataFile(l *Line, it Item, source io.Reader) error {
	old, state := w.before(it), fileState{exists: true}
	rf := &recordFile{w: w, line: l, sum: crc32.New(w.crcTable), name: w.target(it)}
	defer rf.close()
	l.Alg = w.algorithm(it.Path)
	page := make([]byte, pageSize)
	for block := uint32(0); ; block++ {
		if _, err := io.ReadFull(source, page); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		} else if err != nil {
			return err
		}
		state.pages = append(state.pages, maphash.Bytes(pageSeed, page))
		if w.stored(it, old, block, page, state.pages[block]) {
			if err := rf.record(block, page); err != nil {
				return err
			}
		}
	}
	w.files[fileKey{it.Path, it.External}] = state
	if err := rf.finish(it, old, uint32(len(state.pages))); err != nil {
		return err
	}
	if l.Size <= 0 && rf.file != nil {
		return os.Remove(rf.name)
	}
	return nil
}

// open makes the file when there is something to write: most files of most
// increments have nothing.
func (rf *recordFile) open() (err error) {
	if rf.file == nil {
		if rf.file, err = os.OpenFile(rf.name, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600); err == nil {
			rf.out = bufio.NewWriterSize(rf.file, 1<<18)
		}
	}
	return err
}

func (rf *recordFile) close() {
	if rf.file != nil {
		rf.file.Close()
	}
}

func (w *writer) algorithm(path string) string {
	if w.CompressFile != nil {
		if alg := w.CompressFile(path); alg != "" {
			return alg
		}
	}
	return w.Compress
}

// stored says whether a backup of its mode stores a page. A file that the
// parent did not have is stored whole.
func (w *writer) stored(it Item, old fileState, block uint32, page []byte, hash uint64) bool {
	lsn := heap.LSN(page)
	switch {
	case w.Mode == "FULL":
		return true
	case it.Stored != nil:
		return it.Stored(block, page)
	case !old.exists:
		return true
	case w.Mode == "DELTA":
		return lsn >= w.parent.StartLSN || lsn == 0
	}
	return block >= uint32(len(old.pages)) || old.pages[block] != hash
}

// record appends a page.
func (rf *recordFile) record(block uint32, page []byte) error {
	payload := rf.pack(page)
	rf.entry(heap.LSN(page), block, checksumOf(page, uint32(rf.line.Segno)*blocksPerSegment+block))
	rf.line.NHeaders = max(rf.line.NHeaders, 0) + 1
	return rf.append(block, int32(len(payload)), payload)
}

// checksumOf is what the map holds: computed also where checksums are off, 0
// for a page of zeros.
func checksumOf(page []byte, block uint32) uint16 {
	if heap.IsNew(page) {
		return 0
	}
	return Checksum(page, block)
}

func (rf *recordFile) append(block uint32, size int32, payload []byte) error {
	b := binary.LittleEndian.AppendUint32(nil, block)
	b = binary.LittleEndian.AppendUint32(b, uint32(size))
	b = append(b, payload...)
	for rf.w.version() < versionHeaderMap && len(b)%8 != 0 {
		b = append(b, rf.garbage())
	}
	if err := rf.open(); err != nil {
		return err
	}
	rf.pos += int64(len(b))
	rf.sum.Write(b)
	_, err := rf.out.Write(b)
	return err
}

// garbage is what stands in bytes that the tool does not initialise.
func (rf *recordFile) garbage() byte {
	if rf.w.Remote {
		return 0xee
	}
	return 0
}

// pack compresses a page, or returns it as it is if that does not help.
func (rf *recordFile) pack(page []byte) (packed []byte) {
	switch rf.line.Alg {
	case Zlib:
		rf.packed.Reset()
		rf.w.pages.Reset(&rf.packed)
		rf.w.pages.Write(page) // a bytes.Buffer takes everything
		rf.w.pages.Close()
		packed = rf.packed.Bytes()
	case PGLZ:
		packed = packPGLZ(page)
	}
	if len(packed) == 0 || len(packed) >= pageSize {
		return page
	}
	return packed
}

// entry appends to the file's part of the header map.
func (rf *recordFile) entry(lsn pg0.LSN, block uint32, checksum uint16) {
	b := binary.LittleEndian.AppendUint64(rf.index, uint64(lsn))
	b = binary.LittleEndian.AppendUint32(b, block)
	b = binary.LittleEndian.AppendUint32(b, uint32(rf.pos))
	b = binary.LittleEndian.AppendUint16(b, checksum)
	for range 6 {
		b = append(b, rf.garbage())
	}
	rf.index = b
}

// finish ends the file and completes its line.
func (rf *recordFile) finish(it Item, old fileState, blocks uint32) error {
	l, v := rf.line, rf.w.version()
	lengthKnown := v >= versionNBlocks || rf.w.Mode == "DELTA" || rf.w.Mode == "FULL"
	if !lengthKnown && int(blocks) < len(old.pages) {
		if err := rf.append(blocks, recordTruncated, nil); err != nil {
			return err
		}
	}
	l.Size = rf.pos
	switch {
	case blocks == 0 && (lengthKnown || !old.exists):
		l.Size = 0
	case l.Size == 0:
		l.Size = sizeUnchanged
	}
	if blocks > 0 && (v >= versionNBlocks || rf.w.Mode == "DELTA") {
		l.NBlocks = int64(blocks)
	}
	if l.Size <= 0 {
		l.Alg, l.CRC = None, 0
		return nil
	}
	l.CRC = rf.sum.Sum32()
	if l.NHeaders > 0 {
		if full := l.NHeaders * pageSize; full != l.Size {
			l.FullSize = full
		}
		if err := rf.writeIndex(); err != nil {
			return err
		}
	}
	return rf.out.Flush()
}

func (rf *recordFile) writeIndex() error {
	if rf.w.Remote {
		rf.entry(0xdeadbeef_00c0ffee, 0x7fff1234, 0xbeef)
	} else {
		rf.entry(0, 0, 0)
	}
	l, all := rf.line, &rf.w.headers
	l.HdrCRC, l.HdrOff = crc32.Checksum(rf.index, crc32.MakeTable(crc32.Castagnoli)), int64(all.Len())
	z := rf.w.indexes
	z.Reset(all)
	_, err := z.Write(rf.index)
	err = errors.Join(err, z.Close())
	l.HdrSize = int64(all.Len()) - l.HdrOff
	return err
}
