package relmap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/relmap/heap"
)

// table is a catalog's heap, ready to be scanned.
type table struct {
	cluster *Cluster
	layout  *layout
	path    string // of segment 0 of the main fork
	fetch   func(heap.External) ([]byte, error)
}

// scanBlocks is how many blocks are read at once.
const scanBlocks = 32

// scan calls visit with every visible row. The row and its bytes are valid
// only during the call. Errors name file and block.
func (t *table) scan(visit func(*row)) error {
	r := &row{table: t, attrs: t.layout.attrs()}
	return t.cluster.pages(t.path, func(page []byte) error {
		for tuple, err := range heap.Tuples(page) {
			if err != nil {
				return err
			}
			if err := r.take(tuple, visit); err != nil {
				return err
			}
		}
		return nil
	})
}

// pages reads all segments of a main fork in order. A missing first segment is
// an error that wraps fs.ErrNotExist.
func (c *Cluster) pages(name string, visit func(page []byte) error) error {
	buffer := make([]byte, scanBlocks*heap.PageSize)
	for segment := 0; ; segment++ {
		file, err := c.tree.Open(segmentPath(name, segment))
		if errors.Is(err, fs.ErrNotExist) && segment > 0 {
			return nil
		}
		if err != nil {
			return err
		}
		err = readPages(file, buffer, visit)
		if err = errors.Join(err, file.Close()); err != nil {
			return fmt.Errorf("%s: %w", segmentPath(name, segment), err)
		}
	}
}

// readPages ignores a partial block at the end, as PostgreSQL does.
func readPages(file fs.File, buffer []byte, visit func(page []byte) error) error {
	source, ok := file.(io.ReaderAt)
	if !ok {
		return errors.New("the file cannot be read at an offset")
	}
	for at := int64(0); ; at += int64(len(buffer)) {
		n, err := source.ReadAt(buffer, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		for i := 0; i+heap.PageSize <= n; i += heap.PageSize {
			if err := visit(buffer[i : i+heap.PageSize]); err != nil {
				return fmt.Errorf("block %d: %w", (at+int64(i))/heap.PageSize, err)
			}
		}
		if n < len(buffer) {
			return nil
		}
	}
}

// row is a visible row of a catalog. Its methods read columns; the first
// failure is kept in err, and what is read after it is worthless.
type row struct {
	table  *table
	attrs  []heap.Attr
	tuple  heap.Tuple
	data   []byte
	values [][]byte // of all columns, once a variable one was asked for
	err    error
}

// attrs gives the columns as heap.Deform takes them.
func (l *layout) attrs() []heap.Attr {
	attrs := make([]heap.Attr, len(l.columns))
	for i, c := range l.columns {
		attrs[i] = heap.Attr{Len: c.len, Align: c.align}
	}
	return attrs
}

// Places in a tuple's header, which heap.Tuples has checked: t_infomask, t_hoff
// and the bitmap of columns that are not NULL.
const (
	infomaskByte = 20
	hoffByte     = 22
	bitmapByte   = 23
)

// take shows a tuple to visit if it is visible.
func (r *row) take(tuple heap.Tuple, visit func(*row)) error {
	visible, err := tuple.Visible(r.table.cluster.status)
	if err != nil || !visible {
		return err
	}
	r.tuple, r.values, r.err = tuple, nil, nil
	r.data = tuple.Bytes[tuple.Bytes[hoffByte]:]
	if len(r.data) < r.table.layout.size || tuple.Natts() < r.table.layout.fixed {
		return fmt.Errorf("%w: a row of catalog %d has %d columns in %d bytes, expected at least %d in %d",
			pg0.ErrCorrupt, r.table.layout.catalog, tuple.Natts(), len(r.data), r.table.layout.fixed, r.table.layout.size)
	}
	visit(r)
	return r.err
}

func (r *row) fixed(c column) []byte { return r.data[c.offset : c.offset+int(c.len)] }

// number reads a column of one to eight bytes; 0 if this version has it not.
func (r *row) number(c column) uint64 {
	if c.num < 0 {
		return 0
	}
	b := r.fixed(c)
	switch c.len {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(binary.LittleEndian.Uint16(b))
	case 4:
		return uint64(binary.LittleEndian.Uint32(b))
	}
	return binary.LittleEndian.Uint64(b)
}

func (r *row) oid(c column) uint32      { return uint32(r.number(c)) }
func (r *row) int16(c column) int16     { return int16(r.number(c)) }
func (r *row) int32(c column) int32     { return int32(r.number(c)) }
func (r *row) int64(c column) int64     { return int64(r.number(c)) }
func (r *row) char(c column) byte       { return byte(r.number(c)) }
func (r *row) bool(c column) bool       { return r.number(c) != 0 }
func (r *row) float32(c column) float32 { return math.Float32frombits(r.oid(c)) }

// name reads a column of type name.
func (r *row) name(c column) string { return string(r.nameBytes(c)) }

func (r *row) nameBytes(c column) []byte {
	b := r.fixed(c)
	if end := bytes.IndexByte(b, 0); end >= 0 {
		return b[:end]
	}
	return b
}

// bytes reads a column of variable length: its content without header, nil for
// NULL and for a column that this version has not.
func (r *row) bytes(c column) []byte {
	if c.num < 0 || r.err != nil || r.isNull(c) {
		return nil
	}
	if r.values == nil {
		if r.values, r.err = heap.Deform(r.tuple, r.attrs, r.table.fetch); r.err != nil {
			return nil
		}
	}
	return r.values[c.num]
}

// isNull saves taking a row apart for what is nearly always NULL.
func (r *row) isNull(c column) bool {
	if r.tuple.Natts() <= c.num {
		return true
	}
	hasNulls := r.tuple.Bytes[infomaskByte]&1 != 0
	return hasNulls && r.tuple.Bytes[bitmapByte+c.num/8]>>(c.num%8)&1 == 0
}

// text reads a column that is of type name or text; "" for NULL.
func (r *row) text(c column) string {
	if c.offset >= 0 {
		return r.name(c)
	}
	return string(r.bytes(c))
}

// texts reads a text[]; nil for NULL.
func (r *row) texts(c column) []string {
	elements := r.array(c)
	var list []string
	for _, e := range elements.varlenas(r) {
		list = append(list, string(e))
	}
	return list
}

// oids reads an oidvector.
func (r *row) oids(c column) []uint32 {
	elements := r.array(c)
	list := make([]uint32, 0, elements.count)
	for i := range elements.fixed(r, 4) {
		list = append(list, binary.LittleEndian.Uint32(i))
	}
	return list
}

// int16s reads an int2vector.
func (r *row) int16s(c column) []int16 {
	elements := r.array(c)
	list := make([]int16, 0, elements.count)
	for i := range elements.fixed(r, 2) {
		list = append(list, int16(binary.LittleEndian.Uint16(i)))
	}
	return list
}

// array reads a column that is an array; the zero array for NULL.
func (r *row) array(c column) array {
	content := r.bytes(c)
	if content == nil {
		return array{}
	}
	a, err := parseArray(content)
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("column %s of catalog %d: %w", c.name, r.table.layout.catalog, err)
	}
	return a
}

// copyOf is a copy that outlives the row.
func copyOf(b []byte) []byte { return slices.Clone(b) }
