package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/cmd/internal/supervise"
)

func startCommand(g *global) *cobra.Command {
	var flags serverFlags
	cmd := &cobra.Command{
		Use:   "start MOUNTPOINT",
		Short: "Start PostgreSQL on a mount",
		Args:  usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.startServer(cmd.Context(), args[0], &flags, flags.changed(cmd.Flags()))
		},
	}
	flags.register(cmd.Flags())
	return cmd
}

func (g *global) startServer(ctx context.Context, name string, flags *serverFlags, changed bool) error {
	if _, err := flags.settings(); err != nil {
		return err
	}
	if err := refuseRoot("pg0 start"); err != nil {
		return err
	}
	dir, m, err := g.mountAt(name)
	if err != nil {
		return err
	}
	request := supervise.Request{Op: supervise.Start}
	if changed {
		if request.Server, err = flags.server(m.Version); err != nil {
			return err
		}
	}
	reply, err := supervise.Ask(ctx, dir, m.ID, request)
	if err != nil {
		return unsupervised(m, err)
	}
	return g.printMount(ctx, dir, reply.Mount)
}

// unsupervised says what to do about a mount whose supervisor has died.
func unsupervised(m *state.Mount, err error) error {
	if !errors.Is(err, supervise.ErrNoSupervisor) {
		return err
	}
	return exit.Error(exit.Failed, fmt.Errorf("the supervisor of %s has died: unmount it with pg0 umount %s and mount it again", m.Mountpoint, m.Mountpoint))
}
