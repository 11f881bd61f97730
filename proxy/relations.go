package proxy

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Relations say which relations of a database do not come from the base alone.
type Relations struct {
	Base  Origin
	ByOID map[uint32]Relation
}

// A Relation is a table, or a partitioned table or view over tables.
type Relation struct {
	Name    string   // as SQL writes it
	Origins []Origin // more than one if it shows rows of several points
}

// An Origin is a point and the moment it was recovered to.
type Origin struct {
	Point string
	Time  string // readable; empty if unknown
}

func (o Origin) String() string {
	if o.Time == "" {
		return o.Point
	}
	return o.Point + " (" + o.Time + ")"
}

func (r *Relation) points() string {
	names := make([]string, len(r.Origins))
	for i, o := range r.Origins {
		names[i] = o.Point
	}
	return strings.Join(names, "+")
}

// firstUserOID is FirstNormalObjectId: system catalogs are below it.
const firstUserOID = 16384

// mostColumns are named of each relation in a label.
const mostColumns = 8

// describe says where the columns of a result come from. It is empty if none
// comes from another point than the base.
func (r *Relations) describe(fields []pgproto3.FieldDescription) string {
	var order []uint32
	columns := map[uint32][]string{}
	grafted := false
	for _, f := range fields {
		oid := f.TableOID
		if oid < firstUserOID {
			continue // a system catalog, or an expression, which may come from anywhere
		}
		if _, ok := r.ByOID[oid]; ok {
			grafted = true
		} else {
			oid = 0 // the base's relations are one
		}
		if columns[oid] == nil {
			order = append(order, oid)
		}
		columns[oid] = append(columns[oid], string(f.Name))
	}
	if !grafted {
		return ""
	}
	parts := make([]string, len(order))
	for i, oid := range order {
		parts[i] = enumerate(columns[oid]) + " from " + r.name(oid)
	}
	return "pg0: " + strings.Join(parts, "; ")
}

func (r *Relations) name(oid uint32) string {
	relation, ok := r.ByOID[oid]
	if !ok {
		return "the base, " + r.Base.String()
	}
	origins := make([]string, len(relation.Origins))
	for i, o := range relation.Origins {
		origins[i] = o.String()
	}
	return relation.Name + " of " + strings.Join(origins, " and ")
}

func enumerate(names []string) string {
	if extra := len(names) - mostColumns; extra > 0 {
		return fmt.Sprintf("%s and %d more columns", strings.Join(names[:mostColumns], ", "), extra)
	}
	return strings.Join(names, ", ")
}

// rename gives columns of grafted relations names such as price@monday. It
// says whether there are any.
func (r *Relations) rename(fields []pgproto3.FieldDescription) (changed bool) {
	for i := range fields {
		if relation, ok := r.ByOID[fields[i].TableOID]; ok {
			fields[i].Name = append(append(append([]byte{}, fields[i].Name...), '@'), relation.points()...)
			changed = true
		}
	}
	return changed
}
