package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/image"
	"github.com/fukanchik/pg0/cmd/internal/pgserver"
	"github.com/fukanchik/pg0/cmd/internal/source"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/cmd/internal/supervise"
	"github.com/fukanchik/pg0/fusefs"
	"github.com/fukanchik/pg0/mapping"
)

func statusCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "status [MOUNTPOINT]",
		Short: "Show what is mounted, and where every relation comes from",
		Long: `Show what is mounted, and where every relation comes from. Without a mount point
all mounts are listed. The exit code is 1 for a dead mount and 6 if pg0 has not
mounted anything there.`,
		Args: usage(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := state.Open(g.stateDir)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return g.statusAll(cmd.Context(), dir)
			}
			return g.statusOne(cmd.Context(), dir, args[0])
		},
	}
}

// States of a mount.
const (
	running  = "running"  // served, with a server on it
	mounted  = "mounted"  // served, no server
	orphaned = "orphaned" // served, but its supervisor has died
	dead     = "dead"     // no longer served
)

// A view is what status shows of a mount.
type view struct {
	Mountpoint    string         `json:"mountpoint"`
	State         string         `json:"state"`
	Problem       string         `json:"problem,omitempty"`
	Kind          state.Kind     `json:"kind"`
	Version       int            `json:"version"`
	Since         time.Time      `json:"since"`
	Server        *serverView    `json:"server,omitempty"`
	Layer         layerView      `json:"layer"`
	Provenance    []state.Origin `json:"provenance"`
	Images        []imageView    `json:"images"`
	Notes         []string       `json:"notes"`
	FileServerPID int            `json:"file_server_pid"`
	SupervisorPID int            `json:"supervisor_pid"`
	Log           string         `json:"log"`
}

// A serverView says how to reach PostgreSQL; PID is 0 while none runs.
type serverView struct {
	PID       int    `json:"pid"`
	Foreign   bool   `json:"foreign,omitempty"` // started by somebody else
	SocketDir string `json:"socket_dir"`
	Port      int    `json:"port"`
	Listen    string `json:"listen,omitempty"`
	Proxy     string `json:"proxy,omitempty"` // address of the proxy before it
	Role      string `json:"role"`
	Database  string `json:"database"`
	URI       string `json:"uri"`
	Psql      string `json:"psql"`
	Log       string `json:"log"`
}

type layerView struct {
	Dir   string `json:"dir,omitempty"` // empty: a temporary file
	Bytes int64  `json:"bytes"`
}

type imageView struct {
	Key   string `json:"key"`
	Bytes int64  `json:"bytes"`
}

// statusPatience is how long a supervisor may be busy before status shows what
// its record says.
const statusPatience = 5 * time.Second

// look finds out how a mount is.
func (g *global) look(ctx context.Context, dir state.Dir, m *state.Mount) *view {
	v := &view{
		Mountpoint: m.Mountpoint, Kind: m.Kind, Version: m.Version, Since: m.Since, Provenance: m.Provenance,
		Layer: layerView{Dir: m.Layer}, Images: []imageView{}, Notes: append([]string{}, m.Notes...),
		FileServerPID: m.Server.PID, SupervisorPID: m.Supervisor.PID, Log: m.Log,
	}
	ctx, cancel := context.WithTimeout(ctx, statusPatience)
	defer cancel()
	reply, err := supervise.Ask(ctx, dir, m.ID, supervise.Request{Op: supervise.Status})
	if err == nil {
		m, v.Layer.Bytes = reply.Mount, reply.Usage
	}
	for _, key := range m.Images {
		meta, err := image.Cache(dir.Images()).Meta(key)
		if err != nil {
			v.Notes = append(v.Notes, fmt.Sprintf("image %s: %v", key, err))
		}
		v.Images = append(v.Images, imageView{key, meta.Bytes})
	}
	if m.Kind != state.Raw {
		v.Server = lookServer(dir, m)
	}
	v.State, v.Problem = condition(m, v.Server, err)
	return v
}

func condition(m *state.Mount, server *serverView, err error) (state, problem string) {
	switch {
	case !m.Alive() && !m.Supervisor.Alive():
		return dead, fmt.Sprintf("%s; clear it with pg0 umount %s", deathOf(m), m.Mountpoint)
	case !m.Alive():
		return dead, "the process that serves it has died; its supervisor is clearing away"
	case !m.Supervisor.Alive():
		return orphaned, fmt.Sprintf("its supervisor has died; it can be used, and ended with pg0 umount %s", m.Mountpoint)
	case err != nil:
		problem = "the supervisor is busy: " + err.Error()
	}
	if server != nil && server.PID != 0 {
		return running, problem
	}
	return mounted, problem
}

func deathOf(m *state.Mount) string {
	if m.Died != "" {
		return m.Died
	}
	return "the processes that served it have died"
}

func lookServer(dir state.Dir, m *state.Mount) *serverView {
	s := &serverView{
		SocketDir: m.SocketDir, Port: m.Port, Listen: m.Listen, Role: m.Role, Database: m.Database,
		Log: dir.PostgresLog(m.ID),
	}
	switch {
	case m.Postgres.Alive():
		s.PID = m.Postgres.PID
	case m.Alive():
		if found, err := pgserver.Attach(m.Mountpoint); err == nil {
			s.PID, s.Foreign = found.Process.PID, true
			s.SocketDir, s.Port, s.Log = found.SocketDir, found.Port, ""
		}
	}
	if m.Proxy.Alive() {
		s.Proxy = m.ProxyListen
	}
	query := url.Values{"host": {s.SocketDir}, "port": {strconv.Itoa(s.Port)}, "user": {s.Role}}
	s.URI = "postgresql:///" + url.PathEscape(s.Database) + "?" + query.Encode()
	s.Psql = fmt.Sprintf("psql -h %s -p %d -U %s -d %s", shellQuote(s.SocketDir), s.Port, shellQuote(s.Role), shellQuote(s.Database))
	return s
}

// shellQuote makes one word of a POSIX shell.
func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./:@%+=", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func (g *global) statusOne(ctx context.Context, dir state.Dir, name string) error {
	m, err := findMount(dir, name)
	if err != nil {
		return err
	}
	v := g.look(ctx, dir, m)
	v.Notes = append(v.Notes, g.changedBackups(ctx, dir, m)...)
	if g.json {
		err = g.printJSON(v)
	} else {
		err = v.write(g.stdout)
	}
	if err == nil && v.State == dead {
		err = exit.Error(exit.Failed, fmt.Errorf("%s is dead: %s", v.Mountpoint, v.Problem))
	}
	return err
}

// changedBackups says which backups under a mount are no longer what they were:
// what is open can still be read, the rest gives I/O errors.
func (g *global) changedBackups(ctx context.Context, dir state.Dir, m *state.Mount) (notes []string) {
	for _, key := range m.Images {
		meta, err := image.Cache(dir.Images()).Meta(key)
		if err != nil || len(meta.Parents) > 0 {
			continue
		}
		catalog, err := meta.Source.Open(g.logger)
		if err == nil {
			err = source.Changed(ctx, catalog, meta.Choice.Backup)
		}
		if err != nil {
			notes = append(notes, fmt.Sprintf("parts of the mount can no longer be read: %v", err))
		}
	}
	return notes
}

// mountAt opens the state directory and reads the record of a mount point, as
// findMount does.
func (g *global) mountAt(name string) (state.Dir, *state.Mount, error) {
	dir, err := state.Open(g.stateDir)
	if err != nil {
		return "", nil, err
	}
	m, err := findMount(dir, name)
	return dir, m, err
}

// findMount reads the record of a mount point. The error has exit code 6 if
// pg0 knows of none.
func findMount(dir state.Dir, name string) (*state.Mount, error) {
	mountpoint, err := supervise.Resolve(name)
	if err != nil {
		return nil, err
	}
	m, err := dir.Load(state.ID(mountpoint))
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return m, err
	}
	if mounted, _ := fusefs.Mounted(mountpoint); mounted {
		return nil, exit.Error(exit.NotFound, fmt.Errorf("%s is mounted, but this state directory (%s) knows nothing of it: give the --state-dir that it was mounted with", mountpoint, dir))
	}
	return nil, exit.Error(exit.NotFound, fmt.Errorf("pg0 has mounted nothing at %s; pg0 status lists all mounts", mountpoint))
}

func (g *global) statusAll(ctx context.Context, dir state.Dir) error {
	mounts, err := dir.List()
	if err != nil {
		return err
	}
	views := []*view{}
	for _, m := range mounts {
		views = append(views, g.look(ctx, dir, m))
	}
	if g.json {
		return g.printJSON(views)
	}
	if len(views) == 0 {
		_, err := fmt.Fprintln(g.stdout, "pg0 has mounted nothing.")
		return err
	}
	w := tabwriter.NewWriter(g.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MOUNT POINT\tSHOWS\tPOINT\tSTATE\tSERVER\tSINCE")
	for _, v := range views {
		server := "-"
		if v.Server != nil && v.Server.PID != 0 {
			server = fmt.Sprintf("%s port %d", v.Server.SocketDir, v.Server.Port)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", v.Mountpoint, v.Kind, v.base(), v.State, server, v.Since.Format(time.RFC3339))
	}
	return w.Flush()
}

// base names the point that everything unmapped comes from.
func (v *view) base() string {
	for _, o := range v.Provenance {
		if o.Relation == "*" {
			return o.Point
		}
	}
	return "-"
}

// write prints the mount for people.
func (v *view) write(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(w, name+"\t"+format+"\n", args...) }
	line("mount point", "%s", v.Mountpoint)
	line("state", "%s", v.State)
	if v.Problem != "" {
		line("problem", "%s", v.Problem)
	}
	line("shows", "%s of PostgreSQL %d, since %s", kindWords[v.Kind], v.Version, v.Since.Format(time.RFC3339))
	if s := v.Server; s != nil {
		s.write(line)
	}
	if v.Layer.Dir != "" {
		line("layer", "%s, %s", v.Layer.Dir, mapping.Size(v.Layer.Bytes))
	} else {
		line("layer", "temporary, %s", mapping.Size(v.Layer.Bytes))
	}
	for _, image := range v.Images {
		line("image", "%s, %s", image.Key, mapping.Size(image.Bytes))
	}
	line("log", "%s", v.Log)
	for _, note := range v.Notes {
		line("note", "%s", note)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	return v.writeProvenance(out)
}

var kindWords = map[state.Kind]string{state.Raw: "a bare backup", state.Point: "one point", state.Mix: "a mix"}

func (s *serverView) write(line func(name, format string, args ...any)) {
	switch {
	case s.PID == 0:
		line("server", "not running")
		return
	case s.Foreign:
		line("server", "pid %d, not started by pg0", s.PID)
	default:
		line("server", "pid %d", s.PID)
	}
	line("socket", "%s", s.SocketDir)
	line("port", "%d", s.Port)
	if s.Listen != "" {
		line("listens on", "%s", s.Listen)
	}
	if s.Proxy != "" {
		line("proxy", "%s", s.Proxy)
	}
	line("URI", "%s", s.URI)
	line("psql", "%s", s.Psql)
	if s.Log != "" {
		line("server log", "%s", s.Log)
	}
}

func (v *view) writeProvenance(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "RELATION\tPOINT\tRECOVERED TO\tBACKUP\tTARGET\tHOW")
	for _, o := range v.Provenance {
		relation := o.Relation
		if relation == "*" {
			relation = "everything else"
			if len(v.Provenance) == 1 {
				relation = "everything"
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", relation, o.Point, recoveredTo(o), o.Backup, o.Target, o.Mode)
	}
	return w.Flush()
}

func recoveredTo(o state.Origin) string {
	return mapping.Origin{Time: o.Time, LSN: o.LSN, XID: o.XID, Target: o.Target}.Recovered()
}

// printMount says where a new mount is and how to reach it.
func (g *global) printMount(ctx context.Context, dir state.Dir, m *state.Mount) error {
	v := g.look(ctx, dir, m)
	if g.json {
		return g.printJSON(v)
	}
	w := tabwriter.NewWriter(g.stdout, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(w, name+"\t"+format+"\n", args...) }
	line("mounted", "%s (%s of PostgreSQL %d, base %s)", v.Mountpoint, kindWords[v.Kind], v.Version, v.base())
	for _, note := range v.Notes {
		line("note", "%s", note)
	}
	if s := v.Server; s != nil && s.PID != 0 {
		s.write(line)
	}
	return w.Flush()
}
