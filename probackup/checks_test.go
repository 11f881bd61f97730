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
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/internal/pagesum"
	"github.com/fukanchik/pg0/tests/fixture"
)

// TestChecksumOfServer compares the page checksum with the one that PostgreSQL
// itself stored in every page of a table.
func TestChecksumOfServer(t *testing.T) {
	pages, err := readFile(openPoint(t, fixture.Shop(t), "TEI900", Options{}).Tree, "base/16385/1249")
	if err != nil {
		t.Fatal(err)
	}
	for block := uint32(0); len(pages) > 0; block, pages = block+1, pages[8192:] {
		page := pages[:8192]
		if got, want := pagesum.Page(page, block), binary.LittleEndian.Uint16(page[pageChecksum:]); got != want {
			t.Errorf("block %d: checksum %d, PostgreSQL stored %d", block, got, want)
		}
		if pagesum.Page(page, block) == pagesum.Page(page, block+1) {
			t.Errorf("block %d: checksum does not depend on the block number", block)
		}
	}
}

func TestCheckPage(t *testing.T) {
	pages, err := readFile(openPoint(t, fixture.Shop(t), "TEI900", Options{}).Tree, "base/16385/1249")
	if err != nil {
		t.Fatal(err)
	}
	good := pages[3*8192 : 4*8192]
	facts := pageFacts{block: 3, checksums: true, known: true, sum: pagesum.Page(good, 3), lsn: foldLSN(pageLSN(good))}
	change := func(at int) []byte {
		page := bytes.Clone(good)
		page[at] ^= 4
		return page
	}
	zero, with := make([]byte, 8192), func(f func(*pageFacts)) pageFacts {
		c := facts
		f(&c)
		return c
	}
	bare := pageFacts{block: 3}
	for _, test := range []struct {
		name  string
		page  []byte
		facts pageFacts
		ok    bool
	}{
		{"good", good, facts, true},
		{"good, nothing known", good, bare, true},
		{"changed tuple", change(8000), facts, false},
		{"changed tuple, checksum of the page only", change(8000), pageFacts{block: 3, checksums: true}, false},
		{"changed tuple, map only", change(8000), with(func(f *pageFacts) { f.checksums = false }), false},
		{"changed tuple, nothing known", change(8000), bare, true},
		{"changed header, nothing known", change(pageSizeField + 1), bare, false},
		{"another block", good, with(func(f *pageFacts) { f.block = 4 }), false},
		{"another LSN", good, with(func(f *pageFacts) { f.lsn++ }), false},
		{"zeros", zero, with(func(f *pageFacts) { f.sum, f.lsn = 0, 0 }), true},
		{"zeros, nothing known", zero, bare, true},
		{"zeros instead of a page", zero, facts, false},
		{"zeros and one byte", append(make([]byte, 8191), 1), bare, false},
	} {
		if err := checkPage(test.page, test.facts); (err == nil) != test.ok {
			t.Errorf("%s: error = %v", test.name, err)
		}
	}
}

// TestNoProof damages a raw page of a backup without header map of a cluster
// without checksums: only the checksum of the whole file tells.
func TestNoProof(t *testing.T) {
	catalog := linked(t, fixture.Shop(t))
	for _, id := range shopWeek {
		setControl(t, filepath.Join(catalog, "backups/shop", id), "checksum-version", "0")
	}
	dir := filepath.Join(catalog, "backups/shop/TEK3O0")
	if err := os.Remove(filepath.Join(dir, mapName)); err != nil {
		t.Fatal(err)
	}
	const name = "base/16385/16414"
	if got, err := sum(openPoint(t, catalog, "TEK3O0", Options{}).Tree, name); err != nil || got != fixture.Sums(t, "shop-truth/files-tue.sha256")[name] {
		t.Errorf("sound file: %s, %v", got, err)
	}
	harm(t, filepath.Join(dir, databaseDir, name), flip(9000))
	_, err := readFile(openPoint(t, catalog, "TEK3O0", Options{}).Tree, name)
	if !errors.Is(err, pg0.ErrCorrupt) || !strings.Contains(fmt.Sprint(err), errNoProof.Error()) {
		t.Errorf("error = %v, want %v", err, errNoProof)
	}
	found, err := verifyAll(t, catalog, "TEK3O0")
	if !errors.Is(err, pg0.ErrCorrupt) || len(found) != 2 || found[0].File != mapName || found[1].File != name {
		t.Errorf("verify found %+v, %v", found, err)
	}
}

// TestCompressedToPageSize decodes a page that zlib made no shorter, as writers
// before 2.0.23 stored it.
func TestCompressedToPageSize(t *testing.T) {
	page, payload := fullPayload(t)
	w, got := getWorkspace(), make([]byte, 8192)
	defer w.free()
	for v, want := range map[version][]byte{version2_0_22: page, version2_0_23: payload} {
		c := &stored{algorithm: algZlib, member: &member{control: &control{version: v, blockSize: 8192}}}
		if err := c.decodePayload(w, got, payload); err != nil || !bytes.Equal(got, want) {
			t.Errorf("version %d: decoded to something else, %v", v, err)
		}
		if err := c.decodePayload(w, got, make([]byte, 8192)); err != nil || !isZero(got) {
			t.Errorf("version %d: page of zeros: %v", v, err)
		}
	}
}

// fullPayload makes a page and a zlib stream of it that has as many bytes: each
// flush adds an empty block of five, so one text in five comes out right.
func fullPayload(t *testing.T) (page, payload []byte) {
	t.Helper()
	for start := range 50 {
		var page, b bytes.Buffer
		for i := 0; page.Len() < 8192; i++ {
			fmt.Fprintf(&page, "%d ", start*start+i*i)
		}
		page.Truncate(8192)
		z := zlib.NewWriter(&b)
		if _, err := z.Write(page.Bytes()); err != nil {
			t.Fatal(err)
		}
		for b.Len() < 8192-9-4 {
			if err := z.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		if b.Len() == 8192 {
			return page.Bytes(), b.Bytes()
		}
	}
	t.Fatal("no stream has the length of a page")
	return nil, nil
}

// TestExternalDirectories has files outside of the data directory in a backup.
func TestExternalDirectories(t *testing.T) {
	catalog := linked(t, fixture.Shop(t))
	dir := filepath.Join(catalog, "backups/shop/TEI900")
	data := []byte("a file of an external directory")
	name := filepath.Join(dir, "external_directories/externaldir1/PG_VERSION")
	replaceFile(t, name, data)
	writeLines(t, dir, append(readLines(t, dir), &listLine{"PG_VERSION", [][2]string{
		{"size", fmt.Sprint(len(data))},
		{"mode", "33188"},
		{"is_datafile", "0"},
		{"crc", fmt.Sprint(crc32.Checksum(data, castagnoli))},
		{"external_dir_num", "1"},
	}}))
	setControl(t, dir, "external-dirs", "'/etc/shop:/srv/more'")
	p := openPoint(t, catalog, "TEI900", Options{})
	if diff := cmp.Diff([]string{"external directories are left out: /etc/shop, /srv/more"}, p.Warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
	if text, err := readFile(p.Tree, "PG_VERSION"); err != nil || string(text) != "15\n" {
		t.Errorf("PG_VERSION is %q, %v", text, err)
	}
	if found, err := verifyAll(t, catalog, "TEI900"); err != nil {
		t.Errorf("verify found %+v, %v", found, err)
	}
	harm(t, name, flip(3))
	found, err := verifyAll(t, catalog, "TEI900")
	if !errors.Is(err, pg0.ErrCorrupt) || len(found) != 1 || found[0].File != "external_directories/externaldir1/PG_VERSION" {
		t.Errorf("verify found %+v, %v", found, err)
	}
}
