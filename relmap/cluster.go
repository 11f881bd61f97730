// Package relmap finds the files of named relations in a cluster directory,
// without a server: it reads pg_control, pg_filenode.map and the system
// catalogs of PostgreSQL 12 to 18 from any tree.
package relmap

import (
	"cmp"
	"io/fs"
	"slices"
)

// Cluster is a cluster directory. Safe for parallel use.
type Cluster struct {
	Version int // major version of PostgreSQL
	Control Control

	tree fs.FS
}

// Tablespace is a row of pg_tablespace.
type Tablespace struct {
	OID  uint32
	Name string
	Path string // of its directory in the tree: base and global have "", others such as .pg0_tblspc/16400
}

// Database is a row of pg_database and, once loaded by Cluster.Database, the
// relations in it.
type Database struct {
	OID         uint32
	Name        string
	Owner       uint32
	Encoding    int32
	Provider    string // c libc, i icu, b builtin; c before 15
	Collate     string
	Ctype       string
	Locale      string // of icu and builtin
	Rules       string // of icu
	CollVersion string // "" before 15
	Tablespace  uint32
	Template    bool
	AllowConn   bool

	cluster    *Cluster
	relations  []*Relation // by schema and name
	byOID      map[uint32]*Relation
	types      map[uint32]*Type
	collations map[uint32]*Collation
	opclasses  map[uint32]*Opclass
	methods    map[uint32]string
}

// Relations gives every relation of a loaded database, sorted by schema, name
// and OID; the system's own as well. The slice is shared: do not change it.
func (d *Database) Relations() []*Relation { return d.relations }

// Relation finds a relation by its exact name, nil if there is none.
func (d *Database) Relation(schema, name string) *Relation {
	i, found := slices.BinarySearchFunc(d.relations, [2]string{schema, name}, func(r *Relation, key [2]string) int {
		return cmp.Or(cmp.Compare(r.Schema, key[0]), cmp.Compare(r.Name, key[1]))
	})
	if !found {
		return nil
	}
	return d.relations[i]
}

// ByOID finds a relation by its OID, nil if there is none.
func (d *Database) ByOID(oid uint32) *Relation { return d.byOID[oid] }

// Type finds a type by its OID, nil if there is none.
func (d *Database) Type(oid uint32) *Type { return d.types[oid] }

// Collation finds a collation by its OID, nil if there is none.
func (d *Database) Collation(oid uint32) *Collation { return d.collations[oid] }

// Opclass finds an operator class by its OID, nil if there is none.
func (d *Database) Opclass(oid uint32) *Opclass { return d.opclasses[oid] }

// AccessMethod names an access method, "" if there is none of that OID.
func (d *Database) AccessMethod(oid uint32) string { return d.methods[oid] }
