package mapping

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/fukanchik/pg0/relmap"
)

// Resolve finds the files behind every relation that the spec maps and checks
// that they can stand for the base's exactly. images are keyed by point. It
// reads catalogs and file sizes, no rows. Mistakes in the mapping file give
// FileErrors, reasons why the mix would not be exact *Refused: all of them, not
// only the first.
func Resolve(spec *Spec, images map[string]*Image, base *Image) (*Plan, error) {
	return newResolver(spec, images, base).resolve()
}

func (r *resolver) resolve() (*Plan, error) {
	if err := r.claimAll(); err != nil {
		return nil, err
	}
	p := &Plan{Version: 1, Base: r.base.origin()}
	donors := map[string]Origin{}
	for _, c := range r.won {
		if c.rule.As == nil && (c.rule.From == r.base.Name || sameImage(c.donor, r.base)) {
			p.Own = append(p.Own, Own{Relation: c.String(), Line: c.rule.Line})
			continue
		}
		g, err := r.graft(c)
		if err != nil {
			return nil, fmt.Errorf("%s from %s: %w", c.target, c.rule.From, err)
		}
		p.Grafts = append(p.Grafts, *g)
		donors[g.Point] = c.donor.origin()
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	p.Points = slices.SortedFunc(maps.Values(donors), func(a, b Origin) int { return cmp.Compare(a.Point, b.Point) })
	p.Foreign = r.foreigns
	p.Skipped, p.Notes = r.skipped, r.notes
	return p, nil
}

// origin is the image's provenance under its point's name.
func (i *Image) origin() Origin {
	o := i.Info
	o.Point = i.Name
	return o
}

// graft checks one claim and describes its files. Refusals are collected; the
// error is for what cannot be read.
func (r *resolver) graft(c *claim) (*Graft, error) {
	g := &Graft{
		Relation: c.String(), Database: c.database, Schema: c.schema, Name: c.name,
		Mode: ModeReplace, Point: c.rule.From, DonorOID: c.rel.OID, Line: c.rule.Line, Kind: planKind(c.rel),
	}
	if c.rel.Schema != c.schema || c.rel.Name != c.name {
		g.From = relationName(c.rel)
	}
	fit := &fit{r: r, claim: c, graft: g, adopted: r.base.adopted(c.target)}
	if !fit.find() {
		return g, nil
	}
	if fit.base == nil {
		return g, fit.adopt()
	}
	before := len(r.refusals)
	if fit.relation(); len(r.refusals) > before {
		return g, nil
	}
	if err := fit.parts(); err != nil {
		return nil, err
	}
	for _, part := range g.Parts {
		g.Files += len(part.Files)
		for _, f := range part.Files {
			g.Bytes += f.Size
		}
	}
	return g, nil
}

// planKind is the word of the plan for a kind.
func planKind(rel *relmap.Relation) string {
	switch {
	case rel.Kind == relmap.KindPartitionedTable:
		return "partitioned table"
	case rel.Kind == relmap.KindMatview:
		return "materialized view"
	case rel.Kind == relmap.KindSequence:
		return "sequence"
	case rel.IsPartition:
		return "partition"
	}
	return "table"
}

// fit compares a donor's relation with the base's at its target.
type fit struct {
	r       *resolver
	claim   *claim
	graft   *Graft
	adopted *Adoption // of a twin that was made for this claim
	baseDB  *relmap.Database
	base    *relmap.Relation
}

// remedyAs is what most refusals end with.
func (f *fit) remedyAs() string {
	if f.adopted != nil || f.claim.rule.As != nil {
		return "the twin in the base does not fit; make it anew"
	}
	return fmt.Sprintf("show it beside the base's own with as = \"%s.%s\"", QuoteIdent(f.claim.rule.From), QuoteIdent(f.claim.name))
}

func (f *fit) refuse(remedy, format string, args ...any) {
	f.r.refuse(f.claim.String(), remedy, format, args...)
}

func (f *fit) drift(format string, args ...any) {
	f.graft.Drift = append(f.graft.Drift, fmt.Sprintf(format, args...))
}

// find looks the target up in the base. It leaves base nil for a relation that
// is to be adopted.
func (f *fit) find() bool {
	c := f.claim
	if f.baseDB = f.r.baseDatabase(c.database); f.baseDB == nil {
		f.refuse("take a base that has it, or leave the rule out", "database %s is not in the base", QuoteIdent(c.database))
		return false
	}
	f.base = f.baseDB.Relation(c.schema, c.name)
	switch {
	case f.base == nil && f.r.adopter == nil:
		f.refuse("it must be adopted before it can be shown", "is not in the base")
	case f.base != nil && c.rule.As != nil && f.adopted == nil:
		f.refuse("give as another name", "the base has %s of this name already", kindName(f.base))
	default:
		if f.base != nil {
			f.graft.OID = f.base.OID
		}
		if f.adopted != nil {
			f.graft.Mode = ModeAdopt
		}
		return true
	}
	return false
}

// relation compares what belongs to the relation as a whole.
func (f *fit) relation() {
	donor, base := f.claim.rel, f.base
	if why := ungraftable(donor); why != "" {
		f.refuse("take it out of the rule with except", "%s", why)
		return
	}
	if why := ungraftable(base); why != "" {
		f.refuse(f.remedyAs(), "in the base %s", why)
		return
	}
	twinOfMatview := f.adopted != nil && donor.Kind == relmap.KindMatview && base.Kind == relmap.KindTable
	switch {
	case donor.Kind != base.Kind && !twinOfMatview:
		f.refuse(f.remedyAs(), "is %s at %s and %s in the base", kindName(donor), f.claim.rule.From, kindName(base))
		return
	case donor.HasStorage() && donor.Kind != relmap.KindSequence && (donor.AM != relmap.HeapAM || base.AM != relmap.HeapAM):
		f.refuse("leave it out of the mapping file", "its rows are not kept by PostgreSQL's own heap but by access method %s",
			cmp.Or(f.claim.db.AccessMethod(donor.AM), "unknown"))
		return
	case donor.Kind == relmap.KindMatview && !donor.Populated:
		f.refuse("leave it out of the mapping file", "it holds no data at %s", f.claim.rule.From)
	case donor.Kind == relmap.KindMatview && !twinOfMatview && !base.Populated:
		f.refuse(f.remedyAs(), "it holds no data in the base, whose catalogs forbid reading it")
	}
	f.databases()
	if f.adopted != nil {
		f.differences()
	}
	switch donor.Kind {
	case relmap.KindSequence:
		f.sequence()
	case relmap.KindPartitionedTable:
		f.partitions() // no row is laid out by its columns: each partition has its own
	default:
		f.columns()
		f.sequences()
		f.heirs()
	}
}

// sequence notes what a sequence's catalogs in the base say otherwise.
func (f *fit) sequence() {
	donor, base := f.claim.rel.Sequence, f.base.Sequence
	if donor != nil && base != nil && *donor != *base {
		f.drift("the sequence has other settings at %s", f.claim.rule.From)
	}
}

// sequences notes owned sequences that only one side has.
func (f *fit) sequences() {
	if f.adopted != nil {
		return
	}
	served := map[uint32]bool{}
	for _, s := range f.claim.rel.Sequences {
		switch twin := ownedTwin(f.base, s); {
		case twin == nil:
			f.drift("sequence %s is not in the base and is left out", relationName(s))
		default:
			served[twin.OID] = true
		}
	}
	for _, s := range f.base.Sequences {
		if !served[s.OID] {
			f.drift("sequence %s stays the base's", relationName(s))
		}
	}
}

// heirs notes that the rows of other tables are read with a parent's.
func (f *fit) heirs() {
	if f.adopted == nil && !slices.EqualFunc(f.claim.rel.Children, f.base.Children, func(a, b *relmap.Relation) bool { return a.OID == b.OID }) {
		f.drift("other tables inherit from it than at %s", f.claim.rule.From)
	} else if f.adopted == nil && len(f.base.Children) > 0 {
		f.drift("tables that inherit from it stay the base's unless they are named")
	}
}
