package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/fukanchik/pg0/cmd/internal/exit"
)

// version is set when a release is linked.
var version = "dev"

// global is what every command shares: the flags of the root and where to write.
type global struct {
	verbose  bool
	json     bool
	stateDir string

	stdout, stderr io.Writer
	logger         *slog.Logger
}

func rootCommand(stdout, stderr io.Writer) *cobra.Command {
	g := &global{stdout: stdout, stderr: stderr}
	root := &cobra.Command{
		Use:           "pg0",
		Short:         "Start PostgreSQL straight on backups, and mix moments in one cluster",
		Version:       version,
		Args:          usage(cobra.NoArgs),
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			return g.setUp()
		},
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetVersionTemplate("pg0 {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return exit.Error(exit.Usage, fmt.Errorf("%w; see '%s --help'", err, cmd.CommandPath()))
	})
	flags := root.PersistentFlags()
	flags.BoolVarP(&g.verbose, "verbose", "v", false, "say more, and log what is done")
	flags.BoolVar(&g.json, "json", false, "print JSON")
	flags.StringVar(&g.stateDir, "state-dir", "", "directory of images and mounts (default $XDG_STATE_HOME/pg0)")
	root.AddCommand(commands(g)...)
	return root
}

func commands(g *global) []*cobra.Command {
	return []*cobra.Command{
		pointsCommand(g),
		verifyCommand(g),
		versionCommand(g),
		mountCommand(g),
		relationsCommand(g),
		frankensteinCommand(g),
		refreshCommand(g),
		startCommand(g),
		stopCommand(g),
		statusCommand(g),
		umountCommand(g),
		doctorCommand(g),
		proxyCommand(g),
		imagesCommand(g),
		walFetchCommand(),
		serveCommand(g),
		superviseCommand(g),
	}
}

// setUp completes the global flags once they are parsed.
func (g *global) setUp() error {
	level := slog.LevelWarn
	if g.verbose {
		level = slog.LevelDebug
	}
	g.logger = slog.New(slog.NewTextHandler(g.stderr, &slog.HandlerOptions{Level: level}))
	if g.stateDir == "" {
		dir, err := defaultStateDir()
		if err != nil {
			return err
		}
		g.stateDir = dir
	}
	dir, err := filepath.Abs(g.stateDir)
	if err != nil {
		return fmt.Errorf("--state-dir: %w", err)
	}
	g.stateDir = dir
	return nil
}

func defaultStateDir() (string, error) {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "pg0"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", exit.Error(exit.Usage, fmt.Errorf("no place for images and mounts: %w; set HOME or give --state-dir", err))
	}
	return filepath.Join(home, ".local", "state", "pg0"), nil
}

// printJSON writes one indented value to standard output.
func (g *global) printJSON(value any) error {
	enc := json.NewEncoder(g.stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(value)
}

// usage gives the errors of an argument check the exit code of wrong usage, and
// says how the command is written.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return exit.Error(exit.Usage, fmt.Errorf("%w: write %s; see '%s --help'", err, cmd.UseLine(), cmd.CommandPath()))
		}
		return nil
	}
}

// noArgs is for commands that have flags only. Cobra takes an argument of theirs
// for the name of another command.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no argument %q", cmd.CommandPath(), args[0])
	}
	return nil
}

// usageError is an error of the command line: exit code 2.
func usageError(format string, args ...any) error {
	return exit.Error(exit.Usage, fmt.Errorf(format, args...))
}

func versionCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  usage(noArgs),
		RunE: func(*cobra.Command, []string) error {
			if g.json {
				return g.printJSON(map[string]string{"version": version, "go": runtime.Version(), "revision": revision()})
			}
			_, err := fmt.Fprintln(g.stdout, "pg0", version, revision())
			return err
		},
	}
}

// revision is the commit the program was built from, if Go recorded it.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}
