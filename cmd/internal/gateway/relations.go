package gateway

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fukanchik/pg0/cmd/internal/provenance"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/mapping"
	"github.com/fukanchik/pg0/proxy"
)

// relationsLife is how long an answer is good for: views and partitions may be
// made while the server runs.
const relationsLife = 5 * time.Second

// cached relations of one database of a mount.
type cached struct {
	*proxy.Relations
	mounted time.Time // of the mount that they are of
	read    time.Time
}

// grafts are the relations of a database that show rows of other points than
// the base.
func (m *mount) grafts(ctx context.Context, database string, anew bool) (*proxy.Relations, error) {
	record, server, err := m.server()
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	known := m.relations[database]
	m.mu.Unlock()
	if !anew && known.Relations != nil && known.mounted.Equal(record.Since) && time.Since(known.read) < relationsLife {
		return known.Relations, nil
	}
	own := grafted(record, database)
	relations := &proxy.Relations{Base: origin(provenance.BaseOf(record))}
	if len(own) > 0 {
		conn, err := server.Connect(ctx, database, record.Role)
		if err != nil {
			return nil, err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		if err := read(ctx, conn, own, relations); err != nil {
			return nil, fmt.Errorf("grafted relations of database %q: %w", database, err)
		}
	}
	m.mu.Lock()
	m.relations[database] = cached{relations, record.Since, time.Now()}
	m.mu.Unlock()
	return relations, nil
}

// grafted are the origins of a database, by relation as its SQL writes it.
func grafted(record *state.Mount, database string) map[string]state.Origin {
	own := map[string]state.Origin{}
	for _, o := range record.Provenance {
		if name, ok := strings.CutPrefix(o.Relation, mapping.QuoteIdent(database)+"."); ok {
			own[name] = o
		}
	}
	return own
}

func origin(o state.Origin) proxy.Origin {
	return proxy.Origin{Point: o.Point, Time: provenance.Recovered(o)}
}

// relationsQuery finds grafts (g) by their names, and what shows the rows of
// others: partitioned and inherited tables (i) those of their children, the
// latter (b) beside their own, views (v) those of the relations they read.
const relationsQuery = `
select 'g', to_regclass(name)::oid, 0::oid, name from unnest($1::text[]) name where to_regclass(name) is not null
union all
select 'i', inhparent, inhrelid, '' from pg_inherits
union all
select distinct 'b', c.oid, 0::oid, '' from pg_inherits i join pg_class c on c.oid = i.inhparent where c.relkind = 'r'
union all
select distinct 'v', r.ev_class, d.refobjid, '' from pg_rewrite r join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
where d.refclassid = 'pg_class'::regclass and d.refobjid <> r.ev_class and d.refobjid >= 16384`

// A shower finds out which origins a relation shows.
type shower struct {
	base    proxy.Origin
	origins map[uint32]proxy.Origin // of grafts
	parts   map[uint32][]uint32     // relations that another shows
	owners  map[uint32]bool         // those of them that have rows of their own
}

func read(ctx context.Context, conn *pgx.Conn, own map[string]state.Origin, to *proxy.Relations) error {
	names := make([]string, 0, len(own))
	for name := range own {
		names = append(names, name)
	}
	rows, err := conn.Query(ctx, relationsQuery, names)
	if err != nil {
		return err
	}
	s := &shower{base: to.Base, origins: map[uint32]proxy.Origin{}, parts: map[uint32][]uint32{}, owners: map[uint32]bool{}}
	var kind, name string
	var oid, part uint32
	_, err = pgx.ForEachRow(rows, []any{&kind, &oid, &part, &name}, func() error {
		switch kind {
		case "g":
			s.origins[oid] = origin(own[name])
		case "b":
			s.owners[oid] = true
		default:
			s.parts[oid] = append(s.parts[oid], part)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.fill(ctx, conn, to)
}

// fill keeps what shows anything but the base.
func (s *shower) fill(ctx context.Context, conn *pgx.Conn, to *proxy.Relations) error {
	to.ByOID = map[uint32]proxy.Relation{}
	var oids []string
	for oid := range s.origins {
		to.ByOID[oid] = proxy.Relation{Origins: []proxy.Origin{s.origins[oid]}}
		oids = append(oids, strconv.FormatUint(uint64(oid), 10))
	}
	for oid := range s.parts {
		if shown := s.shown(oid, map[uint32]bool{}); len(shown) > 1 || len(shown) == 1 && shown[0] != s.base {
			to.ByOID[oid] = proxy.Relation{Origins: shown}
			oids = append(oids, strconv.FormatUint(uint64(oid), 10))
		}
	}
	rows, err := conn.Query(ctx, `select c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = any($1::oid[])`, "{"+strings.Join(oids, ",")+"}")
	if err != nil {
		return err
	}
	var oid uint32
	var name string
	_, err = pgx.ForEachRow(rows, []any{&oid, &name}, func() error {
		relation := to.ByOID[oid]
		relation.Name = name
		to.ByOID[oid] = relation
		return nil
	})
	return err
}

// shown are the origins of a relation's rows, each once.
func (s *shower) shown(oid uint32, seen map[uint32]bool) (all []proxy.Origin) {
	if seen[oid] {
		return nil
	}
	seen[oid] = true
	parts := s.parts[oid]
	if o, ok := s.origins[oid]; ok {
		all = []proxy.Origin{o}
	} else if len(parts) == 0 || s.owners[oid] {
		all = []proxy.Origin{s.base}
	}
	for _, part := range parts {
		for _, o := range s.shown(part, seen) {
			if !slices.Contains(all, o) {
				all = append(all, o)
			}
		}
	}
	return all
}
