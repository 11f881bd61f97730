package relmap

import (
	"bytes"
	"strings"
)

// attributeColumns are the columns of pg_attribute.
type attributeColumns struct {
	relation, name, typeOID, typeMod, dims, len, num, byVal, align, storage, compression, notNull,
	hasDefault, hasMissing, identity, generated, dropped, local, collation, options, missing column
}

func newAttributeColumns(col func(string) column) *attributeColumns {
	return &attributeColumns{
		relation: col("attrelid"), name: col("attname"), typeOID: col("atttypid"), typeMod: col("atttypmod"),
		dims: col("attndims"), len: col("attlen"), num: col("attnum"), byVal: col("attbyval"),
		align: col("attalign"), storage: col("attstorage"), compression: col("attcompression"),
		notNull: col("attnotnull"), hasDefault: col("atthasdef"), hasMissing: col("atthasmissing"),
		identity: col("attidentity"), generated: col("attgenerated"), dropped: col("attisdropped"),
		local: col("attislocal"), collation: col("attcollation"), options: col("attoptions"),
		missing: col("attmissingval"),
	}
}

// readAttributes puts every user column of every relation in its place.
func (l *loader) readAttributes() error {
	byOID := l.placesForAttributes()
	names := interner{}
	return l.scan(pgAttribute, func(col func(string) column) func(*row) {
		c := newAttributeColumns(col)
		return func(r *row) {
			attributes, num := byOID[r.oid(c.relation)], int(r.int16(c.num))
			if num > 0 && num <= len(attributes) {
				c.read(r, &attributes[num-1], names)
			}
		}
	})
}

// placesForAttributes gives every relation the room that relnatts promises, out
// of one allocation.
func (l *loader) placesForAttributes() map[uint32][]Attribute {
	total := 0
	for _, c := range l.classes {
		total += c.natts
	}
	room := make([]Attribute, total)
	byOID := make(map[uint32][]Attribute, len(l.classes))
	for _, c := range l.classes {
		c.Attributes, room = room[:c.natts:c.natts], room[c.natts:]
		byOID[c.OID] = c.Attributes
	}
	return byOID
}

// read fills one attribute.
func (c *attributeColumns) read(r *row, a *Attribute, names interner) {
	*a = Attribute{
		Num: r.int16(c.num), Name: names.string(r.nameBytes(c.name)), Type: r.oid(c.typeOID),
		TypeMod: r.int32(c.typeMod), Dims: r.int32(c.dims), Len: r.int16(c.len), Align: r.char(c.align),
		Storage: r.char(c.storage), Compression: r.char(c.compression), ByVal: r.bool(c.byVal),
		NotNull: r.bool(c.notNull), HasDefault: r.bool(c.hasDefault), HasMissing: r.bool(c.hasMissing),
		Dropped: r.bool(c.dropped), Local: r.bool(c.local), Generated: r.char(c.generated),
		Identity: r.char(c.identity), Collation: r.oid(c.collation),
	}
	for _, option := range r.texts(c.options) {
		if version, ok := strings.CutPrefix(option, "pg_attver="); ok {
			a.Version = version
		} else {
			a.Options = append(a.Options, option)
		}
	}
	if a.HasMissing {
		missing, err := r.array(c.missing).first(a.Len)
		if err != nil {
			r.fail("missing value of column %s of relation %d: %w", a.Name, r.oid(c.relation), err)
		}
		a.Missing = bytes.Clone(missing)
	}
}

// interner keeps one copy of equal strings: few names serve many columns.
type interner map[string]string

func (in interner) string(b []byte) string {
	if s, ok := in[string(b)]; ok {
		return s
	}
	s := string(b)
	in[s] = s
	return s
}
