package adopt

import (
	"fmt"
	"strings"
	"time"

	"github.com/fukanchik/pg0/mapping"
)

// provenance makes the view that tells everybody where relations come from.
// The line with relation * is everything that is not named.
func (w *work) provenance() []string {
	rows := []string{provenanceRow("*", "everything else", w.plan.Base, "base")}
	for _, o := range w.plan.Own {
		if own, ok := strings.CutPrefix(o.Relation, mapping.QuoteIdent(w.database)+"."); ok {
			rows = append(rows, provenanceRow(own, "relation", w.plan.Base, "own"))
		}
	}
	for _, g := range w.plan.Grafts {
		if g.Database == w.database {
			rows = append(rows, provenanceRow(qualified(g.Schema, g.Name), g.Kind, w.plan.Origin(g.Point), string(g.Mode)))
		}
	}
	for _, f := range w.plan.Foreign {
		if f.Database == w.database {
			o := mapping.Origin{Point: f.Point, Source: f.Source, Target: mapping.LiveTarget}
			rows = append(rows, provenanceRow(qualified(f.Schema, f.Name), "foreign table", o, "fdw"))
		}
	}
	return []string{
		"create schema if not exists pg0",
		"grant usage on schema pg0 to public",
		`create or replace view pg0.provenance (relation, kind, point, source, backup, target, recovered_to_time, recovered_to_lsn, recovered_to_xid, mode) as
values ` + strings.Join(rows, ",\n"),
		"grant select on pg0.provenance to public",
		"comment on view pg0.provenance is 'pg0: which moment each relation of this database comes from'",
	}
}

func provenanceRow(relation, kind string, o mapping.Origin, mode string) string {
	at, lsn, xid := "null::timestamptz", "null::pg_lsn", "null::xid"
	if !o.Time.IsZero() {
		at = literal(o.Time.UTC().Format(time.RFC3339Nano)) + "::timestamptz"
	}
	if o.LSN != 0 {
		lsn = literal(o.LSN.String()) + "::pg_lsn"
	}
	if o.XID != 0 {
		xid = literal(fmt.Sprint(o.XID)) + "::xid"
	}
	text := []string{relation, kind, o.Point, o.Source, o.Backup, o.Target}
	for i, t := range text {
		text[i] = literal(t) + "::text"
	}
	return fmt.Sprintf("(%s, %s, %s, %s, %s::text)", strings.Join(text, ", "), at, lsn, xid, literal(mode))
}
