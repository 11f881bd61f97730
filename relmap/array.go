package relmap

import (
	"encoding/binary"
	"fmt"
	"iter"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/relmap/heap"
)

// array is an array value taken apart (utils/array.h).
type array struct {
	element uint32 // type OID
	count   int
	nulls   bool
	data    []byte // the elements; data is aligned to 8 in the array
}

// Offsets count from the content of the varlena, without its header of four
// bytes; PostgreSQL's own dataoffset counts the header.
const (
	arrayHeader    = 12 // ndim, dataoffset, elemtype
	varlenaHeader  = 4
	maxArrayDims   = 6
	maxArrayLength = 1 << 27
)

// parseArray takes the content of an array's varlena apart. The error wraps
// pg0.ErrCorrupt.
func parseArray(content []byte) (array, error) {
	if len(content) < arrayHeader {
		return array{}, fmt.Errorf("%w: array of %d bytes", pg0.ErrCorrupt, len(content))
	}
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(content[at:]) }
	dims, offset := int(u32(0)), int(u32(4))
	a := array{element: u32(8), nulls: offset != 0}
	if dims == 0 {
		return a, nil
	}
	start := arrayHeader + 8*dims
	if dims < 0 || dims > maxArrayDims || start > len(content) {
		return array{}, fmt.Errorf("%w: array of %d dimensions in %d bytes", pg0.ErrCorrupt, dims, len(content))
	}
	a.count = 1
	for i := range dims {
		length := u32(arrayHeader + 4*i)
		if length > maxArrayLength || a.count*int(length) > maxArrayLength {
			return array{}, fmt.Errorf("%w: array dimension of length %d", pg0.ErrCorrupt, length)
		}
		a.count *= int(length)
	}
	if offset == 0 {
		offset = alignUp(start+varlenaHeader, 'd')
	}
	offset -= varlenaHeader
	if a.count > 0 && (offset < start || offset > len(content)) {
		return array{}, fmt.Errorf("%w: array data begins at %d of %d bytes", pg0.ErrCorrupt, offset, len(content))
	}
	if a.count > 0 {
		a.data = content[offset:]
	}
	return a, nil
}

// fixed yields elements of a fixed length, packed without padding.
func (a array) fixed(r *row, length int) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		if a.nulls || a.count*length > len(a.data) {
			r.fail("array of %d elements in %d bytes", a.count, len(a.data))
			return
		}
		for i := range a.count {
			if !yield(a.data[i*length : (i+1)*length]) {
				return
			}
		}
	}
}

// varlenas gives the contents of elements of variable length, aligned to 'i'.
func (a array) varlenas(r *row) [][]byte {
	if a.nulls {
		r.fail("array with NULLs")
		return nil
	}
	var list [][]byte
	for at := 0; len(list) < a.count; {
		at = alignUp(at, 'i')
		raw, err := varlenaAt(a.data, at)
		if err != nil {
			r.fail("array element %d: %w", len(list)+1, err)
			return nil
		}
		list = append(list, raw[varlenaHeader:])
		at += len(raw)
	}
	return list
}

// first gives the bytes of the first element of an array as a tuple would hold
// them: length bytes, or a varlena with its header. Elements of arrays are
// never compressed, packed or external.
func (a array) first(length int16) ([]byte, error) {
	switch {
	case a.nulls || a.count != 1:
		return nil, fmt.Errorf("%w: array of %d elements where one is expected", pg0.ErrCorrupt, a.count)
	case length > 0 && int(length) <= len(a.data):
		return a.data[:length], nil
	case length == -1:
		return varlenaAt(a.data, 0)
	}
	return nil, fmt.Errorf("%w: element of length %d in %d bytes", pg0.ErrCorrupt, length, len(a.data))
}

// varlenaAt gives the varlena with a header of four bytes that begins at an
// offset.
func varlenaAt(b []byte, at int) ([]byte, error) {
	if at < 0 || at+varlenaHeader > len(b) {
		return nil, fmt.Errorf("%w: value at %d passes the end %d", pg0.ErrCorrupt, at, len(b))
	}
	header := binary.LittleEndian.Uint32(b[at:])
	size := int(header >> 2)
	if header&3 != 0 || size < varlenaHeader || at+size > len(b) {
		return nil, fmt.Errorf("%w: value at %d of %d has header %X", pg0.ErrCorrupt, at, len(b), header)
	}
	return b[at : at+size], nil
}

// fail keeps a first failure of the row.
func (r *row) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("catalog %d: %w: "+format, append([]any{r.table.layout.catalog, pg0.ErrCorrupt}, args...)...)
	}
}

// chunkColumns is the shape of every TOAST table: chunk_id, chunk_seq,
// chunk_data.
var chunkColumns = []heap.Attr{{Len: 4, Align: 'i'}, {Len: 4, Align: 'i'}, {Len: -1, Align: 'i'}}

// fetchChunks gives the stored bytes of one value of the TOAST table whose main
// fork is at path, in order of chunk_seq.
func (c *Cluster) fetchChunks(path string, value uint32) ([]byte, error) {
	chunks := map[uint32][]byte{}
	err := c.pages(path, func(page []byte) error {
		for tuple, err := range heap.Tuples(page) {
			if err != nil {
				return err
			}
			if err := c.collectChunk(tuple, value, chunks); err != nil {
				return err
			}
		}
		return nil
	})
	var content []byte
	for seq := range uint32(len(chunks)) {
		content = append(content, chunks[seq]...)
	}
	return content, err
}

// collectChunk keeps the chunk if it is one of the value's. Aborted updates
// leave chunks of no value, so visibility is judged as for any row.
func (c *Cluster) collectChunk(tuple heap.Tuple, value uint32, chunks map[uint32][]byte) error {
	values, err := heap.Deform(tuple, chunkColumns, nil)
	if err != nil || values[0] == nil || values[1] == nil {
		return err
	}
	if binary.LittleEndian.Uint32(values[0]) != value {
		return nil
	}
	visible, err := tuple.Visible(c.status)
	if err == nil && visible {
		chunks[binary.LittleEndian.Uint32(values[1])] = copyOf(values[2])
	}
	return err
}
