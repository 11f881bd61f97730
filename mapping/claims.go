package mapping

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/fukanchik/pg0/relmap"
)

// target is a relation of the base that a rule gives an origin.
type target struct{ database, schema, name string }

func (t target) String() string { return quoteName(t.database, t.schema, t.name) }

func (t target) compare(o target) int {
	return cmp.Or(cmp.Compare(t.database, o.database), cmp.Compare(t.schema, o.schema), cmp.Compare(t.name, o.name))
}

// rank orders claims on one target: the higher wins.
type rank int

const (
	byWildcard rank = iota
	byKinship       // a partition, heir or sequence of what a rule names outright
	byName
)

// A claim is the wish of a rule that a donor's relation be shown at a target.
type claim struct {
	target
	rule  *Rule
	rank  rank
	donor *Image
	db    *relmap.Database // the donor's
	rel   *relmap.Relation
	kin   target // the relation that brought this one, if any
}

// sameOrigin says whether two claims would show the same bytes.
func (c *claim) sameOrigin(o *claim) bool {
	return sameImage(c.donor, o.donor) && c.db.OID == o.db.OID && c.rel.OID == o.rel.OID
}

func sameImage(a, b *Image) bool {
	return a == b || a.Info.Key != "" && a.Info.Key == b.Info.Key
}

// resolver collects what a spec asks of its images and all that forbids it.
type resolver struct {
	spec   *Spec
	images map[string]*Image
	base   *Image

	claims   map[target][]*claim
	won      []*claim // one for each target, sorted
	adopter  *adopter // nil where every target must be in the base
	foreigns []Foreign
	skipped  []Skip
	notes    []string
	mistakes FileErrors
	refusals []Refusal
	refused  map[*Image]bool // images that do not go with the base at all
}

func newResolver(spec *Spec, images map[string]*Image, base *Image) *resolver {
	return &resolver{spec: spec, images: images, base: base, claims: map[target][]*claim{}, refused: map[*Image]bool{}}
}

func (r *resolver) refuse(relation, remedy, format string, args ...any) {
	r.refusals = append(r.refusals, Refusal{Relation: relation, Reason: fmt.Sprintf(format, args...), Remedy: remedy})
}

func (r *resolver) mistake(line int, format string, args ...any) {
	r.mistakes = append(r.mistakes, &FileError{File: r.spec.File, Line: line, What: fmt.Sprintf(format, args...)})
}

// err gives what was found wrong: mistakes in the file first, since refusals
// may follow from them.
func (r *resolver) err() error {
	switch {
	case len(r.mistakes) > 0:
		return r.mistakes
	case len(r.refusals) > 0:
		return &Refused{r.refusals}
	}
	return nil
}

// claimAll applies every rule and keeps the claims that win.
func (r *resolver) claimAll() error {
	r.checkBase()
	for i := range r.spec.Rules {
		if err := r.apply(&r.spec.Rules[i]); err != nil {
			return err
		}
	}
	r.checkForeign()
	for _, t := range slices.SortedFunc(maps.Keys(r.claims), target.compare) {
		r.won = append(r.won, r.winner(t, r.claims[t]))
	}
	return nil
}

// winner is the claim of the highest rank; two of it with different origins
// are a mistake.
func (r *resolver) winner(t target, claims []*claim) *claim {
	best := slices.MaxFunc(claims, func(a, b *claim) int { return cmp.Compare(a.rank, b.rank) })
	for _, c := range claims {
		if c.rank != best.rank || c.sameOrigin(best) {
			continue
		}
		if c.kin == (target{}) || c.kin != best.kin { // else said of the kin
			r.mistake(c.rule.Line, "%s would come from two origins: %s of %s (line %d) and %s of %s (line %d); except = [...] takes names out of a rule",
				t, relationName(best.rel), best.rule.From, best.rule.Line, relationName(c.rel), c.rule.From, c.rule.Line)
			break
		}
	}
	return best
}

func relationName(rel *relmap.Relation) string { return quoteName(rel.Schema, rel.Name) }

// apply finds the relations that a rule names.
func (r *resolver) apply(rule *Rule) error {
	if rule.Via == ViaFDW {
		return r.foreign(rule)
	}
	donor, ok := r.images[rule.From]
	if !ok {
		return fmt.Errorf("there is no image of point %s", rule.From)
	}
	if !r.clusterFits(donor) {
		return nil
	}
	dbs, err := matchingDatabases(donor.Cluster, rule.Name)
	if err != nil {
		return fmt.Errorf("databases of point %s: %w", rule.From, err)
	}
	found := false
	for _, db := range dbs {
		for _, rel := range db.Relations() {
			if !IsSystemSchema(rel.Schema) && rule.matches(db.Name, rel) {
				found = r.take(rule, donor, db, rel) || found
			}
		}
	}
	if !found {
		return r.nothing(rule, donor)
	}
	return nil
}

func matchingDatabases(c *relmap.Cluster, name Pattern) ([]*relmap.Database, error) {
	all, err := c.Databases()
	if err != nil {
		return nil, err
	}
	var matching []*relmap.Database
	for _, d := range all {
		if !name.parts[0].match([]rune(d.Name)) || !d.Connectable() || d.Template && name.parts[0].isWild() {
			continue
		}
		loaded, err := c.Database(d.Name)
		if err != nil {
			return nil, err
		}
		matching = append(matching, loaded)
	}
	return matching, nil
}

func (rule *Rule) matches(database string, rel *relmap.Relation) bool {
	return rule.Name.Match(database, rel.Schema, rel.Name) && !rule.excepts(database, rel)
}

func (rule *Rule) excepts(database string, rel *relmap.Relation) bool {
	return slices.ContainsFunc(rule.Except, func(p Pattern) bool { return p.Match(database, rel.Schema, rel.Name) })
}

// take makes the claims that a rule has through a relation that it matches. It
// reports whether the rule means relations of this kind at all.
func (r *resolver) take(rule *Rule, donor *Image, db *relmap.Database, rel *relmap.Relation) bool {
	c := &claim{rule: rule, rank: byName, donor: donor, db: db, rel: rel, target: rule.target(db.Name, rel)}
	wild := rule.Name.Wild()
	if wild {
		c.rank = byWildcard
	}
	switch rel.Kind {
	case relmap.KindIndex, relmap.KindPartitionedIndex, relmap.KindToast, relmap.KindComposite:
		if !wild {
			r.refuse(c.String(), "", "is %s: name a table instead", kindName(rel))
		}
		return !wild
	case relmap.KindSequence:
		if rule.Name.parts[2].isWild() {
			return false // it comes with the table that owns it, or when named
		}
	}
	if why := ungraftable(rel); why != "" {
		if wild {
			r.skip(Skip{Relation: quoteName(db.Name, rel.Schema, rel.Name), Reason: why, Line: rule.Line})
		} else {
			r.refuse(c.String(), "leave it out of the mapping file", "%s", why)
		}
		return true
	}
	r.claim(c)
	return true
}

// skip notes a skipped relation once.
func (r *resolver) skip(s Skip) {
	if !slices.ContainsFunc(r.skipped, func(o Skip) bool { return o.Relation == s.Relation }) {
		r.skipped = append(r.skipped, s)
	}
}

// target is where a rule shows a relation.
func (rule *Rule) target(database string, rel *relmap.Relation) target {
	t := target{database, rel.Schema, rel.Name}
	if rule.As != nil {
		t.schema, t.name = rule.As.Schema, cmp.Or(rule.As.Name, rel.Name)
	}
	return t
}

// claim adds a claim and those that follow from it: the partitions of a
// partitioned table, the heirs of an adopted table, the sequences that the
// columns of a replaced table own.
func (r *resolver) claim(c *claim) {
	if c.rule.excepts(c.database, c.rel) {
		return
	}
	r.claims[c.target] = append(r.claims[c.target], c)
	kin := max(byWildcard, min(c.rank, byKinship))
	base := r.baseRelation(c.target)
	adopts := c.rule.As != nil || base == nil || r.base.adopted(c.target) != nil
	switch {
	case c.rel.Kind == relmap.KindPartitionedTable:
		for _, partition := range c.rel.Partitions {
			r.claim(c.child(partition, kin))
		}
	case adopts && c.rel.Kind == relmap.KindTable:
		for _, heir := range c.rel.Children {
			r.claim(c.child(heir, kin))
		}
	case c.rel.Kind == relmap.KindTable:
		for _, sequence := range c.rel.Sequences {
			if own := ownedTwin(base, sequence); own != nil && ungraftable(sequence) == "" {
				t := target{c.database, own.Schema, own.Name}
				r.claim(&claim{target: t, rule: c.rule, rank: kin, donor: c.donor, db: c.db, rel: sequence, kin: c.target})
			}
		}
	}
}

// child is the claim on a partition or heir. Shown under another name in its
// own schema, the parent gives it a name that begins with the parent's new one.
func (c *claim) child(rel *relmap.Relation, kin rank) *claim {
	child := &claim{rule: c.rule, rank: kin, donor: c.donor, db: c.db, rel: rel, kin: c.target}
	child.target = target{c.database, rel.Schema, rel.Name}
	if c.rule.As != nil {
		child.target.schema = c.rule.As.Schema
		if c.rule.As.Schema == rel.Schema && c.target.name != c.rel.Name {
			child.target.name = renamed(rel.Name, c.rel.Name, c.target.name)
		}
	}
	return child
}

// ownedTwin finds the base's counterpart of a sequence that a column owns: of
// the same name, else of the same column.
func ownedTwin(base *relmap.Relation, sequence *relmap.Relation) *relmap.Relation {
	var twin *relmap.Relation
	for _, s := range base.Sequences {
		switch {
		case s.Schema == sequence.Schema && s.Name == sequence.Name:
			return s
		case s.OwnedBy.Attnum == sequence.OwnedBy.Attnum:
			twin = s
		}
	}
	return twin
}

func (r *resolver) baseDatabase(name string) *relmap.Database {
	db, err := r.base.Cluster.Database(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.refuse(QuoteIdent(name), "", "the base's catalogs cannot be read: %v", err)
	}
	if err != nil {
		return nil
	}
	return db
}

func (r *resolver) baseRelation(t target) *relmap.Relation {
	db := r.baseDatabase(t.database)
	if db == nil {
		return nil
	}
	return db.Relation(t.schema, t.name)
}

// nothing reports a rule that matches nothing, with the nearest name.
func (r *resolver) nothing(rule *Rule, donor *Image) error {
	all, err := donor.Cluster.Databases()
	if err != nil {
		return err
	}
	var names []string
	for _, d := range all {
		if !d.Connectable() || d.Template {
			continue
		}
		db, err := donor.Cluster.Database(d.Name)
		if err != nil {
			return err
		}
		for _, rel := range db.Relations() {
			if !IsSystemSchema(rel.Schema) && ungraftable(rel) == "" && rel.Kind != relmap.KindIndex {
				names = append(names, quoteName(d.Name, rel.Schema, rel.Name))
			}
		}
	}
	hint := didYouMean(rule.Name.String(), names)
	if !rule.Name.Wild() && r.baseRelation(target{rule.Name.literal(0), rule.Name.literal(1), rule.Name.literal(2)}) != nil {
		hint = "; the base has it, made after that point or renamed since"
	}
	r.mistake(rule.Line, "%s matches nothing at point %s%s", rule.Name, rule.From, hint)
	return nil
}

// kindName is a relation's kind in words.
func kindName(rel *relmap.Relation) string {
	switch rel.Kind {
	case relmap.KindTable:
		return "a table"
	case relmap.KindPartitionedTable:
		return "a partitioned table"
	case relmap.KindMatview:
		return "a materialized view"
	case relmap.KindSequence:
		return "a sequence"
	case relmap.KindView:
		return "a view"
	case relmap.KindForeignTable:
		return "a foreign table"
	case relmap.KindIndex, relmap.KindPartitionedIndex:
		return "an index"
	case relmap.KindToast:
		return "a TOAST table"
	case relmap.KindComposite:
		return "a composite type"
	}
	return fmt.Sprintf("of kind %q", rel.Kind)
}

// ungraftable says why no relation of this kind can come from a donor, or "".
func ungraftable(rel *relmap.Relation) string {
	switch {
	case rel.Kind == relmap.KindView:
		return "a view has no rows of its own"
	case rel.Kind == relmap.KindForeignTable:
		return "a foreign table has its rows elsewhere"
	case rel.Persistence == relmap.Unlogged:
		return "it is unlogged: a backup does not hold its rows"
	case rel.Persistence == relmap.Temporary:
		return "it is temporary"
	}
	return ""
}
