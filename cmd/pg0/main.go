// Command pg0 starts PostgreSQL straight on backups and composes clusters in
// which each relation comes from a moment of its own.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/fukanchik/pg0/cmd/internal/exit"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := rootCommand(os.Stdout, os.Stderr).ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "pg0:", strings.TrimSpace(err.Error()))
	}
	os.Exit(exit.Code(err))
}
