package mapping

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/fukanchik/pg0/relmap"
)

// firstUserOID is FirstNormalObjectId: objects below it are made by initdb and
// are the same in every cluster of one catalog version.
const firstUserOID = 16384

// types compares the type of a column, and what that consists of, between the
// two databases: values hold the OIDs of enum labels, composite types and
// element types.
func (f *fit) types(a relmap.Attribute) {
	if a.Dropped {
		return
	}
	t := typeFit{donor: f.claim.db, base: f.baseDB, seen: map[uint32]bool{}}
	if why := t.check(a.Type); why != "" {
		f.refuse(t.remedy(f, a), "column %s: %s", columnName(a), why)
	}
}

// typeFit compares types by OID.
type typeFit struct {
	donor, base *relmap.Database
	seen        map[uint32]bool
	gone        bool // the base lacks a type or label, so no twin can have it either
}

func (t *typeFit) remedy(f *fit, a relmap.Attribute) string {
	if t.gone {
		return "take a base of a time when it was as at " + f.claim.rule.From + ", or leave the relation out"
	}
	return "take a base of a time when the type was the same"
}

// check says how a type differs, or "".
func (t *typeFit) check(oid uint32) string {
	if oid == 0 || t.seen[oid] {
		return ""
	}
	t.seen[oid] = true
	donor, base := t.donor.Type(oid), t.base.Type(oid)
	if donor == nil {
		return fmt.Sprintf("its type has OID %d, which the donor's catalogs do not have", oid)
	}
	if base == nil {
		t.gone = true
		return fmt.Sprintf("type %s (OID %d) is not in the base", quoteName(donor.Schema, donor.Name), oid)
	}
	if why := t.shape(donor, base); why != "" {
		return fmt.Sprintf("type %s %s", quoteName(donor.Schema, donor.Name), why)
	}
	if oid < firstUserOID {
		return ""
	}
	return t.inside(donor, base)
}

func (t *typeFit) shape(donor, base *relmap.Type) string {
	switch {
	case donor.Kind != base.Kind:
		return fmt.Sprintf("is of kind %q, OID %d in the base of kind %q", donor.Kind, donor.OID, base.Kind)
	case donor.Kind == 'b' && donor.Name != base.Name:
		return "has become " + quoteName(base.Schema, base.Name) + " in the base"
	case donor.Len != base.Len || donor.ByVal != base.ByVal || donor.Align != base.Align:
		return fmt.Sprintf("is stored in %d bytes aligned to %c, in the base in %d aligned to %c", donor.Len, donor.Align, base.Len, base.Align)
	case donor.Extension != base.Extension:
		return fmt.Sprintf("belongs to extension %q, in the base to %q", donor.Extension, base.Extension)
	}
	return ""
}

// inside compares what a user's type is made of.
func (t *typeFit) inside(donor, base *relmap.Type) string {
	switch donor.Kind {
	case 'e':
		if why := t.labels(donor, base); why != "" {
			return fmt.Sprintf("enum %s %s", quoteName(donor.Schema, donor.Name), why)
		}
	case 'c':
		return t.composite(donor, base)
	case 'd':
		return t.part(donor, donor.Base, base.Base)
	case 'r', 'm':
		if donor.Range != nil && base.Range != nil {
			return cmp.Or(t.part(donor, donor.Range.Subtype, base.Range.Subtype), t.part(donor, donor.Range.Type, base.Range.Type))
		}
	default:
		if donor.IsArray() {
			return t.part(donor, donor.Elem, base.Elem)
		}
	}
	return ""
}

func (t *typeFit) part(whole *relmap.Type, donor, base uint32) string {
	if donor != base {
		return fmt.Sprintf("type %s is built on another type in the base", quoteName(whole.Schema, whole.Name))
	}
	return t.check(donor)
}

// labels: rows hold the OID of a label. The base may have more of them, but in
// no other order, since indexes are sorted by it.
func (t *typeFit) labels(donor, base *relmap.Type) string {
	last := -1
	for _, label := range donor.Enum {
		at := slices.IndexFunc(base.Enum, func(l relmap.EnumLabel) bool { return l.OID == label.OID })
		switch {
		case at < 0:
			t.gone = true
			return fmt.Sprintf("has label %q (OID %d), which the base does not have", label.Label, label.OID)
		case base.Enum[at].Label != label.Label:
			t.gone = true
			return fmt.Sprintf("has label %q where the base has %q (OID %d)", label.Label, base.Enum[at].Label, label.OID)
		case at < last:
			return fmt.Sprintf("sorts label %q otherwise than the base", label.Label)
		}
		last = at
	}
	return ""
}

// composite: values hold the type's OID and, since the minor releases of
// November 2026, versions of its attributes.
func (t *typeFit) composite(donor, base *relmap.Type) string {
	name := quoteName(donor.Schema, donor.Name)
	d, b := t.donor.ByOID(donor.Relation), t.base.ByOID(base.Relation)
	switch {
	case d == nil || b == nil:
		return fmt.Sprintf("composite type %s has no columns in the catalogs", name)
	case len(d.Attributes) != len(b.Attributes):
		return fmt.Sprintf("composite type %s has %d attributes, in the base %d", name, len(d.Attributes), len(b.Attributes))
	}
	for i, a := range d.Attributes {
		switch other := b.Attributes[i]; {
		case a.Dropped != other.Dropped || a.Type != other.Type || a.Len != other.Len || a.Align != other.Align:
			return fmt.Sprintf("composite type %s differs from the base's in attribute %d", name, a.Num)
		case a.Version != other.Version:
			return fmt.Sprintf("composite type %s was altered between the points: attribute %d has version %q, in the base %q", name, a.Num, a.Version, other.Version)
		case !a.Dropped:
			if why := t.check(a.Type); why != "" {
				return why
			}
		}
	}
	return ""
}
