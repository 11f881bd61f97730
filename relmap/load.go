package relmap

import (
	"cmp"
	"fmt"
	"path"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/relmap/heap"
)

// loader reads the catalogs of one database. pg_class comes first because it
// says where the others are; those are read in parallel, each into fields of
// its own, and joined at the end.
type loader struct {
	*Database
	dir     string      // of the database, in the tree
	mapping filenodeMap // of the database

	classes    []*class
	schemas    map[uint32]string
	indexes    []*indexRow
	inherits   []inheritRow
	owners     map[uint32]ownerRow    // by sequence
	members    map[objectID]uint32    // of extensions: extension by object
	sequences  map[uint32]*Sequence   // by relation
	partitions map[uint32]*Partition  // by relation
	conindexes map[uint32]*Constraint // by index
	labels     map[uint32][]EnumLabel // by type
	ranges     []*Range
	typeRows   []typeRow
	collRows   []collationRow
	classRows  []opclassRow
	extRows    []extensionRow
}

// objectID names an object of any catalog, as pg_depend does.
type objectID struct{ catalog, oid uint32 }

// read fills a database.
func (d *Database) read() error {
	if err := d.readCatalogs(); err != nil {
		return fmt.Errorf("database %q: %w", d.Name, err)
	}
	return nil
}

func (d *Database) readCatalogs() error {
	dir, _, err := d.cluster.databaseDir(d.Tablespace, d.OID)
	if err != nil {
		return err
	}
	l := &loader{Database: d, dir: dir}
	if l.mapping, err = readFilenodeMap(d.cluster.tree, dir); err != nil {
		return err
	}
	if err := l.readClasses(); err != nil {
		return fmt.Errorf("read pg_class: %w", err)
	}
	var group errgroup.Group
	for name, read := range l.readers() {
		group.Go(func() error {
			if err := read(); err != nil {
				return fmt.Errorf("read %s: %w", name, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return l.join()
}

func (l *loader) readers() map[string]func() error {
	return map[string]func() error{
		"pg_namespace":         l.readNamespaces,
		"pg_attribute":         l.readAttributes,
		"pg_index":             l.readIndexes,
		"pg_inherits":          l.readInherits,
		"pg_depend":            l.readDepends,
		"pg_sequence":          l.readSequences,
		"pg_partitioned_table": l.readPartitionedTables,
		"pg_constraint":        l.readConstraints,
		"pg_type":              l.readTypes,
		"pg_enum":              l.readEnums,
		"pg_range":             l.readRanges,
		"pg_collation":         l.readCollations,
		"pg_opclass":           l.readOpclasses,
		"pg_am":                l.readAccessMethods,
		"pg_extension":         l.readExtensions,
	}
}

// catalog gives a catalog of this database.
func (l *loader) catalog(oid uint32) (*table, error) {
	filenode, ok := l.mapping[oid]
	if !ok {
		r := l.byOID[oid]
		if r == nil || r.Filenode == 0 {
			return nil, fmt.Errorf("%w: pg_class has no file for catalog %d", pg0.ErrCorrupt, oid)
		}
		filenode = r.Filenode
	}
	return &table{
		cluster: l.cluster,
		layout:  layoutOf(oid, l.cluster.Version),
		path:    path.Join(l.dir, itoa(filenode)),
		fetch:   l.fetch,
	}, nil
}

// scan reads a catalog of this database. prepare looks the columns up, once.
func (l *loader) scan(oid uint32, prepare func(col func(string) column) func(*row)) error {
	t, err := l.catalog(oid)
	if err != nil {
		return err
	}
	return t.scan(prepare(t.layout.column))
}

// fetch reads a value that a catalog's row keeps in a TOAST table. pg_class
// itself has none.
func (l *loader) fetch(e heap.External) ([]byte, error) {
	r := l.byOID[e.ToastRel]
	if r == nil || r.Kind != KindToast {
		return nil, fmt.Errorf("%w: a row points to TOAST table %d, which is not there", pg0.ErrCorrupt, e.ToastRel)
	}
	name, _, err := l.place(r)
	if err != nil {
		return nil, err
	}
	return l.cluster.fetchChunks(name, e.ValueID)
}

// class is a row of pg_class on its way to a Relation.
type class struct {
	Relation
	namespace uint32
	toast     uint32
	natts     int
}

func (l *loader) readClasses() error {
	l.byOID = map[uint32]*Relation{}
	err := l.scan(pgClass, func(col func(string) column) func(*row) {
		c := newClassColumns(col)
		return func(r *row) { l.classes = append(l.classes, c.read(r)) }
	})
	if err != nil {
		return err
	}
	for _, c := range l.classes {
		if l.byOID[c.OID] != nil {
			return fmt.Errorf("%w: relation %d (%s) has two valid rows", pg0.ErrCorrupt, c.OID, c.Name)
		}
		if err := l.resolve(c); err != nil {
			return err
		}
		l.byOID[c.OID] = &c.Relation
	}
	return nil
}

// resolve replaces what pg_class leaves to others: the filenode of a mapped
// relation, the tablespace of the database.
func (l *loader) resolve(c *class) error {
	if !c.HasStorage() {
		c.Filenode = 0
		return nil
	}
	if c.Tablespace == 0 {
		c.Tablespace = l.Database.Tablespace
	}
	if c.Filenode != 0 {
		return nil
	}
	mapping := l.mapping
	if c.Shared {
		mapping = l.cluster.global
	}
	filenode, ok := mapping[c.OID]
	if !ok {
		return fmt.Errorf("%w: relation %d (%s) has no file in pg_class and none in the map", pg0.ErrCorrupt, c.OID, c.Name)
	}
	c.Filenode = filenode
	return nil
}

// classColumns are the columns of pg_class.
type classColumns struct {
	oid, name, namespace, rowtype, oftype, owner, am, filenode, tablespace, pages, tuples,
	toast, shared, persistence, kind, natts, populated, partition, frozenXID, minMXID, options, bound column
}

func newClassColumns(col func(string) column) *classColumns {
	return &classColumns{
		oid: col("oid"), name: col("relname"), namespace: col("relnamespace"), rowtype: col("reltype"),
		oftype: col("reloftype"), owner: col("relowner"), am: col("relam"), filenode: col("relfilenode"),
		tablespace: col("reltablespace"), pages: col("relpages"), tuples: col("reltuples"),
		toast: col("reltoastrelid"), shared: col("relisshared"), persistence: col("relpersistence"),
		kind: col("relkind"), natts: col("relnatts"), populated: col("relispopulated"),
		partition: col("relispartition"), frozenXID: col("relfrozenxid"), minMXID: col("relminmxid"),
		options: col("reloptions"), bound: col("relpartbound"),
	}
}

func (c *classColumns) read(r *row) *class {
	return &class{
		Relation: Relation{
			OID: r.oid(c.oid), Name: r.name(c.name), Kind: r.char(c.kind), Persistence: r.char(c.persistence),
			AM: r.oid(c.am), Owner: r.oid(c.owner), RowType: r.oid(c.rowtype), OfType: r.oid(c.oftype),
			Filenode: r.oid(c.filenode), Tablespace: r.oid(c.tablespace), Pages: r.int32(c.pages),
			Tuples: r.float32(c.tuples), Options: r.texts(c.options), Shared: r.bool(c.shared),
			Populated: r.bool(c.populated), IsPartition: r.bool(c.partition), Bound: r.text(c.bound),
			FrozenXID: r.oid(c.frozenXID), MinMXID: r.oid(c.minMXID),
		},
		namespace: r.oid(c.namespace), toast: r.oid(c.toast), natts: max(int(r.int16(c.natts)), 0),
	}
}

func (l *loader) readNamespaces() error {
	l.schemas = map[uint32]string{}
	return l.scan(pgNamespace, func(col func(string) column) func(*row) {
		oid, name := col("oid"), col("nspname")
		return func(r *row) { l.schemas[r.oid(oid)] = r.name(name) }
	})
}

// inheritRow is a row of pg_inherits.
type inheritRow struct {
	child, parent uint32
	seq           int32
	detaching     bool
}

func (l *loader) readInherits() error {
	return l.scan(pgInherits, func(col func(string) column) func(*row) {
		child, parent, seq, detaching := col("inhrelid"), col("inhparent"), col("inhseqno"), col("inhdetachpending")
		return func(r *row) {
			l.inherits = append(l.inherits, inheritRow{r.oid(child), r.oid(parent), r.int32(seq), r.bool(detaching)})
		}
	})
}

// ownerRow is a column that owns a sequence.
type ownerRow struct {
	relation uint32
	column   int16
}

// readDepends keeps who owns a sequence (a serial column's automatic, an
// identity column's internal dependency) and what belongs to an extension.
func (l *loader) readDepends() error {
	l.owners, l.members = map[uint32]ownerRow{}, map[objectID]uint32{}
	return l.scan(pgDepend, func(col func(string) column) func(*row) {
		catalog, oid, sub := col("classid"), col("objid"), col("objsubid")
		refCatalog, refOID, refSub, kind := col("refclassid"), col("refobjid"), col("refobjsubid"), col("deptype")
		return func(r *row) {
			object := objectID{r.oid(catalog), r.oid(oid)}
			switch ref, kind := r.oid(refCatalog), r.char(kind); {
			case ref == pgExtension && kind == 'e':
				l.members[object] = r.oid(refOID)
			case ref == pgClass && object.catalog == pgClass && r.int32(sub) == 0 && r.int32(refSub) > 0 && (kind == 'a' || kind == 'i'):
				if c := l.byOID[object.oid]; c != nil && c.Kind == KindSequence {
					l.owners[object.oid] = ownerRow{r.oid(refOID), int16(r.int32(refSub))}
				}
			}
		}
	})
}

func (l *loader) readSequences() error {
	l.sequences = map[uint32]*Sequence{}
	return l.scan(pgSequence, func(col func(string) column) func(*row) {
		relation, kind, start, increment := col("seqrelid"), col("seqtypid"), col("seqstart"), col("seqincrement")
		maximum, minimum, cache, cycle := col("seqmax"), col("seqmin"), col("seqcache"), col("seqcycle")
		return func(r *row) {
			l.sequences[r.oid(relation)] = &Sequence{
				Type: r.oid(kind), Start: r.int64(start), Increment: r.int64(increment),
				Max: r.int64(maximum), Min: r.int64(minimum), Cache: r.int64(cache), Cycle: r.bool(cycle),
			}
		}
	})
}

// compareNames orders relations by schema, name and OID.
func compareNames(a, b *Relation) int {
	return cmp.Or(cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Name, b.Name), cmp.Compare(a.OID, b.OID))
}

// join connects what the catalogs say of each relation and publishes it.
func (l *loader) join() error {
	l.relations = make([]*Relation, len(l.classes))
	for i, c := range l.classes {
		l.relations[i] = &c.Relation
		c.Schema = l.schemas[c.namespace]
		c.Toast = l.byOID[c.toast]
		c.Sequence, c.Partition = l.sequences[c.OID], l.partitions[c.OID]
	}
	slices.SortFunc(l.relations, compareNames)
	l.joinExtensions()
	l.joinIndexes()
	l.joinHeirs()
	l.joinSequences()
	l.joinTypes()
	return l.checkAttributes()
}

// joinHeirs connects parents and children.
func (l *loader) joinHeirs() {
	slices.SortFunc(l.inherits, func(a, b inheritRow) int { return cmp.Compare(a.seq, b.seq) })
	for _, row := range l.inherits {
		child, parent := l.byOID[row.child], l.byOID[row.parent]
		if child == nil || parent == nil {
			continue
		}
		child.Inherits = append(child.Inherits, parent)
		parent.Children = append(parent.Children, child)
		child.Detaching = child.Detaching || row.detaching
		if child.IsPartition || parent.Kind == KindPartitionedIndex {
			child.Parent = parent
			parent.Partitions = append(parent.Partitions, child)
		}
	}
	for _, r := range l.relations {
		slices.SortFunc(r.Children, compareNames)
		slices.SortFunc(r.Partitions, compareNames)
	}
}

func (l *loader) joinSequences() {
	for _, r := range l.relations {
		if owner, ok := l.owners[r.OID]; ok && l.byOID[owner.relation] != nil {
			r.OwnedBy = Owner{Relation: l.byOID[owner.relation], Attnum: owner.column}
			r.OwnedBy.Relation.Sequences = append(r.OwnedBy.Relation.Sequences, r)
		}
	}
	for _, r := range l.relations {
		slices.SortFunc(r.Sequences, func(a, b *Relation) int { return cmp.Compare(a.OID, b.OID) })
	}
}

// checkAttributes makes sure that every column of every relation was found.
func (l *loader) checkAttributes() error {
	for _, c := range l.classes {
		for i := range c.Attributes {
			if c.Attributes[i].Num == 0 {
				return fmt.Errorf("pg_attribute: %w: column %d of %s.%s is missing", pg0.ErrCorrupt, i+1, c.Schema, c.Name)
			}
		}
	}
	return nil
}
