package relmap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/relmap/xact"
)

// sealed sets the checksum at an offset, so that fuzzing gets past it.
func sealed(data []byte, at int) []byte {
	data = append([]byte(nil), data...)
	if len(data) >= at+4 {
		binary.LittleEndian.PutUint32(data[at:], crc32.Checksum(data[:at], castagnoli))
	}
	return data
}

func FuzzControl(f *testing.F) {
	for _, version := range []uint32{1201, 1300, 1700, 1800} {
		data := make([]byte, 8192)
		binary.LittleEndian.PutUint32(data[8:], version)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, data := range [][]byte{data, sealed(data, 288), sealed(data, 292)} {
			if _, err := ParseControl(data); err != nil && !errors.Is(err, pg0.ErrCorrupt) {
				t.Error(err)
			}
		}
	})
}

func FuzzFilenodeMap(f *testing.F) {
	for _, size := range []int{512, 524} {
		data := make([]byte, size)
		binary.LittleEndian.PutUint32(data, filenodeMapMagic)
		binary.LittleEndian.PutUint32(data[4:], 17)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, data := range [][]byte{data, sealed(data, 504), sealed(data, 520)} {
			if _, err := parseFilenodeMap(data); err != nil && !errors.Is(err, pg0.ErrCorrupt) {
				t.Error(err)
			}
		}
	})
}

func FuzzArray(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x00\x17\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x2a\x00\x00\x00"))
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x00\x19\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x14\x00\x00\x00ab\x00\x00\x14\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, content []byte) {
		a, err := parseArray(content)
		if err != nil {
			return
		}
		r := &row{table: &table{layout: &layout{}}}
		a.varlenas(r)
		for range a.fixed(r, 4) {
		}
		for _, length := range []int16{-2, -1, 0, 1, 16} {
			if _, err := a.first(length); err != nil && !errors.Is(err, pg0.ErrCorrupt) {
				t.Error(err)
			}
		}
		if r.err != nil && !errors.Is(r.err, pg0.ErrCorrupt) {
			t.Error(r.err)
		}
	})
}

// FuzzRow gives every reader of a catalog the same row: columns, bitmap of
// columns that are not NULL, data.
func FuzzRow(f *testing.F) {
	zeros := make([]byte, 400)
	f.Add(uint8(12), uint16(33), []byte(nil), zeros)
	f.Add(uint8(15), uint16(26), []byte{255, 255, 255, 255}, bytes.Repeat([]byte{0x11}, 400))
	f.Add(uint8(18), uint16(21), []byte{255, 255, 255, 255}, append(zeros[:24:24], bytes.Repeat([]byte{0x70, 0, 0, 0}, 90)...))
	f.Fuzz(func(t *testing.T, version uint8, natts uint16, bitmap, data []byte) {
		page, ok := pageWith(natts, bitmap, data)
		if !ok {
			return
		}
		l := fuzzLoader(t, 12+int(version)%7, page)
		err := l.readClasses()
		for _, read := range l.readers() {
			err = errors.Join(err, read())
		}
		err = errors.Join(err, l.join())
		if err != nil && !errors.Is(err, pg0.ErrCorrupt) && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	})
}

// pageWith makes a heap page of one frozen row.
func pageWith(natts uint16, bitmap, data []byte) ([]byte, bool) {
	bitmap = bitmap[:min(len(bitmap), 8)]
	hoff := alignUp(bitmapByte+len(bitmap), 'd')
	at := 8192 - alignUp(hoff+len(data), 'd')
	if at < 100 {
		return nil, false
	}
	le := binary.LittleEndian
	page := make([]byte, 8192)
	le.PutUint16(page[12:], 28)
	le.PutUint16(page[14:], uint16(at))
	le.PutUint16(page[16:], 8192)
	le.PutUint16(page[18:], 8192|4)
	le.PutUint32(page[24:], uint32(at)|1<<15|uint32(hoff+len(data))<<17)
	tuple := page[at:]
	le.PutUint16(tuple[18:], natts&0x7ff)
	le.PutUint16(tuple[infomaskByte:], 0x0300|0x0800)
	if len(bitmap) > 0 {
		tuple[infomaskByte] |= 1
	}
	tuple[hoffByte] = byte(hoff)
	copy(tuple[bitmapByte:], bitmap)
	copy(tuple[hoff:], data)
	return page, true
}

// fuzzLoader finds every catalog in one file.
func fuzzLoader(t *testing.T, version int, page []byte) *loader {
	tree := fstest.MapFS{"base/1/1": {Data: page}}
	status, err := xact.Open(tree, xact.Horizon{NextXID: 1000, OldestXID: 3, NextMulti: 1, OldestMulti: 1})
	if err != nil {
		t.Fatal(err)
	}
	d := &Database{OID: 1, Tablespace: DefaultTablespace, cluster: &Cluster{Version: version, tree: tree, status: status}}
	l := &loader{Database: d, dir: "base/1", mapping: filenodeMap{}}
	for catalog := range catalogColumns {
		l.mapping[catalog] = 1
	}
	return l
}
