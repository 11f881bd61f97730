package filesuite

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A Random applies the same random operations to a tree under test and to a
// model, and compares what they say and hold.
type Random struct {
	t          testing.TB
	r          *rand.Rand
	sut, model FS
	files      []pair // open in both
	log        []string
}

type pair struct {
	name       string
	sut, model File
}

// NewRandom prepares operations that depend on a seed only.
func NewRandom(t testing.TB, seed uint64, sut, model FS) *Random {
	return &Random{t: t, r: rand.New(rand.NewPCG(seed, 0)), sut: sut, model: model}
}

// Reopened goes on with another tree under test, after all files were closed.
func (r *Random) Reopened(sut FS) { r.sut = sut }

// Run does n operations.
func (r *Random) Run(n int) {
	r.t.Helper()
	for range n {
		r.step()
	}
}

// Check closes all files and compares everything.
func (r *Random) Check() {
	r.t.Helper()
	for len(r.files) > 0 {
		r.closeOne()
	}
	if diff := cmp.Diff(Dump(r.t, r.model), Dump(r.t, r.sut)); diff != "" {
		r.fail("the trees differ (-model +test):\n%s", diff)
	}
}

func (r *Random) fail(format string, args ...any) {
	r.t.Helper()
	last := r.log[max(0, len(r.log)-60):]
	r.t.Fatalf("%s\nlast operations:\n%s", fmt.Sprintf(format, args...), bytes.Join(lines(last), []byte("\n")))
}

func lines(s []string) (out [][]byte) {
	for _, l := range s {
		out = append(out, []byte(l))
	}
	return out
}

// both runs an operation on both trees and compares the error numbers.
func (r *Random) both(what string, op func(FS) error) bool {
	r.t.Helper()
	r.log = append(r.log, what)
	got, want := op(r.sut), op(r.model)
	if errno(got) != errno(want) {
		r.fail("%s: %v, the model says %v", what, got, want)
	}
	return want == nil
}

func errno(err error) syscall.Errno {
	var e syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e
	}
	return syscall.EIO
}

var (
	someDirs  = []string{".", "base", "base/1", "base/2", "global", "empty", "d1", "d1/d2", "pg_wal"}
	someNames = []string{"100", "101", "103", "1", "2", "d1", "d2", "f1", "f2", "PG_VERSION", "base"}
)

// linkTarget is a regular file, so that a path through a link to it gives
// ENOTDIR, whether the link is followed or not.
const linkTarget = "/proc/version"

func (r *Random) path() string {
	return path.Join(someDirs[r.r.IntN(len(someDirs))], someNames[r.r.IntN(len(someNames))])
}

func (r *Random) step() {
	switch k := r.r.IntN(100); {
	case k < 10:
		r.open()
	case k < 40:
		r.write()
	case k < 55:
		r.read()
	case k < 62:
		r.truncate()
	case k < 65:
		r.closeOne()
	default:
		r.name(k)
	}
}

// name changes names and attributes.
func (r *Random) name(k int) {
	a, b := r.path(), r.path()
	switch {
	case k < 70:
		r.both("mkdir "+a, func(f FS) error { return f.Mkdir(a, 0o700) })
	case k < 75:
		r.both("unlink "+a, func(f FS) error { return f.Unlink(a) })
	case k < 78:
		r.both("rmdir "+a, func(f FS) error { return f.Rmdir(a) })
	case k < 88:
		r.both("rename "+a+" "+b, func(f FS) error { return f.Rename(a, b) })
	case k < 92:
		r.link(a, b)
	case k < 94:
		r.both("symlink "+a, func(f FS) error { return f.Symlink(linkTarget, a) })
	case k < 96:
		r.both("chmod "+a, func(f FS) error { return r.onFile(f, a, func() error { return f.Chmod(a, 0o644) }) })
	case k < 98:
		r.both("truncate "+a, func(f FS) error { return r.onFile(f, a, func() error { return f.Truncate(a, 3*Block+7) }) })
	default:
		r.both("lstat "+a, func(f FS) error { _, err := f.Lstat(a); return err })
	}
}

// link leaves out what the operating system answers in another order.
func (r *Random) link(a, b string) {
	r.both("link "+a+" "+b, func(f FS) error { return r.onFile(f, a, func() error { return f.Link(a, b) }) })
}

// onFile does op if name is a regular file: the others differ between calling a
// store, which follows no links, and the operating system.
func (r *Random) onFile(f FS, name string, op func() error) error {
	i, err := f.Lstat(name)
	if err != nil {
		return err
	}
	if i.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return nil
	}
	return op()
}

func (r *Random) open() {
	if len(r.files) >= 8 {
		r.closeOne()
	}
	name := r.path()
	flag := os.O_RDWR
	if r.r.IntN(2) == 0 {
		flag |= os.O_CREATE
	}
	if r.r.IntN(4) == 0 {
		flag |= os.O_TRUNC
	}
	p := pair{name: name}
	// What is there decides: links and directories open differently.
	if i, err := r.model.Lstat(name); err == nil && i.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return
	}
	ok := r.both(fmt.Sprintf("open %s %x", name, flag), func(f FS) error {
		file, err := f.Open(name, flag, 0o600)
		if f == r.sut {
			p.sut = file
		} else {
			p.model = file
		}
		return err
	})
	if ok {
		r.files = append(r.files, p)
	}
}

func (r *Random) closeOne() {
	if len(r.files) == 0 {
		return
	}
	i := r.r.IntN(len(r.files))
	p := r.files[i]
	r.files = append(r.files[:i], r.files[i+1:]...)
	r.log = append(r.log, "close "+p.name)
	if err := errors.Join(p.sut.Close(), p.model.Close()); err != nil {
		r.fail("close: %v", err)
	}
}

// extent picks offsets and lengths that like the borders of blocks.
func (r *Random) extent() (off int64, n int) {
	off, n = int64(r.r.IntN(40))*Block, (1+r.r.IntN(5))*Block
	if r.r.IntN(3) == 0 {
		off += int64(r.r.IntN(Block))
	}
	if r.r.IntN(3) == 0 {
		n = 1 + r.r.IntN(2*Block)
	}
	return off, n
}

func (r *Random) write() {
	if len(r.files) == 0 {
		return
	}
	p := r.files[r.r.IntN(len(r.files))]
	off, n := r.extent()
	b := Bytes(r.r.Uint64(), n)
	r.log = append(r.log, fmt.Sprintf("write %s at %d, %d bytes", p.name, off, n))
	if _, err := p.sut.WriteAt(b, off); err != nil {
		r.fail("write: %v", err)
	}
	if _, err := p.model.WriteAt(b, off); err != nil {
		r.fail("write to the model: %v", err)
	}
}

func (r *Random) read() {
	if len(r.files) == 0 {
		return
	}
	p := r.files[r.r.IntN(len(r.files))]
	off, n := r.extent()
	a, b := make([]byte, n), make([]byte, n)
	r.log = append(r.log, fmt.Sprintf("read %s at %d, %d bytes", p.name, off, n))
	na, errA := p.sut.ReadAt(a, off)
	nb, errB := p.model.ReadAt(b, off)
	if na != nb || (errA == io.EOF) != (errB == io.EOF) || !bytes.Equal(a[:na], b[:nb]) {
		r.fail("read %s at %d: %d bytes, %v; the model gives %d, %v; first difference at %d", p.name, off, na, errA, nb, errB, firstDiff(a, b))
	}
}

func (r *Random) truncate() {
	if len(r.files) == 0 {
		return
	}
	p := r.files[r.r.IntN(len(r.files))]
	size, n := r.extent()
	grow := r.r.IntN(3) == 0
	r.log = append(r.log, fmt.Sprintf("truncate %s to %d, allocate %v", p.name, size, grow))
	for _, f := range []File{p.sut, p.model} {
		err := f.Truncate(size)
		if grow {
			err = f.Allocate(size, int64(n))
		}
		if err != nil {
			r.fail("truncate: %v", err)
		}
	}
}
