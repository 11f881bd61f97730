package adopt

import (
	"fmt"
	"strings"

	"github.com/fukanchik/pg0/mapping"
)

// createRelation makes an empty twin: a sequence, or a table with the donor's
// physical columns.
func createRelation(twin *mapping.Adoption) []string {
	if twin.Sequence != nil {
		return []string{createSequence(twin)}
	}
	first, later := split(twin.Columns)
	create := fmt.Sprintf("create table %s (%s)", name(twin), definitions("", first))
	if twin.PartitionKey != "" {
		create += " partition by " + twin.PartitionKey
	}
	list := []string{create}
	if len(later) > 0 {
		list = append(list, fmt.Sprintf("alter table %s %s", name(twin), definitions("add column ", later)))
	}
	if drops := dropDefaults(later); drops != "" {
		list = append(list, fmt.Sprintf("alter table %s %s", name(twin), drops))
	}
	return append(list, dropColumns(twin)...)
}

func createSequence(twin *mapping.Adoption) string {
	s := twin.Sequence
	types := map[uint32]string{20: "bigint", 21: "smallint", 23: "integer"} // pg_type.dat
	cycle := "no cycle"
	if s.Cycle {
		cycle = "cycle"
	}
	return fmt.Sprintf("create sequence %s as %s increment by %d minvalue %d maxvalue %d start with %d cache %d %s",
		name(twin), types[s.Type], s.Increment, s.Min, s.Max, s.Start, s.Cache, cycle)
}

// split parts the columns before the first one that rows may lack. That and
// all that follow are added to the table one after the other, so that
// PostgreSQL itself notes the missing value (tablecmds.c:ATExecAddColumn).
func split(columns []mapping.Column) (first, later []mapping.Column) {
	for i, c := range columns {
		if c.HasMissing {
			return columns[:i], columns[i:]
		}
	}
	return columns, nil
}

func definitions(prefix string, columns []mapping.Column) string {
	list := make([]string, len(columns))
	for i, c := range columns {
		list[i] = prefix + definition(c)
	}
	return strings.Join(list, ", ")
}

func definition(c mapping.Column) string {
	if c.Dropped {
		return placeholder(c.Num) + " " + stand(c)
	}
	text := mapping.QuoteIdent(c.Name) + " " + c.Type
	if c.Collation != "" {
		text += " collate " + c.Collation
	}
	if c.HasMissing {
		text += " default " + literal(c.MissingText) + "::" + c.Type
	}
	if c.NotNull {
		text += " not null"
	}
	return text
}

// placeholder is the name of a column until it is dropped.
func placeholder(num int16) string { return fmt.Sprintf(`"pg0 dropped %d"`, num) }

// stand is a type for a column that will be dropped: a variable one brings the
// TOAST table that the donor's had.
func stand(c mapping.Column) string {
	if c.Len == -1 {
		return "text"
	}
	return "integer"
}

func dropDefaults(columns []mapping.Column) string {
	var list []string
	for _, c := range columns {
		if c.HasMissing {
			list = append(list, "alter column "+mapping.QuoteIdent(c.Name)+" drop default")
		}
	}
	return strings.Join(list, ", ")
}

// dropColumns leaves slots with the length and alignment that the dropped
// columns of the donor had: rows still hold their values.
func dropColumns(twin *mapping.Adoption) []string {
	var drops, slots []string
	for _, c := range twin.Columns {
		if c.Dropped {
			drops = append(drops, "drop column "+placeholder(c.Num))
			slots = append(slots, fmt.Sprintf(`(%d, %d, %s, %t, %s)`, c.Num, c.Len, literal(c.Align), c.ByVal, literal(c.Storage)))
		}
	}
	if len(drops) == 0 {
		return nil
	}
	return []string{
		fmt.Sprintf("alter table %s %s", name(twin), strings.Join(drops, ", ")),
		fmt.Sprintf(`update pg_attribute set attlen = len, attalign = align::"char", attbyval = byval, attstorage = storage::"char"
from (values %s) v(num, len, align, byval, storage) where attrelid = %s::regclass and attnum = num`,
			strings.Join(slots, ", "), literal(name(twin))),
	}
}

// attach joins a twin to the twins of its parents.
func attach(twin *mapping.Adoption) []string {
	var list []string
	if twin.Parent != "" {
		list = append(list, fmt.Sprintf("alter table %s attach partition %s %s", local(twin, twin.Parent), name(twin), twin.Bound))
	}
	for _, parent := range twin.Inherits {
		list = append(list, fmt.Sprintf("alter table %s inherit %s", name(twin), local(twin, parent)))
	}
	return list
}

// local takes the database off a name.
func local(twin *mapping.Adoption, full string) string {
	return strings.TrimPrefix(full, mapping.QuoteIdent(twin.Database)+".")
}

func createIndexes(twin *mapping.Adoption) []string {
	var list []string
	for _, index := range twin.Indexes {
		if index.Constraint == "" {
			list = append(list, index.Def)
			continue
		}
		list = append(list, fmt.Sprintf("alter table %s add constraint %s %s", name(twin), mapping.QuoteIdent(index.Name), index.Constraint))
	}
	return list
}
