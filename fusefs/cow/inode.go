package cow

import (
	"io/fs"
	"sync"
	"sync/atomic"
	"syscall"
)

// Attr is what stat says of a file. Times are in nanoseconds since 1970.
type Attr struct {
	Ino   uint64
	Mode  uint32 // as st_mode: type and permissions
	Nlink uint32
	Size  int64

	Atime, Mtime, Ctime int64
}

// IsDir tells whether the file is a directory.
func (a Attr) IsDir() bool { return a.Mode&syscall.S_IFMT == syscall.S_IFDIR }

// FileMode is the mode in the form of io/fs.
func (a Attr) FileMode() fs.FileMode {
	m := fs.FileMode(a.Mode & 0o777)
	switch a.Mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		m |= fs.ModeDir
	case syscall.S_IFLNK:
		m |= fs.ModeSymlink
	}
	return m
}

// An inode is one file, under however many names. Its number is never used
// again while the store is open.
type inode struct {
	ino    uint64
	kind   uint32 // type bits of st_mode
	base   string // path in the base, "" when the base has no such file
	target string // of a symbolic link made in the layer
	class  uint8  // the data file that keeps its blocks

	// Guarded by Store.mu.
	nlink   int
	lookups uint64
	placed  bool             // seen under the name that it has in the base
	parent  *inode           // of a directory that is not placed
	over    map[string]entry // of a directory: names that differ from the base
	origin  string           // last name given in the layer, for messages

	mu         sync.RWMutex
	perm       uint32
	size       int64
	limit      int64 // from this offset on, the base shows through no more
	atime      int64
	mtime      int64
	ctime      int64
	blocks     blockMap
	changed    bool // differs from the base: the journal knows the inode
	orphan     bool // has no name any more: the journal need not hear of it
	timesDirty bool

	pos   atomic.Uint64 // the last record of the journal that concerns it
	wrote atomic.Uint64 // generation of its data file after its last write
	open  atomic.Pointer[baseFile]
}

// An entry is a name in a directory of the layer. Without a node it hides the
// name that the base has.
type entry struct {
	node  *inode
	hides bool // the base has the name too
}

func (in *inode) isDir() bool { return in.kind == syscall.S_IFDIR }

// setBaseAttr takes the attributes that the base gives.
func (in *inode) setBaseAttr(info fs.FileInfo) {
	in.perm = uint32(info.Mode().Perm())
	in.mtime = info.ModTime().UnixNano()
	in.atime, in.ctime = in.mtime, in.mtime
	if info.Mode().IsRegular() || in.kind == syscall.S_IFLNK {
		in.size = info.Size()
		in.limit = in.size
	}
}

// attr needs Store.mu for the link count; it takes inode.mu itself.
func (in *inode) attr() Attr {
	in.mu.RLock()
	defer in.mu.RUnlock()
	a := Attr{
		Ino: in.ino, Mode: in.kind | in.perm, Nlink: uint32(in.nlink), Size: in.size,
		Atime: in.atime, Mtime: in.mtime, Ctime: in.ctime,
	}
	if in.isDir() {
		a.Size = BlockSize
		if in.nlink > 0 {
			a.Nlink = 2
		}
	}
	return a
}

// touch sets the times of a change. The caller holds inode.mu.
func (in *inode) touch(t int64) {
	in.mtime, in.ctime, in.timesDirty = t, t, true
}

func unixType(m fs.FileMode) uint32 {
	switch {
	case m.IsDir():
		return syscall.S_IFDIR
	case m&fs.ModeSymlink != 0:
		return syscall.S_IFLNK
	default:
		return syscall.S_IFREG
	}
}

// chunkInodes is how many inode numbers one chunk of the table covers.
const chunkInodes = 1024

// An inodeTable finds inodes by number without a lock: numbers are dense and
// only grow, so the table is an array in chunks, given back when they empty.
type inodeTable struct {
	mu     sync.Mutex
	chunks atomic.Pointer[[]*inodeChunk]
}

type inodeChunk struct {
	live  int
	nodes [chunkInodes]atomic.Pointer[inode]
}

func (t *inodeTable) get(ino uint64) *inode {
	chunks := t.chunks.Load()
	if chunks == nil || ino/chunkInodes >= uint64(len(*chunks)) {
		return nil
	}
	c := (*chunks)[ino/chunkInodes]
	if c == nil {
		return nil
	}
	return c.nodes[ino%chunkInodes].Load()
}

func (t *inodeTable) put(in *inode) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := in.ino / chunkInodes
	var chunks []*inodeChunk
	if p := t.chunks.Load(); p != nil {
		chunks = *p
	}
	if i >= uint64(len(chunks)) || chunks[i] == nil {
		grown := make([]*inodeChunk, max(uint64(len(chunks)), i+1))
		copy(grown, chunks)
		grown[i] = &inodeChunk{}
		chunks = grown
		t.chunks.Store(&chunks)
	}
	chunks[i].nodes[in.ino%chunkInodes].Store(in)
	chunks[i].live++
}

func (t *inodeTable) drop(ino uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	chunks := *t.chunks.Load()
	i := ino / chunkInodes
	c := chunks[i]
	c.nodes[ino%chunkInodes].Store(nil)
	if c.live--; c.live == 0 {
		shrunk := append([]*inodeChunk(nil), chunks...)
		shrunk[i] = nil
		t.chunks.Store(&shrunk)
	}
}

// all calls f for every inode in the order of their numbers.
func (t *inodeTable) all(f func(*inode)) {
	p := t.chunks.Load()
	if p == nil {
		return
	}
	for _, c := range *p {
		if c == nil {
			continue
		}
		for i := range c.nodes {
			if in := c.nodes[i].Load(); in != nil {
				f(in)
			}
		}
	}
}
