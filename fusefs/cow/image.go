package cow

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/fukanchik/pg0"
)

// Names of the files in an image directory.
const (
	indexName  = "index"
	blocksName = "blocks"
)

// Seal writes the difference to the base as an image directory: the changed
// blocks, each with a checksum, and the names and attributes that changed. The
// directory must not exist; it appears complete and durable, or not at all.
func (s *Store) Seal(dir string) error {
	if _, err := os.Lstat(dir); err == nil {
		return fmt.Errorf("seal %s: %w", dir, os.ErrExist)
	}
	s.gate.Lock()
	defer s.gate.Unlock()
	tmp := dir + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return err
	}
	if err := s.seal(tmp); err != nil {
		return errors.Join(fmt.Errorf("seal %s: %w", dir, err), os.RemoveAll(tmp))
	}
	if err := os.Rename(tmp, dir); err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	return syncDir(filepath.Dir(filepath.Clean(dir)))
}

func (s *Store) seal(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, blocksName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	w := &sealer{
		s: s, index: frameWriter{head: fileHead(kindImage)},
		out: bufio.NewWriterSize(f, 1<<20),
	}
	s.dump(w.index.add, false)
	s.inodes.all(w.file)
	if w.err == nil {
		w.err = w.out.Flush()
	}
	if w.err != nil {
		return w.err
	}
	w.index.add(record{op: opEnd, n: w.index.count})
	if err := errors.Join(f.Sync(), writeSynced(filepath.Join(dir, indexName), w.index.finish())); err != nil {
		return err
	}
	return syncDir(dir)
}

func writeSynced(name string, b []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// A sealer copies blocks one after the other and notes where they went.
type sealer struct {
	s     *Store
	index frameWriter
	out   *bufio.Writer
	slots int64
	buf   [BlockSize]byte
	run   record // the blocks copied last
	err   error
}

// maxSums keeps a record of checksums well below the size of a frame.
const maxSums = 4096

func (w *sealer) file(in *inode) {
	if in.nlink == 0 {
		return
	}
	in.blocks.runs(0, func(block, slot, n int64) {
		for k := range n {
			w.block(in, block+k, slot+k)
		}
	})
	w.endRun()
}

// block copies one block. Zeros where the base does not show through need no
// block: a file reads as zeros there anyway.
func (w *sealer) block(in *inode, block, slot int64) {
	if w.err != nil {
		return
	}
	if _, w.err = w.s.readSlots(in.class, slot, 0, w.buf[:]); w.err != nil {
		return
	}
	if block*BlockSize >= in.limit && w.buf == zeroBlock {
		return
	}
	if r := &w.run; r.n == 0 || r.ino != in.ino || r.block+r.n != block || r.n == maxSums {
		w.endRun()
		w.run = record{op: opBlocks, ino: in.ino, block: block, slot: w.slots}
	}
	w.run.data = binary.LittleEndian.AppendUint32(w.run.data, crc32.Checksum(w.buf[:], castagnoli))
	w.run.n++
	w.slots++
	_, w.err = w.out.Write(w.buf[:])
}

func (w *sealer) endRun() {
	if w.run.n > 0 {
		w.index.add(w.run)
		w.index.add(record{op: opSums, data: w.run.data})
	}
	w.run = record{}
}

// OpenImage shows base with the changes that Seal wrote to dir. Reading a block
// of the image whose checksum is wrong gives an error that wraps
// pg0.ErrCorrupt; so does OpenImage when the index is damaged.
func OpenImage(base pg0.Tree, dir string) (pg0.Tree, io.Closer, error) {
	s, err := newStore(base, Options{ReadOnly: true})
	if err != nil {
		return nil, nil, err
	}
	if err := s.loadImage(dir); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("image %s: %w", dir, err), s.release())
	}
	return s.Tree(), s, nil
}

func (s *Store) loadImage(dir string) error {
	s.image = dir
	b, err := os.ReadFile(filepath.Join(dir, indexName))
	if err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(dir, blocksName))
	if err != nil {
		return err
	}
	d := &dataFile{disk: &osDisk{f}}
	s.data = [classes]*dataFile{classData: d}
	size, err := d.Size()
	if err != nil {
		return err
	}
	d.slots = size / BlockSize
	if err := s.replayImage(b); err != nil {
		return fmt.Errorf("%s: %w", indexName, err)
	}
	if int64(len(d.sums)) != d.slots || size%BlockSize != 0 {
		return corrupt("%s holds %d bytes, expected %d", blocksName, size, int64(len(d.sums))*BlockSize)
	}
	return s.settle()
}

// replayImage applies an index, which must be whole.
func (s *Store) replayImage(b []byte) error {
	if err := checkHead(b, kindImage); err != nil {
		return err
	}
	r := &frameReader{b: b, off: headSize}
	p := imageReader{s: s}
	for payload := r.next(); payload != nil; payload = r.next() {
		d := &decoder{b: payload}
		for len(d.b) > 0 {
			if err := p.record(d); err != nil {
				return err
			}
		}
	}
	if r.off != len(b) || !p.ended {
		return corrupt("damaged at offset %d of %d", r.off, len(b))
	}
	return nil
}

// An imageReader applies the records of an index, among them those that a
// journal does not have.
type imageReader struct {
	s     *Store
	count int64
	want  int64 // checksums that must come next
	ended bool
}

func (p *imageReader) record(d *decoder) error {
	r, err := d.next()
	switch {
	case err != nil:
		return err
	case p.ended || (p.want > 0) != (r.op == opSums):
		return corrupt("record %d is out of order", p.count)
	case r.op == opEnd && r.n != p.count:
		return corrupt("%d records, expected %d", p.count, r.n)
	}
	p.count++
	switch r.op {
	case opEnd:
		p.ended = true
	case opSums:
		return p.sums(r.data)
	case opBlocks:
		p.want = r.n
		if r.slot != int64(len(p.s.data[classData].sums)) {
			return corrupt("blocks of inode %d are out of order", r.ino)
		}
		return p.s.apply(&r)
	default:
		if (r.op == opBase || r.op == opNew) && r.mode&syscall.S_IFMT == syscall.S_IFREG {
			r.class = classData
		}
		return p.s.apply(&r)
	}
	return nil
}

func (p *imageReader) sums(b []byte) error {
	if int64(len(b)) != 4*p.want {
		return corrupt("%d bytes of checksums for %d blocks", len(b), p.want)
	}
	d := p.s.data[classData]
	for ; len(b) > 0; b = b[4:] {
		d.sums = append(d.sums, binary.LittleEndian.Uint32(b))
	}
	p.want = 0
	return nil
}
