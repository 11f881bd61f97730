package filesuite

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fukanchik/pg0"
)

// Block is the unit in which a cow.Store keeps changes.
const Block = 8192

// Bytes gives n bytes that depend on a seed and are never all zeros.
func Bytes(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, 0, n+8)
	for len(b) < n {
		b = binary.LittleEndian.AppendUint64(b, r.Uint64()|0x0101010101010101)
	}
	return b[:n:n]
}

// Base makes a directory that looks like a small cluster: files of several
// lengths, directories, links.
func Base(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"base/1", "base/2", "global", "pg_wal/archive_status", "pg_tblspc", "empty"} {
		must(os.MkdirAll(filepath.Join(dir, d), 0o700))
	}
	control := make([]byte, Block)
	copy(control[12:], []byte{0xc9, 0xed, 0x0c, 0x0c}) // catalog version 202173897
	files := map[string][]byte{
		"PG_VERSION":                      []byte("15\n"),
		"global/pg_control":               control,
		"global/1262":                     Bytes(1262, Block),
		"base/1/100":                      Bytes(100, 5*Block),
		"base/1/100.1":                    Bytes(101, 2*Block),
		"base/1/101":                      Bytes(102, 3*Block+100),
		"base/1/102":                      {},
		"base/1/103":                      Bytes(103, 200*Block),
		"base/2/100":                      Bytes(104, Block),
		"pg_wal/000000010000000000000001": Bytes(105, 32*Block),
	}
	for name, b := range files {
		must(os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	must(os.Symlink("../.pg0_tblspc/7", filepath.Join(dir, "pg_tblspc/7")))
	past := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	for name := range files {
		must(os.Chtimes(filepath.Join(dir, name), past, past))
	}
	return dir
}

// Tree shows a directory of the operating system as a tree.
func Tree(dir string) pg0.Tree { return osTree{os.DirFS(dir).(pg0.Tree)} }

// osTree refuses to follow links, as a tree must.
type osTree struct{ pg0.Tree }

func (t osTree) Open(name string) (fs.File, error) {
	info, err := t.Lstat(name)
	if err != nil {
		return nil, err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.ELOOP}
	}
	return t.Tree.Open(name)
}

// CopyDir copies a directory tree with its links and times of files.
func CopyDir(t testing.TB, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, name)
		dst := filepath.Join(to, rel)
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			return os.MkdirAll(dst, info.Mode().Perm())
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(name)
			if err != nil {
				return err
			}
			return os.Symlink(target, dst)
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(dst, b, info.Mode().Perm()); err != nil {
			return err
		}
		return os.Chtimes(dst, info.ModTime(), info.ModTime())
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Dump describes everything in a tree, one line a name: type, permissions,
// length, links, content. Two trees with the same dump are the same.
func Dump(t testing.TB, f FS) []string {
	t.Helper()
	return dump(t, f, ".", nil)
}

func dump(t testing.TB, f FS, dir string, out []string) []string {
	t.Helper()
	names, err := f.List(dir)
	if err != nil {
		t.Fatalf("list %s: %v", dir, err)
	}
	for _, name := range names {
		p := filepath.Join(dir, name)
		i, err := f.Lstat(p)
		if err != nil {
			t.Fatalf("lstat %s: %v", p, err)
		}
		switch i.Mode & syscall.S_IFMT {
		case syscall.S_IFDIR:
			out = append(out, fmt.Sprintf("%s %o", p, i.Mode))
			out = dump(t, f, p, out)
		case syscall.S_IFLNK:
			target, err := f.Readlink(p)
			if err != nil {
				t.Fatalf("readlink %s: %v", p, err)
			}
			out = append(out, fmt.Sprintf("%s -> %s", p, target))
		default:
			out = append(out, fmt.Sprintf("%s %o %d %d %x", p, i.Mode, i.Size, i.Nlink, sum(t, f, p, i.Size)))
		}
	}
	return out
}

// DumpTree describes everything in a tree, as Dump does but for links.
func DumpTree(t testing.TB, tree pg0.Tree) []string {
	t.Helper()
	var out []string
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := tree.Lstat(name)
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %v", name, info.Mode())
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := tree.ReadLink(name)
			if err != nil {
				return err
			}
			line += " -> " + target
		case info.Mode().IsRegular():
			b, err := fs.ReadFile(tree, name)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %s %x", info.Size(), info.ModTime().UTC(), sha256.Sum256(b))
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Sums lists the regular files of a tree as sha256sum does, sorted.
func Sums(t testing.TB, tree pg0.Tree) string {
	t.Helper()
	var lines []string
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := fs.ReadFile(tree, name)
		if err == nil {
			lines = append(lines, fmt.Sprintf("%x  ./%s\n", sha256.Sum256(b), name))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[64:], b[64:]) })
	return strings.Join(lines, "")
}
