package cow

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
	"syscall"

	"github.com/fukanchik/pg0"
)

// blockPool holds buffers of one block for writes that do not cover theirs.
var blockPool = sync.Pool{New: func() any { return new([BlockSize]byte) }}

var zeroBlock [BlockSize]byte

// file finds a regular file.
func (s *Store) file(ino uint64) (*inode, error) {
	in := s.inodes.get(ino)
	switch {
	case in == nil:
		return nil, syscall.ESTALE
	case in.isDir():
		return nil, syscall.EISDIR
	case in.kind != syscall.S_IFREG:
		return nil, syscall.EINVAL
	}
	return in, nil
}

// GetAttr is stat.
func (s *Store) GetAttr(ino uint64) (Attr, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.inodes.get(ino)
	if in == nil {
		return Attr{}, syscall.ESTALE
	}
	return in.attr(), nil
}

// ReadAt fills p from an offset of a file. It returns fewer bytes only at the
// end of the file, then without an error, or with the error that stopped it.
func (s *Store) ReadAt(ino uint64, p []byte, off int64) (int, error) {
	in, err := s.file(ino)
	if err != nil {
		return 0, err
	}
	return s.readInode(in, p, off)
}

func (s *Store) readInode(in *inode, p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := s.readRun(in, p[done:], off+int64(done))
		done += n
		if err != nil {
			return done, s.locate(in, off+int64(done), err)
		}
		if n == 0 {
			break
		}
	}
	return done, nil
}

// readRun reads as far as one source goes: consecutive slots, or the base. The
// lock covers slots only, which may get another owner when the file is cut; the
// base never changes.
func (s *Store) readRun(in *inode, p []byte, off int64) (int, error) {
	in.mu.RLock()
	p = clip(p, in.size-off)
	if len(p) == 0 {
		in.mu.RUnlock()
		return 0, nil
	}
	block, within := split(off)
	slot, blocks := in.blocks.run(block, covered(within, int64(len(p))))
	p = clip(p, blocks*BlockSize-within)
	if slot == noSlot {
		limit := in.limit
		in.mu.RUnlock()
		return s.readBase(in, p, off, limit)
	}
	defer in.mu.RUnlock()
	return s.readSlots(in.class, slot, within, p)
}

func clip(p []byte, n int64) []byte {
	return p[:max(0, min(int64(len(p)), n))]
}

// readBase reads what shows through, and zeros from limit on.
func (s *Store) readBase(in *inode, p []byte, off, limit int64) (int, error) {
	below := clip(p, limit-off)
	if len(below) > 0 {
		b, err := s.openBase(in)
		if err != nil {
			return 0, err
		}
		n, err := b.file.ReadAt(below, off)
		b.unref()
		if n < len(below) {
			if err == nil || err == io.EOF {
				err = fmt.Errorf("%s of the base ends at offset %d, expected %d: %w", in.base, off+int64(n), limit, pg0.ErrCorrupt)
			}
			return n, err
		}
	}
	clear(p[len(below):])
	return len(p), nil
}

// readSlots reads bytes of consecutive slots, of an image after checking them.
func (s *Store) readSlots(class uint8, slot, within int64, p []byte) (int, error) {
	d := s.data[class]
	if d.sums == nil {
		n, err := d.ReadAt(p, slot*BlockSize+within)
		if n == len(p) {
			err = nil
		}
		return n, err
	}
	done := 0
	for done < len(p) {
		n, err := d.readChecked(slot, within, p[done:])
		if err != nil {
			return done, err
		}
		done, slot, within = done+n, slot+1, 0
	}
	return done, nil
}

// readChecked reads bytes of one slot whose checksum is known.
func (d *dataFile) readChecked(slot, within int64, p []byte) (int, error) {
	buf := p
	if within != 0 || len(p) < BlockSize {
		b := blockPool.Get().(*[BlockSize]byte)
		defer blockPool.Put(b)
		buf = b[:]
	}
	buf = buf[:BlockSize]
	if n, err := d.ReadAt(buf, slot*BlockSize); n < BlockSize {
		return 0, fmt.Errorf("image block %d: %w: %w", slot, pg0.ErrCorrupt, err)
	}
	if sum := crc32.Checksum(buf, castagnoli); sum != d.sums[slot] {
		return 0, fmt.Errorf("image block %d: %w: checksum is %08X, expected %08X", slot, pg0.ErrCorrupt, sum, d.sums[slot])
	}
	if len(p) >= BlockSize && within == 0 {
		return BlockSize, nil
	}
	return copy(p, buf[within:]), nil
}

// WriteAt stores p at an offset of a file, which grows as needed. ENOSPC leaves
// what was stored before it ran out.
func (s *Store) WriteAt(ino uint64, p []byte, off int64) (int, error) {
	if s.readOnly {
		return 0, syscall.EROFS
	}
	in, err := s.file(ino)
	if err != nil {
		return 0, err
	}
	if off < 0 || off > maxSize-int64(len(p)) {
		return 0, syscall.EFBIG
	}
	s.gate.RLock()
	in.mu.Lock()
	n, err := s.writeInode(in, p, off)
	in.mu.Unlock()
	s.gate.RUnlock()
	s.relieve()
	return n, err
}

// writeInode needs in.mu.
func (s *Store) writeInode(in *inode, p []byte, off int64) (int, error) {
	s.adopt(in)
	done := 0
	for done < len(p) {
		n, err := s.writeRun(in, p[done:], off+int64(done))
		if err != nil {
			return done, err
		}
		done += n
	}
	if done > 0 {
		in.touch(now())
	}
	return done, nil
}

// writeRun writes as far as one kind of target goes: slots that the blocks have
// already, whole blocks that are new, or one new block in part.
func (s *Store) writeRun(in *inode, p []byte, off int64) (int, error) {
	block, within := split(off)
	slot, blocks := in.blocks.run(block, covered(within, int64(len(p))))
	if slot == noSlot && in.class == classWAL && s.j != nil && off < in.size {
		if err := s.copyUp(in, block); err != nil {
			return 0, err
		}
		slot, blocks = in.blocks.run(block, covered(within, int64(len(p))))
	}
	switch {
	case slot != noSlot:
		return s.writeSlots(in, slot, clip(p, blocks*BlockSize-within), off)
	case within == 0 && len(p) >= BlockSize:
		p = clip(p, min(blocks, int64(len(p))/BlockSize)*BlockSize)
		return s.writeBlocks(in, block, p, off+int64(len(p)))
	default:
		return s.writePart(in, clip(p, BlockSize-within), off)
	}
}

// copyUpBlocks is how much of a WAL segment the layer takes over at once.
const copyUpBlocks = (1 << 20) / BlockSize

// copyUp stores the blocks around one of a WAL segment as they are. Each commit
// writes the next few bytes of WAL and syncs: blocks that exist already can be
// overwritten in place, which needs neither the journal nor the metadata of the
// file system that holds the layer. Without room it does less.
func (s *Store) copyUp(in *inode, block int64) error {
	first := block - block%copyUpBlocks
	end := min(first+copyUpBlocks, (in.size+BlockSize-1)/BlockSize)
	for b := first; b < end; {
		slot, n := in.blocks.run(b, end-b)
		if slot == noSlot {
			buf := make([]byte, n*BlockSize)
			if _, err := s.readBase(in, buf, b*BlockSize, in.limit); err != nil {
				return err
			}
			k, err := s.writeBlocks(in, b, buf, in.size)
			if isNoSpace(err) {
				return nil
			}
			if err != nil {
				return err
			}
			n = int64(k) / BlockSize
		}
		b += n
	}
	return nil
}

// isNoSpace tells a full disk or limit from other errors.
func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func (s *Store) writeSlots(in *inode, slot int64, p []byte, off int64) (int, error) {
	gen, err := s.data[in.class].write(p, slot*BlockSize+off%BlockSize)
	if err != nil {
		return 0, err
	}
	in.wrote.Store(gen)
	if end := off + int64(len(p)); end > in.size {
		in.size = end
		s.note(in, record{op: opSize, ino: in.ino, class: in.class, size: end})
	}
	return len(p), nil
}

// writeBlocks stores whole blocks that the layer has not, as many as one run of
// free slots takes, in a file that is no longer than end for it.
func (s *Store) writeBlocks(in *inode, block int64, p []byte, end int64) (int, error) {
	slot, n, err := s.take(in.class, int64(len(p))/BlockSize)
	if err != nil {
		return 0, err
	}
	p = p[:n*BlockSize]
	gen, err := s.data[in.class].write(p, slot*BlockSize)
	if err != nil {
		s.unmark(in.class, slot, n)
		return 0, err
	}
	in.wrote.Store(gen)
	s.mapBlocks(in, block, slot, n, min(end, (block+n)*BlockSize))
	return len(p), nil
}

// mapBlocks makes stored blocks part of a file that is at least end bytes long.
func (s *Store) mapBlocks(in *inode, block, slot, n, end int64) {
	in.blocks.set(block, slot, n)
	in.size = max(in.size, end)
	s.note(in, record{op: opBlocks, ino: in.ino, class: in.class, block: block, slot: slot, n: n, size: in.size})
}

// writePart stores one block of which p is a part; the rest is what the file
// has there.
func (s *Store) writePart(in *inode, p []byte, off int64) (int, error) {
	b := blockPool.Get().(*[BlockSize]byte)
	defer blockPool.Put(b)
	block, within := split(off)
	start := block * BlockSize
	if _, err := s.readBase(in, b[:], start, in.limit); err != nil {
		return 0, err
	}
	copy(b[within:], p)
	slot, _, err := s.take(in.class, 1)
	if err != nil {
		return 0, err
	}
	gen, err := s.data[in.class].write(b[:], slot*BlockSize)
	if err != nil {
		s.unmark(in.class, slot, 1)
		return 0, err
	}
	in.wrote.Store(gen)
	s.mapBlocks(in, block, slot, 1, off+int64(len(p)))
	return len(p), nil
}

// SetAttr says what of a file's attributes shall change; nil leaves a field.
type SetAttr struct {
	Perm *uint32 // permission bits
	Size *int64

	Atime, Mtime, Ctime *int64
}

// SetAttr changes attributes. Cutting a file frees its blocks; extending it
// gives zeros, never what the base had there.
func (s *Store) SetAttr(ino uint64, a SetAttr) (Attr, error) {
	if s.readOnly {
		return Attr{}, syscall.EROFS
	}
	if err := s.setAttr(ino, a); err != nil {
		return Attr{}, err
	}
	s.relieve()
	return s.GetAttr(ino)
}

func (s *Store) setAttr(ino uint64, a SetAttr) error {
	in := s.inodes.get(ino)
	if in == nil {
		return syscall.ESTALE
	}
	s.gate.RLock()
	defer s.gate.RUnlock()
	in.mu.Lock()
	defer in.mu.Unlock()
	s.adopt(in)
	t := now()
	if a.Size != nil {
		if err := s.resize(in, *a.Size); err != nil {
			return err
		}
		in.mtime = t
	}
	if a.Atime != nil {
		in.atime = *a.Atime
	}
	if a.Mtime != nil {
		in.mtime = *a.Mtime
	}
	in.ctime, in.timesDirty = t, true
	if a.Ctime != nil {
		in.ctime = *a.Ctime
	}
	if a.Perm != nil {
		in.perm = *a.Perm & 0o7777
		s.noteAttr(in)
	}
	return nil
}

// noteAttr tells the journal permissions and times. Times alone wait for the
// next occasion: PostgreSQL flushes WAL with every commit, the kernel sends the
// new time of the file with every flush, and a time is not worth a write.
func (s *Store) noteAttr(in *inode) {
	in.timesDirty = false
	s.note(in, record{op: opAttr, ino: in.ino, mode: in.perm, atime: in.atime, mtime: in.mtime, ctime: in.ctime})
}

// resize needs in.mu.
func (s *Store) resize(in *inode, size int64) error {
	switch {
	case in.isDir():
		return syscall.EISDIR
	case in.kind != syscall.S_IFREG:
		return syscall.EINVAL
	case size < 0 || size > maxSize:
		return syscall.EFBIG
	case size == in.size:
		return nil
	}
	if size < in.size {
		if err := s.zeroTail(in, size); err != nil {
			return err
		}
	}
	old := in.size
	s.note(in, record{op: opSize, ino: in.ino, class: in.class, size: size})
	if size < old {
		pos := in.pos.Load()
		in.cut(size, func(slot, n int64) { s.free(in.class, slot, n, pos) })
	}
	in.size = size
	return nil
}

// cut forgets what lies from size on. The caller sets the size.
func (in *inode) cut(size int64, free func(slot, n int64)) {
	if size < in.size {
		in.blocks.cut((size+BlockSize-1)/BlockSize, free)
	}
	in.limit = min(in.limit, size)
}

// zeroTail clears the rest of the last block that a cut leaves, so that it is
// zeros when the file grows again.
func (s *Store) zeroTail(in *inode, size int64) error {
	block, within := split(size)
	slot := in.blocks.get(block)
	if within == 0 || slot == noSlot {
		return nil
	}
	gen, err := s.data[in.class].write(zeroBlock[within:], slot*BlockSize+within)
	if err == nil {
		in.wrote.Store(gen)
	}
	return err
}

// Fallocate makes a file at least off+n bytes long, the new part zeros. With
// keepSize it only checks for space. Nothing is stored.
func (s *Store) Fallocate(ino uint64, off, n int64, keepSize bool) error {
	switch {
	case s.readOnly:
		return syscall.EROFS
	case off < 0 || n <= 0:
		return syscall.EINVAL
	case off > maxSize-n:
		return syscall.EFBIG
	}
	in, err := s.file(ino)
	if err != nil {
		return err
	}
	s.gate.RLock()
	defer s.relieve()
	defer s.gate.RUnlock()
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := s.roomFor(in, off, n); err != nil {
		return err
	}
	if keepSize || off+n <= in.size {
		return nil
	}
	s.adopt(in)
	in.touch(now())
	return s.resize(in, off+n)
}

// roomFor checks that the limit would let a range be written in full.
func (s *Store) roomFor(in *inode, off, n int64) error {
	if s.limit == 0 {
		return nil
	}
	block, within := split(off)
	need := int64(0)
	for left := covered(within, n); left > 0; {
		slot, blocks := in.blocks.run(block, left)
		if slot == noSlot {
			need += blocks
		}
		block, left = block+blocks, left-blocks
	}
	s.space.mu.Lock()
	defer s.space.mu.Unlock()
	if need > s.spare(in.class) {
		return syscall.ENOSPC
	}
	return nil
}

// Sync makes a file and the names leading to it durable; with dataOnly its
// times may lag. It does nothing for a store that nothing outlives.
func (s *Store) Sync(ino uint64, dataOnly bool) error {
	if s.j == nil || s.readOnly {
		return nil
	}
	in := s.inodes.get(ino)
	if in == nil {
		return syscall.ESTALE
	}
	if !dataOnly {
		s.noteTimes(in)
	}
	if d := s.data[in.class]; in.wrote.Load() > d.synced.Load() {
		if err := d.flush(); err != nil {
			return err
		}
	}
	return s.commit(in.pos.Load())
}

func (s *Store) noteTimes(in *inode) {
	s.gate.RLock()
	defer s.gate.RUnlock()
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.timesDirty && in.changed {
		s.noteAttr(in)
	}
}

// SyncAll makes everything durable.
func (s *Store) SyncAll() error {
	if s.j == nil || s.readOnly {
		return nil
	}
	s.inodes.all(s.noteTimes)
	for _, d := range s.data {
		if err := d.flush(); err != nil {
			return err
		}
	}
	s.j.mu.Lock()
	last := s.j.last
	s.j.mu.Unlock()
	return s.commit(last)
}
