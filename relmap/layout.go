package relmap

import (
	"fmt"
	"strconv"
	"strings"
)

// OIDs of the system catalogs that are read.
const (
	pgType             uint32 = 1247
	pgAttribute        uint32 = 1249
	pgClass            uint32 = 1259
	pgTablespace       uint32 = 1213
	pgAuthid           uint32 = 1260
	pgDatabase         uint32 = 1262
	pgSequence         uint32 = 2224
	pgAm               uint32 = 2601
	pgConstraint       uint32 = 2606
	pgDepend           uint32 = 2608
	pgIndex            uint32 = 2610
	pgInherits         uint32 = 2611
	pgNamespace        uint32 = 2615
	pgOpclass          uint32 = 2616
	pgExtension        uint32 = 3079
	pgPartitionedTable uint32 = 3350
	pgCollation        uint32 = 3456
	pgEnum             uint32 = 3501
	pgRange            uint32 = 3541
)

// catalogColumns lists the columns of the catalogs in order, up to the last one
// that is read. A column is name:kind with the majors that have it (">=14",
// "<15") behind; a kind is a key of columnKinds.
var catalogColumns = map[uint32]string{
	pgClass: `oid:oid relname:name relnamespace:oid reltype:oid reloftype:oid relowner:oid relam:oid
		relfilenode:oid reltablespace:oid relpages:int4 reltuples:float4 relallvisible:int4 relallfrozen:int4>=18
		reltoastrelid:oid relhasindex:bool relisshared:bool relpersistence:char relkind:char relnatts:int2
		relchecks:int2 relhasrules:bool relhastriggers:bool relhassubclass:bool relrowsecurity:bool
		relforcerowsecurity:bool relispopulated:bool relreplident:char relispartition:bool relrewrite:oid
		relfrozenxid:xid relminmxid:xid relacl:aclitem[] reloptions:text[] relpartbound:text`,
	pgAttribute: `attrelid:oid attname:name atttypid:oid attstattarget:int4<16 attlen:int2 attnum:int2
		attndims:int4<16 attcacheoff:int4<18 atttypmod:int4 attndims:int2>=16 attbyval:bool
		attstorage:char<14 attalign:char attstorage:char>=14 attcompression:char>=14 attnotnull:bool
		atthasdef:bool atthasmissing:bool attidentity:char attgenerated:char attisdropped:bool attislocal:bool
		attinhcount:int4<16 attinhcount:int2>=16 attstattarget:int2=16 attcollation:oid attstattarget:int2>=17
		attacl:aclitem[] attoptions:text[] attfdwoptions:text[] attmissingval:anyarray`,
	pgIndex: `indexrelid:oid indrelid:oid indnatts:int2 indnkeyatts:int2 indisunique:bool
		indnullsnotdistinct:bool>=15 indisprimary:bool indisexclusion:bool indimmediate:bool indisclustered:bool
		indisvalid:bool indcheckxmin:bool indisready:bool indislive:bool indisreplident:bool indkey:vector
		indcollation:vector indclass:vector indoption:vector indexprs:text indpred:text`,
	pgType: `oid:oid typname:name typnamespace:oid typowner:oid typlen:int2 typbyval:bool typtype:char
		typcategory:char typispreferred:bool typisdefined:bool typdelim:char typrelid:oid typsubscript:oid>=14
		typelem:oid typarray:oid typinput:oid typoutput:oid typreceive:oid typsend:oid typmodin:oid
		typmodout:oid typanalyze:oid typalign:char typstorage:char typnotnull:bool typbasetype:oid
		typtypmod:int4 typndims:int4 typcollation:oid`,
	pgDatabase: `oid:oid datname:name datdba:oid encoding:int4 datcollate:name<15 datctype:name<15
		datlocprovider:char>=15 datistemplate:bool datallowconn:bool dathasloginevt:bool>=17 datconnlimit:int4
		datlastsysoid:oid<15 datfrozenxid:xid datminmxid:xid dattablespace:oid datcollate:text>=15
		datctype:text>=15 datlocale:text>=15 daticurules:text>=16 datcollversion:text>=15`,
	pgCollation: `oid:oid collname:name collnamespace:oid collowner:oid collprovider:char
		collisdeterministic:bool collencoding:int4 collcollate:name<15 collctype:name<15 collcollate:text>=15
		collctype:text>=15 colllocale:text>=15 collicurules:text>=16 collversion:text`,
	pgConstraint: `oid:oid conname:name connamespace:oid contype:char condeferrable:bool condeferred:bool
		conenforced:bool>=18 convalidated:bool conrelid:oid contypid:oid conindid:oid conparentid:oid
		confrelid:oid confupdtype:char confdeltype:char confmatchtype:char conislocal:bool coninhcount:int4<16
		coninhcount:int2>=16 connoinherit:bool conperiod:bool>=18`,
	pgRange: `rngtypid:oid rngsubtype:oid rngmultitypid:oid>=14 rngcollation:oid rngsubopc:oid`,
	pgSequence: `seqrelid:oid seqtypid:oid seqstart:int8 seqincrement:int8 seqmax:int8 seqmin:int8
		seqcache:int8 seqcycle:bool`,
	pgPartitionedTable: `partrelid:oid partstrat:char partnatts:int2 partdefid:oid partattrs:vector
		partclass:vector partcollation:vector partexprs:text`,
	pgInherits:   `inhrelid:oid inhparent:oid inhseqno:int4 inhdetachpending:bool>=14`,
	pgDepend:     `classid:oid objid:oid objsubid:int4 refclassid:oid refobjid:oid refobjsubid:int4 deptype:char`,
	pgEnum:       `oid:oid enumtypid:oid enumsortorder:float4 enumlabel:name`,
	pgOpclass:    `oid:oid opcmethod:oid opcname:name opcnamespace:oid opcowner:oid opcfamily:oid opcintype:oid opcdefault:bool opckeytype:oid`,
	pgNamespace:  `oid:oid nspname:name`,
	pgTablespace: `oid:oid spcname:name`,
	pgAm:         `oid:oid amname:name`,
	pgAuthid:     `oid:oid rolname:name`,
	pgExtension:  `oid:oid extname:name extowner:oid extnamespace:oid extrelocatable:bool extversion:text`,
}

// columnKinds gives length and alignment. What follows a column of negative
// length, or a nullable one, has no fixed offset.
var columnKinds = map[string]struct {
	len   int16
	align byte
}{
	"oid": {4, 'i'}, "xid": {4, 'i'}, "int4": {4, 'i'}, "float4": {4, 'i'}, "int2": {2, 's'}, "int8": {8, 'd'},
	"bool": {1, 'c'}, "char": {1, 'c'}, "name": {64, 'c'},
	"text": {-1, 'i'}, "text[]": {-1, 'i'}, "vector": {-1, 'i'}, "aclitem[]": {-1, 'i'}, "anyarray": {-1, 'd'},
}

// column is one column of a catalog in one major version.
type column struct {
	name   string
	num    int // from 0
	offset int // from the start of the tuple's data; -1 when what comes before varies
	len    int16
	align  byte
}

// layout is the shape of a catalog's rows.
type layout struct {
	catalog uint32
	columns []column
	fixed   int // how many columns have an offset
	size    int // bytes these take
}

// alignments maps pg_attribute.attalign to bytes.
var alignments = [256]uint8{'c': 1, 's': 2, 'i': 4, 'd': 8}

func alignUp(offset int, align byte) int {
	a := int(alignments[align])
	return (offset + a - 1) &^ (a - 1)
}

// layoutOf works out the layout of a catalog in a major version.
func layoutOf(catalog uint32, version int) *layout {
	l := &layout{catalog: catalog}
	for _, text := range strings.Fields(catalogColumns[catalog]) {
		name, kind, _ := strings.Cut(text, ":")
		kind, ok := kindIn(kind, version)
		if !ok {
			continue
		}
		shape := columnKinds[kind]
		c := column{name: name, num: len(l.columns), offset: -1, len: shape.len, align: shape.align}
		if kind == "aclitem[]" && version >= 16 { // since aclitem is 16 bytes long
			c.align = 'd'
		}
		nullable := name == "attstattarget" && version >= 17
		if l.fixed == c.num && c.len > 0 && !nullable {
			c.offset = alignUp(l.size, c.align)
			l.size = c.offset + int(c.len)
			l.fixed++
		}
		l.columns = append(l.columns, c)
	}
	return l
}

// kindIn cuts the condition off a kind and says whether it holds in a version.
func kindIn(text string, version int) (kind string, ok bool) {
	at := strings.IndexAny(text, "<>=")
	if at < 0 {
		return text, true
	}
	number, err := strconv.Atoi(strings.TrimLeft(text[at:], "<>="))
	if err != nil {
		panic("relmap: bad column kind " + text)
	}
	switch {
	case strings.HasPrefix(text[at:], ">="):
		ok = version >= number
	case text[at] == '<':
		ok = version < number
	default:
		ok = version == number
	}
	return text[:at], ok
}

// column finds a column by name. A name that the version lacks gives a column
// that reads as zero.
func (l *layout) column(name string) column {
	for _, c := range l.columns {
		if c.name == name {
			return c
		}
	}
	if !strings.Contains(catalogColumns[l.catalog], name+":") {
		panic(fmt.Sprintf("relmap: catalog %d has no column %q", l.catalog, name))
	}
	return column{name: name, num: -1, offset: -1}
}
