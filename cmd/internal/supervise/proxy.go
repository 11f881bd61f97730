package supervise

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/fukanchik/pg0/cmd/internal/proc"
	"github.com/fukanchik/pg0/cmd/internal/state"
)

// proxyCommand is the command of pg0 that runs the proxy.
const proxyCommand = "proxy"

// A proxyChild is a proxy that stands before the server of this mount.
type proxyChild struct {
	id   proc.ID
	done chan struct{}
	err  error // valid once done is closed
}

// proxyDone never fires while no proxy runs.
func (s *supervisor) proxyDone() <-chan struct{} {
	if s.proxy == nil {
		return nil
	}
	return s.proxy.done
}

// startProxy runs the proxy that was asked for and waits until it listens.
func (s *supervisor) startProxy() error {
	if s.job.Proxy == "" {
		return nil
	}
	m := &s.job.Mount
	dir := s.job.State.MountDir(m.ID)
	cmd := exec.Command("/proc/self/exe", proxyCommand, "--listen", s.job.Proxy,
		"--audit-log", filepath.Join(dir, "sessions.log"), "--state-dir", string(s.job.State), m.Mountpoint)
	cmd.Args[0] = "pg0"
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr // the log of the mount
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	child := &proxyChild{done: make(chan struct{})}
	child.id, err = proc.Of(cmd.Process.Pid)
	listening := bufio.NewScanner(out).Scan()
	go func() {
		child.err = cmd.Wait()
		close(child.done)
	}()
	if !listening {
		<-child.done
		return fmt.Errorf("the proxy on %s does not start: %w; see %s", s.job.Proxy, errors.Join(child.err, err), m.Log)
	}
	s.proxy, m.Proxy, m.ProxyListen = child, child.id, s.job.Proxy
	return nil
}

// endProxy lets the proxy's sessions end, and then it.
func (s *supervisor) endProxy() {
	if s.proxy == nil {
		return
	}
	if err := endProxy(&s.job.Mount); err != nil {
		s.log.Error("end the proxy", "error", err)
	}
	s.proxy, s.job.Mount.Proxy = nil, proc.ID{}
}

// endProxy ends a proxy, at once if it does not in time.
func endProxy(m *state.Mount) error {
	err := m.Proxy.Signal(syscall.SIGTERM)
	if errors.Is(err, proc.ErrGone) {
		return nil
	}
	if err == nil {
		err = m.Proxy.WaitFor(patience)
	}
	if err != nil {
		return endHard(m.Proxy)
	}
	return nil
}

func (s *supervisor) proxyEnded() {
	s.log.Error("the proxy has ended", "listen", s.job.Mount.ProxyListen, "error", s.proxy.err)
	s.proxy, s.job.Mount.Proxy = nil, proc.ID{}
	if err := s.job.State.Save(&s.job.Mount); err != nil {
		s.log.Error("save the record of the mount", "error", err)
	}
}
