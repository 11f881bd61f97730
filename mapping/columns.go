package mapping

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/fukanchik/pg0/relmap"
)

// columns compares the columns by number, dropped ones included: a tuple knows
// its values by position alone.
func (f *fit) columns() {
	donor, base := f.claim.rel.Attributes, f.base.Attributes
	if len(base) < len(donor) {
		f.refuse(f.remedyAs(), "has column %s at %s, which the base does not have", columnName(donor[len(base)]), f.claim.rule.From)
		return
	}
	for i := range donor {
		if !f.layout(donor[i], base[i]) {
			continue
		}
		f.missing(donor[i], base[i])
		f.types(donor[i])
		f.remarks(donor[i], base[i])
	}
	f.trailing(base[len(donor):])
}

func columnName(a relmap.Attribute) string {
	if a.Dropped {
		return fmt.Sprintf("%d (dropped)", a.Num)
	}
	return QuoteIdent(a.Name)
}

// layout compares how one column is stored.
func (f *fit) layout(donor, base relmap.Attribute) bool {
	from := f.claim.rule.From
	switch {
	case donor.Dropped && !base.Dropped:
		f.refuse(f.remedyAs(), "column %d was dropped at %s and is %s in the base", donor.Num, from, columnName(base))
	case !donor.Dropped && base.Dropped:
		f.refuse(f.remedyAs(), "column %s of %s has been dropped in the base", columnName(donor), from)
	case donor.Type != base.Type && !donor.Dropped && f.baseDB.Type(donor.Type) == nil:
		f.types(donor)
	case donor.Type != base.Type:
		f.refuse(f.remedyAs(), "column %s has type %s at %s and %s in the base", columnName(donor), f.typeName(f.claim.db, donor.Type), from, f.typeName(f.baseDB, base.Type))
	case donor.Len != base.Len || donor.Align != base.Align || donor.ByVal != base.ByVal:
		f.refuse(f.remedyAs(), "column %s is laid out otherwise at %s (length %d, alignment %c) than in the base (%d, %c)",
			columnName(donor), from, donor.Len, donor.Align, base.Len, base.Align)
	case (donor.Generated == 'v') != (base.Generated == 'v'):
		f.refuse(f.remedyAs(), "column %s is virtual on one side only", columnName(donor))
	case donor.Name != base.Name && !donor.Dropped && f.recreated():
		f.refuse(f.remedyAs(), "was made anew with other columns: column %d is %s at %s and %s in the base", donor.Num, columnName(donor), from, columnName(base))
	default:
		return true
	}
	return false
}

// recreated says whether donor and base are two tables that only share a name.
// In one table, a column of another name has been renamed; in two, it is
// another column.
func (f *fit) recreated() bool {
	return f.claim.rel.OID != f.base.OID && f.adopted == nil
}

func (f *fit) typeName(db *relmap.Database, oid uint32) string {
	t := db.Type(oid)
	switch {
	case t == nil:
		return fmt.Sprintf("with OID %d", oid)
	case t.Schema == "pg_catalog":
		return QuoteIdent(t.Name)
	}
	return quoteName(t.Schema, t.Name)
}

// missing compares what a tuple gives that was written before the column was
// added. PostgreSQL forgets a column's missing value only when it rewrites the
// table into other files, and then no short tuples are left: a donor that has
// forgotten it needs none.
func (f *fit) missing(donor, base relmap.Attribute) {
	switch {
	case donor.Dropped:
	case donor.HasMissing && (!base.HasMissing || !bytes.Equal(donor.Missing, base.Missing)):
		f.refuse(f.remedyAs(), "column %s was added with a default: rows written before have the value %s at %s and %s in the base",
			columnName(donor), f.missingText(f.claim, donor), f.claim.rule.From, baseMissing(base))
	case !donor.HasMissing && base.HasMissing && (f.recreated() || !f.rewritten()):
		f.refuse(f.remedyAs(), "column %s gives rows without it a value in the base and none at %s", columnName(donor), f.claim.rule.From)
	}
}

func (f *fit) missingText(c *claim, a relmap.Attribute) string {
	if defs := c.donor.definitions(c.database); defs != nil {
		if text, ok := defs.Missing[relmap.ColumnKey(c.rel.OID, a.Num)]; ok {
			return fmt.Sprintf("%q", text)
		}
	}
	return fmt.Sprintf("%x (stored form)", a.Missing)
}

func baseMissing(a relmap.Attribute) string {
	if a.HasMissing {
		return "another"
	}
	return "none"
}

// definitions gives the printed definitions of a database, nil if there are
// none.
func (i *Image) definitions(database string) *relmap.DatabaseDefinitions {
	if i.Defs == nil {
		return nil
	}
	return i.Defs.Databases[database]
}

// trailing looks at columns that only the base has. The donor's rows end before
// them and read as the base says of rows that are older than the column.
func (f *fit) trailing(base []relmap.Attribute) {
	if len(base) > 0 && f.adopted != nil {
		f.refuse(f.remedyAs(), "the twin has %d columns too many", len(base))
		return
	}
	for _, a := range base {
		name := columnName(a)
		switch {
		case a.Dropped || a.Generated == 'v':
		case f.recreated():
			f.refuse(f.remedyAs(), "was made anew since, with a column %s more", name)
		case a.Generated == 's':
			f.refuse(f.remedyAs(), "column %s of the base is generated and was not stored at %s", name, f.claim.rule.From)
		case a.HasMissing:
			f.drift("column %s is newer: rows show the default it was added with", name)
		case a.NotNull:
			f.refuse(f.remedyAs(), "column %s of the base is newer and NOT NULL, but rows of %s would show NULL", name, f.claim.rule.From)
		case a.HasDefault && f.rewritten():
			f.refuse(f.remedyAs(), "column %s of the base is newer and has a default; the base was rewritten since, so what rows of %s should show is not known", name, f.claim.rule.From)
		default:
			f.drift("column %s is newer: rows show NULL", name)
		}
	}
}

// rewritten says whether donor and base have different files: TRUNCATE, VACUUM
// FULL, CLUSTER and some forms of ALTER TABLE make new ones.
func (f *fit) rewritten() bool {
	return f.claim.rel.Filenode != f.base.Filenode
}

// remarks notes what does not change how values are read.
func (f *fit) remarks(donor, base relmap.Attribute) {
	if donor.Dropped {
		return
	}
	name, from := columnName(base), f.claim.rule.From
	if donor.Name != base.Name {
		f.drift("column %s was named %s", name, QuoteIdent(donor.Name))
	}
	if donor.TypeMod != base.TypeMod {
		f.drift("column %s: %s at %s, %s in the base", name, f.columnType(f.claim.donor, f.claim.db, f.claim.rel, donor), from, f.columnType(f.r.base, f.baseDB, f.base, base))
	}
	if f.adopted != nil {
		return
	}
	if base.NotNull && !donor.NotNull {
		f.drift("column %s was not NOT NULL", name)
	}
	if base.Generated == 's' && donor.Generated == 0 {
		f.drift("column %s was not generated", name)
	}
	if donor.Collation != base.Collation {
		f.drift("column %s had another collation", name)
	}
	if slices.Contains(oidTypes, donor.Type) {
		f.drift("column %s holds OIDs, which are those of %s", name, from)
	}
}

func (f *fit) columnType(image *Image, db *relmap.Database, rel *relmap.Relation, a relmap.Attribute) string {
	if defs := image.definitions(db.Name); defs != nil {
		if text, ok := defs.Columns[relmap.ColumnKey(rel.OID, a.Num)]; ok {
			return text
		}
	}
	return fmt.Sprintf("%s with modifier %d", f.typeName(db, a.Type), a.TypeMod)
}

// oidTypes are oid and the types that print an OID as a name (pg_type.dat):
// regproc, oid, regprocedure, regoper, regoperator, regclass, regtype,
// regconfig, regdictionary, regnamespace, regrole, regcollation.
var oidTypes = []uint32{24, 26, 2202, 2203, 2204, 2205, 2206, 3734, 3769, 4089, 4096, 4191}
