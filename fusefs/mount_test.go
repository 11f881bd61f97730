package fusefs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/fusefs"
	"github.com/fukanchik/pg0/tests/filesuite"
)

func (d damaged) Open(name string) (fs.File, error) {
	f, err := d.Tree.Open(name)
	if err == nil && name == d.name {
		f = damagedFile{f.(pg0.File)}
	}
	return f, err
}

func TestSuite(t *testing.T) {
	filesuite.Run(t, func(t *testing.T) filesuite.FS {
		return filesuite.Dir(start(t, job{Base: filesuite.Base(t)}).job.Dir)
	})
}

func TestSuitePersistent(t *testing.T) {
	filesuite.Run(t, func(t *testing.T) filesuite.FS {
		return filesuite.Dir(start(t, job{Base: filesuite.Base(t), Layer: t.TempDir()}).job.Dir)
	})
}

// TestSuiteWriteThrough runs with a limit, which turns the write-back cache off.
func TestSuiteWriteThrough(t *testing.T) {
	filesuite.Run(t, func(t *testing.T) filesuite.FS {
		return filesuite.Dir(start(t, job{Base: filesuite.Base(t), Limit: 1 << 30}).job.Dir)
	})
}

// TestSuiteOneProcessor serves with GOMAXPROCS=1, where a server that waited
// for itself would hang.
func TestSuiteOneProcessor(t *testing.T) {
	t.Setenv("GOMAXPROCS", "1")
	filesuite.Run(t, func(t *testing.T) filesuite.FS {
		return filesuite.Dir(start(t, job{Base: filesuite.Base(t)}).job.Dir)
	})
}

// TestRandom compares a mount with a directory, mounting anew in between, so
// that what the kernel has in its cache is compared with what was stored.
func TestRandom(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			base, model := filesuite.Base(t), t.TempDir()
			filesuite.CopyDir(t, base, model)
			j := job{Base: base, Layer: t.TempDir()}
			c := start(t, j)
			r := filesuite.NewRandom(t, seed, filesuite.Dir(c.job.Dir), filesuite.Dir(model))
			for range 3 {
				r.Run(500)
				r.Check()
				c.stop()
				c = start(t, j)
				r.Reopened(filesuite.Dir(c.job.Dir))
				r.Check()
			}
		})
	}
}

// TestMemoryMap needs the page cache, as dynamic_shared_memory_type=mmap does.
func TestMemoryMap(t *testing.T) {
	c := start(t, job{Base: filesuite.Base(t)})
	f, err := os.OpenFile(c.path("base/1/100"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 5*filesuite.Block, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	want := filesuite.Bytes(100, 5*filesuite.Block)
	if !bytes.Equal(m, want) {
		t.Error("the mapping differs from the file")
	}
	copy(m[filesuite.Block:], "mapped")
	copy(want[filesuite.Block:], "mapped")
	if err := errors.Join(unix.Msync(m, unix.MS_SYNC), unix.Munmap(m)); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(c.path("base/1/100")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("what was written through the mapping is lost: %v", err)
	}
}

// TestDirect reads and writes around the page cache, as debug_io_direct does.
func TestDirect(t *testing.T) {
	c := start(t, job{Base: filesuite.Base(t), Layer: t.TempDir()})
	f, err := os.OpenFile(c.path("base/1/100"), os.O_RDWR|syscall.O_DIRECT|syscall.O_DSYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := unix.Mmap(-1, 0, 2*filesuite.Block, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(b)
	if _, err := f.ReadAt(b, filesuite.Block); err != nil {
		t.Fatal(err)
	}
	want := filesuite.Bytes(100, 5*filesuite.Block)
	if !bytes.Equal(b, want[filesuite.Block:3*filesuite.Block]) {
		t.Error("a direct read gives other bytes")
	}
	copy(want[2*filesuite.Block:], b)
	if _, err := f.WriteAt(b, 2*filesuite.Block); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(c.path("base/1/100")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("a direct write is not seen: %v", err)
	}
}

// TestSyncFileRange is what the checkpointer calls.
func TestSyncFileRange(t *testing.T) {
	c := start(t, job{Base: filesuite.Base(t)})
	f, err := os.OpenFile(c.path("base/1/100"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.SyncFileRange(int(f.Fd()), 0, filesuite.Block, unix.SYNC_FILE_RANGE_WRITE); err != nil {
		t.Error(err)
	}
}

// TestListWhileDeleting deletes what it lists, as DROP DATABASE does.
func TestListWhileDeleting(t *testing.T) {
	c := start(t, job{Base: filesuite.Base(t)})
	const n = 3000
	for i := range n {
		if err := os.WriteFile(c.path(fmt.Sprintf("empty/%d", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d, err := os.Open(c.path("empty"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	seen := 0
	for {
		names, _ := d.Readdirnames(100)
		if len(names) == 0 {
			break
		}
		for _, name := range names {
			seen++
			if err := os.Remove(c.path("empty/" + name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if seen != n {
		t.Errorf("the list had %d names, want %d", seen, n)
	}
}

// TestNoSpace fills a limit: the writer must hear of it, and go on.
func TestNoSpace(t *testing.T) {
	const limit = 1 << 20
	c := start(t, job{Base: filesuite.Base(t), Limit: limit})
	f, err := os.OpenFile(c.path("base/1/103"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := filesuite.Bytes(1, filesuite.Block)
	stored := 0
	for ; stored < 200; stored++ {
		if _, err = f.WriteAt(block, int64(stored)*filesuite.Block); err != nil {
			break
		}
	}
	if !errors.Is(err, syscall.ENOSPC) || stored == 0 || stored > limit/filesuite.Block {
		t.Fatalf("%d blocks stored, then %v", stored, err)
	}
	if _, err := f.WriteAt(block, 0); err != nil {
		t.Errorf("a block that is stored already: %v", err)
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 300*filesuite.Block, filesuite.Block); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("fallocate: %v", err)
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(c.job.Dir, &st); err != nil || st.Bavail > limit/uint64(st.Frsize) {
		t.Errorf("df shows %d free blocks of %d bytes: %v", st.Bavail, st.Frsize, err)
	}
	if err := os.Truncate(c.path("base/1/103"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(block, 0); err != nil {
		t.Errorf("after space was freed: %v", err)
	}
}

// TestDamage reads a file whose backup is damaged: an I/O error and a line that
// names the place, and other files are well.
func TestDamage(t *testing.T) {
	c := start(t, job{Base: filesuite.Base(t), Damage: "base/1/100"})
	if _, err := os.ReadFile(c.path("base/1/100")); !errors.Is(err, syscall.EIO) {
		t.Errorf("error %v, want EIO", err)
	}
	if b, err := os.ReadFile(c.path("base/1/101")); err != nil || !bytes.Equal(b, filesuite.Bytes(102, 3*filesuite.Block+100)) {
		t.Errorf("the next file: %v", err)
	}
	c.stop()
	if log := c.log.String(); !strings.Contains(log, "block 0 of base/1/100") || !strings.Contains(log, "backup TESTID: block 7") {
		t.Errorf("the log does not name the place:\n%s", log)
	}
}

func TestReadOnly(t *testing.T) {
	c := start(t, job{Base: filesuite.Base(t), ReadOnly: true})
	if err := os.WriteFile(c.path("x"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Errorf("create: %v", err)
	}
	if _, err := os.ReadFile(c.path("base/1/100")); err != nil {
		t.Error(err)
	}
}

// TestIdentity wants one inode number for a file from every path to it.
func TestIdentity(t *testing.T) {
	c := start(t, job{Base: filesuite.Base(t)})
	dir := filesuite.Dir(c.job.Dir)
	f, err := dir.Open("base/1/new", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	created, _ := f.Stat()
	if err := dir.Link("base/1/new", "base/2/new"); err != nil {
		t.Fatal(err)
	}
	if err := dir.Rename("base/1/new", "base/1/newer"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"base/2/new", "base/1/newer"} {
		if i, err := dir.Lstat(name); err != nil || i.Ino != created.Ino {
			t.Errorf("%s has number %d, was created as %d (%v)", name, i.Ino, created.Ino, err)
		}
	}
}

// TestCacheKept opens a file again and again: the server must hear of the first
// reading only.
func TestCacheKept(t *testing.T) {
	base := filesuite.Base(t)
	c := start(t, job{Base: base})
	want, err := os.ReadFile(c.path("base/1/103"))
	if err != nil {
		t.Fatal(err)
	}
	// Whatever the base has now, the kernel has its pages and keeps them, also
	// when it asks for attributes and when these are changed.
	if err := os.WriteFile(filepath.Join(base, "base/1/103"), make([]byte, len(want)), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := os.Chmod(c.path("base/1/103"), 0o640); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(c.path("base/1/103"), time.Now(), time.Now()); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(c.path("base/1/103")); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("the pages were read again: %v", err)
		}
	}
}

func TestMounts(t *testing.T) {
	base := filesuite.Base(t)
	dir := filepath.Join(t.TempDir(), `a b\134`)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c := start(t, job{Base: base, Dir: dir})
	list, err := fusefs.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(list, fusefs.Entry{Dir: dir, FSName: "test"}) {
		t.Errorf("%v lacks %s", list, dir)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{dir, link} {
		if mounted, err := fusefs.Mounted(name); err != nil || !mounted {
			t.Errorf("%s is not found: %v", name, err)
		}
		if fusefs.Dead(name) {
			t.Errorf("%s is called dead", name)
		}
	}
	if mounted, err := fusefs.Mounted(base); err != nil || mounted {
		t.Errorf("a plain directory is called a mount: %v", err)
	}
	if _, err := tryStart(t, job{Base: base, Dir: dir}); err == nil || !strings.Contains(err.Error(), "mounted there") {
		t.Errorf("a second mount: %v", err)
	}
	c.stop()
	if err := fusefs.Unmount(dir); !errors.Is(err, fusefs.ErrNotMounted) {
		t.Errorf("unmount of nothing: %v", err)
	}
}

func TestMountPointWithFiles(t *testing.T) {
	base := filesuite.Base(t)
	if _, err := tryStart(t, job{Base: base, Dir: base}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("a directory with files: %v", err)
	}
}

// TestDead kills the server: the mount must be called dead at once, refuse a
// second mount with a hint, and go even while a process stands in it.
func TestDead(t *testing.T) {
	base := filesuite.Base(t)
	c := start(t, job{Base: base})
	user := exec.Command("sleep", "1000")
	user.Dir = c.path("base")
	if err := user.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		user.Process.Kill()
		user.Wait()
	}()
	c.die()
	if !fusefs.Dead(c.job.Dir) {
		t.Error("the mount is not called dead")
	}
	if mounted, err := fusefs.Mounted(c.job.Dir); err != nil || !mounted {
		t.Errorf("the dead mount is not listed: %v", err)
	}
	if _, err := tryStart(t, job{Base: base, Dir: c.job.Dir}); err == nil || !strings.Contains(err.Error(), "umount") {
		t.Errorf("a second mount: %v", err)
	}
	if err := fusefs.Unmount(c.job.Dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadDir(c.job.Dir); err != nil {
		t.Errorf("the mount point afterwards: %v", err)
	}
}

// TestHanging stops the server: it is not dead, and finding out takes no
// answer from it.
func TestHanging(t *testing.T) {
	c := start(t, job{Base: filesuite.Base(t)})
	if err := c.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	dead := fusefs.Dead(c.job.Dir)
	mounted, err := fusefs.Mounted(c.job.Dir)
	if err := c.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if dead || !mounted || err != nil {
		t.Errorf("dead %v, mounted %v, %v", dead, mounted, err)
	}
}

// TestBusy keeps a mount in use: it stays, and the error names who uses it.
func TestBusy(t *testing.T) {
	c := start(t, job{Base: filesuite.Base(t)})
	user := exec.Command("sleep", "1000")
	user.Dir = c.path("base")
	if err := user.Start(); err != nil {
		t.Fatal(err)
	}
	err := fusefs.Unmount(c.job.Dir)
	if !errors.Is(err, fusefs.ErrBusy) || !strings.Contains(err.Error(), fmt.Sprint(user.Process.Pid)) {
		t.Errorf("unmount while in use: %v", err)
	}
	user.Process.Kill()
	user.Wait()
}

// TestBusyForAMoment lets go of the mount while Unmount waits.
func TestBusyForAMoment(t *testing.T) {
	c := start(t, job{Base: filesuite.Base(t)})
	f, err := os.Open(c.path("base/1/100"))
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error)
	go func() { result <- fusefs.Unmount(c.job.Dir) }()
	f.Close()
	if err := <-result; err != nil {
		t.Error(err)
	}
}

// TestCrash kills the server: what was synced is there afterwards.
func TestCrash(t *testing.T) {
	base, layer := filesuite.Base(t), t.TempDir()
	c := start(t, job{Base: base, Layer: layer})
	dir := filesuite.Dir(c.job.Dir)
	want := filesuite.Bytes(100, 5*filesuite.Block)
	for round := range 3 {
		block := filesuite.Bytes(uint64(round)+50, filesuite.Block)
		copy(want[round*filesuite.Block:], block)
		f, err := dir.Open("base/1/100", os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(block, int64(round)*filesuite.Block); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("base/1/tmp%d", round)
		g, err := dir.Open(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.WriteAt(block, 0); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(g.Sync(), dir.Rename(name, fmt.Sprintf("base/1/new%d", round)), dir.SyncDir("base/1")); err != nil {
			t.Fatal(err)
		}
		f.Close()
		g.Close()
		c.kill()
		c = start(t, job{Base: base, Layer: layer})
		dir = filesuite.Dir(c.job.Dir)
		if got, err := os.ReadFile(c.path("base/1/100")); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("round %d: a synced block is lost: %v", round, err)
		}
		for k := range round + 1 {
			got, err := os.ReadFile(c.path(fmt.Sprintf("base/1/new%d", k)))
			if err != nil || !bytes.Equal(got, want[k*filesuite.Block:(k+1)*filesuite.Block]) {
				t.Fatalf("round %d: a synced file is lost: %v", round, err)
			}
		}
	}
}

func TestLayerInUse(t *testing.T) {
	base, layer := filesuite.Base(t), t.TempDir()
	start(t, job{Base: base, Layer: layer})
	if _, err := tryStart(t, job{Base: base, Layer: layer}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second mount of one layer: %v", err)
	}
}

// TestSeal writes an image of a mount that is in use.
func TestSeal(t *testing.T) {
	base := filesuite.Base(t)
	c := start(t, job{Base: base})
	if err := os.WriteFile(c.path("base/1/100"), []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := filesuite.Dump(t, filesuite.Dir(c.job.Dir))
	f, err := filesuite.Dir(c.job.Dir).Open("base/1/100", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "image")
	if got := c.ask("seal " + image); got != "done <nil>" {
		t.Fatal(got)
	}
	c.stop()
	c = start(t, job{Base: base})
	if diff := cmp.Diff(want, filesuite.Dump(t, filesuite.Dir(c.job.Dir))); diff == "" {
		t.Error("the first layer left something behind")
	}
	list, err := os.ReadDir(image)
	if err != nil || len(list) != 2 {
		t.Errorf("%v, %v", list, err)
	}
}
