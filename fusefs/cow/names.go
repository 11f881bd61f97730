package cow

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
)

// A DirEntry is one name in a directory. Ino is 0 while nobody has looked the
// file up.
type DirEntry struct {
	Name string
	Mode uint32 // type bits of st_mode
	Ino  uint64
}

// Lookup finds a name in a directory and takes a reference to the file, which
// Forget gives back. ENOENT says that there is no such name.
func (s *Store) Lookup(dir uint64, name string) (Attr, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.directory(dir)
	if err != nil {
		return Attr{}, err
	}
	if len(name) > maxName {
		return Attr{}, syscall.ENAMETOOLONG
	}
	in, _, err := s.find(d, name)
	if err != nil {
		return Attr{}, err
	}
	if in == nil {
		return Attr{}, syscall.ENOENT
	}
	in.lookups++
	return in.attr(), nil
}

// Forget gives back n references. A file without name or references is gone,
// and one that is as the base has it need not be remembered.
func (s *Store) Forget(ino, n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.inodes.get(ino)
	if in == nil || ino == RootIno {
		return
	}
	in.lookups -= min(n, in.lookups)
	s.letGo(in)
}

// letGo drops an inode that nothing needs. Caller holds mu. Directories stay as
// long as they have a name: the paths of other inodes lead through them.
func (s *Store) letGo(in *inode) {
	if in.lookups > 0 {
		return
	}
	in.mu.RLock()
	pristine := !in.changed && !in.isDir()
	in.mu.RUnlock()
	if in.nlink == 0 || pristine {
		s.forgetInode(in)
	}
}

func (s *Store) forgetInode(in *inode) {
	in.mu.Lock()
	pos := in.pos.Load()
	in.blocks.cut(0, func(slot, n int64) { s.free(in.class, slot, n, pos) })
	in.mu.Unlock()
	s.files.drop(in)
	s.inodes.drop(in.ino)
	if in.base != "" && s.byBase[in.base] == in {
		delete(s.byBase, in.base)
	}
}

// directory finds a directory that still has a name. Caller holds mu.
func (s *Store) directory(ino uint64) (*inode, error) {
	in := s.inodes.get(ino)
	switch {
	case in == nil:
		return nil, syscall.ESTALE
	case !in.isDir():
		return nil, syscall.ENOTDIR
	case in.nlink == 0:
		return nil, syscall.ENOENT
	}
	return in, nil
}

// find gives the inode behind a name, nil if there is none, and whether the
// base has the name. Caller holds mu.
func (s *Store) find(dir *inode, name string) (in *inode, hides bool, err error) {
	if e, ok := dir.over[name]; ok {
		return e.node, e.hides, nil
	}
	if dir.base == "" || !validName(name) {
		return nil, false, nil
	}
	p := join(dir.base, name)
	if in := s.byBase[p]; in != nil {
		return in, true, nil
	}
	info, err := s.base.Lstat(p)
	if notExist(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	in, err = s.meet(p, info)
	return in, true, err
}

// meet makes the inode of a file of the base. Caller holds mu.
func (s *Store) meet(p string, info fs.FileInfo) (*inode, error) {
	in := &inode{kind: unixType(info.Mode()), base: p, nlink: 1, placed: true}
	if inWAL(p) {
		in.class = classWAL
	}
	in.setBaseAttr(info)
	if in.kind == syscall.S_IFLNK {
		target, err := s.base.ReadLink(p)
		if err != nil {
			return nil, err
		}
		in.perm, in.size, in.target = 0o777, int64(len(target)), target
	}
	if err := s.number(in); err != nil {
		return nil, err
	}
	s.byBase[p] = in
	return in, nil
}

// number gives a new inode its number and a place in the table.
func (s *Store) number(in *inode) error {
	if s.next >= maxIno {
		return syscall.ENFILE
	}
	in.ino = s.next
	s.next++
	s.inodes.put(in)
	return nil
}

// adopt tells the journal of an inode of the base before the first change to
// it. Caller holds in.mu.
func (s *Store) adopt(in *inode) {
	if in.changed {
		return
	}
	in.changed = true
	s.note(in, in.record(flagPlaced))
}

// note appends a record about an inode. Caller holds in.mu.
func (s *Store) note(in *inode, r record) {
	if !in.orphan {
		in.pos.Store(s.append(r))
	}
}

// record describes the inode itself, as the base has it or as it was made.
func (in *inode) record(flags byte) record {
	r := record{
		op: opNew, flags: flags, ino: in.ino, class: in.class, mode: in.kind | in.perm,
		name: in.target, atime: in.atime, mtime: in.mtime, ctime: in.ctime,
	}
	if in.base != "" {
		r.op, r.name, r.size = opBase, in.base, in.limit
	}
	return r
}

func (s *Store) setName(dir *inode, name string, in *inode, hides bool) {
	if dir.over == nil {
		dir.over = map[string]entry{}
	}
	dir.over[name] = entry{node: in, hides: hides}
	in.origin = name
	if in.isDir() {
		in.parent = dir
	}
}

// dropName takes a name away; in is what it stood for, if that is known.
func (s *Store) dropName(dir *inode, name string, in *inode, hides bool) {
	if hides {
		s.setWhiteout(dir, name)
	} else {
		delete(dir.over, name)
	}
	if in != nil && in.placed && dir.base != "" && join(dir.base, name) == in.base {
		in.placed = false
		if in.isDir() {
			in.parent = dir
		}
	}
}

func (s *Store) setWhiteout(dir *inode, name string) {
	if dir.over == nil {
		dir.over = map[string]entry{}
	}
	dir.over[name] = entry{hides: true}
}

// lockNames and unlockNames frame every change of names.
func (s *Store) lockNames() error {
	if s.readOnly {
		return syscall.EROFS
	}
	s.gate.RLock()
	s.mu.Lock()
	return nil
}

func (s *Store) unlockNames() {
	s.mu.Unlock()
	s.gate.RUnlock()
	s.relieve()
}

// changeDir notes a record about the names in a directory and the inodes whose
// names they are. Caller holds mu.
func (s *Store) changeDir(r record, dirs []*inode, nodes ...*inode) {
	t := now()
	for _, d := range dirs {
		d.mu.Lock()
		s.adopt(d)
		d.touch(t)
		d.mu.Unlock()
	}
	pos := s.append(r)
	for _, d := range dirs {
		d.pos.Store(pos)
	}
	for _, in := range nodes {
		in.mu.Lock()
		in.ctime, in.timesDirty = t, true
		in.pos.Store(pos)
		in.mu.Unlock()
	}
}

// lose takes a link from an inode whose name is gone. Caller holds mu.
func (s *Store) lose(in *inode) {
	in.nlink--
	if in.nlink > 0 {
		return
	}
	in.mu.Lock()
	in.orphan = true
	in.mu.Unlock()
	s.letGo(in)
}

// Create makes a regular file with the given permissions and takes a reference.
func (s *Store) Create(dir uint64, name string, perm uint32) (Attr, error) {
	return s.make(dir, name, &inode{kind: syscall.S_IFREG, perm: perm & 0o7777})
}

// Mkdir makes a directory and takes a reference.
func (s *Store) Mkdir(dir uint64, name string, perm uint32) (Attr, error) {
	return s.make(dir, name, &inode{kind: syscall.S_IFDIR, perm: perm & 0o7777})
}

// Symlink makes a symbolic link and takes a reference. A link to a tablespace
// is led to a directory of the store's own: see confine.
func (s *Store) Symlink(dir uint64, name, target string) (Attr, error) {
	if len(target) == 0 || len(target) >= 4096 {
		return Attr{}, syscall.EINVAL
	}
	target, err := s.confine(dir, name, target)
	if err != nil {
		return Attr{}, err
	}
	return s.make(dir, name, &inode{kind: syscall.S_IFLNK, perm: 0o777, target: target, size: int64(len(target))})
}

func (s *Store) make(dir uint64, name string, in *inode) (Attr, error) {
	if err := s.lockNames(); err != nil {
		return Attr{}, err
	}
	defer s.unlockNames()
	d, hides, err := s.vacant(dir, name)
	if err != nil {
		return Attr{}, err
	}
	in.class = d.class
	if d.ino == RootIno && in.isDir() && inWAL(name) {
		in.class = classWAL
	}
	t := now()
	in.atime, in.mtime, in.ctime, in.changed, in.nlink = t, t, t, true, 1
	if err := s.number(in); err != nil {
		return Attr{}, err
	}
	s.note(in, in.record(0))
	s.changeDir(record{op: opLink, flags: hideFlags(hides, false), dir: d.ino, ino: in.ino, name: name}, []*inode{d}, in)
	s.setName(d, name, in, hides)
	in.lookups++
	return in.attr(), nil
}

// vacant finds the directory for a name that must not exist yet.
func (s *Store) vacant(dir uint64, name string) (d *inode, hides bool, err error) {
	if d, err = s.directory(dir); err != nil {
		return nil, false, err
	}
	if len(name) > maxName {
		return nil, false, syscall.ENAMETOOLONG
	}
	if !validName(name) {
		return nil, false, syscall.EINVAL
	}
	in, hides, err := s.find(d, name)
	if err == nil && in != nil {
		err = syscall.EEXIST
	}
	return d, hides, err
}

func hideFlags(first, second bool) (f byte) {
	if first {
		f |= flagHides
	}
	if second {
		f |= flagHides2
	}
	return f
}

// Link gives a file one more name and takes a reference.
func (s *Store) Link(ino, dir uint64, name string) (Attr, error) {
	if err := s.lockNames(); err != nil {
		return Attr{}, err
	}
	defer s.unlockNames()
	in := s.inodes.get(ino)
	switch {
	case in == nil:
		return Attr{}, syscall.ESTALE
	case in.isDir():
		return Attr{}, syscall.EPERM
	case in.nlink == 0:
		return Attr{}, syscall.ENOENT
	}
	d, hides, err := s.vacant(dir, name)
	if err != nil {
		return Attr{}, err
	}
	s.adoptNode(in)
	s.changeDir(record{op: opLink, flags: hideFlags(hides, false), dir: d.ino, ino: ino, name: name}, []*inode{d}, in)
	s.setName(d, name, in, hides)
	in.nlink++
	in.lookups++
	return in.attr(), nil
}

func (s *Store) adoptNode(in *inode) {
	in.mu.Lock()
	s.adopt(in)
	in.mu.Unlock()
}

// Unlink takes a name from a file. Its content stays until the last reference
// is given back.
func (s *Store) Unlink(dir uint64, name string) error {
	return s.remove(dir, name, func(in *inode) error {
		if in.isDir() {
			return syscall.EISDIR
		}
		return nil
	})
}

// Rmdir removes an empty directory.
func (s *Store) Rmdir(dir uint64, name string) error {
	return s.remove(dir, name, func(in *inode) error {
		if !in.isDir() {
			return syscall.ENOTDIR
		}
		return s.checkEmpty(in)
	})
}

func (s *Store) remove(dir uint64, name string, check func(*inode) error) error {
	if err := s.lockNames(); err != nil {
		return err
	}
	defer s.unlockNames()
	d, err := s.directory(dir)
	if err != nil {
		return err
	}
	in, hides, err := s.find(d, name)
	if err != nil {
		return err
	}
	if in == nil {
		return syscall.ENOENT
	}
	if err := check(in); err != nil {
		return err
	}
	s.changeDir(record{op: opUnlink, flags: hideFlags(hides, false), dir: d.ino, name: name}, []*inode{d}, in)
	s.dropName(d, name, in, hides)
	s.lose(in)
	return nil
}

func (s *Store) checkEmpty(dir *inode) error {
	names, err := s.list(dir)
	if err == nil && len(names) > 0 {
		err = syscall.ENOTEMPTY
	}
	return err
}

// Rename moves a name, over another one if that exists and noReplace is not
// set, in one step.
func (s *Store) Rename(dir uint64, name string, toDir uint64, toName string, noReplace bool) error {
	if err := s.lockNames(); err != nil {
		return err
	}
	defer s.unlockNames()
	d1, err := s.directory(dir)
	if err != nil {
		return err
	}
	d2, err := s.directory(toDir)
	if err != nil {
		return err
	}
	if len(toName) > maxName {
		return syscall.ENAMETOOLONG
	}
	in, hides1, err := s.find(d1, name)
	if err != nil {
		return err
	}
	if in == nil {
		return syscall.ENOENT
	}
	old, hides2, err := s.find(d2, toName)
	if err != nil {
		return err
	}
	if err := s.mayReplace(in, old, d1, d2, toName, noReplace); err != nil || in == old {
		return err
	}
	s.adoptNode(in)
	s.changeDir(record{
		op: opRename, flags: hideFlags(hides1, hides2), dir: dir, name: name, dir2: toDir, name2: toName,
	}, []*inode{d1, d2}, in)
	s.dropName(d1, name, in, hides1)
	if old != nil {
		s.dropName(d2, toName, old, hides2)
	}
	s.setName(d2, toName, in, hides2)
	if old != nil {
		old.pos.Store(in.pos.Load())
		s.lose(old)
	}
	return nil
}

// mayReplace tells whether in, which lies in directory from, may take the place
// of old, nil if that name is free, in directory to.
func (s *Store) mayReplace(in, old, from, to *inode, name string, noReplace bool) error {
	switch {
	case !validName(name), in.isDir() && s.within(to, in):
		return syscall.EINVAL
	case old == nil:
		return nil
	case noReplace:
		return syscall.EEXIST
	case in == old:
		return nil
	case old.isDir() && s.within(from, old):
		return syscall.ENOTEMPTY
	case !in.isDir() && old.isDir():
		return syscall.EISDIR
	case in.isDir() && !old.isDir():
		return syscall.ENOTDIR
	case old.isDir():
		return s.checkEmpty(old)
	}
	return nil
}

// ReadDir lists a directory, sorted, without "." and "..".
func (s *Store) ReadDir(ino uint64) ([]DirEntry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.inodes.get(ino)
	switch {
	case in == nil:
		return nil, syscall.ESTALE
	case !in.isDir():
		return nil, syscall.ENOTDIR
	case in.nlink == 0:
		return nil, nil
	}
	return s.list(in)
}

// list merges the names of the base and of the layer. Caller holds mu.
func (s *Store) list(dir *inode) ([]DirEntry, error) {
	var out []DirEntry
	if dir.base != "" {
		below, err := s.base.ReadDir(dir.base)
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", dir.base, err)
		}
		for _, e := range below {
			if _, ok := dir.over[e.Name()]; !ok {
				out = append(out, DirEntry{Name: e.Name(), Mode: unixType(e.Type()), Ino: s.inoOf(dir, e.Name())})
			}
		}
	}
	for name, e := range dir.over {
		if e.node != nil {
			out = append(out, DirEntry{Name: name, Mode: e.node.kind, Ino: e.node.ino})
		}
	}
	slices.SortFunc(out, func(a, b DirEntry) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func (s *Store) inoOf(dir *inode, name string) uint64 {
	if in := s.byBase[join(dir.base, name)]; in != nil {
		return in.ino
	}
	return 0
}

// ReadLink gives the target of a symbolic link.
func (s *Store) ReadLink(ino uint64) (string, error) {
	in := s.inodes.get(ino)
	switch {
	case in == nil:
		return "", syscall.ESTALE
	case in.kind != syscall.S_IFLNK:
		return "", syscall.EINVAL
	}
	return in.target, nil
}
