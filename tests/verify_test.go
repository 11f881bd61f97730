package tests

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"

	"github.com/fukanchik/pg0/tests/fixture"
	"github.com/fukanchik/pg0/tests/program"
)

// An injury is damage done to one file of the shop's backups, with what verify
// must say of it.
type injury struct {
	backup, file string // below the backup's database directory
	do           func(data []byte) []byte
	want         string // pattern of what follows the file's name
}

func at(offset int) func([]byte) []byte {
	return func(data []byte) []byte {
		if offset < 0 {
			offset += len(data)
		}
		data[offset] ^= 0x41
		return data
	}
}

// injuries are of every kind that storage does: bytes of pages, of records, of
// plain files; files that are short, long, swapped or gone.
var injuries = []injury{
	{"TEI900", "base/16385/1255", at(3000), ` block \d+: `},
	{"TEI900", "base/16385/1259", at(0), `: record at byte 0`},
	{"TEI900", "base/16385/1249", at(5), `: record at byte 0`},
	{"TEI900", "base/16385/2608", func(data []byte) []byte { return data[:len(data)-7] }, `: .*(short|size|bytes)`},
	{"TEI900", "base/16385/2609", func(data []byte) []byte { return append(data, "more"...) }, `: .*(size|bytes|long)`},
	{"TEI900", "base/16385/1247", func([]byte) []byte { return nil }, `: file is missing`},
	{"TEI900", "base/16385/2662", func(data []byte) []byte { clear(data[200:400]); return data }, ` block \d+: `},
	{"TEI900", "pg_xact/0000", at(10), `: .*checksum`},
	{"TEI900", "global/pg_filenode.map", at(100), `: .*checksum`},
	{"TEI900", "base/16385/1255_vm", at(-1), `: .*checksum`},
	{"TEK3O0", "base/16385/pg_filenode.map", at(100), `: .*checksum`},
	{"TEK3O0", "base/16385/1259", at(200), ` block \d+: `},
}

// TestMountVerify does damage of every kind to a catalog: verify finds each
// place and has exit code 9, and a bare mount gives an I/O error for each file
// instead of other bytes.
func TestMountVerify(t *testing.T) {
	t.Parallel()
	pg0 := program.New(t)
	sound := pg0.Mountpoint()
	pg0.Must("mount", "--raw", "-B", fixture.Shop(t), "-i", "TEK3O0", sound)
	catalog := fixture.Copy(t, fixture.ShopCatalog)
	for _, i := range injuries {
		name := filepath.Join(catalog, "backups/shop", i.backup, "database", i.file)
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if data = i.do(data); data == nil {
			err = os.Remove(name)
		} else {
			err = os.WriteFile(name, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	r := pg0.Run("verify", "-B", catalog, "-i", "TEK3O0", "-j", "2")
	const corrupt = 9
	if r.Code != corrupt {
		t.Errorf("verify: exit %d: %s", r.Code, r.Stderr)
	}
	for _, i := range injuries {
		pattern := "(?m)^" + i.backup + " " + regexp.QuoteMeta(i.file) + i.want
		if !regexp.MustCompile(pattern).MatchString(r.Stdout) {
			t.Errorf("verify does not say %q:\n%s", pattern, r.Stdout)
		}
	}
	damaged := pg0.Mountpoint()
	if r := pg0.Run("mount", "--raw", "-B", catalog, "-i", "TEK3O0", damaged); r.Code != 0 {
		t.Fatalf("mount: exit %d: %s", r.Code, r.Stderr)
	}
	for _, i := range injuries {
		if err := compareBlocks(filepath.Join(sound, i.file), filepath.Join(damaged, i.file)); err != nil {
			t.Error(err)
		}
	}
}

// compareBlocks reads a file page by page from a damaged catalog: each page is
// that of the sound one, or an I/O error.
func compareBlocks(sound, damaged string) error {
	want, err := os.ReadFile(sound)
	if err != nil {
		return err
	}
	file, err := os.Open(damaged)
	if errors.Is(err, syscall.EIO) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	const size = 8192
	for off := 0; off < len(want); off += size {
		page := make([]byte, min(size, len(want)-off))
		_, err := file.ReadAt(page, int64(off))
		switch {
		case errors.Is(err, syscall.EIO):
		case err != nil && !errors.Is(err, io.EOF):
			return fmt.Errorf("%s at %d: %w", damaged, off, err)
		case string(page) != string(want[off:off+len(page)]):
			return fmt.Errorf("%s at %d: other bytes are served", damaged, off)
		}
	}
	return nil
}
