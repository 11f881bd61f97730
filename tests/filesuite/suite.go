package filesuite

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// sum reads a whole file.
func sum(t testing.TB, f FS, name string, size int64) []byte {
	t.Helper()
	s := sha256.Sum256(read(t, f, name, 0, int(size)+1))
	return s[:8]
}

// read gives up to n bytes of a file.
func read(t testing.TB, f FS, name string, off int64, n int) []byte {
	t.Helper()
	file, err := f.Open(name, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	return readFile(t, file, off, n)
}

func readFile(t testing.TB, file File, off int64, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	n, err := file.ReadAt(b, off)
	if err != nil && err != io.EOF {
		t.Fatalf("read at %d: %v", off, err)
	}
	return b[:n]
}

// Run tests every operation that PostgreSQL uses. Each test gets its own tree,
// made by open, that shows what Base makes.
func Run(t *testing.T, open func(t *testing.T) FS) {
	tests := []struct {
		name string
		run  func(*T)
	}{
		{"Read", testRead},
		{"WriteOneBlock", testWriteOneBlock},
		{"WriteInPart", testWriteInPart},
		{"Append", testAppend},
		{"TruncateAndRegrow", testTruncateAndRegrow},
		{"TruncateInsideBlock", testTruncateInsideBlock},
		{"TruncateToNothing", testTruncateToNothing},
		{"Allocate", testAllocate},
		{"Exclusive", testExclusive},
		{"UnlinkWhileOpen", testUnlinkWhileOpen},
		{"UnlinkWhileOpenNew", testUnlinkWhileOpenNew},
		{"RenameOverOpen", testRenameOverOpen},
		{"RenameDirectory", testRenameDirectory},
		{"RenameErrors", testRenameErrors},
		{"HardLink", testHardLink},
		{"Symlink", testSymlink},
		{"Tablespace", testTablespace},
		{"Directories", testDirectories},
		{"DropDatabase", testDropDatabase},
		{"Permissions", testPermissions},
		{"Times", testTimes},
		{"Names", testNames},
		{"Holes", testHoles},
		{"Sync", testSync},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(&T{t, open(t)}) })
	}
}

// T is a test and its tree.
type T struct {
	*testing.T
	FS
}

func (t *T) open(name string, flag int) File {
	t.Helper()
	f, err := t.Open(name, flag, 0o600)
	if err != nil {
		t.Fatalf("open %s: %v", name, err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func (t *T) must(err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (t *T) wantErr(err error, want syscall.Errno) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}

func (t *T) write(f File, b []byte, off int64) {
	t.Helper()
	if n, err := f.WriteAt(b, off); err != nil || n != len(b) {
		t.Fatalf("write %d bytes at %d: %d, %v", len(b), off, n, err)
	}
}

func (t *T) want(f File, want []byte) {
	t.Helper()
	got := readFile(t, f, 0, len(want)+10)
	if !bytes.Equal(got, want) {
		t.Fatalf("content differs: %d bytes, want %d, first difference at %d", len(got), len(want), firstDiff(got, want))
	}
	i, err := f.Stat()
	t.must(err)
	if i.Size != int64(len(want)) {
		t.Fatalf("size is %d, want %d", i.Size, len(want))
	}
}

func firstDiff(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func testRead(t *T) {
	t.want(t.open("base/1/101", os.O_RDONLY), Bytes(102, 3*Block+100))
	t.want(t.open("base/1/102", os.O_RDONLY), nil)
	whole := Bytes(103, 200*Block)
	f := t.open("base/1/103", os.O_RDONLY)
	for _, off := range []int64{0, 1, Block - 1, Block, 63*Block + 5, 199 * Block, 200*Block - 1} {
		n := min(3*Block, len(whole)-int(off))
		if got := readFile(t, f, off, n); !bytes.Equal(got, whole[off:int(off)+n]) {
			t.Errorf("at %d: wrong bytes", off)
		}
	}
	if got := readFile(t, f, 300*Block, 10); len(got) != 0 {
		t.Errorf("%d bytes behind the end", len(got))
	}
}

func testWriteOneBlock(t *T) {
	want := Bytes(103, 200*Block)
	f := t.open("base/1/103", os.O_RDWR)
	for _, block := range []int{0, 64, 127, 128, 199, 65, 66} {
		b := Bytes(uint64(block+1000), Block)
		copy(want[block*Block:], b)
		t.write(f, b, int64(block*Block))
	}
	t.want(f, want)
}

func testWriteInPart(t *T) {
	want := Bytes(100, 5*Block)
	f := t.open("base/1/100", os.O_RDWR)
	for _, w := range []struct{ off, n int }{
		{4096, 4096}, {0, 100}, {Block + 10, 3}, {2*Block - 5, 10}, {3*Block - 100, 2 * Block},
	} {
		b := Bytes(uint64(w.off), w.n)
		copy(want[w.off:], b)
		t.write(f, b, int64(w.off))
		t.want(f, want)
	}
}

func testAppend(t *T) {
	want := Bytes(102, 3*Block+100)
	f := t.open("base/1/101", os.O_RDWR)
	for i, n := range []int{1, 50, Block, 3 * Block, 7} {
		b := Bytes(uint64(i), n)
		t.write(f, b, int64(len(want)))
		want = append(want, b...)
		t.want(f, want)
	}
}

func testTruncateAndRegrow(t *T) {
	want := Bytes(100, 5*Block)
	f := t.open("base/1/100", os.O_RDWR)
	t.must(f.Truncate(2 * Block))
	t.want(f, want[:2*Block])
	t.must(f.Truncate(5 * Block))
	clear(want[2*Block:])
	t.want(f, want)
	b := Bytes(7, Block)
	t.write(f, b, 6*Block)
	t.want(f, append(append(want, make([]byte, Block)...), b...))
}

func testTruncateInsideBlock(t *T) {
	want := Bytes(100, 5*Block)
	f := t.open("base/1/100", os.O_RDWR)
	t.write(f, want[:2*Block], 0) // the first two blocks are the layer's now
	for _, size := range []int{4*Block + 17, Block + 5} {
		t.must(f.Truncate(int64(size)))
		t.want(f, want[:size])
		t.must(f.Truncate(5 * Block))
		clear(want[size:])
		t.want(f, want)
	}
}

func testTruncateToNothing(t *T) {
	t.must(t.Truncate("base/1/100", 0))
	f := t.open("base/1/100", os.O_RDWR)
	t.want(f, nil)
	b := Bytes(5, 100)
	t.write(f, b, Block)
	t.want(f, append(make([]byte, Block), b...))
	g := t.open("base/1/101", os.O_RDWR|os.O_TRUNC)
	t.want(g, nil)
}

func testAllocate(t *T) {
	want := Bytes(100, 5*Block)
	f := t.open("base/1/100", os.O_RDWR)
	t.must(f.Allocate(5*Block, 8*Block))
	want = append(want, make([]byte, 8*Block)...)
	t.want(f, want)
	t.must(f.Allocate(0, Block)) // inside: nothing changes
	t.want(f, want)
	b := Bytes(9, 2*Block)
	copy(want[7*Block:], b)
	t.write(f, b, 7*Block)
	t.want(f, want)
}

func testExclusive(t *T) {
	f := t.open("postmaster.pid", os.O_RDWR|os.O_CREATE|os.O_EXCL)
	t.write(f, []byte("1\n"), 0)
	_, err := t.Open("postmaster.pid", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	t.wantErr(err, syscall.EEXIST)
	_, err = t.Open("PG_VERSION", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	t.wantErr(err, syscall.EEXIST)
	t.must(t.Unlink("PG_VERSION"))
	t.want(t.open("PG_VERSION", os.O_RDWR|os.O_CREATE|os.O_EXCL), nil)
}

func testUnlinkWhileOpen(t *T) {
	want := Bytes(100, 5*Block)
	f := t.open("base/1/100", os.O_RDWR)
	t.must(t.Unlink("base/1/100"))
	_, err := t.Open("base/1/100", os.O_RDONLY, 0)
	t.wantErr(err, syscall.ENOENT)
	t.want(f, want)
	b := Bytes(3, Block)
	copy(want[Block:], b)
	t.write(f, b, Block)
	t.want(f, want)
	other := t.open("base/1/100", os.O_RDWR|os.O_CREATE)
	t.write(other, []byte("new"), 0)
	t.want(f, want)
	t.want(other, []byte("new"))
}

func testUnlinkWhileOpenNew(t *T) {
	f := t.open("base/1/new", os.O_RDWR|os.O_CREATE)
	b := Bytes(3, 3*Block)
	t.write(f, b, 0)
	t.must(t.Unlink("base/1/new"))
	i, err := f.Stat()
	t.must(err)
	if i.Nlink != 0 {
		t.Errorf("%d links, want none", i.Nlink)
	}
	t.want(f, b)
	t.must(f.Truncate(Block))
	t.want(f, b[:Block])
	_, err = t.Lstat("base/1/new")
	t.wantErr(err, syscall.ENOENT)
}

func testRenameOverOpen(t *T) {
	old := t.open("base/1/100", os.O_RDWR)
	f := t.open("base/1/tmp", os.O_RDWR|os.O_CREATE|os.O_EXCL)
	b := Bytes(11, 2*Block)
	t.write(f, b, 0)
	t.must(f.Sync())
	t.must(t.Rename("base/1/tmp", "base/1/100"))
	t.must(t.SyncDir("base/1"))
	t.want(old, Bytes(100, 5*Block))
	t.want(f, b)
	t.want(t.open("base/1/100", os.O_RDONLY), b)
	_, err := t.Lstat("base/1/tmp")
	t.wantErr(err, syscall.ENOENT)
	// A file of the base over another one, and back again.
	t.must(t.Rename("base/1/101", "base/1/102"))
	t.want(t.open("base/1/102", os.O_RDONLY), Bytes(102, 3*Block+100))
	t.must(t.Rename("base/1/102", "base/1/101"))
	t.want(t.open("base/1/101", os.O_RDONLY), Bytes(102, 3*Block+100))
	_, err = t.Lstat("base/1/102")
	t.wantErr(err, syscall.ENOENT)
}

func testRenameDirectory(t *T) {
	f := t.open("base/1/100", os.O_RDWR)
	t.must(t.Rename("base/1", "global/one"))
	t.want(t.open("global/one/101", os.O_RDONLY), Bytes(102, 3*Block+100))
	b := Bytes(4, Block)
	t.write(f, b, 0)
	if got := read(t, t, "global/one/100", 0, Block); !bytes.Equal(got, b) {
		t.Error("a write through the old handle is not seen under the new name")
	}
	_, err := t.Lstat("base/1")
	t.wantErr(err, syscall.ENOENT)
	t.must(t.Mkdir("base/1", 0o700))
	names, err := t.List("base/1")
	t.must(err)
	if len(names) != 0 {
		t.Errorf("a new directory has %v", names)
	}
	t.must(t.Rename("global/one", "base/1"))
	names, err = t.List("base/1")
	t.must(err)
	if diff := cmp.Diff([]string{"100", "100.1", "101", "102", "103"}, names); diff != "" {
		t.Error(diff)
	}
}

func testRenameErrors(t *T) {
	t.wantErr(t.Rename("base/none", "base/x"), syscall.ENOENT)
	t.wantErr(t.Rename("base/1/100", "none/x"), syscall.ENOENT)
	t.wantErr(t.Rename("base", "base/1/base"), syscall.EINVAL)
	t.wantErr(t.Rename("base/1/100", "base/2"), syscall.EISDIR)
	t.wantErr(t.Rename("base/2", "base/1/100"), syscall.ENOTDIR)
	t.wantErr(t.Rename("empty", "base/2"), syscall.ENOTEMPTY)
	t.must(t.Rename("base/1/100", "base/1/100"))
	t.must(t.Rename("base/2", "empty"))
	t.want(t.open("empty/100", os.O_RDONLY), Bytes(104, Block))
}

func testHardLink(t *T) {
	t.must(t.Link("base/1/100", "base/2/linked"))
	f, g := t.open("base/1/100", os.O_RDWR), t.open("base/2/linked", os.O_RDWR)
	a, err := t.Lstat("base/1/100")
	t.must(err)
	b, err := t.Lstat("base/2/linked")
	t.must(err)
	if a.Ino != b.Ino || a.Nlink != 2 || b.Nlink != 2 {
		t.Errorf("%+v and %+v are not one file", a, b)
	}
	block := Bytes(5, Block)
	t.write(f, block, Block)
	if got := readFile(t, g, Block, Block); !bytes.Equal(got, block) {
		t.Error("a write is not seen under the other name")
	}
	t.wantErr(t.Link("base/1/100", "base/1/101"), syscall.EEXIST)
	t.must(t.Unlink("base/1/100"))
	t.must(t.Rename("base/2/linked", "base/1/100"))
	if b, err = t.Lstat("base/1/100"); err != nil || b.Nlink != 1 {
		t.Errorf("%+v, %v", b, err)
	}
}

func testSymlink(t *T) {
	t.must(t.Symlink("base/1/100", "link"))
	target, err := t.Readlink("link")
	t.must(err)
	if target != "base/1/100" {
		t.Errorf("target is %q", target)
	}
	i, err := t.Lstat("link")
	t.must(err)
	if i.Mode&syscall.S_IFMT != syscall.S_IFLNK || i.Size != int64(len(target)) {
		t.Errorf("%+v", i)
	}
	if target, err = t.Readlink("pg_tblspc/7"); err != nil || target != "../.pg0_tblspc/7" {
		t.Errorf("%q, %v", target, err)
	}
	_, err = t.Readlink("PG_VERSION")
	t.wantErr(err, syscall.EINVAL)
	t.must(t.Rename("pg_tblspc/7", "moved"))
	if target, err = t.Readlink("moved"); err != nil || target != "../.pg0_tblspc/7" {
		t.Errorf("%q, %v", target, err)
	}
}

// testTablespace is about a rule of pg0's own: links to tablespaces stay inside.
func testTablespace(t *T) {
	if _, native := t.FS.(Dir); native && !t.isMount() {
		return
	}
	t.must(t.Symlink("/srv/original/place", "pg_tblspc/16500"))
	target, err := t.Readlink("pg_tblspc/16500")
	t.must(err)
	if target != "../.pg0_tblspc/16500" {
		t.Errorf("the link leads to %q", target)
	}
	f := t.open(".pg0_tblspc/16500/PG_15_202173897/x", os.O_RDWR|os.O_CREATE)
	t.write(f, []byte("inside"), 0)
}

func (t *T) isMount() bool {
	var st syscall.Statfs_t
	return syscall.Statfs(string(t.FS.(Dir)), &st) == nil && st.Type == 0x65735546 // FUSE_SUPER_MAGIC
}

func testDirectories(t *T) {
	t.must(t.Mkdir("base/3", 0o700))
	t.wantErr(t.Mkdir("base/3", 0o700), syscall.EEXIST)
	t.wantErr(t.Mkdir("base/1", 0o700), syscall.EEXIST)
	t.open("base/3/PG_VERSION", os.O_RDWR|os.O_CREATE)
	t.wantErr(t.Rmdir("base/3"), syscall.ENOTEMPTY)
	t.wantErr(t.Rmdir("base/2"), syscall.ENOTEMPTY)
	t.wantErr(t.Rmdir("PG_VERSION"), syscall.ENOTDIR)
	t.wantErr(t.Rmdir("none"), syscall.ENOENT)
	t.wantErr(t.Unlink("base/1"), syscall.EISDIR)
	t.must(t.Unlink("base/3/PG_VERSION"))
	t.must(t.Rmdir("base/3"))
	t.must(t.Rmdir("empty"))
	names, err := t.List(".")
	t.must(err)
	if diff := cmp.Diff([]string{"PG_VERSION", "base", "global", "pg_tblspc", "pg_wal"}, names); diff != "" {
		t.Error(diff)
	}
	_, err = t.Lstat("PG_VERSION/x")
	t.wantErr(err, syscall.ENOTDIR)
}

func testDropDatabase(t *T) {
	for _, dir := range []string{"base/1", "base/2"} {
		names, err := t.List(dir)
		t.must(err)
		for _, name := range names {
			t.must(t.Truncate(dir+"/"+name, 0))
			t.must(t.Unlink(dir + "/" + name))
		}
		t.must(t.Rmdir(dir))
	}
	names, err := t.List("base")
	t.must(err)
	if len(names) != 0 {
		t.Errorf("left: %v", names)
	}
	t.must(t.Mkdir("base/1", 0o700))
	_, err = t.Lstat("base/1/100")
	t.wantErr(err, syscall.ENOENT)
}

func testPermissions(t *T) {
	i, err := t.Lstat("base/1/100")
	t.must(err)
	if i.Mode != syscall.S_IFREG|0o600 {
		t.Errorf("mode %o", i.Mode)
	}
	t.must(t.Chmod("base/1/100", 0o640))
	t.must(t.Chmod("base", 0o750))
	for name, want := range map[string]uint32{"base/1/100": syscall.S_IFREG | 0o640, "base": syscall.S_IFDIR | 0o750} {
		if i, err = t.Lstat(name); err != nil || i.Mode != want {
			t.Errorf("%s: mode %o, want %o (%v)", name, i.Mode, want, err)
		}
	}
}

func testTimes(t *T) {
	past := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	i, err := t.Lstat("base/1/100")
	t.must(err)
	if !i.Mtime.Equal(past) {
		t.Errorf("a file of the base is of %v, want %v", i.Mtime, past)
	}
	then := time.Date(2001, 2, 3, 4, 5, 6, 789000, time.UTC)
	t.must(t.Chtimes("base/1/100", then))
	if i, err = t.Lstat("base/1/100"); err != nil || !i.Mtime.Equal(then) {
		t.Errorf("%v, %v", i.Mtime, err)
	}
	f := t.open("base/1/101", os.O_RDWR)
	t.write(f, []byte("x"), 0)
	if i, err = f.Stat(); err != nil || !i.Mtime.After(past.Add(time.Hour)) {
		t.Errorf("a written file is of %v, %v", i.Mtime, err)
	}
}

func testNames(t *T) {
	for _, name := range []string{"a b", "ü", "\\134", "new\nline", ".hidden"} {
		t.must(t.Mkdir("empty/"+name, 0o700))
		t.must(t.Rmdir("empty/" + name))
	}
	long := string(bytes.Repeat([]byte("x"), 256))
	t.wantErr(t.Mkdir("empty/"+long, 0o700), syscall.ENAMETOOLONG)
	t.must(t.Mkdir("empty/"+long[1:], 0o700))
	_, err := t.Lstat("none/x")
	t.wantErr(err, syscall.ENOENT)
}

func testHoles(t *T) {
	f := t.open("hole", os.O_RDWR|os.O_CREATE)
	b := Bytes(1, 100)
	t.write(f, b, 70*Block+50)
	t.want(f, append(make([]byte, 70*Block+50), b...))
	c := Bytes(2, 3*Block)
	t.write(f, c, 10*Block+1)
	if got := readFile(t, f, 10*Block, 3*Block+2); !bytes.Equal(got[1:3*Block+1], c) || got[0] != 0 || got[3*Block+1] != 0 {
		t.Error("a write into a hole reads differently")
	}
}

func testSync(t *T) {
	f := t.open("base/1/100", os.O_RDWR)
	t.write(f, Bytes(1, Block), 0)
	t.must(f.Sync())
	t.must(f.Sync())
	t.must(t.Unlink("base/1/100"))
	t.must(f.Sync())
	t.must(t.SyncDir("base/1"))
	t.must(t.SyncDir("."))
}
