package proc

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	lowestNice = 19
	// Of a session: a tenth of the weight of others. With the lowest, work beside
	// a busy server would hardly end.
	sessionNice = 10
	// Of linux/ioprio.h: the class whose requests wait for all others.
	ioprioWhoProcess = 1
	ioprioIdle       = 3 << 13
)

// Yield leaves CPU and disk to all others: the lowest priority for the process,
// its threads, and what it starts from then on. Where the kernel shares the CPU
// out by sessions (autogroups), the session of the process is lowered as a
// whole, so it should be one of its own. A process that has ended is no error.
func (p ID) Yield() error {
	tasks := fmt.Sprintf("/proc/%d/task", p.PID)
	// Twice, because a thread that was being made while the first were lowered
	// has the priority of its maker.
	for range 2 {
		entries, err := os.ReadDir(tasks)
		if err != nil {
			return gone(err)
		}
		for _, entry := range entries {
			tid, err := strconv.Atoi(entry.Name())
			if err == nil {
				err = yield(tid)
			}
			if err != nil {
				return err
			}
		}
	}
	return gone(p.yieldSession())
}

// The kernel lets ordinary users change one session every tenth of a second, on
// the whole machine.
const (
	sessionPause    = 100 * time.Millisecond
	sessionAttempts = 20
)

func (p ID) yieldSession() (err error) {
	for range sessionAttempts {
		err = os.WriteFile(fmt.Sprintf("/proc/%d/autogroup", p.PID), []byte(strconv.Itoa(sessionNice)), 0)
		if !errors.Is(err, unix.EAGAIN) {
			break
		}
		time.Sleep(sessionPause)
	}
	return err
}

// YieldThread does the same for the calling goroutine, which keeps its thread
// until it returns; the thread ends with it.
func YieldThread() error {
	runtime.LockOSThread()
	return yield(unix.Gettid())
}

func yield(tid int) error {
	if err := unix.Setpriority(unix.PRIO_PROCESS, tid, lowestNice); err != nil {
		return gone(err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, uintptr(tid), ioprioIdle); errno != 0 {
		return gone(errno)
	}
	return nil
}

// gone ignores that there is no process, or no such file of the kernel.
func gone(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}
