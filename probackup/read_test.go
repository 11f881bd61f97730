package probackup

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/tests/fixture"
)

func TestTreeIsAFileSystem(t *testing.T) {
	tree := openPoint(t, fixture.Shop(t), "TENT00", Options{}).Tree
	// The suite opens and lists everything many times, so it gets a part of it.
	for dir, file := range map[string]string{"pg_tblspc": "16384", "pg_multixact": "members/0000"} {
		if err := fstest.TestFS(sub{tree, dir}, file); err != nil {
			t.Error(err)
		}
	}
	entries, err := tree.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); !strings.Contains(got, ".pg0_tblspc PG_VERSION backup_label base global pg_commit_ts") {
		t.Errorf("root holds %s", got)
	}
}

// TestStalePages reads a relation that was truncated from 267 pages to 4 before
// one backup and then grew to 100 by pages that no backup stores: they are empty,
// and only --tool-exact brings the pages of the FULL backup back.
func TestStalePages(t *testing.T) {
	const name = "base/16386/16446"
	var log bytes.Buffer
	sound, err := readFile(openPoint(t, fixture.Old(t), "TOYNIL", Options{Logger: textLog(&log)}).Tree, name)
	if err != nil {
		t.Fatal(err)
	}
	exact, err := readFile(openPoint(t, fixture.Old(t), "TOYNIL", Options{ToolExact: true}).Tree, name)
	if err != nil {
		t.Fatal(err)
	}
	if len(sound) != 100*8192 || len(exact) != len(sound) {
		t.Fatalf("lengths are %d and %d", len(sound), len(exact))
	}
	if !bytes.Equal(sound[:4*8192], exact[:4*8192]) || isZero(sound[:4*8192]) {
		t.Error("pages before the truncation differ")
	}
	if !isZero(sound[4*8192:]) || isZero(exact[4*8192:]) {
		t.Error("pages after the truncation are not those of the rule")
	}
	if n := strings.Count(log.String(), name); n != 1 || !strings.Contains(log.String(), "block=4") {
		t.Errorf("%d warnings: %s", n, log.String())
	}
}

// TestParallelReads reads at random places from many goroutines while the caches
// hold next to nothing.
func TestParallelReads(t *testing.T) {
	whole := openPoint(t, fixture.Shop(t), "TENT00", Options{}).Tree
	c, err := Open(fixture.Shop(t), "shop", Options{IndexBytes: 1, OpenFiles: 2})
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Open(t.Context(), "TENT00")
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"base/16385/1249", "base/16385/16410", "base/16385/16414", "base/16385/16425", "global/pg_control", "base/16385/1249_fsm"}
	want := map[string][]byte{}
	for _, name := range names {
		if want[name], err = readFile(whole, name); err != nil {
			t.Fatal(err)
		}
	}
	var readers sync.WaitGroup
	for seed := range 8 {
		readers.Go(func() { readRandomly(t, want, p.Tree, names, uint64(seed)) })
	}
	readers.Wait()
	if n := len(c.files.ring); n > 2 {
		t.Errorf("%d files are held open, want 2 at most", n)
	}
	if n := len(c.indexes.ring); n > 1 {
		t.Errorf("%d indexes are held, want one at most", n)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if len(c.files.ring)+len(c.indexes.ring) > 0 {
		t.Error("a closed point holds files or indexes")
	}
}

func readRandomly(t *testing.T, contents map[string][]byte, tree pg0.Tree, names []string, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 1))
	for range 60 {
		name := names[random.IntN(len(names))]
		want := contents[name]
		f, err := tree.Open(name)
		if err != nil {
			t.Error(err)
			return
		}
		off := random.Int64N(int64(len(want)) + 100)
		got := make([]byte, random.IntN(300_000))
		n, err := f.(pg0.File).ReadAt(got, off)
		rest := want[min(off, int64(len(want))):]
		if !bytes.Equal(got[:n], rest[:min(len(got), len(rest))]) {
			t.Errorf("%s: %d bytes at %d differ", name, len(got), off)
		}
		if short := n < len(got); short != errors.Is(err, io.EOF) || err != nil && !short {
			t.Errorf("%s: %d of %d bytes at %d: error = %v", name, n, len(got), off, err)
		}
	}
}

func TestReadAtDoesNotAllocate(t *testing.T) {
	f, err := openPoint(t, fixture.Shop(t), "TENT00", Options{}).Tree.Open("base/16385/16410")
	if err != nil {
		t.Fatal(err)
	}
	page := make([]byte, 8192)
	// One allocation may be that of a pool that the collector has emptied.
	if n := testing.AllocsPerRun(200, func() {
		if _, err := f.(pg0.File).ReadAt(page, 5*8192); err != nil {
			t.Fatal(err)
		}
	}); n >= 1 && !raceEnabled {
		t.Errorf("reading a page makes %v allocations", n)
	}
}

// TestListsThatDisagree changes what the lists of the chain say of one file: its
// bytes can then not be told, and no others may be served.
func TestListsThatDisagree(t *testing.T) {
	const data, plain = "base/16385/1249", "base/16385/1249_fsm"
	drop := func(l *listLine) bool { return true }
	set := func(name, value string) func(*listLine) bool {
		return func(l *listLine) bool {
			l.set(name, value)
			return false
		}
	}
	for _, test := range []struct {
		name, backup, path string
		change             func(*listLine) bool // whether to drop the line
		says               string
	}{
		{"pages and plain", "TEI900", data, set("is_datafile", "0"), "stored in another way"},
		{"plain and pages", "TEI900", plain, set("is_datafile", "1"), "stored in another way"},
		{"CFS in a parent", "TEI900", data, set("is_cfs", "1"), "stored in another way"},
		{"data in no parent", "TEI900", data, drop, "holds it unchanged"},
		{"data not in one parent", "TEK3O0", data, drop, "holds it unchanged"},
		{"plain in no parent", "TEI900", plain, drop, "holds it unchanged"},
		{"plain not in one parent", "TEK3O0", plain, drop, "holds it unchanged"},
	} {
		t.Run(test.name, func(t *testing.T) {
			catalog := linked(t, fixture.Shop(t))
			backups := filepath.Join(catalog, "backups/shop")
			// Every backup after the first says that the file did not change.
			for _, id := range shopWeek {
				lines := readLines(t, filepath.Join(backups, id))
				lines = slices.DeleteFunc(lines, func(l *listLine) bool {
					if id != "TEI900" && l.path == test.path {
						l.set("size", "-1")
						l.drop("n_headers")
					}
					return id == test.backup && l.path == test.path && test.change(l)
				})
				writeLines(t, filepath.Join(backups, id), lines)
			}
			for _, exact := range []bool{false, true} {
				_, err := readFile(openPoint(t, catalog, "TENT00", Options{ToolExact: exact}).Tree, test.path)
				if !errors.Is(err, pg0.ErrCorrupt) || !strings.Contains(fmt.Sprint(err), test.says) || !strings.Contains(fmt.Sprint(err), test.path) {
					t.Errorf("exact=%t: error = %v, want one with %q", exact, err, test.says)
				}
			}
		})
	}
}

// TestRecreatedFile has a relation that one backup of the chain does not list:
// it was dropped and another one made under its name, of which the newest backup
// stores one page. The older relation's pages must not fill up the rest.
func TestRecreatedFile(t *testing.T) {
	const name = "base/16385/1249"
	catalog := linked(t, fixture.Shop(t))
	backups := filepath.Join(catalog, "backups/shop")
	old, err := readFile(openPoint(t, catalog, "TEI900", Options{}).Tree, name)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range shopWeek[1:] {
		lines := readLines(t, filepath.Join(backups, id))
		lines = slices.DeleteFunc(lines, func(l *listLine) bool {
			if l.path != name {
				return false
			}
			stored := joinRecords([]testRecord{{1, old[8192 : 2*8192]}}, false)
			replaceFile(t, filepath.Join(backups, id, databaseDir, name), stored)
			l.drop("n_headers", "n_blocks", "hdr_crc", "hdr_off", "hdr_size")
			l.set("size", len(stored))
			l.set("crc", crc32.Checksum(stored, castagnoli))
			l.set("n_blocks", 3)
			return id == "TELYC0"
		})
		writeLines(t, filepath.Join(backups, id), lines)
	}
	got, err := readFile(openPoint(t, catalog, "TENT00", Options{}).Tree, name)
	if err != nil || len(got) != 3*8192 {
		t.Fatalf("read %d bytes, %v", len(got), err)
	}
	if !isZero(got[:8192]) || !bytes.Equal(got[8192:2*8192], old[8192:2*8192]) || !isZero(got[2*8192:]) {
		t.Error("pages of another relation are served")
	}
	got, err = readFile(openPoint(t, catalog, "TENT00", Options{ToolExact: true}).Tree, name)
	if err != nil || !bytes.Equal(got, old[:3*8192]) {
		t.Errorf("pages are not those of the tool: %v", err)
	}
}

// TestReplacedFile has a file whose verified bytes are replaced by others of the
// same length, as a merge would do, after the file had to be closed.
func TestReplacedFile(t *testing.T) {
	catalog := linked(t, fixture.Shop(t))
	c, err := Open(catalog, "", Options{OpenFiles: 1})
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Open(t.Context(), "TEI900")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, name := range []string{"base/16385/1259_vm", "PG_VERSION"} {
		if _, err := readFile(p.Tree, name); err != nil {
			t.Fatal(err)
		}
	}
	harm(t, filepath.Join(catalog, "backups/shop/TEI900/database/base/16385/1259_vm"), flip(100))
	if _, err := readFile(p.Tree, "base/16385/1259_vm"); !errors.Is(err, pg0.ErrCorrupt) || !strings.Contains(fmt.Sprint(err), "replaced") {
		t.Errorf("error = %v, want one that says replaced", err)
	}
	setControl(t, filepath.Join(catalog, "backups/shop/TEI900"), "status", "MERGING")
	if _, err := readFile(p.Tree, "base/16385/1259_vm"); !errors.Is(err, pg0.ErrUnusable) || errors.Is(err, pg0.ErrCorrupt) {
		t.Errorf("error = %v, want one that says merged", err)
	}
}

func TestCFSIsRefused(t *testing.T) {
	catalog := linked(t, fixture.Shop(t))
	dir := filepath.Join(catalog, "backups/shop/TEI900")
	lines := readLines(t, dir)
	for _, l := range lines {
		if strings.HasPrefix(l.path, "pg_tblspc/16384/PG_15_202209061/16385/") {
			l.set("is_cfs", "1")
		}
	}
	writeLines(t, dir, lines)
	c, err := Open(catalog, "", Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Open(t.Context(), "TEI900")
	if !errors.Is(err, pg0.ErrUnusable) || !strings.Contains(fmt.Sprint(err), "CFS tablespace 16384: needs Postgres Pro Enterprise") {
		t.Errorf("error = %v, want a refusal", err)
	}
}

// sub is a directory of a tree, links included, as a file system of its own.
type sub struct {
	pg0.Tree
	dir string
}

func (s sub) path(name string) string {
	if !fs.ValidPath(name) {
		return name
	}
	return path.Join(s.dir, name)
}

func (s sub) Open(name string) (fs.File, error)          { return s.Tree.Open(s.path(name)) }
func (s sub) ReadDir(name string) ([]fs.DirEntry, error) { return s.Tree.ReadDir(s.path(name)) }
func (s sub) Lstat(name string) (fs.FileInfo, error)     { return s.Tree.Lstat(s.path(name)) }
func (s sub) ReadLink(name string) (string, error)       { return s.Tree.ReadLink(s.path(name)) }
