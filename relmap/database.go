package relmap

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

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

	cluster *Cluster
	load    func() error // reads the fields below, once

	relations  []*Relation // by schema, name, OID
	byOID      map[uint32]*Relation
	types      map[uint32]*Type
	collations map[uint32]*Collation
	opclasses  map[uint32]*Opclass
	methods    map[uint32]string
	extensions map[string]Extension
}

// Extension is a row of pg_extension.
type Extension struct {
	OID     uint32
	Name    string
	Schema  string
	Version string
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

// Extensions gives the installed extensions by name.
func (d *Database) Extensions() map[string]Extension { return d.extensions }

// EncodingName gives PostgreSQL's name of a character set: pg_database.encoding
// and pg_collation.collencoding (mb/pg_wchar.h).
func EncodingName(encoding int32) string {
	if encoding < 0 || int(encoding) >= len(encodings) {
		return fmt.Sprintf("encoding %d", encoding)
	}
	return encodings[encoding]
}

var encodings = strings.Fields(`SQL_ASCII EUC_JP EUC_CN EUC_KR EUC_TW EUC_JIS_2004 UTF8 MULE_INTERNAL
	LATIN1 LATIN2 LATIN3 LATIN4 LATIN5 LATIN6 LATIN7 LATIN8 LATIN9 LATIN10 WIN1256 WIN1258 WIN866 WIN874 KOI8R
	WIN1251 WIN1252 ISO_8859_5 ISO_8859_6 ISO_8859_7 ISO_8859_8 WIN1250 WIN1253 WIN1254 WIN1255 WIN1257 KOI8U
	SJIS BIG5 GBK UHC GB18030 JOHAB SHIFT_JIS_2004`)

// Connectable says whether a server on the tree takes connections to the
// database: its catalogs must allow it and its directory be there, which lacks
// its PG_VERSION where only some databases of a cluster were taken.
func (d *Database) Connectable() bool {
	if !d.AllowConn {
		return false
	}
	dir, _, err := d.cluster.databaseDir(d.Tablespace, d.OID)
	if err != nil {
		return true // whoever loads it learns of the error
	}
	_, err = fs.Lstat(d.cluster.tree, path.Join(dir, "PG_VERSION"))
	return !errors.Is(err, fs.ErrNotExist)
}
