package cow

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/fukanchik/pg0"
)

// What a record says; docs/formats/layer.md lists the fields.
const (
	opBase   = 1 + iota // an inode is a file of the base
	opNew               // an inode is made
	opLink              // a directory gets a name for an inode
	opUnlink            // a directory loses a name
	opRename            // a name moves, over another one if that exists
	opBlocks            // blocks of a file lie in slots
	opSize              // a file is cut or extended
	opAttr              // permissions and times
	opAttach            // the record of what the layer stands on
	opSums              // checksums of the blocks of the record before; images only
	opEnd               // the image is complete
)

// Flags of a record.
const (
	flagPlaced = 1 << iota // opBase: seen under the name that it has in the base
	flagHides              // the base has the name too
	flagHides2             // opRename: the base has the new name too
)

// A record is one change. Which fields count depends on op.
type record struct {
	op    byte
	flags byte
	class uint8
	mode  uint32

	ino, dir, dir2 uint64
	name, name2    string // also the path in the base, and the target of a link

	block, slot, n, size int64
	atime, mtime, ctime  int64

	data []byte // opAttach; opSums: four bytes a block
}

// encode appends the record to b.
func (r *record) encode(b []byte) []byte {
	b = append(b, r.op, r.flags)
	num := func(v ...uint64) {
		for _, x := range v {
			b = binary.AppendUvarint(b, x)
		}
	}
	str := func(s string) {
		num(uint64(len(s)))
		b = append(b, s...)
	}
	times := func() {
		for _, t := range [...]int64{r.atime, r.mtime, r.ctime} {
			b = binary.AppendVarint(b, t)
		}
	}
	switch r.op {
	case opBase, opNew:
		num(r.ino, uint64(r.class), uint64(r.mode), uint64(r.size))
		str(r.name)
		times()
	case opLink:
		num(r.dir, r.ino)
		str(r.name)
	case opUnlink:
		num(r.dir)
		str(r.name)
	case opRename:
		num(r.dir, r.dir2)
		str(r.name)
		str(r.name2)
	case opBlocks:
		num(r.ino, uint64(r.block), uint64(r.slot), uint64(r.n), uint64(r.size))
	case opSize:
		num(r.ino, uint64(r.size))
	case opAttr:
		num(r.ino, uint64(r.mode))
		times()
	case opAttach, opSums:
		str(string(r.data))
	case opEnd:
		num(uint64(r.n))
	}
	return b
}

// A decoder reads what encode wrote, from bytes that may be anything.
type decoder struct {
	b   []byte
	err error
}

var errShort = errors.New("record is cut short")

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.b = nil
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail(errShort)
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

// num reads a number that must be below limit.
func (d *decoder) num(limit uint64) uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail(errShort)
		return 0
	}
	d.b = d.b[n:]
	if v >= limit {
		d.fail(fmt.Errorf("number %d is not below %d", v, limit))
		return 0
	}
	return v
}

func (d *decoder) time() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail(errShort)
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes() []byte {
	n := d.num(uint64(len(d.b)) + 1)
	if n > uint64(len(d.b)) {
		d.fail(errShort)
		return nil
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) name() string {
	s := string(d.bytes())
	if d.err == nil && !validName(s) {
		d.fail(fmt.Errorf("%q is no file name", s))
	}
	return s
}

// maxIno bounds inode numbers.
const maxIno = 1 << 32

func (d *decoder) ino() uint64 {
	v := d.num(maxIno)
	if v == 0 {
		d.fail(errors.New("inode number 0"))
	}
	return v
}

// next reads one record.
func (d *decoder) next() (r record, err error) {
	r.op, r.flags = d.byte(), d.byte()
	switch r.op {
	case opBase, opNew:
		d.inode(&r)
	case opLink:
		r.dir, r.ino, r.name = d.ino(), d.ino(), d.name()
	case opUnlink:
		r.dir, r.name = d.ino(), d.name()
	case opRename:
		r.dir, r.dir2, r.name, r.name2 = d.ino(), d.ino(), d.name(), d.name()
	case opBlocks:
		r.ino, r.block, r.slot = d.ino(), int64(d.num(maxBlocks)), int64(d.num(maxSlots))
		r.n, r.size = int64(d.num(maxBlocks+1)), int64(d.num(maxSize+1))
	case opSize:
		r.ino, r.size = d.ino(), int64(d.num(maxSize+1))
	case opAttr:
		r.ino, r.mode = d.ino(), uint32(d.num(0o10000))
		r.atime, r.mtime, r.ctime = d.time(), d.time(), d.time()
	case opAttach, opSums:
		r.data = d.bytes()
	case opEnd:
		r.n = int64(d.num(1 << 62))
	default:
		d.fail(fmt.Errorf("unknown record %d", r.op))
	}
	if d.err != nil {
		return r, corrupt("%w", d.err)
	}
	return r, nil
}

func (d *decoder) inode(r *record) {
	r.ino, r.class = d.ino(), uint8(d.num(classes))
	r.mode, r.size = uint32(d.num(1<<16)), int64(d.num(maxSize+1))
	r.name = string(d.bytes())
	r.atime, r.mtime, r.ctime = d.time(), d.time(), d.time()
	switch r.mode & syscall.S_IFMT {
	case syscall.S_IFREG, syscall.S_IFDIR, syscall.S_IFLNK:
	default:
		d.fail(fmt.Errorf("inode %d has mode %o", r.ino, r.mode))
	}
	if r.op == opBase && !fs.ValidPath(r.name) {
		d.fail(fmt.Errorf("%q is no path in the base", r.name))
	}
}

// maxName is the longest file name, as everywhere on Linux.
const maxName = 255

func validName(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= maxName && !strings.ContainsAny(s, "/\x00")
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %w", pg0.ErrCorrupt, fmt.Errorf(format, args...))
}
