package relmap

import (
	"cmp"
	"slices"
)

// indexRow is a row of pg_index on its way to an Index.
type indexRow struct {
	Index
	oid, table uint32
}

// indexColumns are the columns of pg_index.
type indexColumns struct {
	oid, table, nkeys, unique, nullsNotDistinct, primary, exclusion, immediate, clustered, valid, checkXmin,
	ready, live, replica, keys, collations, classes, options, exprs, pred column
}

func newIndexColumns(col func(string) column) *indexColumns {
	return &indexColumns{
		oid: col("indexrelid"), table: col("indrelid"), nkeys: col("indnkeyatts"), unique: col("indisunique"),
		nullsNotDistinct: col("indnullsnotdistinct"), primary: col("indisprimary"),
		exclusion: col("indisexclusion"), immediate: col("indimmediate"), clustered: col("indisclustered"),
		valid: col("indisvalid"), checkXmin: col("indcheckxmin"), ready: col("indisready"),
		live: col("indislive"), replica: col("indisreplident"), keys: col("indkey"),
		collations: col("indcollation"), classes: col("indclass"), options: col("indoption"),
		exprs: col("indexprs"), pred: col("indpred"),
	}
}

func (l *loader) readIndexes() error {
	return l.scan(pgIndex, func(col func(string) column) func(*row) {
		c := newIndexColumns(col)
		return func(r *row) { l.indexes = append(l.indexes, c.read(r)) }
	})
}

func (c *indexColumns) read(r *row) *indexRow {
	return &indexRow{
		Index: Index{
			Unique: r.bool(c.unique), Primary: r.bool(c.primary), Exclusion: r.bool(c.exclusion),
			Immediate: r.bool(c.immediate), Valid: r.bool(c.valid), Ready: r.bool(c.ready), Live: r.bool(c.live),
			Clustered: r.bool(c.clustered), ReplicaIdentity: r.bool(c.replica), CheckXmin: r.bool(c.checkXmin),
			NullsNotDistinct: r.bool(c.nullsNotDistinct), Keys: r.int16s(c.keys), NKeyAtts: int(r.int16(c.nkeys)),
			Classes: r.oids(c.classes), Collations: r.oids(c.collations), KeyOptions: r.int16s(c.options),
			Exprs: r.text(c.exprs), Pred: r.text(c.pred),
		},
		oid: r.oid(c.oid), table: r.oid(c.table),
	}
}

// readConstraints keeps the constraints that an index implements. A foreign key
// names an index too, but of another table.
func (l *loader) readConstraints() error {
	l.conindexes = map[uint32]*Constraint{}
	return l.scan(pgConstraint, func(col func(string) column) func(*row) {
		oid, name, kind, index := col("oid"), col("conname"), col("contype"), col("conindid")
		deferrable, deferred, period := col("condeferrable"), col("condeferred"), col("conperiod")
		return func(r *row) {
			switch kind := r.char(kind); kind {
			case 'p', 'u', 'x':
				l.conindexes[r.oid(index)] = &Constraint{
					OID: r.oid(oid), Name: r.name(name), Type: kind,
					Deferrable: r.bool(deferrable), Deferred: r.bool(deferred), Period: r.bool(period),
				}
			}
		}
	})
}

func (l *loader) readPartitionedTables() error {
	l.partitions = map[uint32]*Partition{}
	return l.scan(pgPartitionedTable, func(col func(string) column) func(*row) {
		relation, strategy, fallback, keys := col("partrelid"), col("partstrat"), col("partdefid"), col("partattrs")
		classes, collations, exprs := col("partclass"), col("partcollation"), col("partexprs")
		return func(r *row) {
			l.partitions[r.oid(relation)] = &Partition{
				Strategy: r.char(strategy), Default: r.oid(fallback), Keys: r.int16s(keys),
				Classes: r.oids(classes), Collations: r.oids(collations), Exprs: r.text(exprs),
			}
		}
	})
}

// joinIndexes connects indexes and their tables.
func (l *loader) joinIndexes() {
	slices.SortFunc(l.indexes, func(a, b *indexRow) int { return cmp.Compare(a.oid, b.oid) })
	for _, row := range l.indexes {
		row.Relation, row.Table = l.byOID[row.oid], l.byOID[row.table]
		if row.Relation == nil || row.Table == nil {
			continue
		}
		row.Constraint = l.conindexes[row.oid]
		row.Relation.Index = &row.Index
		row.Table.Indexes = append(row.Table.Indexes, &row.Index)
	}
}
