package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/fukanchik/pg0/cmd/internal/adopt"
	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/live"
	"github.com/fukanchik/pg0/cmd/internal/reach"
	"github.com/fukanchik/pg0/cmd/internal/recovery"
	"github.com/fukanchik/pg0/cmd/internal/source"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/livepg"
	"github.com/fukanchik/pg0/mapping"
)

// confirmFrom is how much is read of a running server without asking.
const confirmFrom = 1 << 30

func liveSource(s mapping.Source) live.Source {
	return live.Source{
		Name: s.Name, DSN: s.DSN, PGData: s.PGData, Rate: s.Rate, Connections: cmp.Or(s.Connections, live.DefaultConnections),
		PasswordCommand: s.PasswordCommand,
	}
}

// A liveTaker takes points of running servers for one command.
type liveTaker struct {
	*global
	dir state.Dir
	yes bool // read as much as it takes without asking
	dry bool // nothing will be mounted

	read int64 // bytes that the command reads of running servers
}

// like is the cluster that a live point has to be of; the zero value is any.
type like struct {
	system  uint64
	version int
	point   string
}

// take takes what the mapping file needs of a point now.
func (l *liveTaker) take(ctx context.Context, spec *mapping.Spec, point string, as like) (moment, error) {
	name := spec.Points[point].Source
	p, err := live.Open(ctx, liveSource(spec.Sources[name]), l.logger)
	if err != nil {
		return moment{}, err
	}
	defer p.Close() //nolint:errcheck // everything was stopped or is undone by the server
	if err := as.check(p); err != nil {
		return moment{}, err
	}
	var want live.Selection
	if !spec.All(point) {
		want.Database = func(database string) bool { return spec.WantsDatabase(point, database) }
		want.Relation = func(database, schema, name string) bool { return spec.Wants(point, database, schema, name) }
	}
	estimate, err := p.Estimate(ctx, want)
	if err != nil {
		return moment{}, err
	}
	if err := l.confirm(ctx, p, point, estimate); err != nil {
		return moment{}, err
	}
	ref := source.Ref{Format: "live", Path: p.Directory(string(l.dir))}
	taken, err := l.copy(ctx, p, want, ref, point)
	if err != nil {
		return moment{}, err
	}
	m, err := l.moment(ctx, point, name, ref, taken.ID)
	m.taken, m.beside = taken, p.Beside()
	return m, err
}

// moment makes a taken point definite.
func (l *liveTaker) moment(ctx context.Context, point, name string, ref source.Ref, id string) (moment, error) {
	m := moment{name: point, source: name, ref: ref}
	var err error
	if m.catalog, err = ref.Open(l.logger); err != nil {
		return m, err
	}
	m.choice, err = reach.Choose(ctx, m.catalog, reach.Target{Kind: reach.Backup, Backup: id, Inclusive: true, Timeline: "current"})
	return m, err
}

// copy takes the point, after it has removed those that nothing needs.
func (l *liveTaker) copy(ctx context.Context, p *live.Production, want live.Selection, ref source.Ref, point string) (*livepg.Taking, error) {
	if err := l.removeTakes(ctx, l.dir); err != nil {
		return nil, err
	}
	catalog, err := livepg.Open(ref.Path)
	if err != nil {
		return nil, err
	}
	line := l.progress()
	defer line.done()
	started := time.Now()
	return p.Take(ctx, want, catalog, func(done, total int64) {
		line.report(copied(point, done, total, time.Since(started)))
	})
}

func copied(point string, done, total int64, took time.Duration) recovery.Progress {
	r := recovery.Progress{Stage: recovery.StageCopy, Backup: point, Done: done, Total: total}
	if total > 0 {
		r.Percent = 100 * float64(done) / float64(total)
	}
	if seconds := took.Seconds(); done > 0 && seconds > 0 {
		r.Rate = float64(done) / seconds
		r.Left = math.Round(float64(total-done) / r.Rate)
	}
	return r
}

// check refuses a server that is not of the cluster that the mix is of, before
// anything is read.
func (as like) check(p *live.Production) error {
	switch {
	case as.system != 0 && as.system != p.SystemID:
		return exit.Error(exit.Refused, fmt.Errorf("source %s: system identifier %d, and point %s is of the cluster %d: a mix is made of one cluster",
			p.Name, p.SystemID, as.point, as.system))
	case as.version != 0 && as.version != p.Version:
		return exit.Error(exit.Refused, fmt.Errorf("source %s: PostgreSQL %d, and point %s is of %d: a mix is made of one version",
			p.Name, p.Version, as.point, as.version))
	}
	return nil
}

// confirm says what will be read, and asks if that is much.
func (l *liveTaker) confirm(ctx context.Context, p *live.Production, point string, e live.Estimate) error {
	text := fmt.Sprintf("point %s: reads %s in %d files of %s", point, mapping.Size(e.Bytes), e.Files, p.Where)
	if p.Rate > 0 {
		text += fmt.Sprintf(", %s at %s/s", e.Time, mapping.Size(p.Rate))
	} else {
		text += ", as fast as it goes (rate is not set)"
	}
	text += ", between a checkpoint and a switch of the WAL segment there"
	if l.dry {
		text += "; the plan needs it, although nothing will be mounted"
	}
	if l.json {
		if err := json.NewEncoder(l.stderr).Encode(map[string]any{"live": map[string]any{
			"point": point, "server": p.Where, "bytes": e.Bytes, "files": e.Files, "seconds": e.Time.Seconds(),
		}}); err != nil {
			return err
		}
	} else if _, err := fmt.Fprintln(l.stderr, "pg0:", text); err != nil {
		return err
	}
	if l.read += e.Bytes; l.read <= confirmFrom || l.yes {
		return nil
	}
	return l.askUser(ctx, point)
}

func (l *liveTaker) askUser(ctx context.Context, point string) error {
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return exit.Error(exit.Refused, fmt.Errorf("point %s: reading more than 1 GB of a running server has to be confirmed: give --yes", point))
	}
	fmt.Fprint(l.stderr, "pg0: go on? [y/N] ")
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		answer <- line
	}()
	select {
	case line := <-answer:
		if strings.EqualFold(strings.TrimSpace(line), "y") {
			return nil
		}
	case <-ctx.Done(): // reading does not end with it
	}
	return exit.Error(exit.Interrupted, fmt.Errorf("point %s: not confirmed, nothing was read", point))
}

// foreign asks the servers of rules with via = "fdw" for their relations.
func (l *liveTaker) foreign(ctx context.Context, spec *mapping.Spec, as like) (map[string][]mapping.ForeignRelation, []adopt.ForeignServer, error) {
	relations := map[string][]mapping.ForeignRelation{}
	var servers []adopt.ForeignServer
	asked := map[string]bool{}
	for _, rule := range spec.Rules {
		if _, done := relations[rule.From]; rule.Via != mapping.ViaFDW || done {
			continue
		}
		source := spec.Points[rule.From].Source
		p, err := live.Dial(ctx, liveSource(spec.Sources[source]), l.logger)
		if err != nil {
			return nil, nil, err
		}
		err = as.check(p)
		if err == nil {
			relations[rule.From], err = p.Foreign(ctx, func(database, schema, name string) bool {
				for i := range spec.Rules {
					if spec.Rules[i].From == rule.From && spec.Rules[i].MatchesForeign(database, schema, name) {
						return true
					}
				}
				return false
			})
		}
		if !asked[source] {
			asked[source] = true
			servers = append(servers, p.ForeignServer())
		}
		if err := errors.Join(err, p.Close()); err != nil {
			return nil, nil, err
		}
	}
	return relations, servers, nil
}
