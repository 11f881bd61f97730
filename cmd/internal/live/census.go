package live

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// A Selection says which relations a point is to hold. The zero value is all.
type Selection struct {
	// Database says whether any relation of a database may be wanted.
	Database func(name string) bool
	// Relation says whether one is wanted. What belongs to it comes along.
	Relation func(database, schema, name string) bool
}

func (s Selection) all() bool { return s.Relation == nil }

// A database of the server.
type database struct {
	oid     uint32
	name    string
	allowed bool // takes connections
}

// firstNormal is the first OID of what users make: FirstNormalObjectId of
// access/transam.h. What is below belongs to PostgreSQL.
const firstNormal = 16384

// Large objects are a system catalog that users fill: it is not taken for the
// sake of other relations.
const largeObject, largeObjectIndex = 2613, 2683

// template1 is always taken: a server that recovers connects to it.
const template1 = 1

func (p *Production) databases(ctx context.Context) ([]database, error) {
	rows, err := p.conn.Query(ctx, "select oid, datname::text, datallowconn from pg_database order by oid")
	if err != nil {
		return nil, fmt.Errorf("source %s: list databases: %w", p.Name, err)
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (d database, err error) {
		err = row.Scan(&d.oid, &d.name, &d.allowed)
		return d, err
	})
}

// A census is what the catalogs of a server say at one time.
type census struct {
	held  map[string]bool // paths of the relations to be taken, without fork and segment
	whole map[uint32]bool // databases whose system catalogs are taken
	names []string        // relations that the selection matched, for people
}

// census asks the catalogs of every database that the selection may mean.
func (p *Production) census(ctx context.Context, want Selection) (*census, error) {
	c := &census{held: map[string]bool{}, whole: map[uint32]bool{}}
	databases, err := p.databases(ctx)
	if err != nil {
		return nil, err
	}
	for _, d := range databases {
		if !d.allowed || d.oid != template1 && !want.Database(d.name) {
			continue
		}
		if err := p.censusOf(ctx, c, d, want); err != nil {
			return nil, fmt.Errorf("source %s: database %s: %w", p.Name, d.name, err)
		}
	}
	return c, nil
}

// A class is a row of pg_class.
type class struct {
	oid          uint32
	schema, name string
	kind         string
	persistence  string
	path         string // "" without storage
	toast        uint32
}

func (p *Production) censusOf(ctx context.Context, c *census, d database, want Selection) error {
	conn, err := p.session(ctx, d.name)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, `select c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text,
	coalesce(pg_relation_filepath(c.oid), ''), c.reltoastrelid
from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relpersistence <> 't'`)
	if err != nil {
		return err
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r class, err error) {
		err = row.Scan(&r.oid, &r.schema, &r.name, &r.kind, &r.persistence, &r.path, &r.toast)
		return r, err
	})
	if err != nil {
		return err
	}
	belongs, err := belongings(ctx, conn)
	if err != nil {
		return err
	}
	c.whole[d.oid] = true
	c.add(d, list, belongs, want)
	return nil
}

// belongings gives what comes along with a relation: its indexes, partitions,
// heirs, and the sequences that its columns own.
func belongings(ctx context.Context, conn *pgx.Conn) (map[uint32][]uint32, error) {
	rows, err := conn.Query(ctx, `select indrelid, indexrelid from pg_index
union all select inhparent, inhrelid from pg_inherits
union all select d.refobjid, d.objid from pg_depend d join pg_class s on s.oid = d.objid and s.relkind = 'S'
	where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i') and d.refobjsubid > 0`)
	if err != nil {
		return nil, err
	}
	belongs := map[uint32][]uint32{}
	var of, one uint32
	_, err = pgx.ForEachRow(rows, []any{&of, &one}, func() error {
		belongs[of] = append(belongs[of], one)
		return nil
	})
	return belongs, err
}

// add takes the system's relations of a database, and the wanted ones with what
// belongs to them.
func (c *census) add(d database, list []class, belongs map[uint32][]uint32, want Selection) {
	byOID := make(map[uint32]*class, len(list))
	for i := range list {
		byOID[list[i].oid] = &list[i]
	}
	seen := map[uint32]bool{}
	var take func(oid uint32)
	take = func(oid uint32) {
		r := byOID[oid]
		if r == nil || seen[oid] {
			return
		}
		seen[oid] = true
		if r.path != "" && r.persistence == "p" {
			c.held[r.path] = true
		}
		take(r.toast)
		for _, one := range belongs[oid] {
			take(one)
		}
	}
	for i := range list {
		r := &list[i]
		switch {
		case r.oid == largeObject || r.oid == largeObjectIndex:
		case r.oid < firstNormal:
			take(r.oid)
		case isSystemSchema(r.schema) || !strings.Contains("rmSp", r.kind):
		case want.Database(d.name) && want.Relation(d.name, r.schema, r.name):
			c.names = append(c.names, d.name+"."+r.schema+"."+r.name)
			take(r.oid)
		}
	}
}

func isSystemSchema(name string) bool {
	return strings.HasPrefix(name, "pg_") || name == "information_schema"
}

// A piece is a file of the cluster directory.
type piece struct {
	name string
	size int64
}

// A survey is what lies in the cluster directory, and what of it is taken.
type survey struct {
	census   *census // nil: everything is taken
	take     []piece
	hollow   []piece  // relation files whose length alone is taken
	dirs     []string // that must exist
	spaces   []string // OIDs of tablespaces
	versions string   // name of the directory of this version in a tablespace
}

// bytes are those that have to be read.
func (s *survey) bytes() (total int64) {
	for _, one := range s.take {
		total += one.size
	}
	return total
}

const controlFile = "global/pg_control"

var (
	relationFile = regexp.MustCompile(`^(\d+)(?:_(fsm|vm|init))?(?:\.\d+)?$`)
	number       = regexp.MustCompile(`^\d+$`)
)

// plainDirs are taken with all files in them.
var plainDirs = []string{"pg_xact", "pg_multixact/members", "pg_multixact/offsets", "pg_commit_ts", "pg_twophase"}

// emptyDirs are made; a server starts without what production has in them.
var emptyDirs = []string{
	"base", "global", "pg_dynshmem", "pg_logical/mappings", "pg_logical/snapshots", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots",
	"pg_stat", "pg_stat_tmp", "pg_subtrans", "pg_tblspc", "pg_wal/archive_status",
}

// survey looks at the catalogs and then at the directory.
func (p *Production) survey(ctx context.Context, want Selection) (*survey, error) {
	s := &survey{versions: fmt.Sprintf("PG_%d_%d", p.Version, p.CatalogVersion)}
	var err error
	if !want.all() {
		if s.census, err = p.census(ctx, want); err != nil {
			return nil, err
		}
	}
	s.take = append(s.take, piece{"PG_VERSION", 3})
	s.dirs = append(append(s.dirs, emptyDirs...), plainDirs...)
	for _, dir := range plainDirs {
		if err := p.surveyPlain(ctx, s, dir); err != nil {
			return nil, err
		}
	}
	if err := p.surveyPlain(ctx, s, "global"); err != nil {
		return nil, err
	}
	return s, p.surveyDatabases(ctx, s)
}

// surveyPlain takes all files of a directory.
func (p *Production) surveyPlain(ctx context.Context, s *survey, dir string) error {
	list, err := p.relay.list(ctx, dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		name := path.Join(dir, e.name)
		if !e.dir && name != controlFile && !strings.HasPrefix(e.name, "pg_internal.init") && !strings.HasPrefix(e.name, "pgsql_tmp") {
			s.take = append(s.take, piece{name, e.size})
		}
	}
	return nil
}

// surveyDatabases looks at the directories of all databases, in all
// tablespaces.
func (p *Production) surveyDatabases(ctx context.Context, s *survey) error {
	spaces, err := p.relay.list(ctx, "pg_tblspc")
	if err != nil {
		return err
	}
	parents := []string{"base"}
	for _, e := range spaces {
		if number.MatchString(e.name) {
			s.spaces = append(s.spaces, e.name)
			parents = append(parents, path.Join("pg_tblspc", e.name, s.versions))
		}
	}
	for _, parent := range parents {
		s.dirs = append(s.dirs, parent)
		list, err := p.relay.list(ctx, parent)
		if err != nil {
			return err
		}
		for _, e := range list {
			if !e.dir || !number.MatchString(e.name) {
				continue
			}
			oid, err := strconv.ParseUint(e.name, 10, 32)
			if err != nil {
				continue
			}
			if err := p.surveyDatabase(ctx, s, uint32(oid), path.Join(parent, e.name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *Production) surveyDatabase(ctx context.Context, s *survey, oid uint32, dir string) error {
	s.dirs = append(s.dirs, dir)
	list, err := p.relay.list(ctx, dir)
	if err != nil {
		return err
	}
	unlogged := map[string]bool{} // their rows do not survive a recovery
	for _, e := range list {
		if match := relationFile.FindStringSubmatch(e.name); match != nil && match[2] == "init" {
			unlogged[match[1]] = true
		}
	}
	for _, e := range list {
		name := path.Join(dir, e.name)
		match := relationFile.FindStringSubmatch(e.name)
		switch {
		case e.dir:
		case match == nil:
			if (e.name == "PG_VERSION" || e.name == "pg_filenode.map") && (s.census == nil || s.census.whole[oid]) {
				s.take = append(s.take, piece{name, e.size})
			}
		case unlogged[match[1]] && match[2] != "init" && s.census == nil:
		case s.census == nil || s.census.held[path.Join(dir, match[1])]:
			s.take = append(s.take, piece{name, e.size})
		default:
			s.hollow = append(s.hollow, piece{name, e.size})
		}
	}
	return nil
}
