// Package adopt makes in a base what a mix shows and the base lacks: empty
// twins with a donor's physical columns, comments that name each grafted
// relation's origin, and the view pg0.provenance. All of it is DDL that a real
// PostgreSQL runs on a copy-on-write mount of the base's image.
package adopt

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/image"
	"github.com/fukanchik/pg0/cmd/internal/recovery"
	"github.com/fukanchik/pg0/mapping"
)

// version changes whenever equal plans would be made with other DDL.
const version = 3

// Change is what the base needs for a plan: the twins, and what tells users of
// the mix where its relations come from. Databases are all that take
// connections, except templates; servers those that the plan's foreign tables ask.
func Change(plan *mapping.Plan, twins []mapping.Adoption, databases []string, servers []ForeignServer) (recovery.Change, error) {
	text, err := json.Marshal(struct {
		Version int
		Plan    *mapping.Plan
		Twins   []mapping.Adoption
		Servers []ForeignServer `json:",omitempty"`
	}{version, plan, twins, servers})
	if err != nil {
		return recovery.Change{}, err
	}
	record, err := json.Marshal(twins)
	if err != nil {
		return recovery.Change{}, err
	}
	sum := sha256.Sum256(text)
	title := "provenance"
	if len(twins) > 0 {
		title = fmt.Sprintf("%d adopted relations", len(twins))
	}
	return recovery.Change{
		Digest: hex.EncodeToString(sum[:]),
		Title:  title,
		Record: record,
		Do: func(ctx context.Context, connect recovery.Connect) error {
			for _, database := range databases {
				one := &work{plan: plan, database: database, servers: servers}
				for _, twin := range twins {
					if twin.Database == database {
						one.twins = append(one.twins, twin)
					}
				}
				if err := one.do(ctx, connect); err != nil {
					return fmt.Errorf("database %q: %w", database, err)
				}
			}
			return nil
		},
	}, nil
}

// Twins reads from an image that was derived by a Change which twins it has.
func Twins(meta *image.Meta) ([]mapping.Adoption, error) {
	var twins []mapping.Adoption
	if err := json.Unmarshal(meta.Change, &twins); err != nil {
		return nil, fmt.Errorf("image %s: record of its twins: %w", meta.Key, err)
	}
	return twins, nil
}

// work is the change of one database.
type work struct {
	plan     *mapping.Plan
	database string
	twins    []mapping.Adoption
	servers  []ForeignServer
	facts
}

// facts are what the DDL depends on in the base.
type facts struct {
	owner   string // of the database
	schemas []string
	// silence and restore turn those event triggers off and on again that fire
	// also in pg0's sessions: they would write what the base never held.
	silence, restore []string
}

// do runs the DDL in one transaction.
func (w *work) do(ctx context.Context, connect recovery.Connect) error {
	conn, err := connect(ctx, w.database)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // the transaction's end is what counts
	if err := w.ask(ctx, conn); err != nil {
		return err
	}
	var script strings.Builder
	script.WriteString("begin; set local client_min_messages = error; set local check_function_bodies = off; set local lock_timeout = '10s'; set local default_table_access_method = heap;\n")
	for _, statement := range w.statements() {
		script.WriteString(statement)
		script.WriteString(";\n")
	}
	script.WriteString("commit;\n")
	_, err = conn.PgConn().Exec(ctx, script.String()).ReadAll()
	return explain(err)
}

// explain says what to do about an index that calls what the base lacks: of
// functions the catalogs that are read offline know nothing.
func explain(err error) error {
	const undefinedFunction = "42883"
	var said *pgconn.PgError
	if errors.As(err, &said) && said.Code == undefinedFunction {
		err = exit.Error(exit.Refused, fmt.Errorf("%w: an index calls what the base does not have; indexes = \"none\" leaves those of a rule out", err))
	}
	return err
}

func (w *work) ask(ctx context.Context, conn *pgx.Conn) error {
	return conn.QueryRow(ctx, `select pg_get_userbyid(datdba),
	(select array_agg(nspname::text order by nspname) from pg_namespace),
	(select array_agg(format('alter event trigger %I disable', evtname) order by evtname) from pg_event_trigger where evtenabled in ('A', 'R')),
	(select array_agg(format('alter event trigger %I enable %s', evtname, case evtenabled when 'A' then 'always' else 'replica' end) order by evtname)
		from pg_event_trigger where evtenabled in ('A', 'R'))
from pg_database where datname = current_database()`).Scan(&w.owner, &w.schemas, &w.silence, &w.restore)
}

// statements gives the DDL: tables first, then what joins them, so that an
// index of a partitioned table finds those of its partitions.
func (w *work) statements() []string {
	var list []string
	list = append(list, w.silence...)
	list = append(list, w.createSchemas()...)
	for i := range w.twins {
		list = append(list, createRelation(&w.twins[i])...)
	}
	for i := range w.twins {
		list = append(list, attach(&w.twins[i])...)
	}
	for i := range slices.Backward(w.twins) {
		list = append(list, createIndexes(&w.twins[i])...)
	}
	for i := range w.twins {
		list = append(list, w.own(&w.twins[i]))
	}
	if len(w.twins) > 0 {
		list = append(list, w.grant())
	}
	list = append(list, w.foreign()...)
	list = append(list, w.comments()...)
	list = append(list, w.invalidate()...)
	list = append(list, w.provenance()...)
	return append(list, w.restore...)
}

// createSchemas makes the schemas that the twins need and the base lacks.
func (w *work) createSchemas() []string {
	var list []string
	for _, twin := range w.twins {
		if slices.Contains(w.schemas, twin.Schema) {
			continue
		}
		w.schemas = append(w.schemas, twin.Schema)
		list = append(list, fmt.Sprintf("create schema %s authorization %s", mapping.QuoteIdent(twin.Schema), mapping.QuoteIdent(w.owner)))
	}
	return list
}

func (w *work) own(twin *mapping.Adoption) string {
	kind := "table"
	if twin.Sequence != nil {
		kind = "sequence"
	}
	return fmt.Sprintf("alter %s %s owner to %s", kind, name(twin), mapping.QuoteIdent(w.owner))
}

// grant lets everybody read a twin who may read the base's relation of the
// name that the twin has at its own point.
func (w *work) grant() string {
	rows := make([]string, 0, len(w.twins))
	for i := range w.twins {
		twin := &w.twins[i]
		own := strings.TrimPrefix(twin.From, mapping.QuoteIdent(twin.Database)+".")
		rows = append(rows, fmt.Sprintf("(%s, %s, %s)", literal(name(twin)), literal(mapping.QuoteIdent(twin.Schema)), literal(own)))
	}
	return `do $grant$
declare one record;
begin
	for one in
		select twin, schema, case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as reader
		from (values ` + strings.Join(rows, ",\n\t\t\t") + `) v(twin, schema, own)
		join pg_class c on c.oid = to_regclass(v.own), aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a
		where a.privilege_type = 'SELECT'
	loop
		execute format('grant usage on schema %s to %s', one.schema, one.reader);
		execute format('grant select on %s to %s', one.twin, one.reader);
	end loop;
end
$grant$`
}

// comments name the origin of every grafted relation.
func (w *work) comments() []string {
	var list []string
	for i := range w.plan.Grafts {
		g := &w.plan.Grafts[i]
		if g.Database != w.database {
			continue
		}
		kind := "table"
		switch g.Kind {
		case "sequence":
			kind = "sequence"
		case "materialized view":
			// Its twin is a table; only the base's own is one.
			if g.Mode == mapping.ModeReplace {
				kind = "materialized view"
			}
		}
		list = append(list, fmt.Sprintf("comment on %s %s is %s", kind, qualified(g.Schema, g.Name), literal(w.plan.Comment(g))))
	}
	return list
}

// invalidate keeps PostgreSQL from using indexes that have no file in the mix
// until REINDEX has made one: those that the plan names, and those that
// PostgreSQL itself gave to a partition because its parent has them.
func (w *work) invalidate() []string {
	var list []string
	if names := w.plan.RebuildList()[w.database]; len(names) > 0 {
		list = append(list, "update pg_index set indisvalid = false, indisready = false where indexrelid = any ("+
			literal(textArray(names))+"::regclass[])")
	}
	var twins, made []string
	for i := range w.twins {
		if w.twins[i].Parent == "" {
			continue
		}
		twins = append(twins, name(&w.twins[i]))
		for _, index := range w.twins[i].Indexes {
			made = append(made, qualified(w.twins[i].Schema, index.Name))
		}
	}
	if len(twins) > 0 {
		list = append(list, "update pg_index set indisvalid = false, indisready = false from pg_class c where c.oid = indexrelid and relkind = 'i' and indrelid = any ("+
			literal(textArray(twins))+"::regclass[]) and indexrelid <> all ("+literal(textArray(made))+"::regclass[])")
	}
	return list
}

func qualified(schema, name string) string {
	return mapping.QuoteIdent(schema) + "." + mapping.QuoteIdent(name)
}

func name(twin *mapping.Adoption) string { return qualified(twin.Schema, twin.Name) }

// literal writes a string constant, for standard_conforming_strings on.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// textArray writes the text form of an array.
func textArray(values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v) + `"`
	}
	return "{" + strings.Join(quoted, ",") + "}"
}
