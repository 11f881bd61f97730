package cow

import (
	"errors"
	"maps"
	"slices"
	"syscall"
)

// minCompact is the shortest journal that is worth rewriting, in bytes.
const minCompact = 16 << 20

// compact rewrites the journal as the shortest list of records that gives the
// present state. The store stands still meanwhile.
func (s *Store) compact() error {
	s.gate.Lock()
	defer s.gate.Unlock()
	j := s.j
	j.commitMu.Lock()
	defer j.commitMu.Unlock()
	if j.failed != nil || j.length.Load() <= j.compactAt.Load() {
		return j.failed
	}
	for _, d := range s.data {
		if err := d.flush(); err != nil {
			return err
		}
	}
	w := &frameWriter{head: fileHead(kindLayer)}
	s.dump(w.add, true)
	b := w.finish()
	if err := j.replace(b, w.number); err != nil {
		return err
	}
	j.compactAt.Store(max(minCompact, 4*int64(len(b))))
	j.mu.Lock()
	j.buf, j.touched = j.buf[:0], [classes]bool{}
	last := j.last
	j.mu.Unlock()
	j.durable.Store(last)
	s.freeDurable(last)
	return nil
}

// replace puts a new file in the place of the journal, durably and at once.
func (j *journal) replace(b []byte, frames uint64) error {
	d, err := j.fresh()
	if err != nil {
		return err
	}
	err = d.Truncate(0)
	if err == nil {
		_, err = d.WriteAt(b, 0)
	}
	if err == nil {
		err = d.Sync()
	}
	if err == nil {
		err = d.Rename(journalName)
	}
	if err != nil {
		return errors.Join(err, d.Close())
	}
	old := j.disk
	j.disk, j.frame = d, frames
	j.length.Store(int64(len(b)))
	return old.Close()
}

// A frameWriter builds a file of frames in memory.
type frameWriter struct {
	head   []byte
	out    []byte
	buf    []byte
	number uint64
	count  int64 // records
}

func (w *frameWriter) add(r record) {
	if len(w.buf) == 0 {
		w.buf = make([]byte, frameHead, frameHead+4096)
	}
	w.buf = r.encode(w.buf)
	w.count++
	if len(w.buf) >= maxFrame {
		w.flush()
	}
}

func (w *frameWriter) flush() {
	if len(w.buf) == 0 {
		return
	}
	sealFrame(w.buf, w.number)
	w.out = append(w.out, w.buf...)
	w.number++
	w.buf = w.buf[:0]
}

func (w *frameWriter) finish() []byte {
	w.flush()
	return append(w.head, w.out...)
}

// dump gives the records that make the present state from the base: inodes
// first, then names. Inodes without a name are left out. With blocks it says
// where blocks lie, too. The caller holds gate, so nothing changes.
func (s *Store) dump(add func(record), blocks bool) {
	s.inodes.all(func(in *inode) {
		if in.nlink > 0 && in.changed {
			s.dumpInode(in, add)
			if blocks {
				in.blocks.runs(0, func(block, slot, n int64) {
					add(record{op: opBlocks, ino: in.ino, class: in.class, block: block, slot: slot, n: n})
				})
			}
		}
	})
	s.inodes.all(func(in *inode) {
		if in.nlink > 0 {
			dumpNames(in, add)
		}
	})
	if s.attach != nil {
		add(record{op: opAttach, data: s.attach})
	}
}

func (s *Store) dumpInode(in *inode, add func(record)) {
	if in.ino != RootIno {
		r := in.record(0)
		if in.placed {
			r.flags |= flagPlaced
		}
		add(r)
	}
	if in.ino == RootIno || in.base != "" {
		add(record{op: opAttr, ino: in.ino, mode: in.perm, atime: in.atime, mtime: in.mtime, ctime: in.ctime})
	}
	if in.kind == syscall.S_IFREG && in.size != in.limit {
		add(record{op: opSize, ino: in.ino, class: in.class, size: in.size})
	}
}

// dumpNames gives the names of a directory that differ from the base.
func dumpNames(dir *inode, add func(record)) {
	for _, name := range slices.Sorted(maps.Keys(dir.over)) {
		e := dir.over[name]
		r := record{op: opUnlink, flags: hideFlags(e.hides, false), dir: dir.ino, name: name}
		if e.node != nil {
			r.op, r.ino = opLink, e.node.ino
		}
		add(r)
	}
}
