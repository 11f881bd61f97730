// Package proc names processes so that a number used again by the kernel is
// never taken for the process that once had it.
package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone is reported for a process that has ended.
var ErrGone = errors.New("process has ended")

// An ID is a process: its number, the clock tick after boot at which it
// started (field 22 of /proc/PID/stat) and the boot it belongs to. The zero ID
// is no process.
type ID struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
	Boot  string `json:"boot"`
}

// Self names the calling process.
func Self() (ID, error) { return Of(os.Getpid()) }

// Of names the running process of that number. The error wraps ErrGone if
// there is none; a zombie counts as ended.
func Of(pid int) (ID, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ID{}, err
	}
	start, err := startOf(pid)
	if err != nil {
		return ID{}, err
	}
	return ID{PID: pid, Start: start, Boot: strings.TrimSpace(string(boot))}, nil
}

func startOf(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return 0, fmt.Errorf("pid %d: %w", pid, ErrGone)
	}
	if err != nil {
		return 0, err
	}
	// The command name stands in parentheses and may hold anything.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const state, start = 0, 19
	if len(fields) <= start {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	if s := string(fields[state]); s == "Z" || s == "X" {
		return 0, fmt.Errorf("pid %d: %w", pid, ErrGone)
	}
	return strconv.ParseUint(string(fields[start]), 10, 64)
}

// Alive says whether the process still runs.
func (p ID) Alive() bool {
	if p.PID <= 0 {
		return false
	}
	now, err := Of(p.PID)
	return err == nil && now == p
}

// Signal sends a signal to the process and to no other. The error wraps
// ErrGone if it has ended.
func (p ID) Signal(sig syscall.Signal) error {
	fd, err := p.open()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
		return fmt.Errorf("signal %v to pid %d: %w", sig, p.PID, err)
	}
	return nil
}

// Wait returns nil as soon as the process has ended, or the context's error.
func (p ID) Wait(ctx context.Context) error {
	fd, err := p.open()
	if errors.Is(err, ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for ctx.Err() == nil {
		// A descriptor of a process is readable once it has ended; the slices
		// only bound how late a cancelled context is noticed.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for pid %d: %w", p.PID, err)
		}
	}
	return ctx.Err()
}

// WaitFor is Wait with a limit of time.
func (p ID) WaitFor(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return p.Wait(ctx)
}

// open gives a descriptor that stays with the process even when its number is
// used again. The check comes after opening, so it speaks of that process.
func (p ID) open() (int, error) {
	if p.PID <= 0 {
		return -1, fmt.Errorf("pid %d: %w", p.PID, ErrGone)
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, fmt.Errorf("pid %d: %w", p.PID, ErrGone)
	}
	if err != nil {
		return -1, fmt.Errorf("open pid %d: %w", p.PID, err)
	}
	if !p.Alive() {
		unix.Close(fd)
		return -1, fmt.Errorf("pid %d: %w", p.PID, ErrGone)
	}
	return fd, nil
}
