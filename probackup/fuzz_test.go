package probackup

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
)

// zeroPagePGLZ is a page of zeros as PostgreSQL's own compressor stores it.
const zeroPagePGLZ = "fe000f01ff0f01ff0f01ff0f01ff0f01ff0f01ff0f01ffff0f01ff0f01ff0f01ff0f01ff0f01ff0f01ff0f01ff0f01ff" +
	"ff0f01ff0f01ff0f01ff0f01ff0f01ff0f01ff0f01ff0f01ff7f0f01ff0f01ff0f01ff0f01ff0f01ff0f01ff0f01ff00"

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPGLZ(t *testing.T) {
	page := bytes.Repeat([]byte{1}, 8192)
	if err := decodePGLZ(page, unhex(t, zeroPagePGLZ)); err != nil || !isZero(page) {
		t.Errorf("page of zeros: %v", err)
	}
	for name, test := range map[string]struct {
		src  string
		want string // empty: refused
	}{
		"literals":          {"00616263", "abc"},
		"overlapping match": {"02610301", "aaaaaaa"}, // 1 literal, then 6 bytes from one before
		"offset of zero":    {"02610300", ""},
		"offset too far":    {"02610302", ""},
		"cut match":         {"026103", ""},
		"cut long match":    {"02610f01", ""},
		"too much input":    {"0061626300", ""},
		"too little input":  {"0061", ""},
	} {
		dst := make([]byte, max(len(test.want), 3))
		err := decodePGLZ(dst, unhex(t, test.src))
		if test.want == "" && err == nil || test.want != "" && (err != nil || string(dst) != test.want) {
			t.Errorf("%s: %q, %v", name, dst, err)
		}
	}
}

func FuzzPGLZ(f *testing.F) {
	f.Add(unhex(f, zeroPagePGLZ), 8192)
	f.Add(unhex(f, "02610301"), 7)
	f.Fuzz(func(t *testing.T, src []byte, size int) {
		if size < 0 || size > maxBlockSize {
			return
		}
		got, want := make([]byte, size), make([]byte, size)
		err := decodePGLZ(got, src)
		if ok := slowPGLZ(want, src); ok != (err == nil) || ok && !bytes.Equal(got, want) {
			t.Errorf("decoder gives %v, the description of the format %t", err, ok)
		}
	})
}

// slowPGLZ decodes as the description of the format reads, a byte at a time.
func slowPGLZ(dst, src []byte) bool {
	out := 0
	next := func() (b byte, ok bool) {
		if ok = len(src) > 0; ok {
			b, src = src[0], src[1:]
		}
		return b, ok
	}
	for out < len(dst) && len(src) > 0 {
		control, _ := next()
		for bit := range 8 {
			if out == len(dst) || len(src) == 0 {
				break
			}
			b0, _ := next()
			if control>>bit&1 == 0 {
				dst[out] = b0
				out++
				continue
			}
			b1, ok := next()
			length, offset := int(b0&0x0f)+3, int(b0&0xf0)<<4|int(b1)
			if length == 18 && ok {
				var b2 byte
				b2, ok = next()
				length += int(b2)
			}
			if !ok || offset == 0 || offset > out {
				return false
			}
			for ; length > 0 && out < len(dst); length-- {
				dst[out] = dst[out-offset]
				out++
			}
		}
	}
	return out == len(dst) && len(src) == 0
}

func FuzzList(f *testing.F) {
	f.Add([]byte(`{"path":"base/1/4157", "size":"-1", "mode":"33152", "is_datafile":"1", "is_cfs":"0", "crc":"7", "compress_alg":"zlib", "external_dir_num":"0", "dbOid":"1","segno":"0","n_blocks":"3","n_headers":"1","hdr_crc":"2","hdr_off":"3","hdr_size":"4"}` + "\n"))
	f.Add([]byte(`{"path":"a", "size":"18446744073709551615", "kind":"dir"}` + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		before := bytes.Clone(text)
		err := parseList(text, 0, "", func(e *entry) error {
			if !validPath(e.path) || e.size < -1 || e.blocks < unknownBlocks || e.blocks > maxBlocks {
				t.Errorf("entry %q of size %d, %d blocks", e.path, e.size, e.blocks)
			}
			_ = e.perm()
			return nil
		})
		if err == nil && len(text) > 0 && text[len(text)-1] != '\n' {
			t.Error("a list that is cut off was accepted")
		}
		if !bytes.Equal(before, text) {
			t.Error("the text was changed")
		}
	})
}

func FuzzControl(f *testing.F) {
	f.Add([]byte(controlText("2026-05-04 12:00:00+03", "note = 'it's'", "parent-backup-id = 'X'")))
	f.Add([]byte("start-lsn = 1/2/3\n"))
	f.Fuzz(func(_ *testing.T, text []byte) {
		c, err := parseControl(text)
		if err != nil {
			return
		}
		_ = c.missing()
		_ = ownReason(c)
		_ = formatID(c.startTime)
		m := &member{control: c}
		_ = m.neededWAL(defaultSegmentSize)
	})
}

func FuzzRecords(f *testing.F) {
	records := []testRecord{{0, bytes.Repeat([]byte{7}, 13)}, {5, make([]byte, 8192)}}
	f.Add(joinRecords(records, false), false)
	f.Add(append(joinRecords(records, true), 9, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff), true)
	f.Fuzz(func(t *testing.T, data []byte, old bool) {
		layout := recordLayout{blockSize: 8192, old: old, limit: 131072}
		b := newIndexBuilder(&stored{}, 0)
		cut, err := scanRecords(bufio.NewReader(bytes.NewReader(data)), int64(len(data)), layout,
			func(block, pos int64) error { return b.add(block, pos, layout.limit) })
		if err != nil {
			return
		}
		end := int64(len(data))
		if cut != unknownBlocks {
			end -= recordHeader
		}
		x, err := b.finish(end)
		if err != nil {
			return
		}
		checkIndex(t, x, data)
	})
}

// checkIndex compares an index with the bytes that it was made from.
func checkIndex(t *testing.T, x *pageIndex, data []byte) {
	t.Helper()
	found := 0
	for block := range uint32(x.length()) {
		record, ok := x.find(block)
		if !ok {
			continue
		}
		found++
		if start := int(x.starts[record]); start+8 > len(data) || binary.LittleEndian.Uint32(data[start:]) != block {
			t.Errorf("record %d is not that of block %d", record, block)
		}
	}
	if found != x.pages() {
		t.Errorf("%d of %d pages are found", found, x.pages())
	}
}

func FuzzHeaderMap(f *testing.F) {
	records := []testRecord{{0, make([]byte, 100)}, {3, make([]byte, 8192)}}
	pages := [][]byte{bytes.Repeat([]byte{1}, 8192), make([]byte, 8192)}
	f.Add(mapEntries(records, pages, 0), int64(2), int64(8308))
	f.Add([]byte{}, int64(0), int64(0))
	f.Fuzz(func(t *testing.T, entries []byte, pages, size int64) {
		if pages < 1 || pages > int64(len(entries)) {
			return
		}
		s := &stored{
			headers: pages, size: size, hdrCRC: crc32.Checksum(entries, castagnoli), blocks: unknownBlocks,
			member: &member{control: &control{blockSize: 8192, version: version2_4}, point: &point{segmentBlocks: 131072}},
		}
		x, err := s.indexMap(entries)
		if err != nil {
			return
		}
		if int64(x.pages()) != pages || !slices.IsSorted(x.starts) || int64(x.starts[pages]) != size {
			t.Errorf("index of %d pages from %d entries", x.pages(), pages)
		}
	})
}

func FuzzInflate(f *testing.F) {
	f.Add(unhex(f, "78019bb0ac82890109dc5b84c48132cf20090100888203fd"), 48)
	for i, text := range inflateTexts() {
		for _, level := range []int{0, 1, 6, 9, zlib.HuffmanOnly} {
			var b bytes.Buffer
			z, err := zlib.NewWriterLevel(&b, level)
			if err != nil {
				f.Fatal(err)
			}
			if _, err := z.Write(text); err != nil {
				f.Fatal(err)
			}
			if i%2 == 1 {
				err = z.Flush()
			}
			if err := errors.Join(err, z.Close()); err != nil {
				f.Fatal(err)
			}
			f.Add(b.Bytes(), len(text))
			f.Add(b.Bytes(), len(text)-1)
		}
	}
	f.Fuzz(func(t *testing.T, src []byte, size int) {
		if size < 0 || size > 1<<17 {
			return
		}
		w := getWorkspace()
		defer w.free()
		got := make([]byte, size)
		n, err := w.decode(got, src)
		want, ok := standardInflate(src, size)
		if ok != (err == nil) || ok && !bytes.Equal(got[:n], want) {
			t.Errorf("%d bytes, %v; the standard library gives %d bytes, %t", n, err, len(want), ok)
		}
	})
}

// inflateTexts are data that make all kinds of blocks: far and near matches,
// long codes, nothing to gain.
func inflateTexts() [][]byte {
	random := rand.New(rand.NewPCG(3, 4))
	skewed, noise, far := make([]byte, 60000), make([]byte, 9000), make([]byte, 70000)
	for i := range skewed {
		skewed[i] = byte(min(255, int(random.ExpFloat64()*18)))
	}
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	copy(far, noise)
	copy(far[32000:], noise)
	copy(far[61000:], noise)
	return [][]byte{nil, []byte("a"), make([]byte, 8192), skewed, noise, far, bytes.Repeat([]byte("abcdefg"), 3000)}
}

func standardInflate(src []byte, size int) ([]byte, bool) {
	in := bytes.NewReader(src)
	z, err := zlib.NewReader(in)
	if err != nil {
		return nil, false
	}
	out, err := io.ReadAll(io.LimitReader(z, int64(size)+1))
	return out, err == nil && len(out) <= size && in.Len() == 0
}

func FuzzPGControl(f *testing.F) {
	data := make([]byte, 8192)
	binary.LittleEndian.PutUint32(data[288:], crc32.Checksum(data[:288], castagnoli))
	f.Add(data)
	f.Fuzz(func(_ *testing.T, data []byte) { _, _ = parsePGControl(data) })
}

func TestHeaderMapExample(t *testing.T) {
	w := getWorkspace()
	defer w.free()
	entries := make([]byte, 100)
	n, err := w.decode(entries, unhex(t, "78019bb0ac82890109dc5b84c48132cf20090100888203fd"))
	if err != nil || n != 48 || crc32.Checksum(entries[:n], castagnoli) != 3738386672 {
		t.Fatalf("%d bytes, %v", n, err)
	}
	s := &stored{
		headers: 1, size: 204, hdrCRC: 3738386672, blocks: 1,
		member: &member{control: &control{blockSize: 8192, version: version2_4}, point: &point{segmentBlocks: 131072}},
	}
	x, err := s.indexMap(entries[:n])
	if err != nil || x.sums[0] != 0xA2DE || x.lsns[0] != foldLSN(0x278A690) || x.starts[1] != 204 {
		t.Errorf("index %+v, %v", x, err)
	}
}
