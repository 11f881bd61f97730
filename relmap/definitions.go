package relmap

import "fmt"

// Definitions is what only PostgreSQL itself can print. It is asked for while
// an image is made and kept as JSON beside it.
type Definitions struct {
	Databases map[string]*DatabaseDefinitions `json:"databases"` // by name
}

// DatabaseDefinitions holds the definitions of one database. Every name in them
// is qualified by its schema. Columns are keyed by ColumnKey.
type DatabaseDefinitions struct {
	Indexes       map[uint32]IndexDefinition `json:"indexes,omitempty"`        // by OID of the index
	Bounds        map[uint32]string          `json:"bounds,omitempty"`         // of a partition: FOR VALUES ..., or DEFAULT
	PartitionKeys map[uint32]string          `json:"partition_keys,omitempty"` // of a partitioned table: RANGE (at)
	Columns       map[string]string          `json:"columns,omitempty"`        // format_type: numeric(10,2)
	Missing       map[string]string          `json:"missing,omitempty"`        // the missing value in text form, as the type's output function prints it
}

// IndexDefinition is the text of one index.
type IndexDefinition struct {
	Name       string `json:"name"`                 // for people
	Def        string `json:"def"`                  // pg_get_indexdef: CREATE INDEX ...
	Constraint string `json:"constraint,omitempty"` // pg_get_constraintdef: PRIMARY KEY (id)
	Conname    string `json:"conname,omitempty"`
}

// ColumnKey is the key of a column in DatabaseDefinitions.
func ColumnKey(relation uint32, num int16) string {
	return fmt.Sprintf("%d.%d", relation, num)
}

// DefinitionsSQL asks a server for the definitions of the database one is
// connected to: one row of one column, the JSON of a DatabaseDefinitions. The
// session has search_path pg_catalog, which has it qualify all other names, and
// prints as PostgreSQL does by default, whoever asks. What belongs to the system
// itself (OIDs below 16384) is left out, and so are relations that a prepared
// transaction has locked: printing them would wait for ever.
const DefinitionsSQL = `
with locked as materialized (
	select relation from pg_locks
	where mode = 'AccessExclusiveLock' and locktype = 'relation' and granted and pid is distinct from pg_backend_pid()
	  and database in (0, (select oid from pg_database where datname = current_database()))
), rel as materialized (
	select c.oid, c.relname, c.relkind, c.relispartition, c.relpartbound
	from pg_class c join pg_namespace n on n.oid = c.relnamespace
	where c.oid >= 16384 and n.nspname not in ('pg_toast', 'information_schema') and n.nspname !~ '^pg_temp_|^pg_toast_temp_'
	  and c.oid not in (select relation from locked where relation is not null)
)
select json_build_object(
	'indexes', (select json_object_agg(i.indexrelid, json_strip_nulls(json_build_object(
			'name', rel.relname, 'def', pg_get_indexdef(i.indexrelid),
			'constraint', pg_get_constraintdef(con.oid), 'conname', con.conname)))
		from pg_index i join rel on rel.oid = i.indexrelid
		left join pg_constraint con on con.conindid = i.indexrelid and con.contype in ('p', 'u', 'x')
		where i.indrelid not in (select relation from locked where relation is not null)),
	'bounds', (select json_object_agg(oid, pg_get_expr(relpartbound, oid)) from rel where relispartition and relpartbound is not null),
	'partition_keys', (select json_object_agg(oid, pg_get_partkeydef(oid)) from rel where relkind = 'p'),
	'columns', (select json_object_agg(a.attrelid || '.' || a.attnum, format_type(a.atttypid, a.atttypmod))
		from pg_attribute a join rel on rel.oid = a.attrelid
		where a.attnum > 0 and not a.attisdropped and rel.relkind in ('r', 'p', 'm', 'f', 'c')),
	'missing', (select json_object_agg(a.attrelid || '.' || a.attnum,
			array_to_string(a.attmissingval, ''))
		from pg_attribute a join rel on rel.oid = a.attrelid
		where a.attnum > 0 and not a.attisdropped and a.atthasmissing)
)::text`
