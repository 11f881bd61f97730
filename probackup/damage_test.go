package probackup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/tests/fixture"
)

func replace(old, with string) func([]byte) []byte {
	return func(b []byte) []byte { return bytes.Replace(b, []byte(old), []byte(with), 1) }
}

// TestNoWrongBytes changes one byte of a stored file at a time: a file then
// reads as before or not at all.
func TestNoWrongBytes(t *testing.T) {
	catalog := linked(t, fixture.Shop(t))
	want := contents(t, openPoint(t, catalog, "TENT00", Options{}).Tree)
	random := rand.New(rand.NewPCG(1, 2))
	files := storedFiles(t, filepath.Join(catalog, "backups/shop"))
	refused := 0
	for range 100 {
		file := files[random.IntN(len(files))]
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		undo := harm(t, file, func(b []byte) []byte {
			b[random.IntN(len(data))] ^= byte(1 << random.IntN(8))
			return b
		})
		_, name, _ := strings.Cut(file, "/database/")
		got, err := openAndRead(t, catalog, name)
		switch {
		case errors.Is(err, pg0.ErrCorrupt):
			refused++
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			t.Errorf("%s: error = %v, want one that says corrupt", file, err)
		case err == nil && !bytes.Equal(got, want[name]):
			t.Errorf("%s: a changed byte changed what is read", file)
		}
		undo()
	}
	if refused < 30 {
		t.Errorf("only %d of 100 changed bytes were refused", refused)
	}
}

// openAndRead reads one file of TENT00 and closes the point.
func openAndRead(t *testing.T, catalog, name string) ([]byte, error) {
	t.Helper()
	c, err := Open(catalog, "", Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Open(t.Context(), "TENT00")
	if err != nil {
		return nil, err
	}
	defer p.Close()
	return readFile(p.Tree, name)
}

// storedFiles lists the files below database of all backups that hold bytes.
func storedFiles(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !strings.Contains(name, "/database/") {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() > 0 {
			files = append(files, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func readFile(tree fs.FS, name string) ([]byte, error) {
	f, err := tree.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

func contents(t *testing.T, tree pg0.Tree) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			all[strings.Replace(name, shadowDir, tablespaceDir, 1)], err = readFile(tree, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestDamagedMapIsScanned(t *testing.T) {
	catalog := linked(t, fixture.Shop(t))
	want := wanted(t, "shop-truth/files-thu.sha256")
	for _, change := range []func([]byte) []byte{
		func(b []byte) []byte { return b[:len(b)/2] },
		func(b []byte) []byte { return bytes.Repeat([]byte{0xaa}, len(b)) },
	} {
		var undo []func()
		for _, id := range []string{"TEI900", "TEK3O0", "TELYC0", "TENT00"} {
			undo = append(undo, harm(t, filepath.Join(catalog, "backups/shop", id, mapName), change))
		}
		got := sums(t, openPoint(t, catalog, "TENT00", Options{}).Tree)
		for name, sum := range want {
			if got[name] != sum {
				t.Errorf("%s differs from the tool's restore", name)
			}
		}
		for _, f := range undo {
			f()
		}
	}
}

// TestRefusals opens catalogs that are damaged as a whole.
func TestRefusals(t *testing.T) {
	catalog := linked(t, fixture.Shop(t))
	dir := filepath.Join(catalog, "backups/shop")
	status := func(s string) func([]byte) []byte { return replace("status = OK", "status = "+s) }
	for _, test := range []struct {
		name, file string
		change     func([]byte) []byte
		open       string
		is         error
		says       string
	}{
		{"list", "TEI900/backup_content.control", flip(100), "TENT00", pg0.ErrCorrupt, "backup TEI900 is corrupt: backup_content.control"},
		{"control of a member", "TEK3O0/backup.control", func([]byte) []byte { return nil }, "TENT00", pg0.ErrUnusable, "backup TEK3O0 cannot be read"},
		{"own control", "TENT00/backup.control", func([]byte) []byte { return nil }, "TENT00", pg0.ErrUnusable, "no start-time"},
		{"control without status", "TENT00/backup.control", replace("status", "sXatus"), "TENT00", pg0.ErrUnusable, "status"},
		{"error", "TENT00/backup.control", status("ERROR"), "TENT00", pg0.ErrUnusable, "did not finish"},
		{"running member", "TEK3O0/backup.control", status("RUNNING"), "TENT00", pg0.ErrUnusable, "chain needs backup TEK3O0"},
		{"corrupt", "TENT00/backup.control", status("CORRUPT"), "TENT00", pg0.ErrUnusable, "CORRUPT"},
		{"unknown status", "TENT00/backup.control", status("FROZEN"), "TENT00", pg0.ErrUnusable, "FROZEN"},
		{"too new", "TEI900/backup.control", replace("2.5.16", "3.0.1"), "TEI900", pg0.ErrUnusable, "3.0.1"},
		{"too old", "TEI900/backup.control", replace("2.5.16", "1.1.9"), "TEI900", pg0.ErrUnusable, "1.1.9"},
		{"enterprise", "TEI900/backup.control", replace("compress-alg = zlib", "compress-alg = zstd"), "TEI900", pg0.ErrUnusable, "compress_alg zstd is not supported (pg_probackup Enterprise)"},
		{"block size", "TEK3O0/backup.control", replace("block-size = 8192", "block-size = 16384"), "TENT00", pg0.ErrUnusable, "another block size"},
		{"other server", "TEK3O0/backup.control", replace("server-version = 15", "server-version = 14"), "TENT00", pg0.ErrUnusable, "PostgreSQL 14"},
		{"cycle", "TEK3O0/backup.control", replace("'TEI900'", "'TELYC0'"), "TENT00", pg0.ErrUnusable, "not older than its child"},
		{"other cluster", "pg_probackup.conf", replace("7635943328547681869", "7635943328547681868"), "TEI900", pg0.ErrUnusable, "7635943328547681869"},
		{"timeline", "TEI900/backup.control", replace("start-lsn = 0/1B00028", "start-lsn = 0/1B00029"), "TEI900", pg0.ErrCorrupt, "backup_label"},
	} {
		t.Run(test.name, func(t *testing.T) {
			defer harm(t, filepath.Join(dir, test.file), test.change)()
			c, err := Open(catalog, "shop", Options{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Open(t.Context(), test.open)
			if !errors.Is(err, test.is) || !strings.Contains(fmt.Sprint(err), test.says) {
				t.Errorf("error = %v, want %v with %q", err, test.is, test.says)
			}
			infos, perr := c.Points(t.Context())
			if perr != nil {
				t.Error(perr)
			}
			for _, info := range infos {
				if info.ID == test.open && test.is == pg0.ErrUnusable && info.Unusable == "" && test.name != "other cluster" {
					t.Errorf("points call %s usable", info.ID)
				}
			}
		})
	}
}

func TestMissingFilesAndMembers(t *testing.T) {
	catalog := linked(t, fixture.Shop(t))
	dir := filepath.Join(catalog, "backups/shop")
	p := openPoint(t, catalog, "TENT00", Options{})
	if err := os.Remove(filepath.Join(dir, "TEI900/database/base/16385/2619")); err != nil {
		t.Fatal(err)
	}
	_, err := readFile(p.Tree, "base/16385/2619")
	if !errors.Is(err, pg0.ErrCorrupt) || !strings.Contains(fmt.Sprint(err), "TEI900") || !strings.Contains(fmt.Sprint(err), "base/16385/2619") {
		t.Errorf("error = %v, want damage of the file", err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "TEI900")); err != nil {
		t.Fatal(err)
	}
	_, err = readFile(p.Tree, "base/16385/2619")
	if !errors.Is(err, pg0.ErrUnusable) || errors.Is(err, pg0.ErrCorrupt) || !strings.Contains(fmt.Sprint(err), "TEI900 was deleted or merged meanwhile") {
		t.Errorf("error = %v, want one that says deleted", err)
	}
	c, err := Open(catalog, "", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = c.Open(t.Context(), "TENT00"); !errors.Is(err, pg0.ErrUnusable) || !strings.Contains(fmt.Sprint(err), "TEI900, the parent of TEK3O0, is missing") {
		t.Errorf("error = %v, want one that names the missing backup", err)
	}
	if _, err = c.Open(t.Context(), "NOSUCH"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error = %v, want one that says missing", err)
	}
}

func textLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
