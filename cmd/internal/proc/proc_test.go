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
