package fusefs

import (
	"errors"
	"log/slog"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/fukanchik/pg0/fusefs/cow"
)

// filesystem answers the kernel. What it does not implement on purpose: locks
// (the kernel keeps them itself), extended attributes and ACCESS (the kernel
// stops asking after one ENOSYS; it checks permissions itself), POLL, IOCTL,
// device files, RENAME_EXCHANGE.
type filesystem struct {
	fuse.RawFileSystem
	s     *cow.Store
	o     Options
	owner fuse.Owner
	log   *slog.Logger

	mu       sync.Mutex
	lists    map[uint64][]cow.DirEntry // of open directories
	nextList uint64
}

func newFileSystem(s *cow.Store, o Options) *filesystem {
	return &filesystem{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), s: s, o: o, log: o.Logger,
		owner: fuse.Owner{Uid: uint32(o.UID), Gid: uint32(o.GID)}, lists: map[uint64][]cow.DirEntry{},
	}
}

func (f *filesystem) String() string { return Subtype }

// status is the one place where errors of the store become numbers. What is not
// an answer in itself, such as a damaged backup, is logged: the number says
// nothing of the place.
func (f *filesystem) status(op string, ino uint64, err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno) && expected(errno):
		return fuse.Status(errno)
	case errors.As(err, &errno) && (errno == syscall.ENOSPC || errno == syscall.EDQUOT):
		f.log.Error("no room in the layer", "op", op, "error", err)
		return fuse.Status(errno)
	}
	f.log.Error("input/output error", "op", op, "inode", ino, "error", err)
	return fuse.EIO
}

// expected tells the errors that callers provoke from those that the layer or
// the base gives.
func expected(e syscall.Errno) bool {
	switch e {
	case syscall.ENOENT, syscall.EEXIST, syscall.ENOTDIR, syscall.EISDIR, syscall.ENOTEMPTY, syscall.EINVAL,
		syscall.EPERM, syscall.EROFS, syscall.ENAMETOOLONG, syscall.EFBIG, syscall.ESTALE, syscall.EOPNOTSUPP:
		return true
	}
	return false
}

func (f *filesystem) attr(a cow.Attr, out *fuse.Attr) {
	out.Ino, out.Size, out.Mode, out.Nlink = a.Ino, uint64(a.Size), a.Mode, a.Nlink
	out.Blocks = (out.Size + 511) / 512
	out.Atime, out.Atimensec = seconds(a.Atime)
	out.Mtime, out.Mtimensec = seconds(a.Mtime)
	out.Ctime, out.Ctimensec = seconds(a.Ctime)
	out.Owner = f.owner
	out.Blksize = 4096
}

func seconds(nano int64) (uint64, uint32) {
	sec, rest := nano/1e9, nano%1e9
	if rest < 0 {
		sec, rest = sec-1, rest+1e9
	}
	return uint64(sec), uint32(rest)
}

// entry answers with a file that the kernel now holds a reference to.
func (f *filesystem) entry(op string, dir uint64, a cow.Attr, err error, out *fuse.EntryOut) fuse.Status {
	if err != nil {
		return f.status(op, dir, err)
	}
	out.NodeId, out.Generation = a.Ino, 1
	out.SetEntryTimeout(timeout)
	out.SetAttrTimeout(timeout)
	f.attr(a, &out.Attr)
	return fuse.OK
}

// Lookup lets the kernel remember that there is no such name, too: PostgreSQL
// asks again and again for the next segment of a relation.
func (f *filesystem) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	a, err := f.s.Lookup(h.NodeId, name)
	if err == syscall.ENOENT {
		*out = fuse.EntryOut{}
		out.SetEntryTimeout(timeout)
		return fuse.OK
	}
	return f.entry("lookup", h.NodeId, a, err, out)
}

func (f *filesystem) Forget(nodeid, nlookup uint64) { f.s.Forget(nodeid, nlookup) }

func (f *filesystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	a, err := f.s.GetAttr(in.NodeId)
	return f.attrOut("getattr", in.NodeId, a, err, out)
}

func (f *filesystem) attrOut(op string, ino uint64, a cow.Attr, err error, out *fuse.AttrOut) fuse.Status {
	if err != nil {
		return f.status(op, ino, err)
	}
	out.SetTimeout(timeout)
	f.attr(a, &out.Attr)
	return fuse.OK
}

func (f *filesystem) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if uid, ok := in.GetUID(); ok && uid != f.owner.Uid {
		return fuse.EPERM
	}
	if gid, ok := in.GetGID(); ok && gid != f.owner.Gid {
		return fuse.EPERM
	}
	var set cow.SetAttr
	if mode, ok := in.GetMode(); ok {
		set.Perm = &mode
	}
	if size, ok := in.GetSize(); ok {
		n := int64(size)
		set.Size = &n
	}
	if t, ok := in.GetATime(); ok {
		n := t.UnixNano()
		set.Atime = &n
	}
	if t, ok := in.GetMTime(); ok {
		n := t.UnixNano()
		set.Mtime = &n
	}
	if t, ok := in.GetCTime(); ok {
		n := t.UnixNano()
		set.Ctime = &n
	}
	a, err := f.s.SetAttr(in.NodeId, set)
	return f.attrOut("setattr", in.NodeId, a, err, out)
}

func (f *filesystem) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	a, err := f.s.Mkdir(in.NodeId, name, in.Mode)
	return f.entry("mkdir", in.NodeId, a, err, out)
}

func (f *filesystem) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	if t := in.Mode & syscall.S_IFMT; t != syscall.S_IFREG && t != 0 {
		return fuse.EPERM
	}
	a, err := f.s.Create(in.NodeId, name, in.Mode)
	return f.entry("mknod", in.NodeId, a, err, out)
}

func (f *filesystem) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	a, err := f.s.Create(in.NodeId, name, in.Mode)
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return f.entry("create", in.NodeId, a, err, &out.EntryOut)
}

func (f *filesystem) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	a, err := f.s.Symlink(h.NodeId, name, target)
	return f.entry("symlink", h.NodeId, a, err, out)
}

func (f *filesystem) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	a, err := f.s.Link(in.Oldnodeid, in.NodeId, name)
	return f.entry("link", in.NodeId, a, err, out)
}

func (f *filesystem) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	target, err := f.s.ReadLink(h.NodeId)
	return []byte(target), f.status("readlink", h.NodeId, err)
}

func (f *filesystem) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return f.status("unlink", h.NodeId, f.s.Unlink(h.NodeId, name))
}

func (f *filesystem) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return f.status("rmdir", h.NodeId, f.s.Rmdir(h.NodeId, name))
}

func (f *filesystem) Rename(_ <-chan struct{}, in *fuse.RenameIn, name, newName string) fuse.Status {
	if in.Flags&^uint32(unix.RENAME_NOREPLACE) != 0 {
		return fuse.EINVAL
	}
	return f.status("rename", in.NodeId, f.s.Rename(in.NodeId, name, in.Newdir, newName, in.Flags != 0))
}

// Open tells the kernel to stop asking: it opens files by itself then, and
// keeps their pages from one open to the next.
func (f *filesystem) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status {
	return fuse.ENOSYS
}

// Flush does nothing at close; the kernel asks once.
func (f *filesystem) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// A readReply is data in the buffer of the request, pooled so that a read
// allocates nothing.
type readReply struct{ data []byte }

var replies = sync.Pool{New: func() any { return new(readReply) }}

func (r *readReply) Bytes([]byte) ([]byte, fuse.Status) { return r.data, fuse.OK }
func (r *readReply) Size() int                          { return len(r.data) }

func (r *readReply) Done() {
	r.data = nil
	replies.Put(r)
}

func (f *filesystem) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n, err := f.s.ReadAt(in.NodeId, buf[:min(len(buf), int(in.Size))], int64(in.Offset))
	if err != nil {
		return nil, f.readStatus(in.NodeId, err)
	}
	r := replies.Get().(*readReply)
	r.data = buf[:n]
	return r, fuse.OK
}

// readStatus makes every failure to read an I/O error, whatever number came
// from below: a backup file that is missing is not a missing file here.
func (f *filesystem) readStatus(ino uint64, err error) fuse.Status {
	f.log.Error("input/output error", "op", "read", "inode", ino, "error", err)
	return fuse.EIO
}

// Write reports a write that was stored in part as such, but not to the kernel's
// own write-back, which would take the rest for stored.
func (f *filesystem) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	n, err := f.s.WriteAt(in.NodeId, data, int64(in.Offset))
	if err != nil && n > 0 && in.WriteFlags&fuse.WRITE_CACHE == 0 {
		return uint32(n), fuse.OK
	}
	return uint32(n), f.status("write", in.NodeId, err)
}

func (f *filesystem) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	if in.Mode&^uint32(unix.FALLOC_FL_KEEP_SIZE) != 0 {
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	return f.status("fallocate", in.NodeId, f.s.Fallocate(in.NodeId, int64(in.Offset), int64(in.Length), in.Mode != 0))
}

// Fsync stops the kernel from asking when nothing outlives the store; it still
// hands over the pages that were written.
func (f *filesystem) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if !f.s.Persistent() {
		return fuse.ENOSYS
	}
	return f.status("fsync", in.NodeId, f.s.Sync(in.NodeId, in.FsyncFlags&1 != 0))
}

func (f *filesystem) FsyncDir(c <-chan struct{}, in *fuse.FsyncIn) fuse.Status { return f.Fsync(c, in) }

// OpenDir takes the list of names, so that deleting files while listing a
// directory, as DROP DATABASE does, meets each of them once.
func (f *filesystem) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	list, err := f.s.ReadDir(in.NodeId)
	if err != nil {
		return f.status("opendir", in.NodeId, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nextList++
	out.Fh = f.nextList
	f.lists[out.Fh] = list
	return fuse.OK
}

func (f *filesystem) ReleaseDir(in *fuse.ReleaseIn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.lists, in.Fh)
}

// ReadDir takes a new list when the caller begins anew.
func (f *filesystem) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	f.mu.Lock()
	list := f.lists[in.Fh]
	f.mu.Unlock()
	if in.Offset == 0 {
		fresh, err := f.s.ReadDir(in.NodeId)
		if err != nil {
			return f.status("readdir", in.NodeId, err)
		}
		list = fresh
		f.mu.Lock()
		f.lists[in.Fh] = list
		f.mu.Unlock()
	}
	for i := in.Offset; i < uint64(len(list))+2; i++ {
		if !out.AddDirEntry(dirEntry(in.NodeId, list, i)) {
			break
		}
	}
	return fuse.OK
}

func dirEntry(dir uint64, list []cow.DirEntry, i uint64) fuse.DirEntry {
	switch i {
	case 0:
		return fuse.DirEntry{Name: ".", Mode: syscall.S_IFDIR, Ino: dir}
	case 1:
		return fuse.DirEntry{Name: "..", Mode: syscall.S_IFDIR}
	}
	e := list[i-2]
	return fuse.DirEntry{Name: e.Name, Mode: e.Mode, Ino: e.Ino}
}

// StatFs shows the file system that holds the layer, less what the limit
// forbids.
func (f *filesystem) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	var st syscall.Statfs_t
	if err := syscall.Statfs(f.o.StatDir, &st); err != nil {
		return f.status("statfs", cow.RootIno, err)
	}
	unit := uint64(st.Frsize)
	out.Blocks, out.Bfree, out.Bavail = st.Blocks, st.Bfree, st.Bavail
	if limit := f.s.Limit(); limit > 0 {
		left := uint64(max(0, limit-f.s.Usage())) / unit
		out.Blocks = min(out.Blocks, uint64(limit)/unit)
		out.Bfree, out.Bavail = min(out.Bfree, left), min(out.Bavail, left)
	}
	out.Bsize, out.Frsize = uint32(st.Bsize), uint32(st.Frsize)
	out.Files, out.Ffree = st.Files, st.Ffree
	out.NameLen = 255
	return fuse.OK
}
