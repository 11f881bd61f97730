package supervise

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/pgserver"
	"github.com/fukanchik/pg0/cmd/internal/proc"
	"github.com/fukanchik/pg0/cmd/internal/serve"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/fusefs"
)

// CleanUp takes away a mount whose supervisor is gone: PostgreSQL that pg0 had
// started, the process that served the mount, the mount itself, and what pg0
// keeps of it. Others that use it are an error with exit code 7 unless force
// ends them.
func CleanUp(ctx context.Context, dir state.Dir, m *state.Mount, force bool) error {
	lock, err := tryLock(dir.MountDir(m.ID))
	if err != nil {
		return err
	}
	defer lock.Close()
	if m.Postgres.Alive() {
		if err := stopHarder(&pgserver.Server{DataDir: m.Mountpoint, Process: m.Postgres}, orphanStop(m)); err != nil {
			return err
		}
	}
	if m.Proxy.Alive() {
		if err := endProxy(m); err != nil {
			return err
		}
	}
	if m.Server.Alive() {
		if err := endServer(ctx, m, force); err != nil {
			return err
		}
	}
	return errors.Join(UnmountDead(m.Mountpoint), clear(m), dir.Remove(m.ID))
}

// orphanStop is clean while the mount is served; without it nothing can be
// written any more.
func orphanStop(m *state.Mount) pgserver.StopMode {
	if m.Server.Alive() {
		return pgserver.Fast
	}
	return pgserver.Immediate
}

// endServer asks the serving process of a mount without a supervisor to unmount.
func endServer(ctx context.Context, m *state.Mount, force bool) error {
	if err := endForeign(m.Mountpoint, force); err != nil {
		return err
	}
	err := fusefs.Unmount(m.Mountpoint)
	if err == nil {
		return m.Server.Wait(ctx) // it writes the layer before it ends
	}
	if !force {
		return exit.Error(exit.Busy, fmt.Errorf("%s is in use: %w; end what uses it (fuser -vm %s), or give --force", m.Mountpoint, err, m.Mountpoint))
	}
	return detach(m.Mountpoint, m.Server)
}

// detach hides a mount that is in use and ends its server: what uses it gets
// errors from then on.
func detach(mountpoint string, server proc.ID) error {
	if err := serve.Detach(mountpoint); err != nil {
		return err
	}
	return endHard(server)
}

// UnmountDead removes the mount that a dead server leaves.
func UnmountDead(mountpoint string) error {
	mounted, err := fusefs.Mounted(mountpoint)
	if err != nil || !mounted {
		return err
	}
	return serve.Detach(mountpoint)
}

// endHard kills a process. One that has ended already is no error.
func endHard(id proc.ID) error {
	if err := id.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, proc.ErrGone) {
		return err
	}
	return id.WaitFor(patience)
}
