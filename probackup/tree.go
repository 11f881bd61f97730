package probackup

import (
	"cmp"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/fukanchik/pg0"
)

// tree is the cluster directory of one backup.
type tree struct {
	nodes map[string]*node
	time  time.Time
}

// A node is a directory, a link or a file of the tree.
type node struct {
	tree     *tree
	name     string // last element of its path
	mode     fs.FileMode
	file     *file  // of a regular file
	link     string // where a link points to
	children []*node
}

var _ pg0.Tree = (*tree)(nil)

const (
	tablespaceDir = "pg_tblspc"
	shadowDir     = ".pg0_tblspc" // the tablespaces' own directories, beside the links to them
)

func newTree(t time.Time) *tree {
	root := &node{name: ".", mode: fs.ModeDir | 0o700}
	fsys := &tree{nodes: map[string]*node{".": root}, time: t}
	root.tree = fsys
	return fsys
}

// add enters a node; directories above it that no list mentions are made.
func (t *tree) add(name string, mode fs.FileMode) *node {
	if n := t.nodes[name]; n != nil {
		n.mode = mode
		return n
	}
	n := &node{tree: t, name: path.Base(name), mode: mode}
	t.nodes[name] = n
	dir := path.Dir(name)
	parent := t.nodes[dir]
	if parent == nil {
		parent = t.add(dir, fs.ModeDir|0o700)
	}
	parent.children = append(parent.children, n)
	return n
}

// sort brings all directories into the order that fs.ReadDirFS promises.
func (t *tree) sort() {
	for _, n := range t.nodes {
		slices.SortFunc(n.children, func(a, b *node) int { return cmp.Compare(a.name, b.name) })
	}
}

// shadow gives the path in the tree of a path as the cluster sees it: what is in
// a tablespace lies where its link points.
func shadow(name string) string {
	rest, ok := strings.CutPrefix(name, tablespaceDir+"/")
	if ok && len(rest) > 0 && rest[0] >= '0' && rest[0] <= '9' {
		return shadowDir + "/" + rest
	}
	return name
}

// lookup finds a node. A path through a tablespace's link is followed, a link at
// the end of a path is not.
func (t *tree) lookup(op, name string) (*node, error) {
	if n := t.nodes[name]; n != nil {
		return n, nil
	}
	if rest, ok := strings.CutPrefix(name, tablespaceDir+"/"); ok && strings.Contains(rest, "/") {
		if n := t.nodes[shadow(name)]; n != nil {
			return n, nil
		}
	}
	err := fs.ErrNotExist
	if !fs.ValidPath(name) {
		err = fs.ErrInvalid
	}
	return nil, &fs.PathError{Op: op, Path: name, Err: err}
}

// Open opens a file, a directory, or a link itself.
func (t *tree) Open(name string) (fs.File, error) {
	n, err := t.lookup("open", name)
	if err != nil {
		return nil, err
	}
	if n.file == nil {
		return &openDir{node: n, path: name}, nil
	}
	return &openFile{node: n, path: name}, nil
}

// ReadDir lists a directory in the order of names.
func (t *tree) ReadDir(name string) ([]fs.DirEntry, error) {
	n, err := t.lookup("readdir", name)
	if err != nil {
		return nil, err
	}
	if !n.IsDir() {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errNotDir}
	}
	return n.entries(), nil
}

// Lstat describes a node.
func (t *tree) Lstat(name string) (fs.FileInfo, error) {
	n, err := t.lookup("lstat", name)
	if err != nil {
		return nil, err
	}
	return n.Info()
}

// ReadLink gives what a link points to.
func (t *tree) ReadLink(name string) (string, error) {
	n, err := t.lookup("readlink", name)
	if err != nil {
		return "", err
	}
	if n.link == "" {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	return n.link, nil
}

func (n *node) entries() []fs.DirEntry {
	list := make([]fs.DirEntry, len(n.children))
	for i, child := range n.children {
		list[i] = child
	}
	return list
}

// Name, IsDir, Type and Info make a node its own directory entry.
func (n *node) Name() string      { return n.name }
func (n *node) IsDir() bool       { return n.mode.IsDir() }
func (n *node) Type() fs.FileMode { return n.mode.Type() }
func (n *node) String() string    { return fs.FormatDirEntry(n) }

// Info describes the node. Lengths of files of old writers can need a scan,
// which can find damage.
func (n *node) Info() (fs.FileInfo, error) {
	info := nodeInfo{node: n, size: int64(len(n.link))}
	if n.file != nil {
		size, err := n.file.size()
		if err != nil {
			return nil, err
		}
		info.size = size
	}
	return info, nil
}

type nodeInfo struct {
	*node
	size int64
}

func (i nodeInfo) Size() int64        { return i.size }
func (i nodeInfo) Mode() fs.FileMode  { return i.mode }
func (i nodeInfo) ModTime() time.Time { return i.tree.time }
func (i nodeInfo) Sys() any           { return nil }
func (i nodeInfo) String() string     { return fs.FormatFileInfo(i) }

// openFile is an open regular file. Parallel ReadAt needs no lock.
type openFile struct {
	node *node
	path string
	off  int64
}

var _ pg0.File = (*openFile)(nil)

func (f *openFile) Stat() (fs.FileInfo, error) { return f.node.Info() }
func (f *openFile) Close() error               { return nil }

func (f *openFile) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := f.ReadAt(p, f.off)
	f.off += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

// ReadAt fills p unless the file ends.
func (f *openFile) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &fs.PathError{Op: "readat", Path: f.path, Err: fs.ErrInvalid}
	}
	size, err := f.node.file.size()
	if err != nil {
		return 0, err
	}
	if off >= size {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	var end error
	if int64(len(p)) > size-off {
		p, end = p[:size-off], io.EOF
	}
	read := f.node.file.readPlain
	if f.node.file.data {
		read = f.node.file.readData
	}
	n, err := read(p, off)
	if err == nil {
		err = end
	}
	return n, err
}

// openDir is an open directory or link.
type openDir struct {
	node *node
	path string
	next int
}

func (d *openDir) Stat() (fs.FileInfo, error) { return d.node.Info() }
func (d *openDir) Close() error               { return nil }

func (d *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.path, Err: fs.ErrInvalid}
}

// ReadDir gives the next n entries, or all that are left.
func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if !d.node.IsDir() {
		return nil, &fs.PathError{Op: "readdir", Path: d.path, Err: errNotDir}
	}
	rest := d.node.entries()[d.next:]
	if n <= 0 {
		d.next += len(rest)
		return rest, nil
	}
	if len(rest) == 0 {
		return nil, io.EOF
	}
	rest = rest[:min(n, len(rest))]
	d.next += len(rest)
	return rest, nil
}
