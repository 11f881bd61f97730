package mapping

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"time"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/relmap/heap"
)

// Compose gives the base's tree with the donors' files at their places, their
// pages frozen while they are read. images are keyed by point. limit is the
// redo LSN of the base: no page that a graft without a limit of its own serves
// is newer. The tree reads the images' trees for as long as it is used; equal
// plans over equal images give equal bytes for ever.
func Compose(plan *Plan, images map[string]*Image, base *Image, limit pg0.LSN) (pg0.Tree, error) {
	m := &mix{base: base.Tree, places: map[string]*place{}, dirs: map[string][]string{}}
	for i := range plan.Grafts {
		g := &plan.Grafts[i]
		donor, ok := images[g.Point]
		if !ok {
			return nil, fmt.Errorf("compose %s: there is no image of point %s", g.Relation, g.Point)
		}
		if err := m.graft(g, donor, base, cmp.Or(g.Limit, limit)); err != nil {
			return nil, fmt.Errorf("compose %s from %s: %w", g.Relation, g.Point, err)
		}
	}
	for name := range m.places {
		m.dirs[path.Dir(name)] = append(m.dirs[path.Dir(name)], name)
	}
	return m, nil
}

// mix is the composed tree.
type mix struct {
	base   pg0.Tree
	places map[string]*place
	dirs   map[string][]string // the places in each directory
}

// A place is a path at which the mix differs from the base. Without a donor
// there is no file.
type place struct {
	donor     pg0.Tree
	path      string // in the donor
	info      fileInfo
	block     uint32 // number of the file's first block in its fork
	transform *heap.Transform
	visible   *visibility // of a heap
	origin    string      // for errors
}

func (m *mix) graft(g *Graft, donor, base *Image, limit pg0.LSN) error {
	for i := range g.Parts {
		part := &g.Parts[i]
		for _, hidden := range part.Hide {
			if err := m.add(hidden, &place{}); err != nil {
				return err
			}
		}
		t, err := part.transform(donor, base, limit)
		if err != nil {
			return err
		}
		if err := m.part(part, t, donor, g.Point); err != nil {
			return fmt.Errorf("%s: %w", part.Name, err)
		}
	}
	return nil
}

func (m *mix) add(name string, p *place) error {
	if !fs.ValidPath(name) || name == "." {
		return fmt.Errorf("%q is no path of a cluster directory", name)
	}
	if _, taken := m.places[name]; taken {
		return fmt.Errorf("two relations share the file %s", name)
	}
	m.places[name] = p
	return nil
}

// part adds the files of one physical relation.
func (m *mix) part(part *Part, t *heap.Transform, donor *Image, point string) error {
	visible := &visibility{transform: *t}
	visible.transform.Kind = heap.VisibilityMap
	for _, f := range part.Files {
		info, err := donor.Tree.Lstat(f.Donor)
		if err != nil {
			return err
		}
		if info.Size() != f.Size || !info.Mode().IsRegular() {
			return fmt.Errorf("%s has %d bytes, the plan was made for %d", f.Donor, info.Size(), f.Size)
		}
		p := &place{donor: donor.Tree, path: f.Donor, block: f.Block, transform: t, origin: "point " + point + ", " + f.Donor}
		p.info = fileInfo{name: path.Base(f.Path), size: f.Size, mode: info.Mode(), modTime: info.ModTime()}
		switch {
		case f.VM:
			p.transform = &visible.transform
			visible.files = append(visible.files, p)
		case part.Kind == HeapPart || part.Kind == ToastPart:
			p.visible = visible
		}
		if err := m.add(f.Path, p); err != nil {
			return err
		}
	}
	visible.prepare()
	return nil
}

// transform says what is done to the pages of a part's main fork.
func (p *Part) transform(donor, base *Image, limit pg0.LSN) (*heap.Transform, error) {
	kinds := map[PartKind]heap.Kind{
		HeapPart: heap.Heap, ToastPart: heap.Heap, IndexPart: heap.Index,
		GiSTPart: heap.GiST, SequencePart: heap.Sequence, MissingPart: heap.Plain,
	}
	kind, ok := kinds[p.Kind]
	switch {
	case !ok:
		return nil, fmt.Errorf("part %s is of the unknown kind %q", p.Name, p.Kind)
	case limit == 0:
		return nil, errors.New("the base has no redo LSN to limit pages by")
	}
	t := &heap.Transform{
		Kind: kind, Limit: limit, Toast: p.Toast,
		SetChecksum: base.Cluster.Control.Checksums, Verify: donor.Cluster.Control.Checksums,
	}
	if kind == heap.Heap {
		t.Status = donor.Cluster.Status()
	}
	for _, a := range p.Attrs {
		if len(a.Align) != 1 {
			return nil, fmt.Errorf("part %s has a column aligned to %q", p.Name, a.Align)
		}
		t.Attrs = append(t.Attrs, heap.Attr{Len: a.Len, Align: a.Align[0], ByVal: a.ByVal, Dropped: a.Dropped})
	}
	return t, nil
}

// Open opens a file or directory of the mix.
func (m *mix) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	if p, ok := m.places[name]; ok {
		return p.open(name)
	}
	f, err := m.base.Open(name)
	if err != nil || m.dirs[name] == nil {
		return f, err
	}
	return &directory{File: f, mix: m, name: name}, nil
}

// Lstat describes a file of the mix without following links.
func (m *mix) Lstat(name string) (fs.FileInfo, error) {
	p, ok := m.places[name]
	switch {
	case !ok:
		return m.base.Lstat(name)
	case p.donor == nil:
		return nil, &fs.PathError{Op: "lstat", Path: name, Err: fs.ErrNotExist}
	}
	return p.info, nil
}

// ReadLink gives the target of a symbolic link; links are always the base's.
func (m *mix) ReadLink(name string) (string, error) {
	if p, ok := m.places[name]; ok {
		err := fs.ErrInvalid
		if p.donor == nil {
			err = fs.ErrNotExist
		}
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return m.base.ReadLink(name)
}

// ReadDir lists a directory: the base's entries without those that are hidden,
// and the donors' files, with their own sizes.
func (m *mix) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := m.base.ReadDir(name)
	if err != nil || m.dirs[name] == nil {
		return entries, err
	}
	merged := make([]fs.DirEntry, 0, len(entries)+len(m.dirs[name]))
	for _, e := range entries {
		if _, ok := m.places[path.Join(name, e.Name())]; !ok {
			merged = append(merged, e)
		}
	}
	for _, file := range m.dirs[name] {
		if p := m.places[file]; p.donor != nil {
			merged = append(merged, fs.FileInfoToDirEntry(p.info))
		}
	}
	slices.SortFunc(merged, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	return merged, nil
}

// fileInfo describes a donor's file at its place in the mix.
type fileInfo struct {
	name    string
	size    int64
	mode    fs.FileMode
	modTime time.Time
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return i.size }
func (i fileInfo) Mode() fs.FileMode  { return i.mode }
func (i fileInfo) ModTime() time.Time { return i.modTime }
func (i fileInfo) IsDir() bool        { return false }
func (i fileInfo) Sys() any           { return nil }

// directory is an open directory of the base that lists as the mix does.
type directory struct {
	fs.File
	mix  *mix
	name string
	rest []fs.DirEntry
	read bool
}

// ReadDir lists up to n entries more, or all for n <= 0; see fs.ReadDirFile.
func (d *directory) ReadDir(n int) ([]fs.DirEntry, error) {
	if !d.read {
		entries, err := d.mix.ReadDir(d.name)
		if err != nil {
			return nil, err
		}
		d.rest, d.read = entries, true
	}
	if n <= 0 {
		all := d.rest
		d.rest = nil
		return all, nil
	}
	if len(d.rest) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.rest))
	some := d.rest[:n:n]
	d.rest = d.rest[n:]
	return some, nil
}
