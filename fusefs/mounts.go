package fusefs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrNotMounted says that no mount of pg0's is at a directory.
var ErrNotMounted = errors.New("not a mount of pg0's")

// ErrBusy says that processes use a mount.
var ErrBusy = errors.New("mount is in use")

// An Entry is one mount of pg0's.
type Entry struct {
	Dir    string
	FSName string // as given in Options
}

// Mounts lists the mounts of pg0's that this process can see, dead ones too,
// in the order in which they were made. It asks no file system.
func Mounts() ([]Entry, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMounts(string(b)), nil
}

// parseMounts reads /proc/self/mountinfo, whose fields proc(5) describes.
func parseMounts(info string) []Entry {
	var out []Entry
	for line := range strings.Lines(info) {
		before, after, ok := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if ok && len(left) >= 5 && len(right) >= 2 && right[0] == "fuse."+Subtype {
			out = append(out, Entry{Dir: unescape(left[4]), FSName: unescape(right[1])})
		}
	}
	return out
}

// unescape undoes the octal escapes of spaces, tabs, newlines and backslashes.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Mounted tells whether a mount of pg0's, alive or dead, is at a directory.
func Mounted(dir string) (bool, error) {
	_, err := locate(dir)
	if errors.Is(err, ErrNotMounted) {
		return false, nil
	}
	return err == nil, err
}

// locate gives the name under which the kernel knows a mount. It looks at the
// list of mounts first and asks a file system only for what is in no mount of
// pg0's: a dead server or one that hangs must not be asked.
func locate(dir string) (string, error) {
	list, err := Mounts()
	if err != nil {
		return "", err
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	known := func(name string) bool {
		return slices.ContainsFunc(list, func(e Entry) bool { return e.Dir == name })
	}
	if known(abs) {
		return abs, nil
	}
	if parent, err := filepath.EvalSymlinks(filepath.Dir(abs)); err == nil {
		abs = filepath.Join(parent, filepath.Base(abs))
	}
	if known(abs) {
		return abs, nil
	}
	// The last part may be a link to the mount point.
	if target, err := os.Readlink(abs); err == nil {
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(abs), target)
		}
		if known(target) {
			return target, nil
		}
	}
	return "", fmt.Errorf("%s: %w", dir, ErrNotMounted)
}

// probeTime is how long a live server may take to answer a question that needs
// no disk.
const probeTime = 2 * time.Second

// Dead tells whether the server of a mount is gone, so that every use of the
// mount gives "Transport endpoint is not connected". A server that does not
// answer is not dead, and Dead does not wait for it.
func Dead(dir string) bool {
	dir, err := locate(dir)
	if err != nil {
		return false
	}
	answer := make(chan error, 1)
	go func() {
		// statfs goes to the server, or fails at once without one. The kernel
		// answers it from no cache, unlike stat.
		var st syscall.Statfs_t
		answer <- syscall.Statfs(dir, &st)
	}()
	select {
	case err := <-answer:
		return errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ECONNABORTED)
	case <-time.After(probeTime):
		return false
	}
}

// unmountTries and unmountPause bound how long Unmount waits for a mount that
// somebody happens to look at.
const (
	unmountTries = 40
	unmountPause = 50 * time.Millisecond
)

// Unmount takes a mount of pg0's away, whoever serves it. It waits a moment for
// processes to let go; then the error wraps ErrBusy and names them. A mount
// without a server goes even when it is used.
func Unmount(dir string) error {
	dir, err := locate(dir)
	if err != nil {
		return err
	}
	for range unmountTries {
		if err = unmountOnce(dir, Dead(dir)); err == nil || !errors.Is(err, ErrBusy) {
			return err
		}
		time.Sleep(unmountPause)
	}
	if who := holders(dir); len(who) > 0 {
		return fmt.Errorf("unmount %s: %w: by %s", dir, ErrBusy, strings.Join(who, ", "))
	}
	return fmt.Errorf("unmount %s: %w", dir, ErrBusy)
}

// unmountOnce unmounts; lazily what is dead, because nobody can use it anyway.
func unmountOnce(dir string, dead bool) error {
	if os.Geteuid() == 0 {
		flags := unmountNoFollow
		if dead {
			flags |= syscall.MNT_DETACH
		}
		return unmountError(dir, syscall.Unmount(dir, flags), "")
	}
	args := []string{"-u", dir}
	if dead {
		args = []string{"-u", "-z", dir}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, helper(), args...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	return unmountError(dir, cmd.Run(), strings.TrimSpace(stderr.String()))
}

// unmountNoFollow is UMOUNT_NOFOLLOW of sys/mount.h.
const unmountNoFollow = 8

func unmountError(dir string, err error, said string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EBUSY) || strings.Contains(said, "busy"):
		return ErrBusy
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("unmount %s: fusermount3 is missing: install the package fuse3: %w", dir, err)
	}
	if gone, lookErr := Mounted(dir); lookErr == nil && !gone {
		return nil // somebody else was faster
	}
	if said != "" {
		return fmt.Errorf("unmount %s: %s: %w", dir, said, err)
	}
	return fmt.Errorf("unmount %s: %w", dir, err)
}

func helper() string {
	if name, err := exec.LookPath("fusermount3"); err == nil {
		return name
	}
	return "/bin/fusermount3"
}

// holders names the processes that use files below a directory, as far as this
// user may see it. Reading the links asks the kernel only, not the mount.
func holders(dir string) []string {
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return nil
	}
	for _, pattern := range []string{"/proc/[0-9]*/cwd", "/proc/[0-9]*/root"} {
		more, err := filepath.Glob(pattern)
		if err != nil {
			return nil
		}
		links = append(links, more...)
	}
	seen := map[string]bool{}
	var out []string
	for _, link := range links {
		pid := strings.Split(link, "/")[2]
		target, err := os.Readlink(link)
		if err != nil || seen[pid] || target != dir && !strings.HasPrefix(target, dir+"/") {
			continue
		}
		seen[pid] = true
		name, _ := os.ReadFile("/proc/" + pid + "/comm")
		out = append(out, fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(name)), pid))
	}
	return out
}
