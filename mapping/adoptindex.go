package mapping

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/fukanchik/pg0/relmap"
)

// adoptIndexes plans the indexes of a twin.
func (f *fit) adoptIndexes(a *Adoption) error {
	if f.claim.rule.Indexes == NoIndexes {
		return nil
	}
	defs := f.claim.donor.definitions(f.claim.database)
	for _, index := range f.claim.rel.Indexes {
		if !index.Live {
			continue
		}
		why := f.unmakeable(index)
		if index.Kind == relmap.KindPartitionedIndex && !index.Valid {
			why = "it was not valid: partitions had no index for it" // and PostgreSQL would make them
		}
		if why != "" {
			f.drift("index %s is left out: %s", relationName(index.Relation), why)
			continue
		}
		if usingClause(defs.Indexes[index.OID].Def) == "" {
			return fmt.Errorf("the image holds no definition of index %s", relationName(index.Relation))
		}
		one := f.adoptIndex(a, index, defs.Indexes[index.OID])
		if one.Rebuild != "" {
			name := quoteName(a.Schema, one.Name)
			f.graft.Rebuild = append(f.graft.Rebuild, name)
			f.drift("index %s is rebuilt: %s", name, one.Rebuild)
		}
		a.Indexes = append(a.Indexes, one)
	}
	return nil
}

func (f *fit) adoptIndex(a *Adoption, index *relmap.Index, def relmap.IndexDefinition) AdoptIndex {
	one := AdoptIndex{Name: f.indexName(a, index.Name), DonorOID: index.OID, Constraint: def.Constraint}
	unique := ""
	if index.Unique {
		unique = "UNIQUE "
	}
	one.Def = "CREATE " + unique + "INDEX " + QuoteIdent(one.Name) + " ON " + quoteName(a.Schema, a.Name) + usingClause(def.Def)
	switch {
	case index.Kind == relmap.KindPartitionedIndex:
	case f.claim.rule.Indexes == RebuildIndexes:
		one.Rebuild = "as the rule says"
	default:
		one.Rebuild = f.unusable(index)
	}
	return one
}

// unmakeable says what of the index's definition the base lacks.
func (f *fit) unmakeable(index *relmap.Index) string {
	for _, oid := range index.Classes {
		if f.baseDB.Opclass(oid) == nil {
			return fmt.Sprintf("operator class %d is not in the base", oid)
		}
	}
	for _, oid := range index.Collations {
		if oid != 0 && f.baseDB.Collation(oid) == nil {
			return fmt.Sprintf("its collation (OID %d) is not in the base", oid)
		}
	}
	if f.baseDB.AccessMethod(index.AM) == "" {
		return "its access method is not in the base"
	}
	return ""
}

// indexName finds a name for an index that nothing has in the twin's schema:
// its own, its own with the twin's name for the table's, or that with a number.
func (f *fit) indexName(a *Adoption, name string) string {
	candidates := []string{name, renamed(name, f.claim.rel.Name, a.Name)}
	for i := 0; ; i++ {
		candidate := candidates[min(i, 1)]
		if i > 1 {
			candidate = shorten(candidate, fmt.Sprintf("_%d", i-1))
		}
		t := target{a.Database, a.Schema, shorten(candidate, "")}
		if f.r.baseRelation(t) == nil && !f.r.adopter.names[t] && !slices.ContainsFunc(f.r.won, func(c *claim) bool { return c.target == t }) {
			f.r.adopter.names[t] = true
			return t.name
		}
	}
}

// shorten cuts a name so that it fits PostgreSQL's limit with its suffix.
func shorten(name, suffix string) string {
	for len(name)+len(suffix) > nameDataLen {
		_, size := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-size]
	}
	return strings.Clone(name) + suffix
}
