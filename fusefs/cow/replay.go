package cow

import (
	"fmt"
	"io"
	"path"
	"strings"
	"syscall"
)

// load takes up the changes of a persistent layer, or begins a new one. A batch
// that a crash cut short is dropped: nobody was told that it is durable.
func (s *Store) load() error {
	b, err := readAll(s.j.disk)
	if err != nil {
		return err
	}
	if len(b) < headSize {
		return s.begin()
	}
	if err := checkHead(b, kindLayer); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	r := &frameReader{b: b, off: headSize}
	if err := s.replayAll(r); err != nil {
		return err
	}
	if err := r.tail(); err != nil {
		if err != errTorn {
			return fmt.Errorf("journal: %w", err)
		}
		s.log.Info("layer: drop a batch that was never confirmed", "layer", s.dir, "offset", r.off, "bytes", len(b)-r.off)
	}
	if err := s.settle(); err != nil {
		return err
	}
	s.j.frame = r.number
	s.j.length.Store(int64(r.off))
	s.j.compactAt.Store(minCompact)
	if s.readOnly || r.off == len(b) {
		return nil
	}
	if err := s.j.disk.Truncate(int64(r.off)); err != nil {
		return err
	}
	return s.j.disk.Sync()
}

// begin writes the head of a journal without frames.
func (s *Store) begin() error {
	s.j.length.Store(headSize)
	s.j.compactAt.Store(minCompact)
	if err := s.j.disk.Truncate(0); err != nil {
		return err
	}
	if _, err := s.j.disk.WriteAt(fileHead(kindLayer), 0); err != nil {
		return err
	}
	if err := s.j.disk.Sync(); err != nil {
		return err
	}
	return s.j.disk.Rename(journalName)
}

func readAll(d disk) ([]byte, error) {
	size, err := d.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	if n, err := d.ReadAt(b, 0); err != nil && (err != io.EOF || n < len(b)) {
		return nil, err
	}
	return b, nil
}

func (s *Store) replayAll(r *frameReader) error {
	for payload := r.next(); payload != nil; payload = r.next() {
		if err := s.replay(payload); err != nil {
			return fmt.Errorf("batch %d: %w", r.number-1, err)
		}
	}
	return nil
}

// replay applies the records of one batch.
func (s *Store) replay(payload []byte) error {
	d := &decoder{b: payload}
	for len(d.b) > 0 {
		r, err := d.next()
		if err != nil {
			return err
		}
		if err := s.apply(&r); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) apply(r *record) error {
	switch r.op {
	case opBase, opNew:
		return s.applyInode(r)
	case opLink:
		return s.applyLink(r.dir, r.name, r.ino, r.flags&flagHides != 0)
	case opUnlink:
		_, err := s.applyUnlink(r.dir, r.name, r.flags&flagHides != 0)
		return err
	case opRename:
		return s.applyRename(r)
	case opBlocks, opSize, opAttr:
		return s.applyContent(r)
	case opAttach:
		s.attach = append([]byte(nil), r.data...)
		return nil
	default:
		return corrupt("record %d has no place in a journal", r.op)
	}
}

func (s *Store) applyInode(r *record) error {
	if s.inodes.get(r.ino) != nil {
		return corrupt("inode %d exists already", r.ino)
	}
	in := &inode{
		ino: r.ino, kind: r.mode & syscall.S_IFMT, class: r.class, perm: r.mode & 0o7777,
		atime: r.atime, mtime: r.mtime, ctime: r.ctime, changed: true,
	}
	switch {
	case r.op == opNew:
		in.target, in.size = r.name, int64(len(r.name))
	case s.byBase[r.name] != nil:
		return corrupt("inodes %d and %d are both %s of the base", s.byBase[r.name].ino, r.ino, r.name)
	default:
		if err := s.takeBase(in, r); err != nil {
			return err
		}
		s.byBase[r.name] = in
		if r.flags&flagPlaced != 0 {
			in.placed, in.nlink = true, 1
		}
	}
	s.inodes.put(in)
	s.next = max(s.next, r.ino+1)
	return nil
}

// takeBase makes in the inode of a file of the base.
func (s *Store) takeBase(in *inode, r *record) error {
	in.base, in.size, in.limit = r.name, r.size, r.size
	if in.kind != syscall.S_IFLNK {
		return nil
	}
	target, err := s.base.ReadLink(r.name)
	if err != nil {
		return fmt.Errorf("the layer stands on another base: %w", err)
	}
	in.target, in.size, in.limit = target, int64(len(target)), 0
	return nil
}

// dirOf finds a directory that a record names.
func (s *Store) dirOf(ino uint64) (*inode, error) {
	in := s.inodes.get(ino)
	if in == nil || !in.isDir() {
		return nil, corrupt("inode %d is no directory", ino)
	}
	return in, nil
}

// known finds the inode behind a name among those that the journal speaks of.
func (s *Store) known(dir *inode, name string) *inode {
	if e, ok := dir.over[name]; ok {
		return e.node
	}
	if dir.base == "" {
		return nil
	}
	if in := s.byBase[join(dir.base, name)]; in != nil && in.placed {
		return in
	}
	return nil
}

func (s *Store) applyLink(dirIno uint64, name string, ino uint64, hides bool) error {
	dir, err := s.dirOf(dirIno)
	if err != nil {
		return err
	}
	in := s.inodes.get(ino)
	if in == nil || in.ino == RootIno || in.isDir() && in.nlink > 0 {
		return corrupt("inode %d cannot get the name %q", ino, name)
	}
	if s.known(dir, name) != nil {
		return corrupt("name %q exists already in directory %d", name, dirIno)
	}
	if in.isDir() && s.within(dir, in) {
		return corrupt("directory %d would lie in itself", ino)
	}
	s.setName(dir, name, in, hides)
	in.nlink++
	return nil
}

func (s *Store) applyUnlink(dirIno uint64, name string, hides bool) (*inode, error) {
	dir, err := s.dirOf(dirIno)
	if err != nil {
		return nil, err
	}
	in := s.known(dir, name)
	if in == nil && !hides {
		return nil, corrupt("directory %d has no %q", dirIno, name)
	}
	s.dropName(dir, name, in, hides)
	if in != nil {
		in.nlink--
	}
	return in, nil
}

func (s *Store) applyRename(r *record) error {
	in, err := s.applyUnlink(r.dir, r.name, r.flags&flagHides != 0)
	if err != nil {
		return err
	}
	if in == nil {
		return corrupt("directory %d has no %q", r.dir, r.name)
	}
	dir, err := s.dirOf(r.dir2)
	if err != nil {
		return err
	}
	if s.known(dir, r.name2) != nil || r.flags&flagHides2 != 0 {
		if _, err := s.applyUnlink(r.dir2, r.name2, r.flags&flagHides2 != 0); err != nil {
			return err
		}
	}
	return s.applyLink(r.dir2, r.name2, in.ino, r.flags&flagHides2 != 0)
}

func (s *Store) applyContent(r *record) error {
	in := s.inodes.get(r.ino)
	if in == nil {
		return corrupt("inode %d does not exist", r.ino)
	}
	if r.op == opAttr {
		in.perm, in.atime, in.mtime, in.ctime = r.mode, r.atime, r.mtime, r.ctime
		return nil
	}
	if in.kind != syscall.S_IFREG {
		return corrupt("inode %d has no content", r.ino)
	}
	if r.op == opSize {
		in.cut(r.size, func(int64, int64) {})
		in.size = r.size
		return nil
	}
	if r.block+r.n > maxBlocks || r.slot+r.n > maxSlots || r.slot+r.n > s.data[in.class].slots {
		return corrupt("blocks of inode %d lie beyond the data file", r.ino)
	}
	for k := range r.n {
		if in.blocks.get(r.block+k) != noSlot {
			return corrupt("block %d of inode %d is stored twice", r.block+k, r.ino)
		}
	}
	in.blocks.set(r.block, r.slot, r.n)
	in.size = max(in.size, r.size)
	return nil
}

// settle ends a replay: files without a name go, and the slots of the others
// are taken.
func (s *Store) settle() error {
	var err error
	s.inodes.all(func(in *inode) {
		if in.nlink == 0 {
			// Its slots may have another owner since.
			in.blocks = blockMap{}
			s.forgetInode(in)
			return
		}
		a := &s.space.of[in.class]
		in.blocks.runs(0, func(_, slot, n int64) {
			for k := slot; k < slot+n && err == nil; k++ {
				if a.has(k) {
					err = corrupt("slot %d belongs to two blocks", k)
					return
				}
				a.mark(k)
			}
		})
	})
	for class := range s.space.of {
		s.space.count.Add(s.space.of[class].used)
	}
	return err
}

// within tells whether dir is top or lies below it.
func (s *Store) within(dir, top *inode) bool {
	for dir != nil {
		if dir == top {
			return true
		}
		dir = s.above(dir)
	}
	return false
}

// above gives the parent of a directory, or the nearest one that is known:
// those between them are where the base has them. It gives nil for the top.
func (s *Store) above(dir *inode) *inode {
	if dir.ino == RootIno || !dir.placed {
		return dir.parent
	}
	for p := path.Dir(dir.base); ; p = path.Dir(p) {
		if in := s.byBase[p]; in != nil {
			return in
		}
	}
}

// join puts a name below a path of the base.
func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// inWAL tells whether a path of the base lies in the directory of WAL.
func inWAL(p string) bool { return p == "pg_wal" || strings.HasPrefix(p, "pg_wal/") }
