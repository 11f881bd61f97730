package tests

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fukanchik/pg0/tests/fixture"
	"github.com/fukanchik/pg0/tests/program"
)

// A watch sees every change below a directory: the kernel reports each, and
// contents and attributes of all files are compared at the end.
type watch struct {
	t      *testing.T
	dir    string
	fd     int
	names  map[int32]string // watched directories
	before map[string]string
}

// writing are the events of everything but reading: a file that was open for
// writing gives one when it is closed, written or not.
const writing = unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_CLOSE_WRITE | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF

func startWatch(t *testing.T, dir string) *watch {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	w := &watch{t: t, dir: dir, fd: fd, names: map[int32]string{}, before: snapshot(t, dir)}
	err = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		id, err := unix.InotifyAddWatch(fd, name, writing)
		w.names[int32(id)] = name
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// snapshot gives of each file all attributes that only a change touches, and
// the sum of its bytes.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var s unix.Stat_t
		if err := unix.Lstat(name, &s); err != nil {
			return err
		}
		sum := ""
		if d.Type().IsRegular() {
			if sum, err = sumFile(name); err != nil {
				return err
			}
		}
		files[name] = fmt.Sprintf("inode %d links %d mode %o owner %d:%d size %d modified %d.%09d changed %d.%09d %s",
			s.Ino, s.Nlink, s.Mode, s.Uid, s.Gid, s.Size, s.Mtim.Sec, s.Mtim.Nsec, s.Ctim.Sec, s.Ctim.Nsec, sum)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// check fails the test for every change since the watch began.
func (w *watch) check() {
	w.t.Helper()
	buf := make([]byte, 1<<16)
	for {
		n, err := unix.Read(w.fd, buf)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			w.t.Fatal(err)
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			id, mask, length := int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint32(b[12:])
			name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:][:length]), "\x00")
			w.t.Errorf("%s: changed (events %#x)", filepath.Join(w.names[id], name), mask)
			b = b[unix.SizeofInotifyEvent+length:]
		}
	}
	if diff := cmp.Diff(w.before, snapshot(w.t, w.dir)); diff != "" {
		w.t.Errorf("%s has changed:\n%s", w.dir, diff)
	}
}

// kill ends a process at once and waits until it has gone.
func kill(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, syscall.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	const limit = 60_000 // milliseconds
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, limit)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n != 1 {
			t.Fatalf("process %d does not end: %v", pid, err)
		}
		return
	}
}

// TestWatchSeesChanges shows that a watch would notice.
func TestWatchSeesChanges(t *testing.T) {
	for name, change := range map[string]func(file string) error{
		"write":    func(file string) error { return os.WriteFile(file, []byte("other"), 0o600) },
		"mode":     func(file string) error { return os.Chmod(file, 0o640) },
		"open":     func(file string) error { return openForWriting(file) },
		"create":   func(file string) error { return os.WriteFile(file+".tmp", nil, 0o600) },
		"readonly": func(file string) error { _, err := os.ReadFile(file); return err },
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, "file")
		if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
			t.Fatal(err)
		}
		fd := startWatch(t, dir).fd
		if err := change(file); err != nil {
			t.Fatal(err)
		}
		n, err := unix.Read(fd, make([]byte, 4096))
		if seen := n > 0; seen != (name != "readonly") {
			t.Errorf("%s: events seen: %v, %v", name, seen, err)
		}
	}
}

func openForWriting(file string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// TestWatchCatalog mounts, mixes and kills, and looks whether anything in the
// catalog noticed.
func TestWatchCatalog(t *testing.T) {
	t.Parallel()
	catalog := fixture.Copy(t, fixture.ShopCatalog)
	seen := startWatch(t, catalog)
	defer seen.check()
	pg0 := program.New(t)
	source := []string{"-B", catalog, "--instance", fixture.ShopCatalog.Instance}
	pg0.Must(append([]string{"points"}, source...)...)
	pg0.Must(append([]string{"verify", "--all"}, source...)...)

	raw := pg0.Mountpoint()
	pg0.Must(append(append([]string{"mount", "--raw", "-i", "TELYC0"}, source...), raw)...)
	if _, err := sumsOf(raw); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(raw, "base", "new"), []byte("new"), 0o600); err != nil {
		t.Error(err)
	}
	endWithKill(t, pg0, raw, pg0.Status(raw).FileServerPID)

	point := pg0.Mountpoint()
	pg0.Must(append(append([]string{"mount", "--start", "-i", "TEI900"}, source...), point)...)
	work(t, pg0, point)
	endWithKill(t, pg0, point, pg0.Status(point).Server.PID)

	mixed := pg0.Mountpoint()
	m := missed()
	m.catalog = catalog
	pg0.Must("frankenstein", "--start", "--layer", filepath.Join(t.TempDir(), "layer"), "--map", m.write(t, worlds[0]), mixed)
	work(t, pg0, mixed)
	endWithKill(t, pg0, mixed, pg0.Status(mixed).FileServerPID)
}

// work changes and reads all that a mount has.
func work(t *testing.T, pg0 *program.Program, mountpoint string) {
	t.Helper()
	conn := pg0.Connect(mountpoint, "shop")
	defer conn.Close(context.Background())
	for _, sql := range []string{"delete from orders where id % 2 = 0", "update products set price = price + 1", "vacuum full stores", "drop table events", "vacuum (freeze)", "checkpoint"} {
		if _, err := conn.Exec(context.Background(), sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

func endWithKill(t *testing.T, pg0 *program.Program, mountpoint string, pid int) {
	t.Helper()
	kill(t, pid)
	pg0.Must("umount", "--force", mountpoint)
}
