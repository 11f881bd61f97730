package relmap

import (
	"cmp"
	"slices"
)

// typeRow, collationRow, opclassRow and extensionRow are rows whose schema is
// not yet known by name.
type (
	typeRow struct {
		*Type
		namespace uint32
	}
	collationRow struct {
		*Collation
		namespace uint32
	}
	opclassRow struct {
		*Opclass
		namespace uint32
	}
	extensionRow struct {
		Extension
		namespace uint32
	}
)

func (l *loader) readTypes() error {
	return l.scan(pgType, func(col func(string) column) func(*row) {
		oid, name, namespace, length, byVal := col("oid"), col("typname"), col("typnamespace"), col("typlen"), col("typbyval")
		kind, category, relation, elem, array := col("typtype"), col("typcategory"), col("typrelid"), col("typelem"), col("typarray")
		align, storage, notNull, base := col("typalign"), col("typstorage"), col("typnotnull"), col("typbasetype")
		typeMod, collation := col("typtypmod"), col("typcollation")
		return func(r *row) {
			l.typeRows = append(l.typeRows, typeRow{&Type{
				OID: r.oid(oid), Name: r.name(name), Kind: r.char(kind), Category: r.char(category),
				Len: r.int16(length), ByVal: r.bool(byVal), Align: r.char(align), Storage: r.char(storage),
				Relation: r.oid(relation), Elem: r.oid(elem), Array: r.oid(array), Base: r.oid(base),
				TypeMod: r.int32(typeMod), NotNull: r.bool(notNull), Collation: r.oid(collation),
			}, r.oid(namespace)})
		}
	})
}

func (l *loader) readEnums() error {
	l.labels = map[uint32][]EnumLabel{}
	return l.scan(pgEnum, func(col func(string) column) func(*row) {
		oid, owner, order, label := col("oid"), col("enumtypid"), col("enumsortorder"), col("enumlabel")
		return func(r *row) {
			l.labels[r.oid(owner)] = append(l.labels[r.oid(owner)], EnumLabel{r.oid(oid), r.float32(order), r.name(label)})
		}
	})
}

func (l *loader) readRanges() error {
	return l.scan(pgRange, func(col func(string) column) func(*row) {
		oid, subtype, multi := col("rngtypid"), col("rngsubtype"), col("rngmultitypid")
		collation, class := col("rngcollation"), col("rngsubopc")
		return func(r *row) {
			l.ranges = append(l.ranges, &Range{r.oid(oid), r.oid(subtype), r.oid(multi), r.oid(collation), r.oid(class)})
		}
	})
}

func (l *loader) readCollations() error {
	return l.scan(pgCollation, func(col func(string) column) func(*row) {
		oid, name, namespace, provider := col("oid"), col("collname"), col("collnamespace"), col("collprovider")
		deterministic, encoding, collate := col("collisdeterministic"), col("collencoding"), col("collcollate")
		ctype, locale, rules, version := col("collctype"), col("colllocale"), col("collicurules"), col("collversion")
		return func(r *row) {
			l.collRows = append(l.collRows, collationRow{&Collation{
				OID: r.oid(oid), Name: r.name(name), Provider: string(rune(r.char(provider))),
				Deterministic: r.bool(deterministic), Encoding: r.int32(encoding), Collate: r.text(collate),
				Ctype: r.text(ctype), Locale: r.text(locale), Rules: r.text(rules), Version: r.text(version),
			}, r.oid(namespace)})
		}
	})
}

func (l *loader) readOpclasses() error {
	return l.scan(pgOpclass, func(col func(string) column) func(*row) {
		oid, method, name, namespace := col("oid"), col("opcmethod"), col("opcname"), col("opcnamespace")
		family, in, key, standard := col("opcfamily"), col("opcintype"), col("opckeytype"), col("opcdefault")
		return func(r *row) {
			l.classRows = append(l.classRows, opclassRow{&Opclass{
				OID: r.oid(oid), Name: r.name(name), Method: r.oid(method), Family: r.oid(family),
				InType: r.oid(in), KeyType: r.oid(key), Default: r.bool(standard),
			}, r.oid(namespace)})
		}
	})
}

func (l *loader) readAccessMethods() error {
	l.methods = map[uint32]string{}
	return l.scan(pgAm, func(col func(string) column) func(*row) {
		oid, name := col("oid"), col("amname")
		return func(r *row) { l.methods[r.oid(oid)] = r.name(name) }
	})
}

func (l *loader) readExtensions() error {
	return l.scan(pgExtension, func(col func(string) column) func(*row) {
		oid, name, namespace, version := col("oid"), col("extname"), col("extnamespace"), col("extversion")
		return func(r *row) {
			l.extRows = append(l.extRows, extensionRow{
				Extension{OID: r.oid(oid), Name: r.name(name), Version: r.text(version)}, r.oid(namespace),
			})
		}
	})
}

// joinExtensions names extensions and gives relations theirs.
func (l *loader) joinExtensions() {
	l.extensions = make(map[string]Extension, len(l.extRows))
	for _, row := range l.extRows {
		row.Schema = l.schemas[row.namespace]
		l.extensions[row.Name] = row.Extension
	}
	for object := range l.members {
		if r := l.byOID[object.oid]; r != nil && object.catalog == pgClass {
			r.Extension = l.extensionOf(pgClass, object.oid)
		}
	}
}

// extensionOf names the extension that an object belongs to, "" if to none.
func (l *loader) extensionOf(catalog, oid uint32) string {
	extension, ok := l.members[objectID{catalog, oid}]
	if !ok {
		return ""
	}
	for _, row := range l.extRows {
		if row.OID == extension {
			return row.Name
		}
	}
	return ""
}

// joinTypes publishes types, collations and operator classes.
func (l *loader) joinTypes() {
	l.types = make(map[uint32]*Type, len(l.typeRows))
	for _, row := range l.typeRows {
		row.Schema, row.Extension = l.schemas[row.namespace], l.extensionOf(pgType, row.OID)
		row.Enum = l.labels[row.OID]
		slices.SortFunc(row.Enum, func(a, b EnumLabel) int {
			return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.OID, b.OID))
		})
		l.types[row.OID] = row.Type
	}
	for _, r := range l.ranges {
		for _, oid := range []uint32{r.Type, r.Multirange} {
			if t := l.types[oid]; t != nil {
				t.Range = r
			}
		}
	}
	l.collations = make(map[uint32]*Collation, len(l.collRows))
	for _, row := range l.collRows {
		row.Schema, row.Extension = l.schemas[row.namespace], l.extensionOf(pgCollation, row.OID)
		l.collations[row.OID] = row.Collation
	}
	l.opclasses = make(map[uint32]*Opclass, len(l.classRows))
	for _, row := range l.classRows {
		row.Schema, row.Extension = l.schemas[row.namespace], l.extensionOf(pgOpclass, row.OID)
		l.opclasses[row.OID] = row.Opclass
	}
}
