package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/recovery"
)

// walFetchCommand is the restore_command of the servers that pg0 runs.
func walFetchCommand() *cobra.Command {
	var recipe string
	cmd := &cobra.Command{
		Use:    "wal-fetch --recipe FILE NAME DEST",
		Short:  "Give a recovery that pg0 runs a file of WAL",
		Hidden: true,
		Args:   usage(cobra.ExactArgs(2)),
		// PostgreSQL's environment need not have a home directory.
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil },
		RunE: func(cmd *cobra.Command, args []string) error {
			code, err := recovery.Fetch(cmd.Context(), recipe, args[0], args[1])
			if code != 0 && err == nil {
				err = fmt.Errorf("%s is neither in the archive nor in the backup", args[0])
			}
			return exit.Error(code, err)
		},
	}
	cmd.Flags().StringVar(&recipe, "recipe", "", "file that says which recovery asks")
	return cmd
}
