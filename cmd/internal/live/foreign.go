package live

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/fukanchik/pg0/cmd/internal/adopt"
	"github.com/fukanchik/pg0/mapping"
)

// Foreign lists the relations of the server that rules show through a foreign
// data wrapper. matches gets an empty name when any of a database is meant.
func (p *Production) Foreign(ctx context.Context, matches func(database, schema, name string) bool) ([]mapping.ForeignRelation, error) {
	databases, err := p.databases(ctx)
	if err != nil {
		return nil, err
	}
	var list []mapping.ForeignRelation
	for _, d := range databases {
		if !d.allowed || !matches(d.name, "", "") {
			continue
		}
		found, err := p.foreignOf(ctx, d.name, matches)
		if err != nil {
			return nil, fmt.Errorf("source %s: database %s: %w", p.Name, d.name, err)
		}
		list = append(list, found...)
	}
	return list, nil
}

func (p *Production) foreignOf(ctx context.Context, database string, matches func(database, schema, name string) bool) ([]mapping.ForeignRelation, error) {
	conn, err := p.session(ctx, database)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, `select n.nspname::text, c.relname::text, c.relkind::text
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'm', 'v', 'f') and c.relpersistence <> 't' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
order by 1, 2`)
	if err != nil {
		return nil, err
	}
	var list []mapping.ForeignRelation
	one := mapping.ForeignRelation{Database: database}
	_, err = pgx.ForEachRow(rows, []any{&one.Schema, &one.Name, &one.Kind}, func() error {
		if matches(database, one.Schema, one.Name) {
			list = append(list, one)
		}
		return nil
	})
	return list, err
}

// ForeignServer is what postgres_fdw needs to reach the server.
func (p *Production) ForeignServer() adopt.ForeignServer {
	c := p.config
	options := [][2]string{{"host", c.Host}, {"port", strconv.Itoa(int(c.Port))}}
	if mode := p.sslMode(); mode != "" {
		options = append(options, [2]string{"sslmode", mode})
	}
	for _, key := range []string{"sslrootcert", "sslcert", "sslkey"} {
		if value := p.setting(key); value != "" {
			options = append(options, [2]string{key, value})
		}
	}
	return adopt.ForeignServer{Source: p.Name, Options: options, User: c.User, Password: c.Password}
}

// sslMode is libpq's word for the encryption that the session has to have; ""
// on a socket.
func (p *Production) sslMode() string {
	switch mode := p.setting("sslmode"); {
	case strings.HasPrefix(p.config.Host, "/"):
		return ""
	case mode != "":
		return mode
	case isLocal(p.config.Host):
		return "prefer"
	}
	return "require"
}
