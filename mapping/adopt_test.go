package mapping_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0/mapping"
	"github.com/fukanchik/pg0/relmap"
	"github.com/fukanchik/pg0/tests/pgtest"
)

const adoptRules = `
[[relation]]
name = "shop.public.*"
from = "early"
as   = "mon.*"
[[relation]]
name = "shop.public.orders"
from = "late"
as   = "public.orders_now"
[[relation]]
name = "shop.public.items"
from = "early"
as   = "public.parts"
indexes = "rebuild"
[[relation]]
name = "shop.public.coupons"
from = "early"
[[relation]]
name = "shop.public.tickets"
from = "early"
as   = "mon.tickets"
[[relation]]
name = "shop.public.docs"
from = "early"
`

// testAdopt makes the twins that Adopt asks for, by the plainest DDL there is,
// and shows the donors' rows in them.
func testAdopt(t *testing.T, early, late *moment) {
	images := map[string]*mapping.Image{"early": early.image, "late": late.image}
	spec := parse(t, "late", adoptRules)
	adoptions, preview, err := mapping.Adopt(spec, images, late.image)
	if err != nil {
		t.Fatal(err)
	}
	compareGolden(t, "testdata/adoptions.txt", describeAdoptions(adoptions))
	var table bytes.Buffer
	if err := preview.WriteTable(&table); err != nil {
		t.Fatal(err)
	}
	compareGolden(t, "testdata/adopt.plan", table.String())

	c := start(t, late.image.Tree)
	for _, row := range c.Query("shop", "select word, quote_ident(word) from pg_get_keywords() union all select w, quote_ident(w) from unnest(array['a1', '1a', 'A', 'ä', 'a$', 'a b', '_', 'a\"b', 'Ab']) w") {
		if got := mapping.QuoteIdent(row[0]); got != row[1] {
			t.Errorf("QuoteIdent(%q) is %s, the server's %s", row[0], got, row[1])
		}
	}
	for _, a := range adoptions {
		c.Exec("shop", "create schema if not exists "+mapping.QuoteIdent(a.Schema)) // a notice where it does
		makeTwin(c, &a)
	}
	defs := &relmap.Definitions{Databases: map[string]*relmap.DatabaseDefinitions{"shop": definitions(c, "shop")}}
	c.Stop(pgtest.Fast)
	base := openImage(t, "late", c.Dir, defs)
	base.Adopted = adoptions
	plan, err := mapping.Resolve(spec, images, base)
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Grafts) != len(preview.Grafts) {
		t.Errorf("%d grafts, the preview had %d", len(plan.Grafts), len(preview.Grafts))
	}
	mix := start(t, compose(t, plan, images, base))
	rebuildIndexes(mix, plan)
	checkTwins(t, mix, adoptions, early, late)
	checkIndexes(t, mix)
	mix.Exec("shop", "vacuum (freeze)")
	checkTwins(t, mix, adoptions, early, late)
}

func checkTwins(t *testing.T, c *pgtest.Cluster, adoptions []mapping.Adoption, early, late *moment) {
	t.Helper()
	got, want := rows(c), map[string]string{}
	for name, truth := range late.tables {
		want[name] = truth
	}
	want["docs"] = early.tables["docs"]
	for _, a := range adoptions {
		source := early
		if a.Point == "late" {
			source = late
		}
		if a.Kind == "sequence" {
			continue
		}
		name := strings.TrimPrefix(a.From, "shop.public.")
		want[strings.TrimPrefix(mapping.QuoteIdent(a.Schema)+"."+mapping.QuoteIdent(a.Name), "public.")] = source.tables[name]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := c.Query("shop", "select last_value from mon.tickets union all select last_value from tickets"); got[0][0] != "500" || got[1][0] != "900" {
		t.Errorf("tickets: %v", got)
	}
}

// makeTwin creates the table column by column, so that rows without a column
// find its missing value, and drops those that were dropped.
func makeTwin(c *pgtest.Cluster, a *mapping.Adoption) {
	c.T.Helper()
	name := mapping.QuoteIdent(a.Schema) + "." + mapping.QuoteIdent(a.Name)
	if a.Kind == "sequence" {
		c.Exec("shop", "create sequence "+name)
		return
	}
	statements := []string{"create table " + name + " ()"}
	if a.PartitionKey != "" {
		var columns []string
		for _, column := range a.Columns {
			columns = append(columns, column.Name+" "+column.Type)
		}
		statements = []string{"create table " + name + " (" + strings.Join(columns, ", ") + ") partition by " + a.PartitionKey}
	} else {
		for _, column := range a.Columns {
			statements = append(statements, makeColumn(name, column)...)
		}
	}
	for _, index := range a.Indexes {
		if index.Constraint != "" {
			statements = append(statements, "alter table "+name+" add constraint "+mapping.QuoteIdent(index.Name)+" "+index.Constraint)
		} else {
			statements = append(statements, index.Def)
		}
	}
	if a.Parent != "" {
		statements = append(statements, "alter table "+strings.TrimPrefix(a.Parent, "shop.")+" attach partition "+name+" "+a.Bound)
	}
	for _, parent := range a.Inherits {
		statements = append(statements, "alter table "+name+" inherit "+strings.TrimPrefix(parent, "shop."))
	}
	c.Exec("shop", strings.Join(statements, ";\n"))
}

func makeColumn(table string, column mapping.Column) []string {
	name, kind := mapping.QuoteIdent(column.Name), column.Type
	if column.Dropped {
		return []string{fmt.Sprintf("alter table %s add gone%d int", table, column.Num), fmt.Sprintf("alter table %s drop gone%d", table, column.Num)}
	}
	add := "alter table " + table + " add " + name + " " + kind
	if column.Collation != "" {
		add += " collate " + column.Collation
	}
	statements := []string{add}
	if column.HasMissing {
		statements = []string{add + " default '" + column.MissingText + "'", "alter table " + table + " alter " + name + " drop default"}
	}
	if column.NotNull {
		statements = append(statements, "alter table "+table+" alter "+name+" set not null")
	}
	return statements
}

// describeAdoptions is what of adoptions does not change from run to run.
func describeAdoptions(adoptions []mapping.Adoption) string {
	var b strings.Builder
	for _, a := range adoptions {
		fmt.Fprintf(&b, "%s %s.%s from %s at %s\n", a.Kind, a.Schema, a.Name, a.From, a.Point)
		for _, column := range a.Columns {
			fmt.Fprintf(&b, "  column %d %s %s len %d align %s", column.Num, column.Name, column.Type, column.Len, column.Align)
			if column.Dropped {
				b.WriteString(" dropped")
			}
			if column.HasMissing {
				fmt.Fprintf(&b, " missing %q", column.MissingText)
			}
			b.WriteString("\n")
		}
		for _, index := range a.Indexes {
			fmt.Fprintf(&b, "  %s\n", strings.Join(strings.Fields(index.Def+"; "+index.Constraint+"; "+index.Rebuild), " "))
		}
		more, _ := json.Marshal(map[string]any{"key": a.PartitionKey, "parent": a.Parent, "bound": a.Bound, "inherits": a.Inherits, "comment": a.Comment})
		fmt.Fprintf(&b, "  %s\n", more)
	}
	return b.String()
}

func compareGolden(t *testing.T, file, got string) {
	t.Helper()
	if *mapping.Update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: %s", file, diff)
	}
}
