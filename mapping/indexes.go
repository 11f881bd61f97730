package mapping

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/fukanchik/pg0/relmap"
)

// indexTwin finds the donor's index whose file can stand for one of the base.
// Without one it says why the base's must be rebuilt.
func (f *fit) indexTwin(base *relmap.Index) (twin *relmap.Index, why string) {
	from := f.claim.rule.From
	if f.claim.rule.Indexes == RebuildIndexes {
		return nil, "as the rule says"
	}
	why = "there was none at " + from
	for _, donor := range f.claim.rel.Indexes {
		if donor.Name == base.Name {
			why = "it was defined otherwise at " + from
		}
	}
	for _, donor := range f.indexesByName(base.Name) {
		if !f.sameIndex(donor, base) {
			continue
		}
		if why = f.unusable(donor); why == "" {
			return donor, ""
		}
	}
	return nil, why
}

// indexesByName gives the donor's indexes, the one of the same name first.
func (f *fit) indexesByName(name string) []*relmap.Index {
	sorted := slices.Clone(f.claim.rel.Indexes)
	slices.SortStableFunc(sorted, func(a, b *relmap.Index) int {
		return differs01(a.Name != name) - differs01(b.Name != name)
	})
	return sorted
}

func differs01(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// sameIndex says whether two indexes have one definition.
func (f *fit) sameIndex(donor, base *relmap.Index) bool {
	if donor.AM != base.AM || donor.Unique != base.Unique || donor.NullsNotDistinct != base.NullsNotDistinct ||
		donor.NKeyAtts != base.NKeyAtts || !slices.Equal(donor.Keys, base.Keys) || !slices.Equal(donor.Classes, base.Classes) ||
		!slices.Equal(donor.Collations, base.Collations) || !slices.Equal(donor.KeyOptions, base.KeyOptions) {
		return false
	}
	if !slices.Equal(lastingOptions(donor.Options), lastingOptions(base.Options)) || !sameColumns(donor.Attributes, base.Attributes) {
		return false
	}
	if sameTree(donor.Exprs, base.Exprs) && sameTree(donor.Pred, base.Pred) {
		return true
	}
	d, b := f.claim.donor.definitions(f.claim.database), f.r.base.definitions(f.claim.database)
	return d != nil && b != nil && usingClause(d.Indexes[donor.OID].Def) != "" &&
		usingClause(d.Indexes[donor.OID].Def) == usingClause(b.Indexes[base.OID].Def)
}

// sameColumns compares what the columns of two indexes hold.
func sameColumns(donor, base []relmap.Attribute) bool {
	return slices.EqualFunc(donor, base, func(a, b relmap.Attribute) bool {
		return a.Type == b.Type && a.Len == b.Len && a.Align == b.Align && a.ByVal == b.ByVal && slices.Equal(a.Options, b.Options)
	})
}

// lastingOptions leaves out the options that concern later changes of an index
// only. The others, such as pages_per_range of BRIN, describe its pages.
func lastingOptions(options []string) []string {
	lasting := slices.DeleteFunc(slices.Clone(options), func(o string) bool {
		name, _, _ := strings.Cut(o, "=")
		return slices.Contains([]string{"fillfactor", "fastupdate", "gin_pending_list_limit", "deduplicate_items", "autosummarize", "buffering", "vacuum_cleanup_index_scale_factor"}, name)
	})
	slices.Sort(lasting)
	return lasting
}

// location is where in the command a node of an expression stood.
var location = regexp.MustCompile(` :location -?[0-9]+`)

// sameTree compares two pg_node_trees.
func sameTree(a, b string) bool {
	return a == b || location.ReplaceAllString(a, "") == location.ReplaceAllString(b, "")
}

// usingClause is what follows the table in CREATE INDEX name ON table USING: it
// begins outside double quotes, in which names may hold anything.
func usingClause(def string) string {
	quoted := false
	for i := range len(def) {
		switch {
		case def[i] == '"':
			quoted = !quoted
		case !quoted && strings.HasPrefix(def[i:], " USING "):
			return def[i:]
		}
	}
	return ""
}

// unusable says why the files of an index of the same definition cannot be
// served all the same.
func (f *fit) unusable(donor *relmap.Index) string {
	from := f.claim.rule.From
	if !donor.Valid || !donor.Ready || !donor.Live {
		return "it was not valid at " + from
	}
	switch method := f.claim.db.AccessMethod(donor.AM); {
	case !slices.Contains([]string{"btree", "hash", "gist", "gin", "spgist", "brin", "bloom"}, method):
		return "the pages of access method " + method + " are not known"
	case donor.AM == relmap.BrinAM && f.claim.donor.Cluster.Version < 14 && holdsVarlena(donor):
		return "BRIN before PostgreSQL 14 could keep pointers to TOAST"
	case usesOwn(donor.Exprs) || usesOwn(donor.Pred):
		return "it calls a function or text search configuration that is not PostgreSQL's own, and that may be another in the base"
	}
	for _, oid := range donor.Collations {
		if why := f.collationChange(oid); why != "" {
			return why
		}
	}
	return ""
}

// called is a function or operator that an expression calls, and searched the
// bytes of a constant of type regconfig or regdictionary.
var (
	called   = regexp.MustCompile(` :(?:funcid|opfuncid|opno) ([0-9]+)`)
	searched = regexp.MustCompile(` :consttype (?:3734|3769) [^{}]*:constvalue 4 \[ (-?[0-9]+) (-?[0-9]+) (-?[0-9]+) (-?[0-9]+) `)
)

// usesOwn says whether a pg_node_tree calls a function, or names a text search
// configuration or dictionary, that somebody created. Such can be replaced under
// the same OID, and an index holds what they once gave.
func usesOwn(tree string) bool {
	for _, match := range called.FindAllStringSubmatch(tree, -1) {
		if oid, err := strconv.ParseUint(match[1], 10, 32); err != nil || oid >= firstUserOID {
			return true
		}
	}
	for _, match := range searched.FindAllStringSubmatch(tree, -1) {
		var oid uint32
		for i, text := range match[1:] { // the server prints bytes as signed numbers
			signed, err := strconv.ParseInt(text, 10, 8)
			if err != nil {
				return true
			}
			oid |= uint32(uint8(signed)) << (8 * i)
		}
		if oid >= firstUserOID {
			return true
		}
	}
	return false
}

func holdsVarlena(index *relmap.Index) bool {
	return slices.ContainsFunc(index.Attributes, func(a relmap.Attribute) bool { return a.Len == -1 })
}

// Collations that never change (pg_collation.dat).
const (
	defaultCollation = 100
	cCollation       = 950
	posixCollation   = 951
)

// collationChange says why texts may sort otherwise in the base, or "".
func (f *fit) collationChange(oid uint32) string {
	switch oid {
	case 0, cCollation, posixCollation:
		return ""
	case defaultCollation:
		return f.r.localeChange(f.claim.db, f.baseDB)
	}
	donor, base := f.claim.db.Collation(oid), f.baseDB.Collation(oid)
	switch {
	case donor == nil || base == nil:
		return fmt.Sprintf("its collation has OID %d, which is not in both", oid)
	case donor.Version != base.Version:
		return fmt.Sprintf("collation %s has version %q, in the base %q", quoteName(donor.Schema, donor.Name), donor.Version, base.Version)
	case donor.Provider != base.Provider || donor.Collate != base.Collate || donor.Ctype != base.Ctype ||
		donor.Locale != base.Locale || donor.Rules != base.Rules || donor.Deterministic != base.Deterministic:
		return fmt.Sprintf("collation %s is another in the base", quoteName(donor.Schema, donor.Name))
	}
	return ""
}
