package probackup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/fukanchik/pg0/tests/fixture"
)

// sleeper starts a process that lives until the test ends.
func sleeper(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // killed, so it always fails
	})
	return cmd.Process.Pid
}

// deadProcess gives the number of a process that has ended.
func deadProcess(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

func TestLockShared(t *testing.T) {
	catalog := linked(t, fixture.Shop(t))
	c, err := Open(catalog, "", Options{})
	if err != nil {
		t.Fatal(err)
	}
	other, dead := sleeper(t), deadProcess(t)
	full := filepath.Join(catalog, "backups/shop/TEI900")
	write := func(name string, pid int) {
		if err := os.WriteFile(filepath.Join(full, name), fmt.Appendf(nil, "%d\n", pid), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(sharedLock, other)
	write(exclusiveLock, dead)
	expect := func(want string) {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(full, sharedLock))
		if err != nil || string(text) != want {
			t.Errorf("lock file is %q, %v, want %q", text, err, want)
		}
	}
	release, err := c.Lock(t.Context(), "TEK3O0")
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.Lock(t.Context(), "TENT00")
	if err != nil {
		t.Fatal(err)
	}
	expect(fmt.Sprintf("%d\n%d\n", other, os.Getpid()))
	for _, f := range []func() error{release, release} {
		if err := f(); err != nil {
			t.Error(err)
		}
	}
	expect(fmt.Sprintf("%d\n%d\n", other, os.Getpid()))
	if err := again(); err != nil {
		t.Error(err)
	}
	expect(fmt.Sprintf("%d\n", other))
	left, err := filepath.Glob(filepath.Join(catalog, "backups/shop/*/backup*pid*"))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// impatient is a context that ends as soon as somebody waits for it.
type impatient struct {
	context.Context
	done chan struct{}
}

func (c impatient) Done() <-chan struct{} { return c.done }

func TestLockRefusesExclusive(t *testing.T) {
	catalog := linked(t, fixture.Shop(t))
	c, err := Open(catalog, "", Options{})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(catalog, "backups/shop/TEK3O0", exclusiveLock)
	if err := os.WriteFile(name, fmt.Appendf(nil, "%d\n", sleeper(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	close(done)
	if _, err := c.Lock(impatient{t.Context(), done}, "TENT00"); !errors.Is(err, ErrLocked) {
		t.Errorf("error = %v, want one that says locked", err)
	}
	left, err := filepath.Glob(filepath.Join(catalog, "backups/shop/*/backup*pid*"))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
