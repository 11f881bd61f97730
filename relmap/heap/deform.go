package heap

import (
	"bytes"
	"fmt"
)

// An Attr is what walking a tuple needs to know of a column (pg_attribute:
// attlen, attalign, attbyval, attisdropped). Dropped columns keep length and
// alignment and must be listed.
type Attr struct {
	Len     int16 // bytes; -1 varlena, -2 C string
	Align   byte  // 'c', 's', 'i' or 'd'
	ByVal   bool
	Dropped bool
}

func (a Attr) alignment() int {
	switch a.Align {
	case 's':
		return 2
	case 'i':
		return 4
	case 'd':
		return 8
	}
	return 1
}

// Deform splits a tuple into its column values, one for each of attrs. NULL,
// and a column that was added after the tuple was written (see Tuple.Natts),
// gives nil. A fixed-length value is its bytes as stored; a variable one is its
// content without header, decompressed, and never nil. fetch gets the stored
// bytes of a value in a TOAST table; nil makes such a value an error. Values
// may alias the page.
func Deform(t Tuple, attrs []Attr, fetch func(External) ([]byte, error)) ([][]byte, error) {
	values := make([][]byte, len(attrs))
	err := t.walk(attrs, func(i, off, end int) error {
		raw := t.Bytes[off:end:end]
		switch attrs[i].Len {
		case -1:
			value, err := content(raw, fetch)
			values[i] = value
			return err
		case -2:
			values[i] = raw[:len(raw)-1]
		default:
			values[i] = raw
		}
		return nil
	})
	return values, err
}

// walk calls visit with the index, start and end of every value that is not
// NULL; offsets count from the start of the tuple. Attributes that attrs does
// not have are not visited.
func (t Tuple) walk(attrs []Attr, visit func(i, off, end int) error) error {
	off, nulls := t.hoff(), t.infomask()&hasNull != 0
	for i := range min(t.Natts(), len(attrs)) {
		if nulls && t.Bytes[offNulls+i/8]>>(i%8)&1 == 0 {
			continue
		}
		start, end, err := valueAt(t.Bytes, off, attrs[i])
		if err != nil {
			return fmt.Errorf("line pointer %d: attribute %d: %w", t.Offset, i+1, err)
		}
		if err := visit(i, start, end); err != nil {
			return err
		}
		off = end
	}
	return nil
}

// valueAt finds the value of an attribute that begins at or after off.
func valueAt(b []byte, off int, a Attr) (start, end int, err error) {
	if a.Len != -1 || off < len(b) && b[off] == 0 { // a non-zero byte is a short header, which is not aligned
		align := a.alignment()
		off = (off + align - 1) &^ (align - 1)
	}
	if off > len(b) {
		return 0, 0, corrupt("value at %d is past the end %d", off, len(b))
	}
	var length int
	switch {
	case a.Len == -1:
		length, err = varlenaSize(b[off:])
	case a.Len == -2:
		length = bytes.IndexByte(b[off:], 0) + 1
	case a.Len > 0:
		length = int(a.Len)
	}
	switch {
	case err != nil:
		return 0, 0, err
	case a.Len == 0 || a.Len < -2:
		return 0, 0, corrupt("column with length %d", a.Len)
	case length <= 0 || off+length > len(b):
		return 0, 0, corrupt("value of %d bytes at %d passes the end %d", length, off, len(b))
	}
	return off, off + length, nil
}
