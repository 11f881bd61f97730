package proc_test

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/fukanchik/pg0/cmd/internal/proc"
)

func TestProcessEnds(t *testing.T) {
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := proc.Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if !id.Alive() {
		t.Error("a running process is said to have ended")
	}
	if err := id.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := id.WaitFor(time.Minute); err != nil {
		t.Fatal(err)
	}
	if id.Alive() {
		t.Error("a zombie is said to be alive")
	}
	_ = cmd.Wait() // it was killed
	if err := id.Signal(syscall.SIGTERM); !errors.Is(err, proc.ErrGone) {
		t.Errorf("signal to an ended process: %v", err)
	}
}

func TestNumberUsedAgain(t *testing.T) {
	self, err := proc.Self()
	if err != nil {
		t.Fatal(err)
	}
	if self.PID != os.Getpid() {
		t.Errorf("pid %d, want %d", self.PID, os.Getpid())
	}
	earlier := self
	earlier.Start--
	if earlier.Alive() {
		t.Error("a process of another start time is taken for this one")
	}
	if err := earlier.Signal(syscall.SIGKILL); !errors.Is(err, proc.ErrGone) {
		t.Errorf("signal to the earlier owner of the number: %v", err)
	}
	if (proc.ID{}).Alive() {
		t.Error("no process is alive")
	}
}

// TestYield lowers a process with its threads, and of this one a thread alone.
func TestYield(t *testing.T) {
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	id, err := proc.Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Yield(); err != nil {
		t.Fatal(err)
	}
	// getpriority(2) gives 20 - nice.
	if n, err := syscall.Getpriority(syscall.PRIO_PROCESS, id.PID); n != 1 || err != nil {
		t.Errorf("priority %d, %v", n, err)
	}
	if n := <-priority(proc.YieldThread); n != 1 {
		t.Errorf("priority of the thread %d", n)
	}
	if n := <-priority(func() error { return nil }); n == 1 {
		t.Error("another thread has been lowered too")
	}
	gone := id
	gone.PID = 1 << 30
	if err := gone.Yield(); err != nil {
		t.Errorf("a process that is gone: %v", err)
	}
}

// priority is that of the thread which has done something.
func priority(do func() error) <-chan int {
	answer := make(chan int)
	go func() {
		if do() != nil {
			answer <- -1
		}
		n, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0)
		if err != nil {
			n = -1
		}
		answer <- n
	}()
	return answer
}
