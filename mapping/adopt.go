package mapping

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/fukanchik/pg0/relmap"
)

// An Adoption is an empty twin that the base needs before a donor's relation
// can be served: its files are then shown as the twin's. Names in texts are
// qualified.
type Adoption struct {
	Database string `json:"database"`
	Schema   string `json:"schema"`
	Name     string `json:"name"`
	Kind     string `json:"kind"` // table, partitioned table, sequence; materialized views become tables
	Point    string `json:"point"`
	From     string `json:"from"` // the donor's relation
	DonorOID uint32 `json:"donor_oid"`
	Line     int    `json:"line"` // of the rule

	Columns  []Column         `json:"columns,omitempty"`
	Indexes  []AdoptIndex     `json:"indexes,omitempty"`
	Sequence *relmap.Sequence `json:"sequence,omitempty"`
	// PartitionKey is what follows PARTITION BY in a partitioned table.
	PartitionKey string `json:"partition_key,omitempty"`
	// Parent is the adopted partitioned table that the twin is attached to, and
	// Bound what follows its name there: FOR VALUES ..., or DEFAULT.
	Parent string `json:"parent,omitempty"`
	Bound  string `json:"bound,omitempty"`
	// Inherits are adopted tables that the twin inherits from.
	Inherits []string `json:"inherits,omitempty"`
	Comment  string   `json:"comment"`
}

// A Column is a column of a twin, in its place.
type Column struct {
	Num     int16  `json:"num"`
	Name    string `json:"name"`
	Dropped bool   `json:"dropped,omitempty"` // its slot must be there, its type is gone
	// Type is what format_type prints in the base; "" for a dropped column.
	Type        string `json:"type,omitempty"`
	TypeOID     uint32 `json:"type_oid,omitempty"`
	TypeMod     int32  `json:"type_mod"`
	Len         int16  `json:"len"`
	Align       string `json:"align"`
	ByVal       bool   `json:"byval,omitempty"`
	Storage     string `json:"storage"`
	NotNull     bool   `json:"not_null,omitempty"`
	Collation   string `json:"collation,omitempty"` // where it is not the type's own
	Virtual     bool   `json:"virtual,omitempty"`   // a virtual generated column: nothing is stored
	HasMissing  bool   `json:"has_missing,omitempty"`
	MissingText string `json:"missing,omitempty"` // what rows without the column show, as the type prints it
}

// An AdoptIndex is an index of a twin.
type AdoptIndex struct {
	Name string `json:"name"`
	Def  string `json:"def"` // CREATE INDEX ... on the twin
	// Constraint, if not "", is the constraint that the index implements:
	// PRIMARY KEY (id). It has the index's name and is made in its stead.
	Constraint string `json:"constraint,omitempty"`
	DonorOID   uint32 `json:"donor_oid"`
	// Rebuild says why no file of the donor can stand for it: REINDEX it once
	// the donor's rows are there. "" means that it is served.
	Rebuild string `json:"rebuild,omitempty"`
}

// Adopt says which twins the base needs for the spec, parents before their
// partitions, and gives the plan as it will be: without target files for the
// relations that are still to be adopted. If there are none the plan is that of
// Resolve. After the twins have been made, and the base has been stopped again,
// Resolve on that base, with Image.Adopted set to them, serves the donors'
// files. Errors are those of Resolve.
func Adopt(spec *Spec, images map[string]*Image, base *Image) ([]Adoption, *Plan, error) {
	r := newResolver(spec, images, base)
	r.adopter = &adopter{names: map[target]bool{}}
	plan, err := r.resolve()
	if err != nil {
		return nil, nil, err
	}
	return r.adopter.ordered(), plan, nil
}

// adopter collects adoptions.
type adopter struct {
	list  []Adoption
	names map[target]bool // names of indexes that have been given
}

// ordered puts parents before what is attached to them.
func (a *adopter) ordered() []Adoption {
	parents := map[string][]string{}
	for i := range a.list {
		one := &a.list[i]
		parents[one.target().String()] = append(slices.Clone(one.Inherits), one.Parent)
	}
	var depth func(name string) int
	depth = func(name string) int {
		deepest := 0
		for _, p := range parents[name] {
			if p != "" {
				deepest = max(deepest, 1+depth(p))
			}
		}
		return deepest
	}
	slices.SortStableFunc(a.list, func(x, y Adoption) int {
		return cmp.Or(cmp.Compare(x.Database, y.Database), cmp.Compare(depth(x.target().String()), depth(y.target().String())))
	})
	return a.list
}

func (a *Adoption) target() target { return target{a.Database, a.Schema, a.Name} }

// adopted finds the twin that was made in the base for a target.
func (i *Image) adopted(t target) *Adoption {
	for k := range i.Adopted {
		if i.Adopted[k].target() == t {
			return &i.Adopted[k]
		}
	}
	return nil
}

// adopt plans the twin for a claim whose target the base does not have.
func (f *fit) adopt() error {
	c, rel := f.claim, f.claim.rel
	f.graft.Mode = ModeAdopt
	a := Adoption{
		Database: c.database, Schema: c.schema, Name: c.name, Kind: planKind(rel),
		Point: c.rule.From, From: quoteName(c.database, rel.Schema, rel.Name), DonorOID: rel.OID, Line: c.rule.Line,
	}
	if a.Kind == "partition" || rel.Kind == relmap.KindMatview {
		a.Kind = "table"
	}
	if !f.adoptable() {
		return nil
	}
	if c.donor.definitions(c.database) == nil {
		return fmt.Errorf("the image of point %s holds no definitions of database %s", c.rule.From, c.database)
	}
	f.databases()
	if rel.Kind == relmap.KindSequence {
		a.Sequence = rel.Sequence
	}
	for _, attribute := range rel.Attributes {
		if rel.Kind != relmap.KindSequence {
			f.types(attribute)
			a.Columns = append(a.Columns, f.column(attribute))
		}
	}
	f.kin(&a)
	if err := f.adoptIndexes(&a); err != nil {
		return err
	}
	f.differences()
	a.Comment = comment(f.graft, c.donor.origin())
	f.r.adopter.list = append(f.r.adopter.list, a)
	return f.donorFiles()
}

// adoptable makes the checks that need no twin.
func (f *fit) adoptable() bool {
	rel := f.claim.rel
	switch why := ungraftable(rel); {
	case why != "":
		f.refuse("take it out of the rule with except", "%s", why)
	case rel.Kind == relmap.KindMatview && !rel.Populated:
		f.refuse("leave it out of the mapping file", "it holds no data at %s", f.claim.rule.From)
	case rel.HasStorage() && rel.Kind != relmap.KindSequence && rel.AM != relmap.HeapAM:
		f.refuse("leave it out of the mapping file", "its rows are not kept by PostgreSQL's own heap but by access method %s", cmp.Or(f.claim.db.AccessMethod(rel.AM), "unknown"))
	case len(f.claim.name) > nameDataLen || len(f.claim.schema) > nameDataLen:
		f.refuse("give as a shorter name", "the name is longer than PostgreSQL's %d bytes", nameDataLen)
	default:
		return true
	}
	return false
}

// column describes a column of the twin in the base's words.
func (f *fit) column(a relmap.Attribute) Column {
	c := Column{
		Num: a.Num, Name: a.Name, Dropped: a.Dropped, TypeOID: a.Type, TypeMod: a.TypeMod,
		Len: a.Len, Align: string(a.Align), ByVal: a.ByVal, Storage: string(a.Storage),
		NotNull: a.NotNull, Virtual: a.Generated == 'v', HasMissing: a.HasMissing && !a.Dropped,
	}
	if a.Dropped {
		return c
	}
	c.Type = f.twinType(a)
	if defs := f.claim.donor.definitions(f.claim.database); defs != nil && c.HasMissing {
		c.MissingText = defs.Missing[relmap.ColumnKey(f.claim.rel.OID, a.Num)]
	}
	if t := f.baseDB.Type(a.Type); t != nil && t.Collation != a.Collation && a.Collation != 0 {
		if collation := f.baseDB.Collation(a.Collation); collation != nil {
			c.Collation = quoteName(collation.Schema, collation.Name)
		} else {
			f.drift("column %s loses its collation, which the base does not have", columnName(a))
		}
	}
	return c
}

// twinType is the type's name in the base, which may have renamed it.
func (f *fit) twinType(a relmap.Attribute) string {
	text := f.columnType(f.claim.donor, f.claim.db, f.claim.rel, a)
	donor, base := f.claim.db.Type(a.Type), f.baseDB.Type(a.Type)
	suffix := ""
	if donor != nil && base != nil && donor.IsArray() {
		donor, base, suffix = f.claim.db.Type(donor.Elem), f.baseDB.Type(base.Elem), "[]"
	}
	if donor == nil || base == nil || donor.Schema == base.Schema && donor.Name == base.Name {
		return text
	}
	return quoteName(base.Schema, base.Name) + suffix
}

// kin finds the adopted relations that the twin is attached to.
func (f *fit) kin(a *Adoption) {
	rel := f.claim.rel
	if rel.Kind == relmap.KindPartitionedTable {
		a.PartitionKey = partitionKey(f.claim.donor, f.claim.database, rel)
	}
	f.attach(a)
	if rel.IsPartition {
		return
	}
	for _, parent := range rel.Inherits {
		if name := f.adoptedKin(parent); name != "" {
			a.Inherits = append(a.Inherits, name)
		}
	}
}

// attach finds the adopted partitioned table that has a partition of this
// name. A rule of its own may have given the partition another moment.
func (f *fit) attach(a *Adoption) {
	c := f.claim
	for _, o := range f.r.claims[c.target] {
		if o.kin == (target{}) || !o.rel.IsPartition || f.r.baseRelation(o.kin) != nil {
			continue
		}
		a.Parent, a.Bound = o.kin.String(), bound(o.donor, c.database, o.rel)
		if own := bound(c.donor, c.database, c.rel); own != a.Bound {
			f.refuse("show it under a name that is no partition", "holds %s at %s, and as a partition of %s it would have to hold %s", own, c.rule.From, o.kin, a.Bound)
		}
		return
	}
}

// adoptedKin names the twin of another relation of the same rule, or gives ""
// if that is not adopted.
func (f *fit) adoptedKin(rel *relmap.Relation) string {
	for _, c := range f.r.won {
		if c.rule == f.claim.rule && c.db == f.claim.db && c.rel == rel && f.r.baseRelation(c.target) == nil {
			return c.String()
		}
	}
	return ""
}

// differences says how the donor's columns differ from those of the relation
// that has its name in the base.
func (f *fit) differences() {
	rel := f.claim.rel
	if rel.Kind == relmap.KindSequence {
		return
	}
	base := f.baseDB.Relation(rel.Schema, rel.Name)
	if base == nil || len(base.Attributes) == 0 {
		f.drift("%s is not in the base", relationName(rel))
		return
	}
	byName := map[string]relmap.Attribute{}
	for _, b := range base.Attributes {
		if !b.Dropped {
			byName[b.Name] = b
		}
	}
	for _, d := range rel.Attributes {
		b, ok := byName[d.Name]
		delete(byName, d.Name)
		switch {
		case d.Dropped:
		case !ok:
			f.drift("column %s is not in the base", columnName(d))
		case d.Type != b.Type || d.TypeMod != b.TypeMod:
			f.drift("column %s is %s, in the base %s", columnName(d),
				f.columnType(f.claim.donor, f.claim.db, rel, d), f.columnType(f.r.base, f.baseDB, base, b))
		}
	}
	for _, b := range base.Attributes {
		if _, only := byName[b.Name]; only && !b.Dropped {
			f.drift("column %s is in the base only", columnName(b))
		}
	}
}

// donorFiles counts what will be served, before there are places for it.
func (f *fit) donorFiles() error {
	rels := []*relmap.Relation{f.claim.rel}
	if toast := f.claim.rel.Toast; toast != nil {
		rels = append(rels, toast)
		for _, index := range toast.Indexes {
			rels = append(rels, index.Relation)
		}
	}
	for _, index := range f.claim.rel.Indexes {
		if f.claim.rule.Indexes == GraftIndexes && f.unusable(index) == "" {
			rels = append(rels, index.Relation)
		}
	}
	for _, rel := range rels {
		files, err := f.claim.db.Files(rel)
		if err != nil {
			return err
		}
		for _, file := range files {
			if file.Fork == relmap.Main || file.Fork == relmap.VM {
				f.graft.Files++
				f.graft.Bytes += file.Size
			}
		}
	}
	return nil
}

// Comment is what COMMENT ON says of a grafted relation: where its rows come
// from.
func (p *Plan) Comment(g *Graft) string { return comment(g, p.Origin(g.Point)) }

func comment(g *Graft, o Origin) string {
	from := quoteName(g.Database, g.Schema, g.Name)
	if g.From != "" {
		from = QuoteIdent(g.Database) + "." + g.From
	}
	text := fmt.Sprintf("pg0: %s %s of point %s", g.Kind, from, o.Point)
	if o.Backup != "" {
		text += ", backup " + o.Backup
	}
	if r := o.Recovered(); r != "-" {
		text += ", recovered to " + r
	}
	return text
}

// renamed is the name of a partition, or of an index, once its parent or table
// parent is called twin: with the same prefix exchanged, else with a new one.
func renamed(name, parent, twin string) string {
	if rest, ok := strings.CutPrefix(name, parent); ok {
		return twin + rest
	}
	return twin + "_" + name
}
