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
// connected to. It is several statements for the simple query protocol; the
// last gives one row of one column, the JSON of a DatabaseDefinitions. The
// settings make the text independent of who asks. What belongs to the system
// itself (OIDs below 16384) is left out.
const DefinitionsSQL = `
set search_path = pg_catalog; set datestyle = iso; set intervalstyle = postgres; set extra_float_digits = 1;
set bytea_output = hex; set quote_all_identifiers = off; set lc_monetary = 'C';
select json_build_object(
	'indexes', (
		select json_object_agg(indexrelid, json_strip_nulls(json_build_object(
			'name', relname, 'def', pg_get_indexdef(indexrelid),
			'constraint', pg_get_constraintdef(k.oid), 'conname', conname)))
		from pg_index join pg_class c on c.oid = indexrelid
			left join pg_constraint k on conindid = indexrelid and contype in ('p', 'u', 'x')
		where indexrelid >= 16384 and relnamespace <> 'pg_toast'::regnamespace),
	'bounds', (
		select json_object_agg(oid, pg_get_expr(relpartbound, oid))
		from pg_class where relpartbound is not null),
	'partition_keys', (
		select json_object_agg(partrelid, pg_get_partkeydef(partrelid))
		from pg_partitioned_table),
	'columns', (
		select json_object_agg(attrelid || '.' || attnum, format_type(atttypid, atttypmod))
		from pg_attribute join pg_class c on c.oid = attrelid
		where attnum > 0 and not attisdropped and attrelid >= 16384 and relkind in ('r', 'p', 'm', 'c', 'f')),
	'missing', (
		select json_object_agg(attrelid || '.' || attnum, array_to_string(attmissingval, ''))
		from pg_attribute
		where atthasmissing and not attisdropped)
)::text`
