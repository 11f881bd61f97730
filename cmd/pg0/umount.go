package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/supervise"
)

func umountCommand(g *global) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "umount MOUNTPOINT",
		Aliases: []string{"unmount"},
		Short:   "Take a mount away, and stop its server if pg0 started it",
		Long: `Take a mount away, and stop its server if pg0 started it. A server that was
started by somebody else, or any other process that uses the mount, is an error
(exit code 7); --force stops the server and detaches the mount. Dead mounts are
cleared. Changes are lost unless the mount has a --layer.`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.umount(cmd.Context(), args[0], force)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "stop servers that pg0 did not start, and detach a mount that is in use")
	return cmd
}

func (g *global) umount(ctx context.Context, name string, force bool) error {
	dir, m, err := g.mountAt(name)
	if exit.Code(err) == exit.NotFound {
		return g.umountStray(name, err)
	}
	if err != nil {
		return err
	}
	_, err = supervise.Ask(ctx, dir, m.ID, supervise.Request{Op: supervise.Umount, Force: force})
	ended := errors.Is(err, supervise.ErrEnded)
	if ended {
		if err := m.Supervisor.Wait(ctx); err != nil {
			return err
		}
	}
	if ended || errors.Is(err, supervise.ErrNoSupervisor) {
		err = supervise.CleanUp(ctx, dir, m, force)
	}
	if ended && errors.Is(err, fs.ErrNotExist) {
		err = nil // it has cleared up itself
	}
	if err != nil {
		return err
	}
	return g.printUnmounted(m.Mountpoint)
}

// umountStray clears a dead mount that no record speaks of; another is left to
// whoever made it.
func (g *global) umountStray(name string, unknown error) error {
	mountpoint, err := supervise.Resolve(name)
	if err != nil {
		return err
	}
	if cleared, err := clearStray(mountpoint); err != nil || !cleared {
		return errors.Join(unknown, err)
	}
	return g.printUnmounted(mountpoint)
}

func (g *global) printUnmounted(mountpoint string) error {
	if g.json {
		return g.printJSON(map[string]string{"mountpoint": mountpoint, "state": "unmounted"})
	}
	_, err := fmt.Fprintf(g.stdout, "unmounted %s\n", mountpoint)
	return err
}
