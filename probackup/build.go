package probackup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"strings"

	"github.com/fukanchik/pg0"
)

// Service files of the tool, which its restore does not lay down.
const (
	tablespaceMap = "tablespace_map"
	databaseMap   = "database_map"
)

// A builder makes the tree of a point from the lists of its chain, read from
// the target to the FULL backup.
type builder struct {
	point  *point
	tree   *tree
	member int // index of the member whose list is being read
	files  map[string]*building
	tables *file // tablespace_map of the target
	stripe uint8
}

// building is a file while its chain is being followed.
type building struct {
	*file
	last   int   // member that listed it last
	size   int64 // as that one listed it
	crc    uint32
	limit  int64 // pages that copies of older members may still give
	closed bool  // a member did not list it: older ones had another file of that name
	done   bool  // a plain file whose bytes are found
}

func newBuilder(p *point) *builder {
	return &builder{
		point: p,
		tree:  newTree(p.members[0].control.startTime),
		files: map[string]*building{},
	}
}

var errTwice = errors.New("path is listed twice")

// targetEntry takes a line of the target's own list, which says what there is.
func (b *builder) targetEntry(e *entry) error {
	switch {
	case e.external != 0:
		return nil
	case e.cfs:
		return fmt.Errorf("%w: CFS tablespace %s: needs Postgres Pro Enterprise", pg0.ErrUnusable, tablespaceOf(e.path))
	case e.isDir():
		b.tree.add(shadow(string(e.path)), fs.ModeDir|e.perm())
		return nil
	case !e.isRegular():
		if !bytes.HasPrefix(e.path, []byte(tablespaceDir+"/")) {
			b.point.warnings = append(b.point.warnings, fmt.Sprintf("%s is neither a file nor a directory and is left out", e.path))
		}
		return nil
	case b.files[text(e.path)] != nil:
		return b.again(b.files[text(e.path)], e)
	}
	return b.addFile(e)
}

func (b *builder) addFile(e *entry) error {
	target := b.point.members[0]
	f := &file{path: string(e.path), data: e.data, segment: e.segment, target: target, blocks: e.blocks}
	building := &building{file: f, limit: math.MaxInt64}
	b.files[f.path] = building
	switch f.path {
	case tablespaceMap:
		b.tables = f
	case databaseMap:
	default:
		b.tree.add(shadow(f.path), e.perm()).file = f
	}
	if e.data {
		f.setBlocks(e)
		if f.blocks != unknownBlocks && !b.point.exact {
			building.limit = f.blocks
		}
	}
	return b.take(building, e)
}

// setBlocks sets the length of a data file, where the target's list tells it.
func (f *file) setBlocks(e *entry) {
	if e.size == 0 {
		f.blocks = 0
	}
	if f.blocks == unknownBlocks {
		f.length.Store(unresolved)
		return
	}
	f.length.Store(f.blocks * int64(f.target.control.blockSize))
}

// ancestorEntry takes a line of an older member's list. Only bytes of files of
// the target matter.
func (b *builder) ancestorEntry(e *entry) error {
	f := b.files[text(e.path)]
	switch {
	case f == nil || e.external != 0 || e.isDir():
		return nil
	case f.last == b.member:
		return b.again(f, e)
	case f.last != b.member-1 && !f.done:
		b.gap(f)
	}
	return b.take(f, e)
}

// gap sees that a member did not list a file. Then the next newer one must have
// stored all of it: if that one says "unchanged", one of the lists is wrong.
func (b *builder) gap(f *building) {
	m := b.point.members[f.last+1]
	if f.size < 0 {
		c := b.stored(f, &entry{})
		c.member, c.limit = m, f.limit
		c.fault = fmt.Errorf("it is not in the list, but backup %s holds it unchanged", b.point.members[f.last].id)
		if !f.data {
			f.done = true
			f.length.Store(unresolved)
		}
	}
	f.closed = f.closed || !b.point.exact
}

// again sees a path that this list has had before. Equal lines count once; WAL
// segments are known to be listed twice while they are being streamed.
func (b *builder) again(f *building, e *entry) error {
	if f.size == e.size && f.crc == e.crc || bytes.HasPrefix(e.path, []byte(ownWAL)) {
		return nil
	}
	return fmt.Errorf("%w: %s", errTwice, e.path)
}

// take notes what the current member stores of a file.
func (b *builder) take(f *building, e *entry) error {
	f.last, f.size, f.crc = b.member, e.size, e.crc
	if e.size < 0 && b.member == len(b.point.members)-1 && !f.done && !f.closed {
		return fmt.Errorf("%s: the FULL backup must hold it but does not", e.path)
	}
	if f.data {
		b.takeData(f, e)
		return nil
	}
	if f.done || e.size < 0 {
		return nil
	}
	f.done = true
	f.length.Store(e.size)
	if e.size > 0 {
		c := b.stored(f, e)
		c.fault = f.clash(e)
	}
	return nil
}

// clash tells whether a member stores a path in another way than the target, so
// that it cannot be the same file.
func (f *file) clash(e *entry) error {
	if f.data == (e.data && !e.cfs) {
		return nil
	}
	return fmt.Errorf("it is stored in another way than in backup %s", f.target.id)
}

func (b *builder) takeData(f *building, e *entry) {
	limit := f.limit
	if f.closed {
		limit = 0
	}
	own := e.blocks
	if e.size == 0 {
		own = 0
	}
	clash := f.clash(e)
	if clash != nil || e.size > 0 {
		c := b.stored(f, e)
		c.limit, c.fault = limit, clash
		if f.blocks == unknownBlocks || limit < f.blocks {
			f.stale = true
		}
		if c.member.control.version < version2_4 && e.blocks == unknownBlocks {
			f.length.Store(unresolved) // a mark in the records may limit older copies
		}
	}
	if own != unknownBlocks && b.limits(e) {
		f.limit = min(f.limit, own)
	}
}

// limits tells whether the length that a member lists ends the life of older
// pages past it. The tool only sees lengths while it replays stored pages, and
// only when it replays oldest first.
func (b *builder) limits(e *entry) bool {
	return !b.point.exact || b.point.oldestFirst && e.size > 0
}

func (b *builder) stored(f *building, e *entry) *stored {
	c := newStored(f.file, b.point.members[b.member], e)
	b.stripe++
	c.stripe = b.stripe
	f.copies = append(f.copies, c)
	return c
}

func newStored(f *file, m *member, e *entry) *stored {
	return &stored{
		file: f, member: m, data: e.data && !e.cfs, algorithm: e.algorithm, crc: e.crc, size: e.size, blocks: e.blocks,
		headers: e.headers, hdrCRC: e.hdrCRC, hdrOffset: e.hdrOffset, hdrSize: e.hdrSize,
	}
}

// finish sees that every file was listed down to where its bytes are.
func (b *builder) finish() {
	for _, f := range b.files {
		if f.last < len(b.point.members)-1 && !f.done {
			b.gap(f)
		}
	}
}

// tablespaceOf gives the OID in a path below pg_tblspc.
func tablespaceOf(path []byte) string {
	parts := strings.SplitN(string(path), "/", 3)
	if len(parts) > 1 && parts[0] == tablespaceDir {
		return parts[1]
	}
	return string(path)
}

// linkTablespaces makes the links below pg_tblspc: one for each tablespace of
// the target's map, and one for each directory that the map does not know, since
// recovery stops at a directory there. Wherever a tablespace lay, its link leads
// to a directory of the tree.
func (b *builder) linkTablespaces() error {
	oids := map[string]bool{}
	for name, n := range b.tree.nodes {
		if oid, ok := strings.CutPrefix(name, shadowDir+"/"); ok && !strings.Contains(oid, "/") && n.IsDir() {
			oids[oid] = true
		}
	}
	listed, err := b.mappedTablespaces()
	if err != nil {
		return err
	}
	for _, oid := range listed {
		if !oids[oid] {
			oids[oid] = true
			b.tree.add(shadowDir+"/"+oid, fs.ModeDir|0o700)
		}
	}
	for oid := range oids {
		link := b.tree.add(tablespaceDir+"/"+oid, fs.ModeSymlink|0o777)
		link.link = "../" + shadowDir + "/" + oid
	}
	return nil
}

// mappedTablespaces reads the OIDs of the target's tablespace_map.
func (b *builder) mappedTablespaces() ([]string, error) {
	if b.tables == nil {
		return nil, nil
	}
	f := &openFile{node: &node{tree: b.tree, name: tablespaceMap, file: b.tables}, path: tablespaceMap}
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	var oids []string
	continued := false // a line break within a path is written behind a backslash
	for line := range strings.Lines(string(data)) {
		oid, _, ok := strings.Cut(line, " ")
		inside := continued
		continued = strings.HasSuffix(line, "\\\n")
		if ok && !inside && oid != "" && strings.Trim(oid, "0123456789") == "" {
			oids = append(oids, oid)
		}
	}
	return oids, nil
}
