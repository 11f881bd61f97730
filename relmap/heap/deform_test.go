package heap

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/fukanchik/pg0"
	"github.com/google/go-cmp/cmp"
)

var allAttrs = []Attr{{Len: 1, Align: 'c'}, {Len: 2, Align: 's'}, {Len: -1, Align: 'i'}, {Len: -2, Align: 'c'}, {Len: 8, Align: 'd'}, {Len: -1, Align: 'd'}, {Len: 4, Align: 'i'}}

func TestDeform(t *testing.T) {
	data := []byte{
		'x', 0, 0x34, 0x12, // char, smallint
		7, 'a', 'b', // short varlena
		'c', 0, // C string, up to 9
		0, 0, 0, 0, 0, 0, 0, // padding
		1, 2, 3, 4, 5, 6, 7, 8, // NULL follows
	}
	tuple := Tuple{1, buildTuple(row{mask: hasNull, mask2: 6, nulls: []byte{0b11111}, data: data})}
	got, err := Deform(tuple, allAttrs, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := [][]byte{{'x'}, {0x34, 0x12}, []byte("ab"), []byte("c"), {1, 2, 3, 4, 5, 6, 7, 8}, nil, nil}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// zeros is an 8192-byte page of zeros as the server's pglz packs it.
const zeros = "fe000f01ff0f01ff0f01ff0f01ff0f01ff0f01ff0f01ffff0f01ff0f01ff0f01ff0f01ff0f01ff0f01ff0f01ff0f01ff" +
	"ff0f01ff0f01ff0f01ff0f01ff0f01ff0f01ff0f01ff0f01ff7f0f01ff0f01ff0f01ff0f01ff0f01ff0f01ff0f01ff00"

func packedZeros(t testing.TB) []byte {
	t.Helper()
	packed, err := hex.DecodeString(zeros)
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte{0, 0x20, 0, 0}, packed...)
}

func TestContent(t *testing.T) {
	long := func(flags byte, body []byte) []byte {
		n := uint32(len(body)+4)<<2 | uint32(flags)
		return append([]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}, body...)
	}
	pointer := func(raw, stored byte) []byte {
		return []byte{1, 18, raw, 0x20, 0, 0, stored, 0, 0, 0, 42, 0, 0, 0, 99, 0, 0, 0}
	}
	pglz := packedZeros(t)
	tests := []struct {
		name  string
		value []byte
		fetch func(External) ([]byte, error)
		want  []byte // nil: corrupt
	}{
		{"empty, short", []byte{3}, nil, []byte{}},
		{"short", []byte{7, 1, 2, 9}, nil, []byte{1, 2}},
		{"long", long(0, []byte("abc")), nil, []byte("abc")},
		{"pglz", long(2, pglz), nil, make([]byte, 8192)},
		{"lz4", long(2, []byte{25, 0, 0, 0x40, 0x1f, 'a', 1, 0, 0, 0x50, 'a', 'a', 'a', 'a', 'a'}), nil, bytes.Repeat([]byte{'a'}, 25)},
		{"lz4, other size", long(2, []byte{24, 0, 0, 0x40, 0x1f, 'a', 1, 0, 0, 0x50, 'a', 'a', 'a', 'a', 'a'}), nil, nil},
		{"pglz, cut", long(2, pglz[:50]), nil, nil},
		{"pglz, one byte more", long(2, append(bytes.Clone(pglz), 0)), nil, nil},
		{"pglz that claims a gigabyte", long(2, []byte{0xff, 0xff, 0xff, 0x3f, 0, 1, 2}), nil, nil},
		{"unknown method", long(2, []byte{1, 0, 0, 0x80, 0, 1}), nil, nil},
		{"outside, plain", []byte{1, 18, 7, 0, 0, 0, 3, 0, 0, 0, 42, 0, 0, 0, 99, 0, 0, 0}, func(External) ([]byte, error) {
			return []byte("abc"), nil
		}, []byte("abc")},
		{"outside, unexpected", pointer(4, 100), nil, nil},
		{"outside, compressed", pointer(4, 100), func(e External) ([]byte, error) {
			if diff := cmp.Diff(External{RawSize: 8192, Size: 100, ValueID: 42, ToastRel: 99}, e); diff != "" {
				t.Error(diff)
			}
			return pglz, nil
		}, make([]byte, 8192)},
		{"outside, chunk missing", pointer(4, 100), func(External) ([]byte, error) { return pglz[:99], nil }, nil},
		{"outside, unpacks to another size", pointer(5, 100), func(External) ([]byte, error) { return pglz, nil }, nil},
		{"in memory only", append([]byte{1, 1}, make([]byte, 16)...), nil, nil},
		{"cut", []byte{9, 1}, nil, nil},
		{"nothing", nil, nil, nil},
	}
	for _, test := range tests {
		got, err := Content(test.value, test.fetch)
		if test.want == nil && !errors.Is(err, pg0.ErrCorrupt) {
			t.Errorf("%s: %d bytes, error %v is not ErrCorrupt", test.name, len(got), err)
		}
		if test.want != nil && (err != nil || !bytes.Equal(got, test.want) || got == nil) {
			t.Errorf("%s: %d bytes %.20x, error %v", test.name, len(got), got, err)
		}
	}
}

func FuzzDeform(f *testing.F) {
	f.Add([]byte{'x', 0, 0x34, 0x12, 7, 'a', 'b', 'c', 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8}, byte(0xff))
	f.Add(append([]byte{'x', 0, 0x34, 0x12}, external(3)...), byte(0xff))
	f.Add(append([]byte{'x', 0, 0x34, 0x12, 0xa2, 1, 0, 0}, packedZeros(f)...), byte(0xff))
	f.Fuzz(func(t *testing.T, data []byte, nulls byte) {
		tuple := Tuple{1, buildTuple(row{mask: hasNull, mask2: 7, nulls: []byte{nulls}, data: data})}
		if tuple.check() != nil {
			return
		}
		_, err := Deform(tuple, allAttrs, func(External) ([]byte, error) { return data, nil })
		if err != nil && !errors.Is(err, pg0.ErrCorrupt) {
			t.Errorf("error %v is not ErrCorrupt", err)
		}
	})
}
