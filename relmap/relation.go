package relmap

// Kinds of relations: pg_class.relkind.
const (
	KindTable            byte = 'r'
	KindIndex            byte = 'i'
	KindSequence         byte = 'S'
	KindToast            byte = 't'
	KindView             byte = 'v'
	KindMatview          byte = 'm'
	KindComposite        byte = 'c'
	KindForeignTable     byte = 'f'
	KindPartitionedTable byte = 'p'
	KindPartitionedIndex byte = 'I'
)

// Values of pg_class.relpersistence.
const (
	Permanent byte = 'p'
	Unlogged  byte = 'u'
	Temporary byte = 't'
)

// Relation is a row of pg_class, joined with what belongs to it. It is
// immutable; pointers lead to relations of the same Database.
type Relation struct {
	OID         uint32
	Schema      string
	Name        string
	Kind        byte   // relkind: one of the Kind constants
	Persistence byte   // Permanent, Unlogged, Temporary
	AM          uint32 // access method, 0 where the kind has none; HeapAM for ordinary tables
	Owner       uint32
	RowType     uint32 // pg_type OID of its row type, 0 for indexes, sequences before 14 have one
	OfType      uint32 // CREATE TABLE ... OF
	Filenode    uint32 // resolved through pg_filenode.map; 0 where the kind has no storage
	Tablespace  uint32 // resolved: never 0 for a relation with storage
	Pages       int32  // relpages, an estimate
	Tuples      float32
	Options     []string // reloptions, "name=value"

	Shared      bool
	Populated   bool // false for a materialized view made WITH NO DATA
	IsPartition bool
	Detaching   bool   // a partition on which DETACH CONCURRENTLY did not finish
	Bound       string // relpartbound, a pg_node_tree
	FrozenXID   uint32
	MinMXID     uint32

	Attributes []Attribute // by Num from 1, dropped ones included; no system columns
	Toast      *Relation   // the TOAST table; its Indexes are one, and what a failed REINDEX CONCURRENTLY left
	Indexes    []*Index    // of this table, by OID
	Index      *Index      // for kinds i and I: the pg_index row of this relation itself
	Sequences  []*Relation // owned by a column (serial, identity), by OID
	OwnedBy    Owner       // for a sequence: whose it is
	Sequence   *Sequence   // for a sequence: its pg_sequence row
	Extension  string      // the extension it belongs to, or ""
	Inherits   []*Relation // parents in order of inhseqno, partition parents as well
	Children   []*Relation // direct heirs, partitions as well, by schema and name
	Parent     *Relation   // the partitioned table or index this is a partition of
	Partitions []*Relation // direct partitions, by schema and name
	Partition  *Partition  // for kind p: how it is partitioned
}

// HasStorage says whether relations of this kind have files.
func (r *Relation) HasStorage() bool {
	switch r.Kind {
	case KindTable, KindIndex, KindSequence, KindToast, KindMatview:
		return true
	}
	return false
}

// Attribute is a column: a row of pg_attribute with a positive number.
type Attribute struct {
	Num         int16
	Name        string
	Type        uint32 // 0 once dropped
	TypeMod     int32
	Dims        int32
	Len         int16
	Align       byte // c, s, i, d
	Storage     byte // p, e, m, x
	Compression byte // 0 default, p pglz, l lz4; 0 before 14
	ByVal       bool
	NotNull     bool
	HasDefault  bool
	HasMissing  bool
	Dropped     bool
	Local       bool // defined here, not only inherited
	Generated   byte // 0, s stored, v virtual
	Identity    byte // 0, a always, d by default
	Collation   uint32
	Missing     []byte   // bytes of the one element of attmissingval: Len bytes, or a varlena with its four-byte header
	Options     []string // attoptions, "name=value", without the version
	Version     string   // the pg_attver of attoptions (minor releases of November 2026 on), else ""
}

// Index is a row of pg_index, with the pg_class row of the index embedded.
type Index struct {
	*Relation
	Table *Relation

	Unique, Primary, Exclusion, Immediate, Valid, Ready, Live bool
	Clustered, ReplicaIdentity, CheckXmin, NullsNotDistinct   bool

	Keys       []int16 // attribute numbers, 0 for an expression; INCLUDE columns last
	NKeyAtts   int     // how many of Keys are key columns
	Classes    []uint32
	Collations []uint32
	KeyOptions []int16 // indoption: 1 DESC, 2 NULLS FIRST
	Exprs      string  // pg_node_tree, embeds OIDs and parse locations
	Pred       string

	Constraint *Constraint // the constraint it implements, or nil
}

// Constraint is a primary key, unique or exclusion constraint that an index
// implements.
type Constraint struct {
	OID        uint32
	Name       string
	Type       byte // p, u, x
	Deferrable bool
	Deferred   bool
	Period     bool // WITHOUT OVERLAPS, 18 on
}

// Partition is a row of pg_partitioned_table.
type Partition struct {
	Strategy   byte // l, r, h
	Default    uint32
	Keys       []int16 // 0 for an expression
	Classes    []uint32
	Collations []uint32
	Exprs      string
}

// Owner is a column that owns a sequence.
type Owner struct {
	Relation *Relation
	Attnum   int16
}

// Sequence is a row of pg_sequence.
type Sequence struct {
	Type                              uint32
	Start, Increment, Max, Min, Cache int64
	Cycle                             bool
}

// Type is a row of pg_type, joined with pg_enum and pg_range.
type Type struct {
	OID       uint32
	Schema    string
	Name      string
	Kind      byte // typtype: b base, c composite, d domain, e enum, m multirange, p pseudo, r range
	Category  byte
	Len       int16
	ByVal     bool
	Align     byte
	Storage   byte
	Relation  uint32 // of a composite: its pg_class OID
	Elem      uint32 // of an array (or subscriptable type): the element type
	Array     uint32 // its array type
	Base      uint32 // of a domain
	TypeMod   int32  // of a domain
	NotNull   bool   // of a domain
	Collation uint32
	Enum      []EnumLabel // in sort order
	Range     *Range      // of a range, and of its multirange
	Extension string      // the extension it belongs to, or ""
}

// IsArray says whether the type is a true array: its values are arrays of Elem.
func (t *Type) IsArray() bool { return t.Elem != 0 && t.Len == -1 }

// EnumLabel is a row of pg_enum. Rows of tables hold the OID.
type EnumLabel struct {
	OID   uint32
	Order float32
	Label string
}

// Range is a row of pg_range.
type Range struct {
	Type       uint32
	Subtype    uint32
	Multirange uint32 // 0 before 14
	Collation  uint32
	Class      uint32 // operator class
}

// Collation is a row of pg_collation.
type Collation struct {
	OID           uint32
	Schema        string
	Name          string
	Provider      string // d database default, c libc, i icu, b builtin
	Deterministic bool
	Encoding      int32 // -1 any
	Collate       string
	Ctype         string
	Locale        string // of icu and builtin
	Rules         string
	Version       string // as recorded when the collation was made, "" if none
	Extension     string
}

// Opclass is a row of pg_opclass.
type Opclass struct {
	OID       uint32
	Schema    string
	Name      string
	Method    uint32 // access method
	Family    uint32
	InType    uint32
	KeyType   uint32
	Default   bool
	Extension string
}

// Fixed OIDs of access methods and tablespaces.
const (
	HeapAM   uint32 = 2
	BtreeAM  uint32 = 403
	HashAM   uint32 = 405
	GistAM   uint32 = 783
	GinAM    uint32 = 2742
	SPGistAM uint32 = 4000
	BrinAM   uint32 = 3580

	DefaultTablespace uint32 = 1663
	GlobalTablespace  uint32 = 1664
)
