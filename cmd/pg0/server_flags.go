package main

import (
	"errors"

	"github.com/spf13/pflag"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/pgserver"
	"github.com/fukanchik/pg0/cmd/internal/supervise"
)

// serverFlags say how PostgreSQL runs on a mount.
type serverFlags struct {
	bindir  string
	listen  string
	port    int
	set     []string
	preload []string
}

// defaultPort is that of PostgreSQL: each mount has a socket directory of its
// own, so ports do not meet.
const defaultPort = 5432

func (f *serverFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.bindir, "pg-bindir", "", "`directory` of PostgreSQL's server programs (default $PG0_PGBIN, then the usual places)")
	flags.StringVar(&f.listen, "listen", "", "also listen on these TCP `addresses`; clients need a scram password")
	flags.IntVar(&f.port, "port", defaultPort, "port of the server's socket, and of TCP with --listen")
	flags.StringArrayVar(&f.set, "set", nil, "`name=value` of a setting of PostgreSQL; may be repeated")
	flags.StringArrayVar(&f.preload, "preload", nil, "`library` for shared_preload_libraries; may be repeated")
}

// changed says whether any flag was given that changes the server's settings.
func (f *serverFlags) changed(flags *pflag.FlagSet) bool {
	for _, name := range []string{"pg-bindir", "listen", "port", "set", "preload"} {
		if flags.Changed(name) {
			return true
		}
	}
	return false
}

// server checks the flags for a cluster of a major version.
func (f *serverFlags) server(major int) (*supervise.Server, error) {
	settings, err := f.settings()
	if err != nil {
		return nil, err
	}
	bin, err := pgserver.Find(major, f.bindir)
	if errors.Is(err, pgserver.ErrNoServer) {
		err = exit.Error(exit.Refused, err)
	}
	if err != nil {
		return nil, err
	}
	return &supervise.Server{Bin: bin, Port: f.port, Listen: f.listen, Preload: f.preload, Set: settings}, nil
}

// settings reads --set. It needs no cluster, so it comes before any work.
func (f *serverFlags) settings() ([]pgserver.Setting, error) {
	if f.port < 1 || f.port > 65535 {
		return nil, usageError("--port %d is not between 1 and 65535", f.port)
	}
	var settings []pgserver.Setting
	for _, text := range f.set {
		setting, err := pgserver.ParseSetting(text)
		if err != nil {
			return nil, usageError("%w", err)
		}
		settings = append(settings, setting)
	}
	for _, library := range f.preload {
		if library == "" {
			return nil, usageError("--preload needs the name of a library")
		}
	}
	return settings, nil
}
