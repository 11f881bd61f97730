package mapping_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0/mapping"
	"github.com/fukanchik/pg0/relmap"
)

// testAttach changes mapping files under a layer.
func testAttach(t *testing.T, early, late *moment) {
	images := map[string]*mapping.Image{"early": early.image, "late": late.image}
	plan := func(names ...string) *mapping.Plan {
		var rules strings.Builder
		for _, name := range names {
			fmt.Fprintf(&rules, "[[relation]]\nname = \"shop.public.%s\"\nfrom = \"early\"\n", name)
		}
		p, err := mapping.Resolve(parse(t, "late", rules.String()), images, late.image)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	file := func(p *mapping.Plan) string { return p.Grafts[0].Parts[0].Files[0].Path }
	text, err := json.Marshal(mapping.Attach(plan("orders", "docs"), 100))
	if err != nil {
		t.Fatal(err)
	}
	var old mapping.Record
	if err := json.Unmarshal(text, &old); err != nil {
		t.Fatal(err)
	}
	stopped, crashed := relmap.Control{State: relmap.StateShutdowned, Redo: 200}, relmap.Control{State: relmap.StateProduction}
	otherBase := plan("orders", "docs")
	otherBase.Base.Key = "other"
	otherDonor := plan("orders", "docs")
	otherDonor.Points[0].Key = "other"
	rebuilt := mapping.Attach(plan("settings"), 100)
	for _, c := range []struct {
		what    string
		old     mapping.Record
		plan    *mapping.Plan
		touched []string
		control relmap.Control
		want    string
	}{
		{"the same plan", old, plan("docs", "orders"), []string{file(plan("docs"))}, crashed, "<nil>"},
		{"a new graft", old, plan("orders", "docs", "ages"), []string{file(plan("docs"))}, stopped, "<nil>"},
		{"a graft gone", old, plan("docs"), []string{file(plan("docs"))}, stopped, "<nil>"},
		{"a new graft over a change", old, plan("orders", "docs", "ages"), []string{file(plan("ages"))}, stopped, "shop.public.ages: the layer has changed FILE, which its rule now takes from elsewhere; keep the rule as it was, or use a new layer"},
		{"a graft gone from under a change", old, plan("docs"), []string{file(plan("orders"))}, stopped, "shop.public.orders: the layer has changed FILE, which its rule now takes from elsewhere; keep the rule as it was, or use a new layer"},
		{"a crash", old, plan("docs"), nil, crashed, "the layer's server was not shut down, and the mapping file has changed for shop.public.orders, shop.public.orders_id_seq; start and stop it once with the mapping file as it was"},
		{"another base", old, otherBase, nil, stopped, "the layer stands on another image of the base (key-of-late, now other); give [base] the point it was made with, or use a new layer"},
		{"another donor", old, otherDonor, []string{file(plan("docs"))}, stopped, "shop.public.docs: the layer has changed FILE, which its rule now takes from elsewhere; keep the rule as it was, or use a new layer"},
		{"a rebuilt index", rebuilt, plan("docs"), nil, stopped, "shop.public.settings: the layer holds indexes built over its rows (public.settings_v); keep the rule as it was, or use a new layer"},
		{"another transform", mapping.Record{Transform: 99}, plan("docs"), nil, stopped, "the layer was made by version 99 of the page transform and this pg0 has version 1; use the pg0 that made it, or a new layer"},
	} {
		err := mapping.Compatible(c.old, c.plan, c.touched, c.control)
		got := fmt.Sprint(err)
		for _, path := range c.touched {
			got = strings.ReplaceAll(got, path, "FILE")
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.what, diff)
		}
	}
	next := plan("docs", "ages")
	record := mapping.Reattach(old, next, stopped)
	limits := map[string]string{}
	for i, g := range record.Grafts {
		limits[g.Relation] = g.Limit.String()
		if next.Grafts[i].Limit != g.Limit {
			t.Errorf("%s: the plan has limit %v, the record %v", g.Relation, next.Grafts[i].Limit, g.Limit)
		}
	}
	if diff := cmp.Diff(map[string]string{"shop.public.docs": "0/64", "shop.public.ages": "0/C8"}, limits); diff != "" {
		t.Error(diff)
	}
}
