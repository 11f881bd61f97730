package probackup

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/fukanchik/pg0/internal/pagesum"
)

// A listLine is a line of a file list to be changed.
type listLine struct {
	path  string
	pairs [][2]string
}

func (l *listLine) get(name string) string {
	for _, p := range l.pairs {
		if p[0] == name {
			return p[1]
		}
	}
	return ""
}

func (l *listLine) number(name string) int {
	n, err := strconv.Atoi(l.get(name))
	if err != nil {
		return 0
	}
	return n
}

func (l *listLine) set(name string, value any) {
	for i, p := range l.pairs {
		if p[0] == name {
			l.pairs[i][1] = fmt.Sprint(value)
			return
		}
	}
	l.pairs = append(l.pairs, [2]string{name, fmt.Sprint(value)})
}

func (l *listLine) drop(names ...string) {
	l.pairs = slices.DeleteFunc(l.pairs, func(p [2]string) bool { return slices.Contains(names, p[0]) })
}

func (l *listLine) stored() bool { return l.number("size") > 0 }
func (l *listLine) data() bool   { return l.get("is_datafile") == "1" }

// readLines reads the list of a backup.
func readLines(t *testing.T, backup string) []*listLine {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(backup, listName))
	if err != nil {
		t.Fatal(err)
	}
	var lines []*listLine
	for raw := range strings.Lines(string(text)) {
		fields := strings.Split(strings.Trim(raw, "{}\n"), `"`)
		l := &listLine{path: fields[3]}
		for i := 5; i+2 < len(fields); i += 4 {
			l.pairs = append(l.pairs, [2]string{fields[i], fields[i+2]})
		}
		lines = append(lines, l)
	}
	return lines
}

// writeLines replaces the list, and the checksum of it in the control file.
func writeLines(t *testing.T, backup string, lines []*listLine) {
	t.Helper()
	var b bytes.Buffer
	for _, l := range lines {
		fmt.Fprintf(&b, `{"path":"%s"`, l.path)
		for _, p := range l.pairs {
			fmt.Fprintf(&b, `, "%s":"%s"`, p[0], p[1])
		}
		b.WriteString("}\n")
	}
	replaceFile(t, filepath.Join(backup, listName), b.Bytes())
	setControl(t, backup, "content-crc", fmt.Sprint(crc32.Checksum(b.Bytes(), castagnoli)))
}

func replaceFile(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, data, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// setControl changes a key of backup.control; an empty value removes it.
func setControl(t *testing.T, backup, key, value string) {
	t.Helper()
	name := filepath.Join(backup, controlName)
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(text)) {
		if k, _, _ := strings.Cut(line, " ="); k != key {
			out.WriteString(line)
		}
	}
	if value != "" {
		fmt.Fprintf(&out, "%s = %s\n", key, value)
	}
	replaceFile(t, name, []byte(out.String()))
}

// A testRecord is one page of a stored data file.
type testRecord struct {
	block   uint32
	payload []byte
}

// splitRecords takes a file of a writer since 2.4 apart.
func splitRecords(data []byte) (records []testRecord) {
	for len(data) > 0 {
		n := binary.LittleEndian.Uint32(data[4:])
		records = append(records, testRecord{binary.LittleEndian.Uint32(data), data[8 : 8+n]})
		data = data[8+n:]
	}
	return records
}

// joinRecords writes records, padded as before 2.4 if old.
func joinRecords(records []testRecord, old bool) (data []byte) {
	for _, r := range records {
		data = binary.LittleEndian.AppendUint32(data, r.block)
		data = binary.LittleEndian.AppendUint32(data, uint32(len(r.payload)))
		data = append(data, r.payload...)
		for old && len(data)%8 != 0 {
			data = append(data, 0xEE) // the tool left there what was in its memory
		}
	}
	return data
}

func deflate(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := zlib.NewWriterLevel(&b, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// encodePages makes the records of a file of whole pages, every fourth of them
// compressed by zlib, as all were if compressing took no time.
func encodePages(t *testing.T, pages []byte) (records []testRecord) {
	t.Helper()
	for block := 0; len(pages) > 0; block++ {
		payload := pages[:8192]
		if block%4 == 0 {
			if z := deflate(t, payload); len(z) < len(payload) {
				payload = z
			}
		}
		records = append(records, testRecord{uint32(block), payload})
		pages = pages[8192:]
	}
	return records
}

// mapEntries makes the uncompressed entries of the header map for a file whose
// pages are given; the last entry is filled with garbage, as over ssh.
func mapEntries(records []testRecord, pages [][]byte, segment uint32) (entries []byte) {
	pos := 0
	for i, r := range records {
		entries = binary.LittleEndian.AppendUint64(entries, pageLSN(pages[i]))
		entries = binary.LittleEndian.AppendUint32(entries, r.block)
		entries = binary.LittleEndian.AppendUint32(entries, uint32(pos))
		sum := uint16(0)
		if !isZero(pages[i]) {
			sum = pagesum.Page(pages[i], segment*defaultSegmentBlocks+r.block)
		}
		entries = binary.LittleEndian.AppendUint16(entries, sum)
		entries = append(entries, 0xDE, 0xAD, 0xBE, 0xEF, 1, 2)
		pos += 8 + len(r.payload)
	}
	entries = append(entries, bytes.Repeat([]byte{0xA5}, 12)...)
	entries = binary.LittleEndian.AppendUint32(entries, uint32(pos))
	return append(entries, bytes.Repeat([]byte{0x5A}, 8)...)
}
