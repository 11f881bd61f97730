// Package relmap finds the files of named relations in a cluster directory,
// without a server: it reads pg_control, pg_filenode.map and the system
// catalogs of PostgreSQL 12 to 18 from any tree.
package relmap

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/relmap/heap"
	"github.com/fukanchik/pg0/relmap/xact"
)

// Cluster is a cluster directory. Safe for parallel use.
type Cluster struct {
	Version int // major version of PostgreSQL
	Control Control

	tree      fs.FS
	status    *xact.Log
	global    filenodeMap
	databases func() ([]*Database, error)
}

// Tablespace is a row of pg_tablespace.
type Tablespace struct {
	OID  uint32
	Name string
	Dir  string // its directory in the tree; "base" and "global" for the built-in ones
}

// versions gives what initdb of each major version writes into pg_control:
// control file version and catalog version.
var versions = map[int]struct{ control, catalog uint32 }{
	12: {1201, 201909212},
	13: {1300, 202007201},
	14: {1300, 202107181},
	15: {1300, 202209061},
	16: {1300, 202307071},
	17: {1700, 202406281},
	18: {1800, 202506291},
}

// Open reads PG_VERSION, pg_control and the map of shared catalogs of a cluster
// directory. The files it opens must be io.ReaderAt. Errors wrap
// fs.ErrNotExist if the tree is no cluster, pg0.ErrCorrupt for damage.
func Open(tree fs.FS) (*Cluster, error) {
	version, err := readVersion(tree)
	if err != nil {
		return nil, err
	}
	control, err := ReadControl(tree)
	if err != nil {
		return nil, err
	}
	if err := checkVersion(version, control); err != nil {
		return nil, err
	}
	c := &Cluster{Version: version, Control: *control, tree: tree}
	if c.global, err = readFilenodeMap(tree, "global"); err != nil {
		return nil, err
	}
	if c.status, err = xact.Open(tree, control.horizon()); err != nil {
		return nil, err
	}
	c.databases = sync.OnceValues(c.readDatabases)
	return c, nil
}

func (c *Control) horizon() xact.Horizon {
	return xact.Horizon{
		NextXID: c.NextXID, OldestXID: c.OldestXID,
		NextMulti: c.NextMulti, NextMultiOffset: c.NextMultiOffset, OldestMulti: c.OldestMulti,
	}
}

// readVersion reads the major version from PG_VERSION.
func readVersion(tree fs.FS) (int, error) {
	text, err := fs.ReadFile(tree, "PG_VERSION")
	if err != nil {
		return 0, fmt.Errorf("read the version of the cluster: %w", err)
	}
	version, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("PG_VERSION: %w: %.20q is no major version", pg0.ErrCorrupt, text)
	}
	return version, nil
}

// checkVersion refuses clusters whose catalogs have another shape than those of
// PostgreSQL's own releases: older and newer majors, betas, forks.
func checkVersion(version int, control *Control) error {
	known, ok := versions[version]
	switch {
	case !ok:
		return fmt.Errorf("the cluster is of PostgreSQL %d; pg0 reads 12 to 18", version)
	case known.control != control.Version || known.catalog != control.CatalogVersion:
		return fmt.Errorf("the cluster has control version %d and catalog version %d, PostgreSQL %d has %d and %d: it was made by a beta or by another product, whose catalogs pg0 cannot read",
			control.Version, control.CatalogVersion, version, known.control, known.catalog)
	case control.BlockSize != heap.PageSize:
		return fmt.Errorf("the cluster has blocks of %d bytes; pg0 reads those of %d", control.BlockSize, heap.PageSize)
	case control.SegmentBlocks <= 0:
		return fmt.Errorf("%s: %w: a segment of %d blocks", controlPath, pg0.ErrCorrupt, control.SegmentBlocks)
	}
	return nil
}

// Status tells how the cluster's transactions ended.
func (c *Cluster) Status() *xact.Log { return c.status }

// Databases lists all databases by name, templates included, without reading
// what is in them.
func (c *Cluster) Databases() ([]*Database, error) { return c.databases() }

// Database finds a database by its exact name and reads its catalogs, once. The
// error wraps fs.ErrNotExist if there is none of that name, pg0.ErrCorrupt if
// its catalogs cannot be read.
func (c *Cluster) Database(name string) (*Database, error) {
	all, err := c.databases()
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		if d.Name == name {
			return d, d.load()
		}
	}
	return nil, fmt.Errorf("database %q: %w", name, fs.ErrNotExist)
}

// shared gives a catalog that all databases have in common.
func (c *Cluster) shared(catalog uint32) (*table, error) {
	filenode, ok := c.global[catalog]
	if !ok {
		return nil, fmt.Errorf("global/pg_filenode.map: %w: catalog %d is not in it", pg0.ErrCorrupt, catalog)
	}
	return &table{
		cluster: c,
		layout:  layoutOf(catalog, c.Version),
		path:    path.Join("global", itoa(filenode)),
		fetch:   c.fetchShared,
	}, nil
}

// fetchShared reads a value from the TOAST table of a shared catalog. These are
// all in the map.
func (c *Cluster) fetchShared(e heap.External) ([]byte, error) {
	filenode, ok := c.global[e.ToastRel]
	if !ok {
		return nil, fmt.Errorf("%w: TOAST table %d is not in global/pg_filenode.map", pg0.ErrCorrupt, e.ToastRel)
	}
	return c.fetchChunks(path.Join("global", itoa(filenode)), e.ValueID)
}

func itoa(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// readDatabases reads pg_database.
func (c *Cluster) readDatabases() ([]*Database, error) {
	t, err := c.shared(pgDatabase)
	if err != nil {
		return nil, err
	}
	col := t.layout.column
	oid, name, owner, encoding := col("oid"), col("datname"), col("datdba"), col("encoding")
	provider, template, allow := col("datlocprovider"), col("datistemplate"), col("datallowconn")
	tablespace, collate, ctype := col("dattablespace"), col("datcollate"), col("datctype")
	locale, rules, version := col("datlocale"), col("daticurules"), col("datcollversion")
	var list []*Database
	err = t.scan(func(r *row) {
		d := &Database{
			OID: r.oid(oid), Name: r.name(name), Owner: r.oid(owner), Encoding: r.int32(encoding),
			Provider: "c", Collate: r.text(collate), Ctype: r.text(ctype), Locale: r.text(locale),
			Rules: r.text(rules), CollVersion: r.text(version), Tablespace: r.oid(tablespace),
			Template: r.bool(template), AllowConn: r.bool(allow), cluster: c,
		}
		if provider.num >= 0 {
			d.Provider = string(rune(r.char(provider)))
		}
		d.load = sync.OnceValue(d.read)
		list = append(list, d)
	})
	if err != nil {
		return nil, fmt.Errorf("read pg_database: %w", err)
	}
	slices.SortFunc(list, func(a, b *Database) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// Tablespaces lists all tablespaces by OID.
func (c *Cluster) Tablespaces() ([]Tablespace, error) {
	t, err := c.shared(pgTablespace)
	if err != nil {
		return nil, err
	}
	oid, name := t.layout.column("oid"), t.layout.column("spcname")
	var list []Tablespace
	if err := t.scan(func(r *row) {
		list = append(list, Tablespace{OID: r.oid(oid), Name: r.name(name)})
	}); err != nil {
		return nil, fmt.Errorf("read pg_tablespace: %w", err)
	}
	for i := range list {
		if list[i].Dir, err = c.tablespaceDir(list[i].OID); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(list, func(a, b Tablespace) int { return int(int64(a.OID) - int64(b.OID)) })
	return list, nil
}

// Role names a role by its OID; 10 is the one that initdb made. The error wraps
// fs.ErrNotExist if there is none.
func (c *Cluster) Role(oid uint32) (string, error) {
	t, err := c.shared(pgAuthid)
	if err != nil {
		return "", err
	}
	id, name := t.layout.column("oid"), t.layout.column("rolname")
	var found string
	if err := t.scan(func(r *row) {
		if r.oid(id) == oid {
			found = r.name(name)
		}
	}); err != nil {
		return "", fmt.Errorf("read pg_authid: %w", err)
	}
	if found == "" {
		return "", fmt.Errorf("role with OID %d: %w", oid, fs.ErrNotExist)
	}
	return found, nil
}

// tablespaceDir gives the directory of a tablespace in the tree. A tree does
// not follow links on Open, so a link within the tree is followed here; one
// that leaves it is left to the tree.
func (c *Cluster) tablespaceDir(oid uint32) (string, error) {
	switch oid {
	case DefaultTablespace:
		return "base", nil
	case GlobalTablespace:
		return "global", nil
	}
	link := path.Join("pg_tblspc", itoa(oid))
	info, err := fs.Lstat(c.tree, link)
	if err != nil {
		return "", fmt.Errorf("tablespace %d: %w", oid, err)
	}
	if info.Mode()&fs.ModeSymlink == 0 { // allow_in_place_tablespaces
		return link, nil
	}
	target, err := fs.ReadLink(c.tree, link)
	if err != nil {
		return "", fmt.Errorf("tablespace %d: %w", oid, err)
	}
	if dir := path.Join("pg_tblspc", target); !path.IsAbs(target) && fs.ValidPath(dir) {
		return dir, nil
	}
	return link, nil
}

// databaseDir gives the directory of a database's files in a tablespace: where
// the tree opens it, and as PostgreSQL names it.
func (c *Cluster) databaseDir(tablespace, database uint32) (dir, nominal string, err error) {
	base, err := c.tablespaceDir(tablespace)
	switch {
	case err != nil:
		return "", "", err
	case tablespace == GlobalTablespace:
		return base, base, nil
	case tablespace == DefaultTablespace:
		dir = path.Join(base, itoa(database))
		return dir, dir, nil
	}
	below := path.Join(fmt.Sprintf("PG_%d_%d", c.Version, c.Control.CatalogVersion), itoa(database))
	return path.Join(base, below), path.Join("pg_tblspc", itoa(tablespace), below), nil
}
