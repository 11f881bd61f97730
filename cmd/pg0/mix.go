package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/fukanchik/pg0/cmd/internal/adopt"
	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/image"
	"github.com/fukanchik/pg0/cmd/internal/layer"
	"github.com/fukanchik/pg0/cmd/internal/recovery"
	"github.com/fukanchik/pg0/cmd/internal/serve"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/mapping"
	"github.com/fukanchik/pg0/relmap"
)

// A mix is a plan with the images that it takes from.
type mix struct {
	plan    *mapping.Plan
	base    *image.Image            // derived from the base's point: with twins, comments and provenance
	images  map[string]*image.Image // by point
	limit   *relmap.Control         // of the base: donors' pages are clamped to its redo LSN
	servers []adopt.ForeignServer   // that foreign tables ask
	derived bool                    // base is the mix's own, to be closed
	beside  bool                    // a server that a point was taken of runs on this machine
}

func (x *mix) close() error {
	if !x.derived {
		return nil
	}
	return x.base.Close()
}

// compose decides what comes from where, refuses what cannot be exact, and
// makes in the base what it lacks. The base is the first of the images. A dry
// run changes nothing and so starts no server.
func (c *frankensteinCmd) compose(ctx context.Context, dir state.Dir, spec *mapping.Spec, moments []moment, images []*image.Image) (*mix, error) {
	x := &mix{base: images[0], images: map[string]*image.Image{}, beside: besideProduction(moments)}
	donors := map[string]*mapping.Image{}
	for i := range moments {
		m := &moments[i]
		donor, err := openForMix(m, images[i])
		if err != nil {
			return nil, err
		}
		x.images[m.name], donors[m.name] = images[i], donor
	}
	base := donors[spec.Base]
	taker := &liveTaker{global: c.global, dir: dir}
	foreign, servers, err := taker.foreign(ctx, spec, like{base.Cluster.Control.SystemID, base.Cluster.Version, base.Name})
	if err != nil {
		return nil, err
	}
	for name, relations := range foreign {
		if donors[name] == nil {
			donors[name] = &mapping.Image{Name: name, Info: mapping.Origin{Source: spec.Points[name].Source}}
		}
		donors[name].Foreign = relations
	}
	x.servers = servers
	twins, preview, err := mapping.Adopt(spec, donors, base)
	if err != nil {
		return nil, refusal(err)
	}
	x.plan, x.limit = preview, &base.Cluster.Control
	if !c.dryRun {
		if err := c.derive(ctx, dir, x, base, twins); err != nil {
			return nil, err
		}
		if err := x.resolve(spec, &moments[0], donors); err != nil {
			return nil, errors.Join(err, x.close())
		}
	}
	x.note(moments, images)
	return x, nil
}

func openForMix(m *moment, made *image.Image) (*mapping.Image, error) {
	cluster, err := relmap.Open(made.Tree)
	if err != nil {
		return nil, fmt.Errorf("point %s: %w", m.name, err)
	}
	return &mapping.Image{Name: m.name, Tree: made.Tree, Cluster: cluster, Defs: made.Defs, Info: m.origin(made), Partial: made.Meta.Choice.Backup.Partial}, nil
}

// derive gives the mix its base: the base's image with the twins, comments and
// provenance of the plan. A layer stays on the one that it was made over.
func (c *frankensteinCmd) derive(ctx context.Context, dir state.Dir, x *mix, base *mapping.Image, twins []mapping.Adoption) error {
	kept, err := c.layerBase(ctx, dir, x, twins)
	if kept != nil || err != nil {
		x.base, x.derived = kept, kept != nil
		return err
	}
	databases, err := connectable(base.Cluster)
	if err != nil {
		return err
	}
	change, err := adopt.Change(x.plan, twins, databases, x.servers)
	if err != nil {
		return err
	}
	line := c.progress()
	defer line.done()
	maker := &recovery.Maker{State: dir, BinDir: c.bindir, Yield: x.beside, Logger: c.logger, Progress: line.report}
	derived, err := maker.Derive(ctx, x.base, change)
	if err != nil {
		return fmt.Errorf("make in the base what the mix shows: %w", err)
	}
	x.base, x.derived = derived, true
	return nil
}

// layerBase opens the base that an existing layer stands on, if it was made
// for the same point. Twins that it lacks cannot be made in it any more.
func (c *frankensteinCmd) layerBase(ctx context.Context, dir state.Dir, x *mix, twins []mapping.Adoption) (*image.Image, error) {
	if c.layer == "" {
		return nil, nil
	}
	record, err := layer.Read(c.layer)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil || record.Kind != state.Mix {
		return nil, err // of another kind: layer.Take refuses it
	}
	kept, err := image.Cache(dir.Images()).Open(ctx, record.Attach.Base, x.base.Meta.Source, c.logger)
	if err != nil {
		return nil, fmt.Errorf("the image that layer %s stands on: %w", c.layer, err)
	}
	if !slices.Contains(kept.Meta.Parents, x.base.Meta.Key) {
		return nil, errors.Join(exit.Error(exit.Refused, fmt.Errorf("layer %s was made over another base: give [base] the point it was made with, or another --layer", c.layer)), kept.Close())
	}
	if err := hasTwins(kept, twins); err != nil {
		return nil, errors.Join(exit.Error(exit.Refused, fmt.Errorf("layer %s: %w", c.layer, err)), kept.Close())
	}
	return kept, nil
}

func hasTwins(base *image.Image, wanted []mapping.Adoption) error {
	made, err := adopt.Twins(&base.Meta)
	if err != nil {
		return err
	}
	for _, w := range wanted {
		if !slices.ContainsFunc(made, func(m mapping.Adoption) bool {
			return m.Database == w.Database && m.Schema == w.Schema && m.Name == w.Name && m.Point == w.Point && m.From == w.From
		}) {
			return fmt.Errorf("it was made without %s.%s of point %s, which would have to be adopted: use a new layer", w.Schema, w.Name, w.Point)
		}
	}
	return nil
}

// connectable names the databases that users work in.
func connectable(cluster *relmap.Cluster) ([]string, error) {
	databases, err := cluster.Databases()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, d := range databases {
		if d.Connectable() && !d.Template {
			names = append(names, d.Name)
		}
	}
	return names, nil
}

// resolve makes the plan anew on the derived base, which has all targets.
func (x *mix) resolve(spec *mapping.Spec, m *moment, donors map[string]*mapping.Image) error {
	base, err := openForMix(m, x.base)
	if err != nil {
		return err
	}
	if base.Adopted, err = adopt.Twins(&x.base.Meta); err != nil {
		return err
	}
	plan, err := mapping.Resolve(spec, donors, base)
	if err != nil {
		return refusal(err)
	}
	x.plan, x.limit = plan, &base.Cluster.Control
	return nil
}

// note adds to the plan what its user must know of the images.
func (x *mix) note(moments []moment, images []*image.Image) {
	x.plan.Notes = append(x.plan.Notes, moments[0].notes()...)
	x.plan.Notes = append(x.plan.Notes, notes(&images[0].Meta)...)
	for i, m := range moments[1:] {
		for _, note := range append(m.notes(), donorNotes(&images[i+1].Meta)...) {
			x.plan.Notes = append(x.plan.Notes, "point "+m.name+": "+note)
		}
	}
}

// tree describes the mix for the process that serves it.
func (x *mix) tree() serve.TreeRef {
	refs := map[string]serve.TreeRef{}
	for _, origin := range x.plan.Points {
		refs[origin.Point] = x.images[origin.Point].Ref()
	}
	return serve.TreeRef{Mix: &serve.Mix{Plan: x.plan, Base: x.base.Ref(), Images: refs, Limit: x.limit.Redo}}
}

func (x *mix) provenance() []state.Origin {
	origins := []state.Origin{stateOrigin(x.plan.Base, "*", "", "base")}
	for _, g := range x.plan.Grafts {
		origins = append(origins, stateOrigin(x.plan.Origin(g.Point), g.Relation, g.Kind, string(g.Mode)))
	}
	for _, f := range x.plan.Foreign {
		origins = append(origins, state.Origin{
			Relation: f.Relation, Kind: "foreign table", Mode: "fdw", Point: f.Point, Source: f.Source, Target: mapping.LiveTarget,
		})
	}
	return origins
}
