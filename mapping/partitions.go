package mapping

import (
	"github.com/fukanchik/pg0/relmap"
)

// partitions compares how a table is partitioned: the same key, and the same
// partitions with the same bounds.
func (f *fit) partitions() {
	c, from := f.claim, f.claim.rule.From
	if d, b := partitionKey(c.donor, c.database, c.rel), partitionKey(f.r.base, c.database, f.base); d != b {
		f.refuse(f.remedyAs(), "is partitioned by %s at %s and by %s in the base", d, from, b)
		return
	}
	found := map[uint32]bool{}
	for _, donor := range c.rel.Partitions {
		t := c.child(donor, c.rank).target
		if f.adopted != nil && c.rule.excepts(c.database, donor) {
			f.drift("partition %s is left out", relationName(donor))
			continue
		}
		base := f.baseDB.Relation(t.schema, t.name)
		if base == nil || base.Parent != f.base {
			f.refuse(f.remedyAs(), "has partition %s at %s, which the base does not have", quoteName(t.schema, t.name), from)
			continue
		}
		found[base.OID] = true
		if d, b := bound(c.donor, c.database, donor), bound(f.r.base, c.database, base); d != b {
			f.refuse(f.remedyAs(), "partition %s holds %s at %s and %s in the base", relationName(base), d, from, b)
		}
	}
	for _, base := range f.base.Partitions {
		if !found[base.OID] {
			f.refuse(f.remedyAs(), "has partition %s in the base, which was not there at %s", relationName(base), from)
		}
	}
}

// bound is a partition's bound as the server printed it, else as it is stored.
func bound(image *Image, database string, rel *relmap.Relation) string {
	if defs := image.definitions(database); defs != nil && defs.Bounds[rel.OID] != "" {
		return defs.Bounds[rel.OID]
	}
	return location.ReplaceAllString(rel.Bound, "")
}

func partitionKey(image *Image, database string, rel *relmap.Relation) string {
	if defs := image.definitions(database); defs != nil && defs.PartitionKeys[rel.OID] != "" {
		return defs.PartitionKeys[rel.OID]
	}
	p := rel.Partition
	if p == nil {
		return "nothing"
	}
	return string(p.Strategy) + " " + columnList(rel, p.Keys) + location.ReplaceAllString(p.Exprs, "")
}

// columnList names columns by number; 0 is an expression.
func columnList(rel *relmap.Relation, keys []int16) string {
	list := ""
	for i, key := range keys {
		if i > 0 {
			list += ", "
		}
		if key < 1 || int(key) > len(rel.Attributes) {
			list += "an expression"
			continue
		}
		list += columnName(rel.Attributes[key-1])
	}
	return "(" + list + ")"
}
