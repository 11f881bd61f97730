package cow_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/fusefs/cow"
	"github.com/fukanchik/pg0/tests/filesuite"
)

const block = filesuite.Block

func mustOpen(t testing.TB, base string, o cow.Options) *cow.Store {
	t.Helper()
	s, err := cow.Open(filesuite.Tree(base), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A writer changes files whose blocks say to which file and place they belong,
// and remembers what it has synced.
type writer struct {
	t      *testing.T
	r      *rand.Rand
	s      *cow.Store
	files  map[string]uint64           // name to identity
	synced map[string]map[int64][]byte // of files not changed since they were synced
	next   uint64
}

// stamp makes a block that names its file and its number in it.
func (w *writer) stamp(id uint64, n int64) []byte {
	b := make([]byte, block)
	for i := 0; i < block; i += 512 {
		binary.LittleEndian.PutUint64(b[i:], id)
		binary.LittleEndian.PutUint64(b[i+8:], uint64(n))
	}
	binary.LittleEndian.PutUint64(b[16:], w.r.Uint64())
	return b
}

func (w *writer) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *writer) pick() string {
	return fmt.Sprintf("base/1/f%d", w.r.IntN(6))
}

func (w *writer) step() {
	fsys := filesuite.Store{S: w.s}
	name := w.pick()
	id, exists := w.files[name]
	switch k := w.r.IntN(10); {
	case !exists:
		w.next++
		w.files[name] = w.next
		f, err := fsys.Open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		w.must(err)
		w.must(f.Close())
	case k < 5:
		f, err := fsys.Open(name, os.O_RDWR, 0)
		w.must(err)
		for n := int64(w.r.IntN(20)); w.r.IntN(4) > 0; n++ {
			_, err := f.WriteAt(w.stamp(id, n), n*block)
			w.must(err)
		}
		w.must(f.Close())
	case k == 5:
		w.must(fsys.Truncate(name, int64(w.r.IntN(20))*block))
	case k == 6:
		w.must(fsys.Unlink(name))
		delete(w.files, name)
	case k == 7:
		to := w.pick()
		w.must(fsys.Rename(name, to))
		delete(w.files, name)
		w.files[to] = id
		delete(w.synced, to)
	default:
		w.sync(name)
		return
	}
	delete(w.synced, name)
}

// sync makes one file durable, as PostgreSQL does: the file, then the
// directory.
func (w *writer) sync(name string) {
	fsys := filesuite.Store{S: w.s}
	f, err := fsys.Open(name, os.O_RDWR, 0)
	w.must(err)
	w.must(errors.Join(f.Sync(), fsys.SyncDir("base/1")))
	i, err := f.Stat()
	w.must(err)
	blocks := map[int64][]byte{-1: make([]byte, i.Size)}
	_, err = f.ReadAt(blocks[-1], 0)
	if err != io.EOF {
		w.must(err)
	}
	w.synced[name] = blocks
	w.must(f.Close())
}

// lookAround finds out which files a crash has left.
func (w *writer) lookAround() {
	w.t.Helper()
	fsys := filesuite.Store{S: w.s}
	names, err := fsys.List("base/1")
	w.must(err)
	clear(w.files)
	for _, name := range names {
		if name[0] != 'f' {
			continue
		}
		name = "base/1/" + name
		if w.files[name] = w.checkStamps(fsys, name); w.files[name] == 0 {
			w.next++
			w.files[name] = w.next
		}
	}
}

// check verifies a store after a crash: what was synced is there to the byte,
// and no block shows what another file or place had.
func (w *writer) check(s *cow.Store) {
	w.t.Helper()
	fsys := filesuite.Store{S: s}
	for name, want := range w.synced {
		f, err := fsys.Open(name, os.O_RDONLY, 0)
		w.must(err)
		got := make([]byte, len(want[-1])+1)
		n, err := f.ReadAt(got, 0)
		if err != io.EOF {
			w.must(err)
		}
		w.must(f.Close())
		if !bytes.Equal(got[:n], want[-1]) {
			w.t.Fatalf("%s was synced with %d bytes and has %d others now", name, len(want[-1]), n)
		}
	}
	names, err := fsys.List("base/1")
	w.must(err)
	for _, name := range names {
		if name[0] == 'f' {
			w.checkStamps(fsys, "base/1/"+name)
		}
	}
}

// checkStamps wants all sectors of a file to be zeros or its own. A block that
// was overwritten without a sync may be half old, half new. It returns the
// identity of the file, 0 if it has no block of its own.
func (w *writer) checkStamps(fsys filesuite.FS, name string) (id uint64) {
	w.t.Helper()
	i, err := fsys.Lstat(name)
	w.must(err)
	f, err := fsys.Open(name, os.O_RDONLY, 0)
	w.must(err)
	defer f.Close()
	b := make([]byte, i.Size)
	if _, err := f.ReadAt(b, 0); err != io.EOF {
		w.must(err)
	}
	for off := 0; off < len(b); off += 512 {
		gotID, n := binary.LittleEndian.Uint64(b[off:]), binary.LittleEndian.Uint64(b[off+8:])
		if gotID == 0 && n == 0 {
			continue
		}
		if id == 0 {
			id = gotID
		}
		if gotID != id || n != uint64(off/block) {
			w.t.Fatalf("%s at %d shows block %d of file %d, and belongs to file %d", name, off, n, gotID, id)
		}
	}
	return id
}

// TestPowerLoss crashes a layer at arbitrary points, each time losing an
// arbitrary part of what was not synced.
func TestPowerLoss(t *testing.T) {
	base := filesuite.Base(t)
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 77))
		d := newDisks()
		w := &writer{t: t, r: r, files: map[string]uint64{}, synced: map[string]map[int64][]byte{}}
		w.s = mustOpen(t, base, cow.WithDisks(inMemory, d.open))
		w.s.CompactAt(2000)
		for range 150 {
			w.step()
			if r.IntN(20) == 0 {
				after := d.crash(r)
				crashed := mustOpen(t, base, cow.WithDisks(inMemory, after.open))
				w.check(crashed)
				if r.IntN(3) == 0 {
					// Life goes on after the crash.
					d, w.s = after, crashed
					w.s.CompactAt(2000)
					w.lookAround()
					continue
				}
				w.must(crashed.Close())
			}
		}
		w.must(w.s.Close())
		w.check(mustOpen(t, base, cow.WithDisks(inMemory, d.open)))
	}
}

// TestTornJournal cuts the journal of a layer at every byte, and flips every
// byte: what remains must be the state after some batch, or be refused.
func TestTornJournal(t *testing.T) {
	base, layer := smallBase(t), t.TempDir()
	s := mustOpen(t, base, cow.Options{Dir: layer})
	fsys := filesuite.Store{S: s}
	states := [][]string{filesuite.DumpTree(t, s.Tree())}
	for i, change := range []func() error{
		func() error { return fsys.Mkdir("new", 0o700) },
		func() error { return write(fsys, "new/a", 3*block) },
		func() error { return fsys.Rename("base/1/100", "new/b") },
		func() error { return fsys.Truncate("new/b", block+5) },
		func() error { return fsys.Unlink("base/1/101") },
	} {
		if err := errors.Join(change(), s.SyncAll()); err != nil {
			t.Fatal(i, err)
		}
		states = append(states, filesuite.DumpTree(t, s.Tree()))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	journal, err := os.ReadFile(filepath.Join(layer, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	ends := cow.Frames(journal)
	if len(ends) != len(states)-1 {
		t.Fatalf("%d batches for %d states", len(ends), len(states))
	}
	data := readFile(t, filepath.Join(layer, "data"))
	open := func(journal []byte) (*cow.Store, *disks, error) {
		d := newDisks()
		d.put("journal", journal)
		d.put("data", data)
		s, err := cow.Open(filesuite.Tree(base), cow.WithDisks(inMemory, d.open))
		return s, d, err
	}
	whole := func(n int) (k int) {
		for k < len(ends) && ends[k] <= n {
			k++
		}
		return k
	}
	for n := range len(journal) + 1 {
		s, d, err := open(journal[:n])
		if err != nil {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
		if diff := cmp.Diff(states[whole(n)], filesuite.DumpTree(t, s.Tree())); diff != "" {
			t.Fatalf("cut to %d bytes:\n%s", n, diff)
		}
		// It can be written to again, and what is written stays.
		if n%16 == 0 {
			again(t, base, s, d)
		}
	}
	last := ends[len(ends)-2]
	for n := range journal {
		b := append([]byte(nil), journal...)
		b[n] ^= 0x40
		s, _, err := open(b)
		switch {
		case n < last && err == nil:
			t.Fatalf("byte %d of %d is damaged, which went unnoticed", n, len(journal))
		case n < last:
			if !errors.Is(err, pg0.ErrCorrupt) && n != 8 {
				t.Fatalf("byte %d is damaged: %v", n, err)
			}
		case err != nil:
			t.Fatalf("byte %d, in the last batch, is damaged: %v", n, err)
		default:
			if diff := cmp.Diff(states[len(states)-2], filesuite.DumpTree(t, s.Tree())); diff != "" {
				t.Fatalf("byte %d is damaged:\n%s", n, diff)
			}
		}
	}
}

func write(fsys filesuite.FS, name string, n int) error {
	f, err := fsys.Open(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(filesuite.Bytes(uint64(n), n), 0)
	return errors.Join(err, f.Close())
}

// again changes a store that was opened after a crash and opens it once more.
func again(t *testing.T, base string, s *cow.Store, d *disks) {
	t.Helper()
	if err := write(filesuite.Store{S: s}, "again", 2*block); err != nil {
		t.Fatal(err)
	}
	want := filesuite.DumpTree(t, s.Tree())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, base, cow.WithDisks(inMemory, d.open))
	if diff := cmp.Diff(want, filesuite.DumpTree(t, s.Tree())); diff != "" {
		t.Fatal(diff)
	}
}

// smallBase keeps a test that opens it a thousand times short.
func smallBase(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "base/1"), 0o700),
		os.WriteFile(filepath.Join(dir, "base/1/100"), filesuite.Bytes(100, 3*block), 0o600),
		os.WriteFile(filepath.Join(dir, "base/1/101"), filesuite.Bytes(101, 100), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestFullDisk runs out of space in the journal: the sync fails, a later one
// does not, and nothing is lost.
func TestFullDisk(t *testing.T) {
	base, d := filesuite.Base(t), newDisks()
	s := mustOpen(t, base, cow.WithDisks(inMemory, d.open))
	fsys := filesuite.Store{S: s}
	d.fail = func(op, name string) error {
		if op == "write" && name == "journal" {
			return syscall.ENOSPC
		}
		return nil
	}
	if err := errors.Join(write(fsys, "a", 2*block), s.SyncAll()); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("sync on a full disk: %v", err)
	}
	if err := write(fsys, "b", block); err != nil {
		t.Fatal(err)
	}
	d.fail = nil
	want := filesuite.DumpTree(t, s.Tree())
	if err := s.SyncAll(); err != nil {
		t.Fatal(err)
	}
	after := mustOpen(t, base, cow.WithDisks(inMemory, d.crash(rand.New(rand.NewPCG(1, 1))).open))
	if diff := cmp.Diff(want, filesuite.DumpTree(t, after.Tree())); diff != "" {
		t.Error(diff)
	}
}

// TestFailedSync must be told again and again: nobody knows what is lost.
func TestFailedSync(t *testing.T) {
	for _, name := range []string{"journal", "data"} {
		d := newDisks()
		s := mustOpen(t, filesuite.Base(t), cow.WithDisks(inMemory, d.open))
		fsys := filesuite.Store{S: s}
		failed := false
		d.fail = func(op, file string) error {
			if op == "sync" && file == name && !failed {
				failed = true
				return errDisk
			}
			return nil
		}
		f, err := fsys.Open("base/1/100", os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(make([]byte, block), 0); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := f.Sync(); !errors.Is(err, errDisk) {
				t.Errorf("%s: sync says %v", name, err)
			}
		}
	}
}
