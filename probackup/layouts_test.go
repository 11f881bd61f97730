package probackup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/tests/fixture"
)

var shopWeek = []string{"TEI900", "TEK3O0", "TELYC0", "TENT00"}

// TestOldWriters rewrites the shop's chain as versions before 2.4 laid it out:
// the files must stay those of the tool's restore.
func TestOldWriters(t *testing.T) {
	for _, test := range []struct {
		version string
		crc     func([]byte) uint32
	}{
		{"2.0.20", func(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }},
		{"2.0.24", crc32.ChecksumIEEE},
	} {
		t.Run(test.version, func(t *testing.T) {
			catalog := linked(t, fixture.Shop(t))
			lengths := map[string]int{}
			for _, id := range shopWeek {
				ageBackup(t, filepath.Join(catalog, "backups/shop", id), test.version, test.crc, lengths)
			}
			p := openPoint(t, catalog, "TENT00", Options{})
			if diff := cmp.Diff(wanted(t, "shop-truth/files-thu.sha256"), sums(t, p.Tree)); diff != "" {
				t.Errorf("files differ from the tool's restore (-want +got):\n%s", diff)
			}
			found, err := verifyAll(t, catalog, "TENT00")
			if err != nil || len(found) > 0 {
				t.Errorf("verify found %v, %v", found, err)
			}
		})
	}
}

// ageBackup rewrites a backup in an older layout: padded records, no header map,
// lengths only in DELTA backups, marks that tell of truncation in PAGE ones.
func ageBackup(t *testing.T, dir, version string, crc func([]byte) uint32, lengths map[string]int) {
	t.Helper()
	control, err := os.ReadFile(filepath.Join(dir, controlName))
	if err != nil {
		t.Fatal(err)
	}
	delta := bytes.Contains(control, []byte("= DELTA"))
	lines := readLines(t, dir)
	for _, l := range lines {
		l.drop("hdr_crc", "hdr_off", "hdr_size", "n_headers", "full_size", "external_dir_num", "dbOid")
		if l.data() {
			ageFile(t, dir, l, crc, delta, lengths)
		} else if l.stored() {
			data, err := os.ReadFile(filepath.Join(dir, databaseDir, l.path))
			if err != nil {
				t.Fatal(err)
			}
			if l.path != controlFile || version < "2.0.25" {
				l.set("crc", crc(data))
			}
		}
	}
	writeLines(t, dir, lines)
	setControl(t, dir, "program-version", version)
	setControl(t, dir, "content-crc", "")
	if err := os.Remove(filepath.Join(dir, mapName)); err != nil {
		t.Fatal(err)
	}
}

func ageFile(t *testing.T, dir string, l *listLine, crc func([]byte) uint32, delta bool, lengths map[string]int) {
	t.Helper()
	blocks := l.number("n_blocks")
	name := filepath.Join(dir, databaseDir, l.path)
	var data []byte
	if l.stored() {
		stored, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		data = joinRecords(splitRecords(stored), true)
		if l.path == "base/16385/1259" {
			data = append(make([]byte, 8), data...) // a stray empty record
		}
	}
	if !delta {
		l.drop("n_blocks")
		if before, ok := lengths[l.path]; ok && l.get("size") != "0" && before > blocks {
			data = binary.LittleEndian.AppendUint32(data, uint32(blocks))
			data = binary.LittleEndian.AppendUint32(data, 0xFFFFFFFE)
		}
	}
	lengths[l.path] = blocks
	if len(data) > 0 {
		replaceFile(t, name, data)
		l.set("size", len(data))
		l.set("crc", crc(data))
	}
}

// TestMergeStates reads Thursday's backup at the moments at which a merge of the
// whole chain into it can be killed.
func TestMergeStates(t *testing.T) {
	want := wanted(t, "shop-truth/files-thu.sha256")
	pages := contents(t, openPoint(t, fixture.Shop(t), "TENT00", Options{}).Tree)
	catalog := linked(t, fixture.Shop(t))
	dir := filepath.Join(catalog, "backups/shop")
	full := filepath.Join(dir, "TEI900")
	check := func(state string) {
		t.Helper()
		if diff := cmp.Diff(want, sums(t, openPoint(t, catalog, "TENT00", Options{}).Tree)); diff != "" {
			t.Errorf("%s: files differ from the tool's restore (-want +got):\n%s", state, diff)
		}
	}
	same := func(state string) {
		t.Helper()
		const name = "base/16385/1249"
		got, err := sum(openPoint(t, catalog, "TENT00", Options{}).Tree, name)
		if err != nil || got != want[name] {
			t.Errorf("%s: %s differs from the tool's restore: %v", state, name, err)
		}
	}
	refuse := func(state, id string) {
		t.Helper()
		c, err := Open(catalog, "", Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Open(t.Context(), id); !errors.Is(err, pg0.ErrUnusable) {
			t.Errorf("%s: opening %s gives %v, want a refusal", state, id, err)
		}
	}
	for _, id := range shopWeek {
		setControl(t, filepath.Join(dir, id), "status", "MERGING")
	}
	setControl(t, full, "merge-dest-id", "TENT00")
	merged := mergeFiles(t, full, pages)
	check("half merged")
	for _, id := range shopWeek[:3] {
		refuse("half merged", id)
	}
	finishMerge(t, dir, merged)
	check("merged, increments still there")
	refuse("merged", "TEI900")
	for _, id := range []string{"TEK3O0", "TELYC0"} {
		if err := os.RemoveAll(filepath.Join(dir, id)); err != nil {
			t.Fatal(err)
		}
	}
	setControl(t, filepath.Join(dir, "TENT00"), "status", "DELETING")
	same("merged, target being deleted")
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "TENT00")), os.Rename(full, filepath.Join(dir, "TENT00"))); err != nil {
		t.Fatal(err)
	}
	same("renamed")
	setControl(t, filepath.Join(dir, "TENT00"), "status", "OK")
	setControl(t, filepath.Join(dir, "TENT00"), "merge-dest-id", "")
	setControl(t, filepath.Join(dir, "TENT00"), "start-time", "'2026-05-07 09:00:00+00'")
	same("done")
}

// mergeFiles replaces every second data file of the FULL backup by the merged
// one and returns all lines that the new list will have.
func mergeFiles(t *testing.T, full string, pages map[string][]byte) []*listLine {
	t.Helper()
	var lines []*listLine
	for i, l := range readLines(t, filepath.Join(filepath.Dir(full), "TENT00")) {
		lines = append(lines, l)
		data, ok := pages[l.path]
		if l.get("mode") == "16832" {
			continue
		}
		if !ok {
			data = mustRead(t, filepath.Join(filepath.Dir(full), "TENT00", databaseDir, l.path))
		}
		l.set("size", len(data))
		l.drop("hdr_crc", "hdr_off", "hdr_size", "n_headers")
		if l.data() && len(data) > 0 {
			stored := joinRecords(encodePages(t, data), false)
			l.set("size", len(stored))
			l.set("crc", crc32.Checksum(stored, castagnoli))
			l.set("compress_alg", "zlib")
			data = stored
		}
		place := filepath.Join(full, databaseDir, l.path)
		if !l.data() {
			place = filepath.Join(full, "later", l.path)
		}
		if i%2 == 1 && l.data() {
			place = filepath.Join(full, "later", l.path)
		}
		if len(data) > 0 {
			replaceFile(t, place, data)
		}
	}
	return lines
}

func mustRead(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// finishMerge puts the rest of the merged files and their list into place.
func finishMerge(t *testing.T, dir string, lines []*listLine) {
	t.Helper()
	full := filepath.Join(dir, "TEI900")
	later := filepath.Join(full, "later")
	err := filepath.WalkDir(later, func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(later, name)
			replaceFile(t, filepath.Join(full, databaseDir, rel), mustRead(t, name))
		}
		return err
	})
	if err = errors.Join(err, os.RemoveAll(later)); err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		if l.path == controlFile {
			control, err := parsePGControl(mustRead(t, filepath.Join(full, databaseDir, controlFile)))
			if err != nil {
				t.Fatal(err)
			}
			l.set("crc", control.crc)
		} else if !l.data() && l.stored() {
			l.set("crc", crc32.Checksum(mustRead(t, filepath.Join(full, databaseDir, l.path)), castagnoli))
		}
	}
	writeLines(t, full, lines)
	setControl(t, full, "status", "MERGED")
	setControl(t, full, "start-lsn", "0/2F00028")
	setControl(t, full, "stop-lsn", "0/30000B8")
}

// TestRemoteSentinels gives every part of the header maps a last entry, and
// padding, of garbage, as backups over ssh have.
func TestRemoteSentinels(t *testing.T) {
	catalog := linked(t, fixture.Shop(t))
	for _, id := range shopWeek[:2] {
		dir := filepath.Join(catalog, "backups/shop", id)
		var all bytes.Buffer
		lines := readLines(t, dir)
		for _, l := range lines {
			if l.number("n_headers") == 0 {
				continue
			}
			records := splitRecords(mustRead(t, filepath.Join(dir, databaseDir, l.path)))
			entries := mapEntries(records, decodeAll(t, records, l.get("compress_alg")), uint32(l.number("segno")))
			stream := deflate(t, entries)
			l.set("hdr_crc", crc32.Checksum(entries, castagnoli))
			l.set("hdr_off", all.Len())
			l.set("hdr_size", len(stream))
			all.Write(stream)
		}
		replaceFile(t, filepath.Join(dir, mapName), all.Bytes())
		writeLines(t, dir, lines)
	}
	var log bytes.Buffer
	p := openPoint(t, catalog, "TEK3O0", Options{Logger: textLog(&log)})
	if diff := cmp.Diff(wanted(t, "shop-truth/files-tue.sha256"), sums(t, p.Tree)); diff != "" {
		t.Errorf("files differ from the tool's restore (-want +got):\n%s", diff)
	}
	if log.Len() > 0 {
		t.Errorf("warnings: %s", log.String())
	}
}

func decodeAll(t *testing.T, records []testRecord, algorithm string) (pages [][]byte) {
	t.Helper()
	w := getWorkspace()
	defer w.free()
	for _, r := range records {
		page := make([]byte, 8192)
		if len(r.payload) == len(page) {
			copy(page, r.payload)
		} else if _, err := w.decode(page, r.payload); err != nil {
			t.Fatalf("%s: %v", algorithm, err)
		}
		pages = append(pages, page)
	}
	return pages
}

// TestKindOfNewerWriters drops the type from the mode and puts kind beside it.
func TestKindOfNewerWriters(t *testing.T) {
	catalog := linked(t, fixture.Shop(t))
	dir := filepath.Join(catalog, "backups/shop/TEI900")
	lines := readLines(t, dir)
	for _, l := range lines {
		mode, kind := l.number("mode"), "reg"
		if mode&modeType == modeDir {
			kind = "dir"
		}
		l.set("mode", mode&0o777)
		l.pairs = slices.Insert(l.pairs, 1, [2]string{"kind", kind})
	}
	lines = append(lines, &listLine{"a \"pipe\", here", [][2]string{{"size", "0"}, {"kind", "fifo"}, {"mode", "420"}}})
	writeLines(t, dir, lines)
	setControl(t, dir, "program-version", "2.6.1")
	p := openPoint(t, catalog, "TEI900", Options{})
	if diff := cmp.Diff(wanted(t, "shop-truth/files-mon.sha256"), sums(t, p.Tree)); diff != "" {
		t.Errorf("files differ from the tool's restore (-want +got):\n%s", diff)
	}
	want := []string{
		"it was written by pg_probackup 2.6.1, newer than 2.5, which pg0 knows best",
		`a "pipe", here is neither a file nor a directory and is left out`,
	}
	if diff := cmp.Diff(want, p.Warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

// TestPathsAreNotEscaped opens files whose names have quotes, commas, bytes that
// are no UTF-8, and what looks like the rest of a line.
func TestPathsAreNotEscaped(t *testing.T) {
	catalog := linked(t, fixture.Shop(t))
	dir := filepath.Join(catalog, "backups/shop/TEI900")
	lines := readLines(t, dir)
	names := []string{`a "quoted" name`, `comma, comma`, `back\slash`, "latin1 \xe9", `x", "size":"5`}
	for _, name := range names {
		data := []byte("content of " + name)
		replaceFile(t, filepath.Join(dir, databaseDir, name), data)
		lines = append(lines, &listLine{name, [][2]string{
			{"size", fmt.Sprint(len(data))},
			{"mode", "33188"},
			{"is_datafile", "0"},
			{"is_cfs", "0"},
			{"crc", fmt.Sprint(crc32.Checksum(data, castagnoli))},
			{"compress_alg", "none"},
			{"external_dir_num", "0"},
		}})
	}
	writeLines(t, dir, lines)
	tree := openPoint(t, catalog, "TEI900", Options{}).Tree
	for _, name := range names {
		data, err := readFile(tree, name)
		if err != nil || string(data) != "content of "+name {
			t.Errorf("%q reads %q, %v", name, data, err)
		}
	}
}

// TestTablespaces looks at the links of tablespaces with odd places: the paths
// are data of the production host and must not appear.
func TestTablespaces(t *testing.T) {
	catalog := linked(t, fixture.Shop(t))
	dir := filepath.Join(catalog, "backups/shop/TEI900")
	places := "16384 /srv/a b/\"ts\"\\\n99 not a line of its own\n16999 /srv/пространство\n"
	replaceFile(t, filepath.Join(dir, databaseDir, tablespaceMap), []byte(places))
	lines := readLines(t, dir)
	for _, l := range lines {
		if l.path == tablespaceMap {
			l.set("size", len(places))
			l.set("crc", crc32.Checksum([]byte(places), castagnoli))
		}
	}
	inPlace := &listLine{"pg_tblspc/17000", [][2]string{{"size", "0"}, {"mode", "16832"}, {"is_datafile", "0"}}}
	writeLines(t, dir, append(lines, inPlace))
	tree := openPoint(t, catalog, "TEI900", Options{}).Tree
	got := map[string]string{}
	entries, err := tree.ReadDir("pg_tblspc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if got[e.Name()], err = tree.ReadLink("pg_tblspc/" + e.Name()); err != nil {
			t.Error(err)
		}
	}
	want := map[string]string{"16384": "../.pg0_tblspc/16384", "16999": "../.pg0_tblspc/16999", "17000": "../.pg0_tblspc/17000"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
	for oid := range maps.Keys(want) {
		if info, err := tree.Lstat(".pg0_tblspc/" + oid); err != nil || info.Mode() != fs.ModeDir|0o700 {
			t.Errorf("directory of %s: %v, %v", oid, info, err)
		}
	}
	through, err := tree.Open("pg_tblspc/16384/PG_15_202209061/16385/16452")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, through); err != nil || n == 0 {
		t.Errorf("read %d bytes through a link: %v", n, err)
	}
	if _, err := tree.Open(tablespaceMap); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("tablespace_map is shown: %v", err)
	}
}
