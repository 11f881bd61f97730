package main

import (
	"errors"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/serve"
	"github.com/fukanchik/pg0/cmd/internal/supervise"
)

func serveCommand(g *global) *cobra.Command {
	return backgroundCommand(g, serve.Command, "Serve one mount; started by pg0 itself", func(in io.Reader, out io.WriteCloser, log *slog.Logger) int {
		return serve.Main(in, out, log)
	})
}

func superviseCommand(g *global) *cobra.Command {
	return backgroundCommand(g, supervise.Command, "Keep one mount alive; started by pg0 itself", supervise.Main)
}

// backgroundCommand is a process that another pg0 starts: it is told what to do
// on standard input, answers on a pipe, and logs to what is its standard error.
func backgroundCommand(g *global, name, short string, run func(in io.Reader, out io.WriteCloser, log *slog.Logger) int) *cobra.Command {
	return &cobra.Command{
		Use:    name,
		Short:  short,
		Hidden: true,
		Args:   usage(noArgs),
		RunE: func(*cobra.Command, []string) error {
			out, err := replyPipe()
			if err != nil {
				return err
			}
			return ended(run(os.Stdin, out, backgroundLogger(g)))
		},
	}
}

// replies is the descriptor on which a background process answers the one that
// started it.
const replies = 3

// replyPipe is the pipe to the parent. Without it somebody has typed the
// command.
func replyPipe() (*os.File, error) {
	out := os.NewFile(replies, "replies")
	if info, err := out.Stat(); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return nil, usageError("this command is started by pg0 itself: use pg0 mount")
	}
	return out, nil
}

// errSaid ends a background process whose parent has been told already why.
var errSaid = errors.New("see above")

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
