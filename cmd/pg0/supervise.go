package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/fukanchik/pg0/cmd/internal/supervise"
)

func superviseCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:    supervise.Command,
		Short:  "Keep one mount alive; started by pg0 itself",
		Hidden: true,
		Args:   usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			out, err := replyPipe()
			if err != nil {
				return err
			}
			return ended(supervise.Main(os.Stdin, out, backgroundLogger(g)))
		},
	}
}
