package relmap_test

import (
	"testing"

	"github.com/fukanchik/pg0/relmap"
)

// questions holds every catalog that relmap reads.
var questions = map[string]question{
	"pg_class": {
		query: `select c.oid, nspname, relname, relkind, relpersistence, relam, relowner, reltype, reloftype,
			coalesce(pg_relation_filenode(c.oid), 0),
			case when relkind not in ('r', 'i', 'S', 't', 'm') then reltablespace
				when reltablespace = 0 then (select dattablespace from pg_database where datname = current_database())
				else reltablespace end,
			relpages, reltuples, reltoastrelid, relisshared, relispopulated, relispartition,
			relpartbound::text, relfrozenxid, relminmxid, array_to_string(reloptions, E'\n')
			from pg_class c join pg_namespace n on n.oid = relnamespace`,
		answer: perRelation(all, func(r *relmap.Relation) []any {
			return []any{
				r.OID, r.Schema, r.Name, r.Kind, r.Persistence, r.AM, r.Owner, r.RowType, r.OfType, r.Filenode,
				r.Tablespace, r.Pages, r.Tuples, r.Toast, r.Shared, r.Populated, r.IsPartition, r.Bound,
				r.FrozenXID, r.MinMXID, r.Options,
			}
		}),
	},
	"pg_attribute": {
		query: `select attrelid, attnum, attname, atttypid, atttypmod, attndims, attlen, attalign, attstorage,
			{since 14|attcompression|''}, attbyval, attnotnull, atthasdef, atthasmissing, attisdropped, attislocal,
			attgenerated, attidentity, attcollation,
			array_to_string(array(select o from unnest(attoptions) o where o not like 'pg_attver=%'), E'\n'),
			(select substr(o, 11) from unnest(attoptions) o where o like 'pg_attver=%')
			from pg_attribute where attnum > 0`,
		answer: func(_ *testing.T, _ *relmap.Cluster, d *relmap.Database) [][]string {
			var rows [][]string
			for _, r := range d.Relations() {
				for _, a := range r.Attributes {
					rows = append(rows, texts(r.OID, a.Num, a.Name, a.Type, a.TypeMod, a.Dims, a.Len, a.Align,
						a.Storage, a.Compression, a.ByVal, a.NotNull, a.HasDefault, a.HasMissing, a.Dropped,
						a.Local, a.Generated, a.Identity, a.Collation, a.Options, a.Version))
				}
			}
			return rows
		},
	},
	"pg_index": {
		query: `select indexrelid, indrelid, indisunique, indisprimary, indisexclusion, indimmediate, indisvalid,
			indisready, indislive, indisclustered, indisreplident, indcheckxmin,
			{since 15|indnullsnotdistinct|false}, indkey, indnkeyatts, indclass, indcollation, indoption,
			indexprs::text, indpred::text
			from pg_index`,
		answer: perIndex(func(i *relmap.Index) []any {
			return []any{
				i.OID, i.Table, i.Unique, i.Primary, i.Exclusion, i.Immediate, i.Valid, i.Ready, i.Live,
				i.Clustered, i.ReplicaIdentity, i.CheckXmin, i.NullsNotDistinct, i.Keys, i.NKeyAtts, i.Classes,
				i.Collations, i.KeyOptions, i.Exprs, i.Pred,
			}
		}),
	},
	"pg_constraint": {
		query: `select conindid, oid, conname, contype, condeferrable, condeferred, {since 18|conperiod|false}
			from pg_constraint where contype in ('p', 'u', 'x')`,
		answer: func(_ *testing.T, _ *relmap.Cluster, d *relmap.Database) [][]string {
			var rows [][]string
			for _, r := range d.Relations() {
				for _, i := range r.Indexes {
					if c := i.Constraint; c != nil {
						rows = append(rows, texts(i.OID, c.OID, c.Name, c.Type, c.Deferrable, c.Deferred, c.Period))
					}
				}
			}
			return rows
		},
	},
	"pg_inherits": {
		query: `select inhrelid, inhparent, inhseqno, {since 14|inhdetachpending|false} from pg_inherits`,
		answer: func(_ *testing.T, _ *relmap.Cluster, d *relmap.Database) [][]string {
			var rows [][]string
			for _, r := range d.Relations() {
				for i, parent := range r.Inherits {
					rows = append(rows, texts(r.OID, parent, i+1, r.Detaching))
				}
			}
			return rows
		},
	},
	"partitions": {
		query: `select inhparent, array_to_string(array_agg(n.nspname || '.' || c.relname
				order by n.nspname collate "C", c.relname collate "C"), E'\n')
			from pg_inherits join pg_class c on c.oid = inhrelid join pg_namespace n on n.oid = relnamespace
			join pg_class p on p.oid = inhparent where p.relkind in ('p', 'I') group by inhparent`,
		answer: perRelation(func(r *relmap.Relation) bool { return r.Partitions != nil }, func(r *relmap.Relation) []any {
			var names []string
			for _, p := range r.Partitions {
				if p.Parent != r {
					names = append(names, "parent is wrong:")
				}
				names = append(names, p.Schema+"."+p.Name)
			}
			return []any{r.OID, names}
		}),
	},
	"pg_partitioned_table": {
		query: `select partrelid, partstrat, partdefid, partattrs, partclass, partcollation, partexprs::text
			from pg_partitioned_table`,
		answer: perRelation(func(r *relmap.Relation) bool { return r.Partition != nil }, func(r *relmap.Relation) []any {
			p := r.Partition
			return []any{r.OID, p.Strategy, p.Default, p.Keys, p.Classes, p.Collations, p.Exprs}
		}),
	},
	"sequences": {
		query: `select seqrelid, seqtypid, seqstart, seqincrement, seqmax, seqmin, seqcache, seqcycle,
			coalesce(d.refobjid, 0), coalesce(d.refobjsubid, 0)
			from pg_sequence left join pg_depend d on classid = 'pg_class'::regclass and objid = seqrelid
			and refclassid = 'pg_class'::regclass and deptype in ('a', 'i') and refobjsubid > 0`,
		answer: perRelation(func(r *relmap.Relation) bool { return r.Kind == relmap.KindSequence }, func(r *relmap.Relation) []any {
			s := r.Sequence
			return []any{r.OID, s.Type, s.Start, s.Increment, s.Max, s.Min, s.Cache, s.Cycle, r.OwnedBy.Relation, r.OwnedBy.Attnum}
		}),
	},
	"pg_database": {
		query: `select oid, datname, datdba, encoding, pg_encoding_to_char(encoding), {since 15|datlocprovider|'c'},
			datcollate, datctype, {since 15|{since 17|datlocale|daticulocale}|null}, {since 15|datcollversion|null},
			dattablespace, datistemplate, datallowconn from pg_database`,
		answer: func(t *testing.T, c *relmap.Cluster, _ *relmap.Database) [][]string {
			list, err := c.Databases()
			if err != nil {
				t.Fatal(err)
			}
			var rows [][]string
			for _, d := range list {
				rows = append(rows, texts(d.OID, d.Name, d.Owner, d.Encoding, relmap.EncodingName(d.Encoding),
					d.Provider, d.Collate, d.Ctype, d.Locale, d.CollVersion, d.Tablespace, d.Template, d.AllowConn))
			}
			return rows
		},
	},
	"pg_tablespace": {
		query: `select oid, spcname from pg_tablespace`,
		answer: func(t *testing.T, c *relmap.Cluster, _ *relmap.Database) [][]string {
			list, err := c.Tablespaces()
			if err != nil {
				t.Fatal(err)
			}
			var rows [][]string
			for _, s := range list {
				rows = append(rows, texts(s.OID, s.Name))
			}
			return rows
		},
	},
	"pg_authid": {
		query: `select rolname from pg_roles where oid in (10, (select datdba from pg_database where datname = current_database()))`,
		answer: func(t *testing.T, c *relmap.Cluster, d *relmap.Database) [][]string {
			var rows [][]string
			for _, oid := range []uint32{10, d.Owner} {
				name, err := c.Role(oid)
				if err != nil {
					t.Fatal(err)
				}
				rows = append(rows, []string{name})
			}
			return rows
		},
	},
	"pg_control": {
		query: `select system_identifier, pg_control_version, catalog_version_no, max_data_alignment, database_block_size,
			blocks_per_segment, wal_block_size, bytes_per_wal_segment, max_identifier_length, max_index_columns,
			max_toast_chunk_size, large_object_chunk_size, float8_pass_by_value, data_page_checksum_version > 0,
			current_setting('max_connections'), current_setting('max_prepared_transactions'),
			current_setting('max_wal_senders'), current_setting('max_worker_processes'),
			current_setting('max_locks_per_transaction'), timeline_id
			from pg_control_system(), pg_control_init(), pg_control_checkpoint()`,
		answer: func(_ *testing.T, cluster *relmap.Cluster, _ *relmap.Database) [][]string {
			c := cluster.Control
			return [][]string{texts(c.SystemID, c.Version, c.CatalogVersion, c.MaxAlign, c.BlockSize, c.SegmentBlocks,
				c.WALBlockSize, c.WALSegmentSize, c.NameDataLen, c.IndexMaxKeys, c.ToastMaxChunk, c.LargeObjectBlock,
				c.Float8ByVal, c.Checksums, c.MaxConnections, c.MaxPreparedXacts, c.MaxWALSenders, c.MaxWorkers,
				c.MaxLocksPerXact, c.Timeline)}
		},
	},
}

func init() {
	for name, q := range typeQuestions {
		questions[name] = q
	}
}

// perIndex makes a row for each index, found through its table.
func perIndex(row func(*relmap.Index) []any) func(*testing.T, *relmap.Cluster, *relmap.Database) [][]string {
	return func(_ *testing.T, _ *relmap.Cluster, d *relmap.Database) [][]string {
		var rows [][]string
		for _, r := range d.Relations() {
			for _, i := range r.Indexes {
				rows = append(rows, texts(row(i)...))
			}
		}
		return rows
	}
}

// typeQuestions holds what columns and indexes refer to.
var typeQuestions = map[string]question{
	"pg_type": {
		query: `select t.oid, nspname, typname, typtype, typcategory, typlen, typbyval, typalign, typstorage, typrelid, typelem,
			typarray, typbasetype, typtypmod, typnotnull, typcollation, extname,
			typelem <> 0 and typsubscript_array
			from (select *, {since 14|typsubscript = 'array_subscript_handler'::regproc|typlen = -1} as typsubscript_array from pg_type) t
			join pg_namespace n on n.oid = typnamespace
			left join pg_depend d on d.classid = 'pg_type'::regclass and d.objid = t.oid and d.deptype = 'e'
			left join pg_extension e on e.oid = d.refobjid`,
		answer: func(t *testing.T, _ *relmap.Cluster, d *relmap.Database) [][]string {
			return typeRows(d, func(x *relmap.Type) []any {
				return []any{
					x.OID, x.Schema, x.Name, x.Kind, x.Category, x.Len, x.ByVal, x.Align, x.Storage, x.Relation,
					x.Elem, x.Array, x.Base, x.TypeMod, x.NotNull, x.Collation, x.Extension, x.IsArray(),
				}
			})
		},
	},
	"pg_enum": {
		query: `select enumtypid, array_to_string(array_agg(oid || ' ' || enumlabel order by enumsortorder), E'\n')
			from pg_enum group by enumtypid`,
		answer: func(_ *testing.T, _ *relmap.Cluster, d *relmap.Database) [][]string {
			return typeRows(d, func(x *relmap.Type) []any {
				if x.Enum == nil {
					return nil
				}
				var labels []string
				for _, l := range x.Enum {
					labels = append(labels, texts(l.OID)[0]+" "+l.Label)
				}
				return []any{x.OID, labels}
			})
		},
	},
	"pg_range": {
		query: `select rngtypid, rngsubtype, {since 14|rngmultitypid|0}, rngcollation, rngsubopc from pg_range`,
		answer: func(_ *testing.T, _ *relmap.Cluster, d *relmap.Database) [][]string {
			return typeRows(d, func(x *relmap.Type) []any {
				if x.Range == nil || x.Kind != 'r' {
					return nil
				}
				return []any{x.Range.Type, x.Range.Subtype, x.Range.Multirange, x.Range.Collation, x.Range.Class}
			})
		},
	},
	"pg_collation": {
		query: `select c.oid, nspname, collname, collprovider, collisdeterministic, collencoding, collcollate, collctype,
			{since 17|colllocale|{since 15|colliculocale|null}}, {since 16|collicurules|null}, collversion
			from pg_collation c join pg_namespace n on n.oid = collnamespace`,
		answer: func(_ *testing.T, _ *relmap.Cluster, d *relmap.Database) [][]string {
			return rowsByOID(d.Collation, func(x *relmap.Collation) []any {
				return []any{
					x.OID, x.Schema, x.Name, x.Provider, x.Deterministic, x.Encoding, x.Collate, x.Ctype, x.Locale,
					x.Rules, x.Version,
				}
			})
		},
	},
	"pg_opclass": {
		query: `select c.oid, nspname, opcname, opcmethod, opcfamily, opcintype, opckeytype, opcdefault, extname, amname
			from pg_opclass c join pg_namespace n on n.oid = opcnamespace join pg_am a on a.oid = opcmethod
			left join pg_depend d on d.classid = 'pg_opclass'::regclass and d.objid = c.oid and d.deptype = 'e'
			left join pg_extension e on e.oid = d.refobjid`,
		answer: func(_ *testing.T, _ *relmap.Cluster, d *relmap.Database) [][]string {
			return rowsByOID(d.Opclass, func(x *relmap.Opclass) []any {
				return []any{
					x.OID, x.Schema, x.Name, x.Method, x.Family, x.InType, x.KeyType, x.Default, x.Extension,
					d.AccessMethod(x.Method),
				}
			})
		},
	},
	"pg_extension": {
		query: `select e.oid, extname, nspname, extversion from pg_extension e join pg_namespace n on n.oid = extnamespace`,
		answer: func(_ *testing.T, _ *relmap.Cluster, d *relmap.Database) [][]string {
			var rows [][]string
			for name, e := range d.Extensions() {
				rows = append(rows, texts(e.OID, name, e.Schema, e.Version))
			}
			return rows
		},
	},
}

// maxOID is above every OID that a fresh cluster has given away.
const maxOID = 60000

// rowsByOID looks objects up by every OID there may be.
func rowsByOID[T any](find func(uint32) *T, row func(*T) []any) [][]string {
	var rows [][]string
	for oid := range uint32(maxOID) {
		if x := find(oid); x != nil {
			if values := row(x); values != nil {
				rows = append(rows, texts(values...))
			}
		}
	}
	return rows
}

func typeRows(d *relmap.Database, row func(*relmap.Type) []any) [][]string {
	return rowsByOID(d.Type, row)
}
