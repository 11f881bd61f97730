package pbwriter_test

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/relmap/heap"
	"github.com/fukanchik/pg0/tests/fixture"
	"github.com/fukanchik/pg0/tests/pbwriter"
	"github.com/google/go-cmp/cmp"
)

const pageSize = 8192

// TestRewrite takes the tool's own backups apart and writes them again. Equal
// must be: every line of the list but what hangs on the compressor; the bytes
// of plain files and of data files that are not compressed; of compressed ones
// the sequence of blocks and each unpacked page; the header map's entries (of
// compressed files but for the positions); backup.control but for sizes, times
// of the end and the connection.
func TestRewrite(t *testing.T) {
	for _, catalog := range []fixture.Catalog{fixture.ShopCatalog, fixture.OldCatalog} {
		t.Run(catalog.Archive, func(t *testing.T) {
			from := filepath.Join(fixture.Unpack(t, catalog), "backups", catalog.Instance)
			to := pbwriter.New(t, t.TempDir(), catalog.Instance, 1, 0)
			chain := map[string]original{}
			entries, err := os.ReadDir(from)
			if err != nil {
				t.Fatal(err)
			}
			for _, entry := range entries {
				if !entry.IsDir() {
					continue
				}
				o := readOriginal(t, filepath.Join(from, entry.Name()), chain)
				chain[entry.Name()] = o
				compare(t, o, to.Write(o.backup(t), o.items(t)))
			}
			if len(chain) < 3 {
				t.Errorf("only %d backups", len(chain))
			}
		})
	}
}

// An original is a backup of the tool.
type original struct {
	dir     string
	id      string
	control map[string]string
	text    []string // lines of the list
	lines   []map[string]string
	plain   map[string][]byte // plain files, unchanged ones from the parent
}

func readOriginal(t *testing.T, dir string, chain map[string]original) original {
	t.Helper()
	o := original{dir: dir, id: filepath.Base(dir), control: readControl(t, dir), plain: map[string][]byte{}}
	o.text, o.lines = readList(t, dir)
	for _, l := range o.lines {
		switch {
		case l["is_datafile"] == "1":
		case l["size"] == "-1":
			o.plain[l["path"]] = chain[o.control["parent-backup-id"]].plain[l["path"]]
		case l["size"] == "0":
			o.plain[l["path"]] = nil
		default:
			o.plain[l["path"]] = readFile(t, filepath.Join(dir, "database", l["path"]))
		}
	}
	return o
}

func readControl(t *testing.T, dir string) map[string]string {
	t.Helper()
	control := map[string]string{}
	for line := range strings.Lines(string(readFile(t, filepath.Join(dir, "backup.control")))) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " = "); ok {
			control[key] = strings.Trim(value, "'")
		}
	}
	return control
}

// templates are databases, and catalogs in others, that are alike and most of a
// backup's files.
var templates = regexp.MustCompile(`^{"path":"base/[145]/\d|^{"path":"(base|pg_tblspc/\d*/PG_15_202209061)/\d*/[2-8]\d\d\d?["_]`)

var pair = regexp.MustCompile(`"(\w+)":"([^"]*)"`)

func readList(t *testing.T, dir string) ([]string, []map[string]string) {
	t.Helper()
	text := strings.Split(strings.TrimSuffix(string(readFile(t, filepath.Join(dir, "backup_content.control"))), "\n"), "\n")
	text = slices.DeleteFunc(text, func(line string) bool { return templates.MatchString(line) })
	var lines []map[string]string
	for _, line := range text {
		l := map[string]string{}
		for _, m := range pair.FindAllStringSubmatch(line, -1) {
			l[m[1]] = m[2]
		}
		lines = append(lines, l)
	}
	return text, lines
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func number(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (o original) backup(t *testing.T) pbwriter.Backup {
	t.Helper()
	lsn := func(key string) pg0.LSN {
		v, err := pg0.ParseLSN(o.control[key])
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	start, err := time.Parse("2006-01-02 15:04:05+00", o.control["start-time"])
	if err != nil {
		t.Fatal(err)
	}
	algorithms := map[string]string{}
	for _, l := range o.lines {
		algorithms[l["path"]] = l["compress_alg"]
	}
	return pbwriter.Backup{
		Mode: o.control["backup-mode"], Parent: o.control["parent-backup-id"], Stream: o.control["stream"] == "true",
		Program: o.control["program-version"], Server: o.control["server-version"], Compress: o.control["compress-alg"],
		CompressFile: func(path string) string { return algorithms[path] },
		StartLSN:     lsn("start-lsn"), StopLSN: lsn("stop-lsn"), StartTime: start,
		Timeline: uint32(number(t, o.control["timelineid"])), RecoveryXID: uint64(number(t, o.control["recovery-xid"])),
	}
}

// items turns the list back into files: data files have their stored pages, and
// zeros where nothing is stored.
func (o original) items(t *testing.T) []pbwriter.Item {
	t.Helper()
	var items []pbwriter.Item
	for _, l := range o.lines {
		it := pbwriter.File(l["path"], o.plain[l["path"]])
		it.Stored = func(uint32, []byte) bool { return l["size"] != "-1" }
		if l["is_datafile"] == "1" {
			stored := map[uint32][]byte{}
			if number(t, l["size"]) > 0 {
				for _, r := range records(t, filepath.Join(o.dir, "database", l["path"]), l["compress_alg"], l["n_headers"] == "") {
					stored[r.block] = r.page
				}
			}
			blocks := uint32(0)
			if l["n_blocks"] != "" {
				blocks = uint32(number(t, l["n_blocks"]))
			}
			it = pbwriter.Relation(l["path"], blocks, func(block uint32, page []byte) { copy(page, stored[block]) })
			it.Stored = func(block uint32, _ []byte) bool { return stored[block] != nil }
		}
		it.Mode = uint32(number(t, l["mode"]))
		items = append(items, it)
	}
	return items
}

// A record is one page of a stored data file.
type record struct {
	block uint32
	pos   int64
	page  []byte
}

func records(t *testing.T, name, algorithm string, padded bool) []record {
	t.Helper()
	var all []record
	data := readFile(t, name)
	for pos := 0; pos < len(data); {
		size := int(int32(binary.LittleEndian.Uint32(data[pos+4:])))
		payload := data[pos+8 : pos+8+size]
		all = append(all, record{binary.LittleEndian.Uint32(data[pos:]), int64(pos), unpack(t, payload, algorithm)})
		pos += 8 + size
		if padded {
			pos = (pos + 7) &^ 7
		}
	}
	return all
}

func unpack(t *testing.T, payload []byte, algorithm string) []byte {
	t.Helper()
	var page []byte
	var err error
	switch {
	case len(payload) == pageSize:
		return payload
	case algorithm == pbwriter.Zlib:
		page = inflate(t, payload)
	case algorithm == pbwriter.PGLZ:
		// A value in a tuple that is packed alike has a header of its own.
		header := binary.LittleEndian.AppendUint32(nil, uint32(len(payload)+8)<<2|2)
		header = binary.LittleEndian.AppendUint32(header, pageSize)
		page, err = heap.Content(append(header, payload...), nil)
	}
	if err != nil || len(page) != pageSize {
		t.Fatalf("a page of algorithm %s unpacks to %d bytes, error %v", algorithm, len(page), err)
	}
	return page
}

func inflate(t *testing.T, packed []byte) []byte {
	t.Helper()
	r, err := zlib.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func compare(t *testing.T, o original, w *pbwriter.Written) {
	t.Helper()
	if w.ID != o.id {
		t.Errorf("backup %s was written as %s", o.id, w.ID)
	}
	text, lines := readList(t, w.Dir)
	if len(lines) != len(o.lines) {
		t.Fatalf("%s: %d lines, want %d", o.id, len(lines), len(o.lines))
	}
	for i, want := range o.lines {
		if want["is_datafile"] != "1" || number(t, want["size"]) <= 0 {
			if text[i] != o.text[i] {
				t.Errorf("line\n%s\nwant\n%s", text[i], o.text[i])
			}
			if got, err := os.ReadFile(w.Path(want["path"])); number(t, want["size"]) > 0 && (err != nil || !bytes.Equal(got, o.plain[want["path"]])) {
				t.Errorf("%s differs, error %v", want["path"], err)
			}
			continue
		}
		compareData(t, o, w, want, lines[i])
	}
	want, got := maps.Clone(o.control), readControl(t, w.Dir)
	for _, key := range []string{"data-bytes", "uncompressed-bytes", "pgdata-bytes", "content-crc", "end-time", "recovery-time", "primary_conninfo"} {
		delete(want, key)
		delete(got, key)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: backup.control:\n%s", o.id, diff)
	}
}

func compareData(t *testing.T, o original, w *pbwriter.Written, want, got map[string]string) {
	t.Helper()
	name, plain := want["path"], want["compress_alg"] == pbwriter.None
	padded := want["n_headers"] == ""
	if !padded {
		compareIndex(t, name, index(t, o.dir, want), index(t, w.Dir, got), plain)
	}
	hangs := []string{"hdr_off", "hdr_size"}
	if plain {
		if !bytes.Equal(readFile(t, w.Path(name)), readFile(t, filepath.Join(o.dir, "database", name))) {
			t.Errorf("%s: stored bytes differ", name)
		}
	} else {
		a := records(t, filepath.Join(o.dir, "database", name), want["compress_alg"], padded)
		b := records(t, w.Path(name), got["compress_alg"], padded)
		if !slices.EqualFunc(a, b, func(x, y record) bool { return x.block == y.block && bytes.Equal(x.page, y.page) }) {
			t.Errorf("%s: pages differ", name)
		}
		hangs = append(hangs, "size", "crc", "hdr_crc")
	}
	for _, key := range hangs {
		delete(want, key)
		delete(got, key)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: line:\n%s", name, diff)
	}
}

// index returns the entries of a file's part of the header map, without the
// last, and the position in the last.
func index(t *testing.T, dir string, l map[string]string) []byte {
	t.Helper()
	off, size := number(t, l["hdr_off"]), number(t, l["hdr_size"])
	data := inflate(t, readFile(t, filepath.Join(dir, "page_header_map"))[off:off+size])
	if n := number(t, l["n_headers"]); int64(len(data)) != (n+1)*24 {
		t.Fatalf("%s: header map of %d bytes for %d pages", l["path"], len(data), n)
	}
	return data
}

func compareIndex(t *testing.T, name string, want, got []byte, positions bool) {
	t.Helper()
	if len(want) != len(got) {
		t.Errorf("%s: header map of %d bytes, want %d", name, len(got), len(want))
		return
	}
	describe := func(b []byte) string {
		s := fmt.Sprintf("lsn %x block %d checksum %x", binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint16(b[16:]))
		if positions {
			s += fmt.Sprint(" at ", binary.LittleEndian.Uint32(b[12:]))
		}
		return s
	}
	for off := 0; off < len(want)-24; off += 24 {
		if a, b := describe(want[off:]), describe(got[off:]); a != b {
			t.Errorf("%s: header map has %s, want %s", name, b, a)
			return
		}
	}
}
