package cow_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/fusefs/cow"
	"github.com/fukanchik/pg0/tests/filesuite"
)

func TestTree(t *testing.T) {
	base := filesuite.Base(t)
	s := openStore(t, base, cow.Options{})
	if diff := cmp.Diff(filesuite.DumpTree(t, filesuite.Tree(base)), filesuite.DumpTree(t, s.Tree())); diff != "" {
		t.Errorf("an unchanged store differs from its base:\n%s", diff)
	}
}

// TestTreeAsFS takes a small tree without links, which fstest would follow.
func TestTreeAsFS(t *testing.T) {
	base := t.TempDir()
	if err := errors.Join(
		os.MkdirAll(filepath.Join(base, "a/b"), 0o700),
		os.WriteFile(filepath.Join(base, "a/b/file"), []byte("base"), 0o600),
		os.WriteFile(filepath.Join(base, "a/gone"), []byte("base"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, base, cow.Options{})
	if err := errors.Join(s.WriteFile("a/new", []byte("new"), 0o600), s.RemoveAll("a/gone")); err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(s.Tree(), "a/b/file", "a/new"); err != nil {
		t.Error(err)
	}
}

// change does something of every kind.
func change(t testing.TB, s *cow.Store) {
	t.Helper()
	fsys := filesuite.Store{S: s}
	size := int64(block + 100)
	err := errors.Join(
		s.MkdirAll("new/dir", 0o700),
		s.WriteFile("new/dir/file", filesuite.Bytes(1, 3*block+5), 0o640),
		s.WriteFile("zeros", make([]byte, 2*block), 0o600),
		s.WriteFile("PG_VERSION", []byte("16\n"), 0o600),
		fsys.Rename("base/1/100", "base/2/renamed"),
		fsys.Link("base/1/101", "base/1/linked"),
		fsys.Symlink("dir/file", "new/link"),
		fsys.Truncate("base/2/renamed", size),
		fsys.Truncate("base/2/renamed", 3*block),
		s.RemoveAll("pg_wal"),
		s.RemoveAll("no/such/file"),
		fsys.Chmod("global", 0o750),
		s.Resize("base/1/102", 10*block),
	)
	if err != nil {
		t.Fatal(err)
	}
	f, err := fsys.Open("base/1/103", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int64{0, 1, 70, 199} {
		if _, err := f.WriteAt(filesuite.Bytes(uint64(n), block), n*block); err != nil {
			t.Fatal(err)
		}
	}
	// A block of zeros over the base must stay zeros.
	if _, err := f.WriteAt(make([]byte, block), 100*block); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestTouched(t *testing.T) {
	s := openStore(t, filesuite.Base(t), cow.Options{})
	if got, err := s.Touched(); err != nil || len(got) != 0 {
		t.Errorf("an unchanged store says %v, %v", got, err)
	}
	change(t, s)
	if err := (filesuite.Store{S: s}).Chmod("global/1262", 0o640); err != nil {
		t.Fatal(err)
	}
	got, err := s.Touched()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"PG_VERSION", "base/1/100", "base/1/102", "base/1/103", "pg_wal/000000010000000000000001"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestBaseUnharmed wants the base to be as before, to the byte and the time.
func TestBaseUnharmed(t *testing.T) {
	base := filesuite.Base(t)
	before := filesuite.DumpTree(t, filesuite.Tree(base))
	s := openStore(t, base, cow.Options{Dir: t.TempDir()})
	change(t, s)
	if err := s.Seal(filepath.Join(t.TempDir(), "image")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, filesuite.DumpTree(t, filesuite.Tree(base))); diff != "" {
		t.Error(diff)
	}
}

func TestOneBlockStored(t *testing.T) {
	s := openStore(t, filesuite.Base(t), cow.Options{})
	fsys := filesuite.Store{S: s}
	f, err := fsys.Open("base/1/103", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, block), 50*block); err != nil {
		t.Fatal(err)
	}
	if got := s.Usage(); got != block {
		t.Errorf("one block written takes %d bytes", got)
	}
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if got := s.Usage(); got != 0 {
		t.Errorf("an empty file takes %d bytes", got)
	}
}

func TestLimit(t *testing.T) {
	base := filesuite.Base(t)
	s := openStore(t, base, cow.Options{Limit: 40 * block})
	fsys := filesuite.Store{S: s}
	f, err := fsys.Open("base/1/103", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	data := filesuite.Bytes(1, 64*block)
	n, err := f.WriteAt(data, 0)
	if !errors.Is(err, syscall.ENOSPC) || n != 30*block {
		t.Fatalf("%d bytes stored, %v", n, err)
	}
	// The rest is for WAL alone, and blocks that exist can be written.
	wal, err := fsys.Open("pg_wal/000000010000000000000001", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := wal.WriteAt(data, 0); !errors.Is(err, syscall.ENOSPC) || n != 10*block {
		t.Fatalf("%d bytes of WAL stored, %v", n, err)
	}
	if _, err := f.WriteAt(data[:30*block], 0); err != nil {
		t.Error(err)
	}
	if got := s.Usage(); got != 40*block {
		t.Errorf("%d bytes in use", got)
	}
	got := make([]byte, 64*block)
	if _, err := f.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	want := append(append([]byte{}, data[:30*block]...), filesuite.Bytes(103, 200*block)[30*block:64*block]...)
	if !bytes.Equal(got, want) {
		t.Error("a write that ran out of space left other bytes")
	}
}

func TestAttachAndBusy(t *testing.T) {
	base, layer := filesuite.Base(t), t.TempDir()
	s := mustOpen(t, base, cow.Options{Dir: layer})
	if s.Attach() != nil {
		t.Error("a new layer is attached to something")
	}
	if err := s.SetAttach([]byte("record 1")); err != nil {
		t.Fatal(err)
	}
	if err := s.SetAttach([]byte("record 2")); err != nil {
		t.Fatal(err)
	}
	if _, err := cow.Open(filesuite.Tree(base), cow.Options{Dir: layer}); !errors.Is(err, cow.ErrBusy) {
		t.Errorf("a layer opened twice: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, base, cow.Options{Dir: layer})
	if got := string(s.Attach()); got != "record 2" {
		t.Errorf("attached to %q", got)
	}
}

func TestReadOnlyStore(t *testing.T) {
	base, layer := filesuite.Base(t), t.TempDir()
	s := mustOpen(t, base, cow.Options{Dir: layer})
	change(t, s)
	want := filesuite.DumpTree(t, s.Tree())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, base, cow.Options{Dir: layer, ReadOnly: true})
	if diff := cmp.Diff(want, filesuite.DumpTree(t, s.Tree())); diff != "" {
		t.Error(diff)
	}
	for op, err := range map[string]error{
		"write":  s.WriteFile("x", nil, 0o600),
		"remove": s.RemoveAll("PG_VERSION"),
		"attach": s.SetAttach(nil),
		"resize": s.Resize("PG_VERSION", 0),
	} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v", op, err)
		}
	}
}

// TestCompact rewrites the journal again and again and takes the layer up.
func TestCompact(t *testing.T) {
	base, layer := filesuite.Base(t), t.TempDir()
	s := mustOpen(t, base, cow.Options{Dir: layer})
	s.CompactAt(1)
	change(t, s)
	if err := s.SyncAll(); err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		if err := s.WriteFile(fmt.Sprintf("t%d", i%7), filesuite.Bytes(uint64(i), 100*i), 0o600); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			s.CompactAt(1)
			if err := s.SetAttach([]byte(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := filesuite.DumpTree(t, s.Tree())
	usage := s.Usage()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, base, cow.Options{Dir: layer})
	if diff := cmp.Diff(want, filesuite.DumpTree(t, s.Tree())); diff != "" {
		t.Error(diff)
	}
	if s.Usage() > usage {
		t.Errorf("%d bytes in use, %d before", s.Usage(), usage)
	}
	if got := string(s.Attach()); got != "290" {
		t.Errorf("attached to %q", got)
	}
}

// TestConcurrent is for the race detector.
func TestConcurrent(t *testing.T) {
	s := openStore(t, filesuite.Base(t), cow.Options{Dir: t.TempDir()})
	s.CompactAt(1 << 12)
	fsys := filesuite.Store{S: s}
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			f, err := fsys.Open("base/1/103", os.O_RDWR, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			buf := make([]byte, 4*block)
			mine := filesuite.Bytes(uint64(g), block)
			for i := range int64(100) {
				off := (int64(g)*30 + i%30) * block
				_, werr := f.WriteAt(mine, off)
				_, rerr := f.ReadAt(buf[:block], off)
				if werr != nil || rerr != nil || !bytes.Equal(buf[:block], mine) {
					t.Error("own block differs", werr, rerr)
					return
				}
				_, err := f.ReadAt(buf, i*block)
				tmp := fmt.Sprintf("tmp%d", g)
				err = errors.Join(err, s.WriteFile(tmp, mine, 0o600), fsys.Rename(tmp, tmp+"x"), s.RemoveAll(tmp+"x"))
				if i%10 == 0 {
					err = errors.Join(err, f.Sync())
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestReadAllocatesNothing guards the path of every page.
func TestReadAllocatesNothing(t *testing.T) {
	s := openStore(t, filesuite.Base(t), cow.Options{})
	dir, err := s.Lookup(cow.RootIno, "base")
	if err != nil {
		t.Fatal(err)
	}
	one, err := s.Lookup(dir.Ino, "1")
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.Lookup(one.Ino, "103")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.WriteAt(a.Ino, make([]byte, block), 3*block); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16*block)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := s.ReadAt(a.Ino, buf, 0); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a read", n)
	}
}

// TestManyFiles opens more files of the base than may be open at once.
func TestManyFiles(t *testing.T) {
	base := t.TempDir()
	const n = 1500
	for i := range n {
		if err := os.WriteFile(filepath.Join(base, fmt.Sprint(i)), []byte(fmt.Sprint(i)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := openStore(t, base, cow.Options{})
	before := openFDs(t)
	for i := range n {
		a, err := s.Lookup(cow.RootIno, fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 10)
		if k, err := s.ReadAt(a.Ino, buf, 0); err != nil || string(buf[:k]) != fmt.Sprint(i) {
			t.Fatalf("file %d reads %q, %v", i, buf[:k], err)
		}
	}
	if now := openFDs(t); now-before > 600 {
		t.Errorf("%d files are open", now-before)
	}
	// What the kernel forgets is given back.
	for i := range n {
		a, err := s.Lookup(cow.RootIno, fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		s.Forget(a.Ino, 2)
		if _, err := s.GetAttr(a.Ino); !errors.Is(err, syscall.ESTALE) {
			t.Fatalf("a forgotten file is known: %v", err)
		}
	}
	if now := openFDs(t); now > before {
		t.Errorf("%d files are open after all were forgotten", now-before)
	}
}

func openFDs(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestDamagedBase(t *testing.T) {
	base := filesuite.Base(t)
	s := openStore(t, base, cow.Options{})
	if err := (filesuite.Store{S: s}).Chmod("base/1/100", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(base, "base/1/100"), block); err != nil {
		t.Fatal(err)
	}
	f, err := (filesuite.Store{S: s}).Open("base/1/100", os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(make([]byte, 3*block), 0); !errors.Is(err, pg0.ErrCorrupt) {
		t.Errorf("a base that ends early: %v", err)
	}
}
