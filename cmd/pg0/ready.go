package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/fukanchik/pg0/cmd/internal/image"
	"github.com/fukanchik/pg0/cmd/internal/reach"
	"github.com/fukanchik/pg0/cmd/internal/recovery"
	"github.com/fukanchik/pg0/cmd/internal/source"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/cmd/internal/supervise"
	"github.com/fukanchik/pg0/livepg"
	"github.com/fukanchik/pg0/mapping"
)

// A moment is a point that a command needs as an image. It is definite: the
// backup to start from and the record to stop at are known.
type moment struct {
	name    string // of the point in the mapping file, or the backup's id
	source  string // its name there, or the catalog's path
	ref     source.Ref
	catalog source.Catalog
	choice  *reach.Choice

	// Of a running server: what was taken of it, and whether it runs here.
	taken  *livepg.Taking
	beside bool
}

// release lets what was taken of a running server go with its image.
func release(moments []moment) {
	for _, m := range moments {
		if m.taken != nil {
			_ = m.taken.Release()
		}
	}
}

// atOnce is how many images are made at the same time: each has a PostgreSQL.
const atOnce = 2

// ready makes the images that are missing and opens all of them, in the order
// of the moments. They are to be closed.
func (g *global) ready(ctx context.Context, dir state.Dir, bindir string, moments []moment) ([]*image.Image, error) {
	images := make([]*image.Image, len(moments))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	defer release(moments)
	line := g.progress()
	defer line.done()
	maker := &recovery.Maker{State: dir, BinDir: bindir, Yield: besideProduction(moments), Logger: g.logger, Progress: line.report}
	for i, m := range moments {
		group.Go(func() (err error) {
			images[i], err = maker.Make(ctx, m.ref, m.catalog, m.choice)
			if err != nil {
				return fmt.Errorf("point %s: %w", m.name, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, errors.Join(err, closeImages(images))
	}
	return images, nil
}

// besideProduction says whether work on the moments competes with a server that
// one of them was taken of.
func besideProduction(moments []moment) bool {
	return slices.ContainsFunc(moments, func(m moment) bool { return m.beside })
}

func closeImages(images []*image.Image) error {
	var errs []error
	for _, one := range images {
		if one != nil {
			errs = append(errs, one.Close())
		}
	}
	return errors.Join(errs...)
}

// origin says where the image of a moment comes from. Where replay met no commit,
// the time is the one up to which the backup itself has them.
func (m *moment) origin(made *image.Image) mapping.Origin {
	to := made.Meta.Recovered.Time
	if to.IsZero() {
		to = m.choice.Backup.RecoveryTime
	}
	target := m.choice.Target.String()
	if m.choice.Backup.Mode == livepg.Mode {
		target = "now"
	}
	return mapping.Origin{
		Point: m.name, Source: m.source, Backup: m.choice.Backup.ID, Target: target,
		Time: to, LSN: made.Meta.Recovered.LSN, XID: uint64(made.Meta.Recovered.XID),
		Key: made.Meta.Key,
	}
}

func stateOrigin(o mapping.Origin, relation, kind, mode string) state.Origin {
	return state.Origin{
		Relation: relation, Kind: kind, Mode: mode, Point: o.Point, Source: o.Source, Backup: o.Backup,
		Target: o.Target, Time: o.Time, LSN: o.LSN, XID: o.XID,
	}
}

// notes says what its user must know of the backup that was chosen: newer ones
// that could not be, and what the backup leaves out.
func (m *moment) notes() []string {
	return append(slices.Clone(m.choice.Notes), m.choice.Backup.Warnings...)
}

// notes says what of an image its user must know.
func notes(meta *image.Meta) []string {
	notes := slices.Clone(meta.Notes)
	for _, p := range meta.Prepared {
		notes = append(notes, fmt.Sprintf("prepared transaction %q of %s in database %s is open: its rows are not visible, its locks are held (--rollback-prepared ends it)", p.GID, p.Owner, p.Database))
	}
	notes = append(notes, collationNotes(meta)...)
	for _, o := range meta.Outside {
		text := o.Kind + " " + o.Name
		if o.Database != "" {
			text += " of database " + o.Database
		}
		if o.Detail != "" {
			text += " (" + o.Detail + ")"
		}
		notes = append(notes, "reaches outside of the copy when it is used: "+text)
	}
	return notes
}

// donorNotes says what of an image matters for the relations taken from it.
func donorNotes(meta *image.Meta) []string {
	notes := collationNotes(meta)
	for _, p := range meta.Prepared {
		notes = append(notes, fmt.Sprintf("prepared transaction %q of database %s is open: its rows are not visible", p.GID, p.Database))
	}
	return notes
}

func collationNotes(meta *image.Meta) (notes []string) {
	for _, c := range meta.Collations {
		name := "the default collation"
		if c.Name != "" {
			name = "collation " + c.Name
		}
		notes = append(notes, fmt.Sprintf("%s of database %s had version %s where the backup was made and has %s here: text indexes may give wrong answers until they are reindexed", name, c.Database, c.Recorded, c.Actual))
	}
	return notes
}

// serveImage completes a job with what it takes to run a server on a base.
func (f *mountFlags) serveImage(job *supervise.Job, base *image.Meta, keys []string) error {
	server, err := f.server(base.Choice.Backup.Version)
	if err != nil {
		return err
	}
	server.Durable, server.RollBack = f.layer != "", f.rollBack
	job.Server = server
	m := &job.Mount
	m.Version, m.Role, m.Database = base.Choice.Backup.Version, base.Role, base.Database
	m.Images = append(m.Images, keys...)
	return nil
}

// prepareImage makes the image of the point that mount shows.
func (c *mountCmd) prepareImage(ctx context.Context, job *supervise.Job) (io.Closer, error) {
	ref, catalog, choice, err := c.point.openPoint(ctx, c.global)
	if err != nil {
		return nil, err
	}
	m := moment{name: c.point.name(choice), source: ref.String(), ref: ref, catalog: catalog, choice: choice}
	images, err := c.ready(ctx, job.State, c.bindir, []moment{m})
	if err != nil {
		return nil, err
	}
	made := images[0]
	origin := m.origin(made)
	job.Recipe.Tree = made.Ref()
	job.Mount.Kind = state.Point
	job.Mount.Provenance = []state.Origin{stateOrigin(origin, "*", "", "base")}
	job.Mount.Notes = append(m.notes(), notes(&made.Meta)...)
	err = c.serveImage(job, &made.Meta, made.Keys())
	if err == nil {
		err = c.takeLayer(ctx, c.global, job, mapping.Record{Base: origin.Key}, nil)
	}
	if err != nil {
		return nil, errors.Join(err, made.Close())
	}
	return made, nil
}

// name is how the point is called: as in the mapping file, or by its target.
func (f *pointFlags) name(choice *reach.Choice) string {
	if f.isMapped() {
		return f.mapPoint
	}
	return choice.Target.String()
}
