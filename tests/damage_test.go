package tests

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/fukanchik/pg0/tests/fixture"
	"github.com/fukanchik/pg0/tests/program"
)

// damages are what can happen to a catalog. Each changes files of the chain of
// Thursday's backup, which is Wednesday's delta over Tuesday's over Monday's.
var damages = []struct {
	name   string
	change func(t *testing.T, backups string)
	// lists: the damage is in what says which files there are, so that the
	// backup is refused before anything is mounted.
	lists bool
	// unread: some file cannot be read.
	unread bool
}{
	{name: "flipped bytes in pages", unread: true, change: func(t *testing.T, b string) { flipAll(t, largest(t, b, "TEI900")) }},
	{name: "flipped bytes in uncompressed pages", unread: true, change: func(t *testing.T, b string) { flipAll(t, filepath.Join(b, "TEK3O0", "database/base/16385/16414")) }},
	{name: "flipped byte in a record's header", change: func(t *testing.T, b string) { flip(t, largest(t, b, "TEK3O0"), 1) }},
	{name: "flipped byte in the header map", change: func(t *testing.T, b string) { flip(t, filepath.Join(b, "TEI900", "page_header_map"), 700) }},
	{name: "flipped byte in a plain file", unread: true, change: func(t *testing.T, b string) { flip(t, filepath.Join(b, "TENT00", "database/pg_xact/0000"), 10) }},
	{name: "truncated file", unread: true, change: func(t *testing.T, b string) { truncate(t, largest(t, b, "TEI900"), 9000) }},
	{name: "missing file", unread: true, change: func(t *testing.T, b string) { remove(t, largest(t, b, "TEI900")) }},
	{name: "missing header map", change: func(t *testing.T, b string) { remove(t, filepath.Join(b, "TEI900", "page_header_map")) }},
	{name: "flipped byte in the list", lists: true, change: func(t *testing.T, b string) { flip(t, filepath.Join(b, "TEK3O0", "backup_content.control"), 3000) }},
	{name: "truncated list", lists: true, change: func(t *testing.T, b string) { truncate(t, filepath.Join(b, "TENT00", "backup_content.control"), 500) }},
	{name: "missing list", lists: true, change: func(t *testing.T, b string) { remove(t, filepath.Join(b, "TEI900", "backup_content.control")) }},
	{name: "missing chain member", lists: true, change: func(t *testing.T, b string) { remove(t, filepath.Join(b, "TEK3O0")) }},
	{name: "missing backup.control", lists: true, change: func(t *testing.T, b string) { remove(t, filepath.Join(b, "TEI900", "backup.control")) }},
}

// TestDamage damages catalogs: whatever is read is the truth, or an error that
// says where.
func TestDamage(t *testing.T) {
	want := fixture.Sums(t, filepath.Join("shop-truth", "files-thu.sha256"))
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			catalog := fixture.Copy(t, fixture.ShopCatalog)
			d.change(t, filepath.Join(catalog, "backups", fixture.ShopCatalog.Instance))
			pg0 := program.New(t)
			mountpoint := pg0.Mountpoint()
			r := pg0.Run("mount", "--raw", "-B", catalog, "-i", "TENT00", mountpoint)
			if r.Code == 0 {
				if broken := readDamaged(t, pg0, mountpoint, want); len(broken) > 0 != d.unread {
					t.Errorf("files that cannot be read: %v", broken)
				}
				if d.lists {
					t.Error("it was mounted")
				}
			} else if !d.lists || !refusedWell(r) {
				t.Errorf("exit code %d: %s", r.Code, r.Stderr)
			}
			if d.lists || d.unread {
				recoverDamaged(t, pg0, catalog)
			}
		})
	}
}

// refusedWell says whether a refusal is one line, with a code that speaks of
// the backup, and names it.
func refusedWell(r program.Result) bool {
	const refused, notFound, corrupt = 4, 6, 9
	return slices.Contains([]int{refused, notFound, corrupt}, r.Code) && strings.Count(r.Stderr, "\n") == 1 && strings.Contains(r.Stderr, "TE")
}

// readDamaged reads everything in a mount of the bare backup and gives the files
// with I/O errors.
func readDamaged(t *testing.T, pg0 *program.Program, mountpoint string, want map[string]string) (broken []string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		sum, err := sumFile(filepath.Join(mountpoint, name))
		switch {
		case errors.Is(err, syscall.EIO):
			broken = append(broken, filepath.Base(name))
		case err != nil:
			t.Error(err)
		case sum != want[name]:
			t.Errorf("%s: other bytes than the truth", name)
		}
	}
	log, err := os.ReadFile(pg0.Status(mountpoint).Log)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range broken {
		if !strings.Contains(string(log), name) {
			t.Errorf("the log does not name %s:\n%s", name, log)
		}
	}
	return broken
}

// recoverDamaged lets PostgreSQL have the backup: it recovers and gives the
// truth, or errors, or pg0 says that the backup is damaged.
func recoverDamaged(t *testing.T, pg0 *program.Program, catalog string) {
	t.Helper()
	mountpoint := pg0.Mountpoint()
	r := pg0.Run("mount", "--start", "-B", catalog, "-i", "TENT00", mountpoint)
	if r.Code != 0 {
		if !refusedWell(r) {
			t.Errorf("exit code %d: %s", r.Code, r.Stderr)
		}
		return
	}
	conn := pg0.Connect(mountpoint, "shop")
	for name, want := range weekTruth(t)["thu"] {
		schema, table, _ := strings.Cut(name, ".")
		got, err := program.TableSum(conn, schema, table)
		switch {
		case err != nil && !strings.Contains(err.Error(), "Input/output error"):
			t.Errorf("%s: %v", name, err)
		case err == nil && got != want:
			t.Errorf("%s: %+v, the truth is %+v", name, got, want)
		}
	}
}

// largest finds the largest data file of a backup's databases.
func largest(t *testing.T, backups, id string) string {
	t.Helper()
	var found string
	var size int64
	err := filepath.WalkDir(filepath.Join(backups, id, "database"), func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.Contains(name, "/pg_wal/") {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() > size {
			found, size = name, info.Size()
		}
		return err
	})
	if err != nil || size < 10000 {
		t.Fatalf("largest file %s of %d bytes: %v", found, size, err)
	}
	return found
}

func flip(t *testing.T, name string, offset int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	_, err = f.ReadAt(b, offset)
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%s is shorter than %d", name, offset)
	}
	b[0] ^= 0x55
	if err == nil {
		_, err = f.WriteAt(b, offset)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// flipAll damages every page, for newer backups hide most of them.
func flipAll(t *testing.T, name string) {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	for offset := int64(1000); offset < info.Size(); offset += 1000 {
		flip(t, name, offset)
	}
}

func truncate(t *testing.T, name string, size int64) {
	t.Helper()
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, name string) {
	t.Helper()
	if err := os.RemoveAll(name); err != nil {
		t.Fatal(err)
	}
}
