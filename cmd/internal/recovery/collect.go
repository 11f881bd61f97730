package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/fukanchik/pg0/cmd/internal/image"
	"github.com/fukanchik/pg0/cmd/internal/pgserver"
	"github.com/fukanchik/pg0/relmap"
)

// A census asks a running server for what only it can say.
type census struct {
	server *pgserver.Server
	major  int
	role   string
	meta   *image.Meta
	defs   *relmap.Definitions
}

// take asks each database that takes connections. A database that cannot be
// asked, such as one whose locale this machine lacks, is noted: its relations
// can still be read, but not matched.
func (c *census) take(ctx context.Context, databases []*relmap.Database) error {
	c.defs = &relmap.Definitions{Databases: map[string]*relmap.DatabaseDefinitions{}}
	databases = slices.DeleteFunc(databases, func(d *relmap.Database) bool { return !d.Connectable() })
	all := c.askAll(ctx, databases)
	asked := false
	for i, database := range databases {
		if err := all[i].err; err != nil {
			if ctx.Err() != nil || isDamage(err) {
				return err
			}
			c.meta.Notes = append(c.meta.Notes, fmt.Sprintf("database %q could not be asked for its definitions: %v", database.Name, err))
			continue
		}
		c.note(database.Name, all[i], !asked)
		asked = true
		if c.meta.Database == "" || isDefaultDatabase(c.meta.Database) && !database.Template {
			c.meta.Database = database.Name
		}
	}
	if !asked {
		return fmt.Errorf("no database of the recovered cluster can be asked: %s", c.meta.Notes)
	}
	return nil
}

// isDamage tells errors of the files from errors of what was asked: io_error,
// data_corrupted and index_corrupted.
func isDamage(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && slices.Contains([]string{"58030", "XX001", "XX002"}, pgErr.Code)
}

func isDefaultDatabase(name string) bool { return name == "postgres" || name == "template1" }

// answers are what one database says, of itself and of what all share.
type answers struct {
	reply
	shared reply
	err    error
}

// A reply has a field for each question.
type reply struct {
	Definitions *relmap.DatabaseDefinitions `json:"definitions"`
	Prepared    []image.Prepared            `json:"prepared"`
	Collations  []image.Collation           `json:"collations"`
	Outside     []image.Outside             `json:"outside"`
}

// patience is how long a question may wait for a lock: a prepared transaction
// never gives one up.
const patience = "5s"

// sessions is how many databases are asked at a time.
const sessions = 4

// askAll gives the answers of the databases in their order.
func (c *census) askAll(ctx context.Context, databases []*relmap.Database) []answers {
	all := make([]answers, len(databases))
	var group errgroup.Group
	group.SetLimit(sessions)
	for i, database := range databases {
		group.Go(func() error {
			all[i].err = c.askDatabase(ctx, database.Name, &all[i])
			return nil
		})
	}
	_ = group.Wait() // each answer has its own error
	return all
}

func (c *census) askDatabase(ctx context.Context, name string, all *answers) error {
	conn, err := c.server.Connect(ctx, name, c.role)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "set lock_timeout = '"+patience+"'"); err != nil {
		return err
	}
	for _, q := range []question{definitionsQuestion, {"outside", outsideSQL(c.major)}, {"collations", collationsSQL(c.major)}} {
		if err := q.ask(ctx, conn, &all.reply); err != nil {
			return err
		}
	}
	for _, q := range []question{preparedQuestion, {"outside", sharedOutsideSQL}} {
		if err := q.ask(ctx, conn, &all.shared); err != nil {
			return err
		}
	}
	return nil
}

// note adds the answers of a database; what all databases share is taken once.
func (c *census) note(name string, all answers, first bool) {
	c.defs.Databases[name] = all.Definitions
	c.meta.Collations = append(c.meta.Collations, all.Collations...)
	c.meta.Outside = append(c.meta.Outside, all.Outside...)
	if first {
		c.meta.Prepared = append(c.meta.Prepared, all.shared.Prepared...)
		c.meta.Outside = append(c.meta.Outside, all.shared.Outside...)
	}
}

// A question gives one JSON value, for the field of reply of that name.
// Lists are appended to what is there.
type question struct {
	field string
	sql   string
}

func (q question) ask(ctx context.Context, conn *pgx.Conn, into *reply) error {
	var text []byte
	if err := conn.QueryRow(ctx, q.sql).Scan(&text); err != nil {
		return fmt.Errorf("ask for %s: %w", q.field, err)
	}
	var got reply
	wrapped := append(append([]byte(`{"`+q.field+`":`), text...), '}')
	if err := json.Unmarshal(wrapped, &got); err != nil {
		return fmt.Errorf("read the answer for %s: %w", q.field, err)
	}
	if got.Definitions != nil {
		into.Definitions = got.Definitions
	}
	into.Prepared = append(into.Prepared, got.Prepared...)
	into.Collations = append(into.Collations, got.Collations...)
	into.Outside = append(into.Outside, got.Outside...)
	return nil
}

var definitionsQuestion = question{"definitions", relmap.DefinitionsSQL}

var preparedQuestion = question{"prepared", `
select coalesce(json_agg(json_build_object('gid', gid, 'xid', transaction::text::int8, 'database', database, 'owner', owner,
	'time', to_char(prepared at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')) order by prepared, gid), '[]')::text
from pg_prepared_xacts`}

// outsideSQL asks for what one database has that reaches outside.
func outsideSQL(major int) string {
	triggers := ""
	if major >= 17 {
		triggers = `
	union all select 'login trigger', evtname, evtfoid::regproc::text from pg_event_trigger where evtevent = 'login' and evtenabled <> 'D'`
	}
	return `
select coalesce(json_agg(json_build_object('kind', kind, 'database', current_database(), 'name', name, 'detail', detail) order by kind, name), '[]')::text
from (
	select 'foreign server' as kind, s.srvname::text as name, w.fdwname || coalesce(': ' || array_to_string(s.srvoptions, ', '), '') as detail
	from pg_foreign_server s join pg_foreign_data_wrapper w on w.oid = s.srvfdw` + triggers + `
) o`
}

// sharedOutsideSQL asks for what the cluster has: subscriptions, and settings
// of roles and databases that load libraries.
const sharedOutsideSQL = `
select coalesce(json_agg(json_build_object('kind', kind, 'database', database, 'name', name, 'detail', detail) order by kind, database, name), '[]')::text
from (
	select 'subscription' as kind, d.datname::text as database, s.subname::text as name,
		case when s.subenabled then 'enabled' else 'disabled' end as detail
	from pg_subscription s join pg_database d on d.oid = s.subdbid
	union all
	select 'setting', coalesce(d.datname, ''), coalesce('role ' || r.rolname, 'all roles'), setting
	from pg_db_role_setting s cross join unnest(s.setconfig) as setting
	left join pg_database d on d.oid = s.setdatabase left join pg_roles r on r.oid = s.setrole
	where setting ~* '^(session_preload_libraries|local_preload_libraries|dynamic_library_path|extension_control_path|jit_provider)='
) o`

// collationsSQL asks for the collations in use whose library has changed since
// indexes were built. Databases record that from 15 on.
func collationsSQL(major int) string {
	database := ""
	if major >= 15 {
		database = `
	union all select '', datlocprovider::text, datcollversion, pg_database_collation_actual_version(oid)
	from pg_database where datname = current_database()`
	}
	return `
select coalesce(json_agg(json_build_object('database', current_database(), 'name', name, 'provider', provider, 'recorded', recorded, 'actual', actual) order by name), '[]')::text
from (
	select quote_ident(n.nspname) || '.' || quote_ident(c.collname) as name, c.collprovider::text as provider, c.collversion as recorded, actual
	from pg_collation c join pg_namespace n on n.oid = c.collnamespace
	cross join lateral (select case when c.collversion is not null then pg_collation_actual_version(c.oid) end as actual) a
	where c.oid in (select attcollation from pg_attribute where attrelid >= 16384
		union select unnest(indcollation::oid[]) from pg_index where indexrelid >= 16384)` + database + `
) v where recorded is distinct from actual and recorded is not null`
}
