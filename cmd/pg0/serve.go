package main

import (
	"errors"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/serve"
)

// replies is the descriptor on which a background process answers the one that
// started it.
const replies = 3

// errSaid ends a background process whose parent has been told already why.
var errSaid = errors.New("see above")

func serveCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:    serve.Command,
		Short:  "Serve one mount; started by pg0 itself",
		Hidden: true,
		Args:   usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			out, err := replyPipe()
			if err != nil {
				return err
			}
			return ended(serve.Main(os.Stdin, out, backgroundLogger(g)))
		},
	}
}

// replyPipe is the pipe to the parent. Without it somebody has typed the
// command.
func replyPipe() (*os.File, error) {
	out := os.NewFile(replies, "replies")
	if info, err := out.Stat(); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return nil, usageError("this command is started by pg0 itself: use pg0 mount")
	}
	return out, nil
}

func ended(code int) error {
	if code == exit.Done {
		return nil
	}
	return exit.Error(code, errSaid)
}

// backgroundLogger says more than that of a command: it goes to a file.
func backgroundLogger(g *global) *slog.Logger {
	level := slog.LevelInfo
	if g.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("pid", os.Getpid())
}
