package relmap

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
	Name       string `json:"name"`
	Def        string `json:"def"`                  // pg_get_indexdef: CREATE INDEX ...
	Constraint string `json:"constraint,omitempty"` // pg_get_constraintdef: PRIMARY KEY (id)
	Conname    string `json:"conname,omitempty"`
}
