package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/fukanchik/pg0/cmd/internal/supervise"
)

func stopCommand(g *global) *cobra.Command {
	var mode string
	cmd := &cobra.Command{
		Use:   "stop MOUNTPOINT",
		Short: "Stop PostgreSQL on a mount",
		Args:  usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.stopServer(cmd.Context(), args[0], mode)
		},
	}
	cmd.Flags().StringVarP(&mode, "mode", "m", "fast", "smart, fast or immediate, as for pg_ctl")
	return cmd
}

func (g *global) stopServer(ctx context.Context, name, mode string) error {
	dir, m, err := g.mountAt(name)
	if err != nil {
		return err
	}
	if _, err := supervise.Ask(ctx, dir, m.ID, supervise.Request{Op: supervise.Stop, Mode: mode}); err != nil {
		return unsupervised(m, err)
	}
	if g.json {
		return g.printJSON(map[string]string{"mountpoint": m.Mountpoint, "state": mounted})
	}
	_, err = fmt.Fprintf(g.stdout, "stopped the server on %s\n", m.Mountpoint)
	return err
}
