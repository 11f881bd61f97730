package adopt

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fukanchik/pg0/mapping"
)

// A ForeignServer is a running server that foreign tables of the mix ask. The
// password is written nowhere but into the user mapping of the mix's superuser.
type ForeignServer struct {
	Source   string      // its name in the mapping file
	Options  [][2]string // of CREATE SERVER, without the database
	User     string
	Password string
}

// serverName names the server object. What may be written has one of its own,
// whose sessions are not read-only.
func serverName(source string, writable bool) string {
	name := "pg0_" + source
	if writable {
		name += "_writable"
	}
	return mapping.QuoteIdent(name)
}

// importSchema takes foreign tables until they have their names.
const importSchema = `"pg0 import"`

// foreign makes the foreign tables of the database. Nothing that fails is
// logged with its text: one statement has the password.
func (w *work) foreign() []string {
	var tables []*mapping.Foreign
	for i := range w.plan.Foreign {
		if w.plan.Foreign[i].Database == w.database {
			tables = append(tables, &w.plan.Foreign[i])
		}
	}
	if tables == nil {
		return nil
	}
	list := []string{
		"set local log_min_error_statement = panic", "set local log_statement = none", "set local log_min_duration_statement = -1",
		"create schema if not exists pg0",
		"create extension if not exists postgres_fdw with schema pg0",
		"create schema " + importSchema,
	}
	made := map[string]bool{}
	for _, f := range tables {
		server := serverName(f.Source, f.Writable)
		if !made[server] {
			made[server] = true
			list = append(list, w.createServer(f.Source, f.Writable)...)
		}
		list = append(list, w.importTable(f, server)...)
	}
	return append(list, "drop schema "+importSchema)
}

func (w *work) createServer(source string, writable bool) []string {
	var server ForeignServer
	for _, s := range w.servers {
		if s.Source == source {
			server = s
		}
	}
	options := append([][2]string{
		{"dbname", w.database},
		{"application_name", "pg0"},
		{"use_remote_estimate", "true"},
		{"fetch_size", "1000"},
		{"updatable", fmt.Sprint(writable)},
	}, server.Options...)
	if !writable {
		options = append(options, [2]string{"options", "-c default_transaction_read_only=on"})
	}
	credentials := [][2]string{{"user", server.User}}
	if server.Password != "" {
		credentials = append(credentials, [2]string{"password", server.Password})
	}
	name := serverName(source, writable)
	return []string{
		fmt.Sprintf("create server %s foreign data wrapper postgres_fdw options (%s)", name, optionList(options)),
		fmt.Sprintf("create user mapping for current_user server %s options (%s)", name, optionList(credentials)),
	}
}

func optionList(options [][2]string) string {
	list := make([]string, len(options))
	for i, o := range options {
		list[i] = o[0] + " " + literal(o[1])
	}
	return strings.Join(list, ", ")
}

// importTable lets the running server say the columns.
func (w *work) importTable(f *mapping.Foreign, server string) []string {
	var list []string
	if f.Schema != "pg0" && !slices.Contains(w.schemas, f.Schema) {
		w.schemas = append(w.schemas, f.Schema)
		list = append(list, fmt.Sprintf("create schema %s authorization %s", mapping.QuoteIdent(f.Schema), mapping.QuoteIdent(w.owner)))
	}
	imported := importSchema + "." + mapping.QuoteIdent(f.RemoteName)
	list = append(list, fmt.Sprintf("import foreign schema %s limit to (%s) from server %s into %s",
		mapping.QuoteIdent(f.RemoteSchema), mapping.QuoteIdent(f.RemoteName), server, importSchema))
	if f.Name != f.RemoteName {
		list = append(list, fmt.Sprintf("alter foreign table %s rename to %s", imported, mapping.QuoteIdent(f.Name)))
		imported = importSchema + "." + mapping.QuoteIdent(f.Name)
	}
	return append(list,
		fmt.Sprintf("alter foreign table %s set schema %s", imported, mapping.QuoteIdent(f.Schema)),
		fmt.Sprintf("comment on foreign table %s is %s", qualified(f.Schema, f.Name), literal(f.Comment())))
}
