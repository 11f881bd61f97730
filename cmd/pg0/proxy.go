package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/gateway"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/proxy"
)

type proxyCmd struct {
	*global
	listen   []string
	mapFile  string
	points   string
	most     int
	idle     time.Duration
	bindir   string
	insecure bool
	cert     string
	key      string
	notice   string
	label    string
	auditLog string
	drain    time.Duration
	config   proxy.Config
}

func proxyCommand(g *global) *cobra.Command {
	c := &proxyCmd{global: g}
	cmd := &cobra.Command{
		Use:   "proxy --listen ADDR [[NAME=]MOUNTPOINT...]",
		Short: "Stand before the servers of mounts and tell clients which moment they see",
		Long: `Stand before the servers of mounts and tell clients which moment they see.

The database name picks the mount: shop is on the first one, shop@monday on the
one of that name (the last element of the mount point, unless NAME= is given), or
the one that shows that point. With --map every point of a mapping file can be
asked for; it is made ready on first use. Clients on TCP need their password, by
the verifiers of the cluster itself; those on a Unix socket, which is private to
its owner, do not. It stays until Ctrl-C or SIGTERM, then lets transactions end.`,
		Example: `  pg0 proxy --listen 127.0.0.1:6432 /mnt/mix /mnt/monday
  pg0 proxy --listen /run/pg0:6432 --map tables.toml
  psql 'host=127.0.0.1 port=6432 dbname=shop@monday'`,
		Args: usage(cobra.ArbitraryArgs),
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), args) },
	}
	c.register(cmd.Flags())
	return cmd
}

func (c *proxyCmd) register(flags *pflag.FlagSet) {
	flags.StringArrayVar(&c.listen, "listen", nil, "`address`: HOST:PORT, or DIRECTORY[:PORT] for a Unix socket; may be repeated")
	flags.StringVar(&c.mapFile, "map", "", "mapping `file` whose points are made ready on first use")
	flags.StringVar(&c.points, "points-dir", "", "`directory` for the mounts of these points (default: a private one below the temporary directory)")
	flags.IntVar(&c.most, "max-points", 4, "points of the mapping file that are ready at the same `number`")
	flags.DurationVar(&c.idle, "idle", 10*time.Minute, "`time` after which a point that nobody uses is stopped")
	flags.StringVar(&c.bindir, "pg-bindir", "", "`directory` of PostgreSQL's server programs (default $PG0_PGBIN, then the usual places)")
	flags.BoolVar(&c.insecure, "insecure", false, "believe every client, also over TCP")
	flags.StringVar(&c.cert, "tls-cert", "", "certificate `file` (PEM)")
	flags.StringVar(&c.key, "tls-key", "", "key `file` (PEM)")
	flags.IntVar(&c.config.MaxSessions, "max-connections", 500, "most sessions at the same time (`number`)")
	flags.DurationVar(&c.config.StartupTimeout, "startup-timeout", 30*time.Second, "`time` for a client to authenticate itself")
	flags.DurationVar(&c.config.IdleTimeout, "idle-timeout", 0, "`time` after which a session outside of a transaction is ended (default never)")
	flags.DurationVar(&c.config.KeepAlive, "keepalive", time.Minute, "`time` after which a silent TCP connection is tried")
	flags.DurationVar(&c.drain, "drain-timeout", 30*time.Second, "`time` that transactions get to end when the proxy does")
	flags.StringVar(&c.notice, "notice", "auto", "`when` to say at the start of a session what is mixed: auto (clients that a person types at), on or off")
	flags.StringVar(&c.label, "label", "off", "`how` to mark results of grafted relations in sessions that do not say: off, notice or columns")
	flags.BoolVar(&c.config.ReadOnly, "read-only", false, "force default_transaction_read_only")
	flags.StringVar(&c.auditLog, "audit-log", "", "append the line of each session to this `file` (default: standard error)")
	flags.BoolVar(&c.config.LogStatements, "log-statements", false, "write the text of statements to the audit log")
}

// noticeWords are the values of --notice.
var noticeWords = map[string]proxy.Notice{"auto": proxy.NoticeInteractive, "on": proxy.NoticeAlways, "off": proxy.NoticeNever}

func (c *proxyCmd) run(ctx context.Context, args []string) error {
	if err := c.check(args); err != nil {
		return err
	}
	dir, err := state.Open(c.stateDir)
	if err != nil {
		return err
	}
	gate, err := c.gateway(dir, args)
	if err != nil {
		return err
	}
	audit, closeAudit, err := c.audit()
	if err != nil {
		return err
	}
	defer closeAudit()
	c.config.Router, c.config.Audit = gate, audit
	c.config.Logger = slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{Level: c.level()}))
	// A loop that waits for its sockets holds one processor of Go's scheduler.
	if runtime.GOMAXPROCS(0) < 2 {
		runtime.GOMAXPROCS(2)
	}
	server, err := proxy.New(c.config)
	if err != nil {
		return err
	}
	return errors.Join(c.serve(ctx, server), gate.Close(context.WithoutCancel(ctx)))
}

func (c *proxyCmd) level() slog.Level {
	if c.verbose {
		return slog.LevelInfo
	}
	return slog.LevelWarn
}

// check looks at the flags before anything is opened.
func (c *proxyCmd) check(args []string) error {
	var known bool
	switch {
	case len(c.listen) == 0:
		return usageError("no address: give --listen, such as --listen 127.0.0.1:6432")
	case len(args) == 0 && c.mapFile == "":
		return usageError("nothing to stand before: give mount points, or --map FILE")
	case c.most < 1:
		return usageError("--max-points %d is less than 1", c.most)
	case (c.cert == "") != (c.key == ""):
		return usageError("--tls-cert and --tls-key belong together")
	}
	if c.config.Notice, known = noticeWords[c.notice]; !known {
		return usageError("--notice: %q is none of auto, on, off", c.notice)
	}
	if c.config.Label, known = proxy.ParseLabel(c.label); !known {
		return usageError("--label: %q is none of off, notice, columns", c.label)
	}
	if c.mapFile != "" {
		if err := refuseRoot("pg0 proxy --map"); err != nil {
			return err
		}
	}
	if c.config.Insecure = c.insecure; c.cert == "" {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return usageError("--tls-cert: %w", err)
	}
	c.config.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	return nil
}

// gateway reads what the arguments and the mapping file name.
func (c *proxyCmd) gateway(dir state.Dir, args []string) (*gateway.Gateway, error) {
	var mounts []gateway.Named
	for _, arg := range args {
		name, mountpoint, named := strings.Cut(arg, "=")
		if !named || strings.Contains(name, "/") {
			name, mountpoint = "", arg
		}
		m, err := findMount(dir, mountpoint)
		if err != nil {
			return nil, err
		}
		if m.Kind == state.Raw {
			return nil, exit.Error(exit.Refused, fmt.Errorf("%s shows a bare backup, which no server runs on", m.Mountpoint))
		}
		if name == "" {
			name = filepath.Base(m.Mountpoint)
		}
		if slices.ContainsFunc(mounts, func(other gateway.Named) bool { return strings.EqualFold(other.Name, name) }) {
			return nil, usageError("two mounts are called %q: give one another name, as in other=%s", name, m.Mountpoint)
		}
		mounts = append(mounts, gateway.Named{Name: name, Mountpoint: m.Mountpoint})
	}
	points, err := c.mapped(dir)
	if err != nil {
		return nil, err
	}
	return gateway.New(dir, mounts, points, c.logger), nil
}

// mapped makes the points of the mapping file known.
func (c *proxyCmd) mapped(dir state.Dir) (*gateway.Points, error) {
	if c.mapFile == "" {
		return nil, nil
	}
	file, err := filepath.Abs(c.mapFile)
	if err != nil {
		return nil, err
	}
	spec, _, err := readMap(file)
	if err != nil {
		return nil, err
	}
	home, err := gateway.PointsDir(c.points, file, dir)
	if err != nil {
		return nil, err
	}
	runner := gateway.Runner{MapFile: file, StateDir: string(dir), BinDir: c.bindir}
	points := &gateway.Points{
		Base: spec.Base, Most: c.most, Idle: c.idle, State: dir, Dir: home,
		Mount: runner.Mount, Umount: runner.Umount, Logger: c.logger,
	}
	for name := range spec.Points {
		points.Names = append(points.Names, name)
	}
	slices.Sort(points.Names)
	points.Start()
	return points, nil
}

// audit opens the log of sessions.
func (c *proxyCmd) audit() (*slog.Logger, func(), error) {
	if c.auditLog == "" {
		return slog.New(slog.NewJSONHandler(c.stderr, nil)), func() {}, nil
	}
	file, err := os.OpenFile(c.auditLog, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("--audit-log: %w", err)
	}
	return slog.New(slog.NewJSONHandler(file, nil)), func() { _ = file.Close() }, nil
}

// serve listens until it is told to end, and drains.
func (c *proxyCmd) serve(ctx context.Context, server *proxy.Server) error {
	listeners, err := c.listeners(server)
	if err != nil {
		return err
	}
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { failed <- server.Serve(l) }()
	}
	if err := c.announce(listeners); err != nil {
		return err
	}
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	// A second signal ends it at once.
	again, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	limit, done := context.WithTimeout(again, c.drain)
	defer done()
	if cut := server.Shutdown(limit); cut != nil {
		c.logger.Warn("sessions were cut off that did not end in time")
	}
	return err
}

func (c *proxyCmd) listeners(server *proxy.Server) (all []net.Listener, err error) {
	for _, address := range c.listen {
		l, err := gateway.Listen(address)
		if err == nil {
			all = append(all, l)
			err = server.CheckListener(l.Addr())
			if err != nil {
				err = usageError("--listen %s: %w; give --tls-cert and --tls-key", address, err)
			}
		}
		if err != nil {
			for _, l := range all {
				_ = l.Close()
			}
			return nil, err
		}
	}
	return all, nil
}

// announce says where it listens; whoever started it waits for that.
func (c *proxyCmd) announce(listeners []net.Listener) error {
	addresses := []string{}
	for _, l := range listeners {
		addresses = append(addresses, l.Addr().String())
	}
	if c.json {
		return c.printJSON(map[string][]string{"listening": addresses})
	}
	_, err := fmt.Fprintln(c.stdout, "listening on", strings.Join(addresses, ", "))
	return err
}
