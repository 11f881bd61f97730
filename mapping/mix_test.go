package mapping_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/mapping"
	"github.com/fukanchik/pg0/tests/pgtest"
)

// notInLate are tables of early for which late has no place.
var notInLate = []string{"audit_log", "child", "coupons"}

// TestMix composes clusters of two moments in both directions and asks a
// PostgreSQL server on them.
func TestMix(t *testing.T) {
	early, late := makeMoments(t)
	t.Run("refusals", func(t *testing.T) { testRefusals(t, early, late) })
	t.Run("drift", func(t *testing.T) { testDrift(t, early, late) })
	t.Run("conformance", func(t *testing.T) { testConformance(t, early, late) })
	t.Run("adopt", func(t *testing.T) { testAdopt(t, early, late) })
	t.Run("without checksums", func(t *testing.T) { testChecksums(t, early, late) })
	t.Run("attach", func(t *testing.T) { testAttach(t, early, late) })
	t.Run("early in late", func(t *testing.T) {
		testMix(t, early, late, notInLate, "shop.public.orders_id_seq", "public.settings_v")
	})
	t.Run("late in early", func(t *testing.T) {
		testMix(t, late, early, []string{"audit_log", "fresh", "settings", "feelings"}, "shop.public.orders_id_seq", "public.orders_brin")
	})
}

func testRefusals(t *testing.T, early, late *moment) {
	images := map[string]*mapping.Image{"early": early.image, "late": late.image}
	all := "[[relation]]\nname = \"shop.public.*\"\nfrom = "
	for _, c := range []struct{ base, rules, want string }{
		{"late", all + `"early"`, `shop.public.audit_log: column at has type text at early and timestamptz in the base; show it beside the base's own with as = "early.audit_log"
shop.public.child: is not in the base; it must be adopted before it can be shown
shop.public.coupons: is not in the base; it must be adopted before it can be shown`},
		{"early", all + `"late"`, `shop.public.audit_log: column at has type timestamptz at late and text in the base; show it beside the base's own with as = "late.audit_log"
shop.public.feelings: column m: enum public.mood has label "happy" (OID 1), which the base does not have; take a base of a time when it was as at late, or leave the relation out
shop.public.fresh: is not in the base; it must be adopted before it can be shown
shop.public.settings: has column more at late, which the base does not have; show it beside the base's own with as = "late.settings"`},
		{"late", "[[relation]]\nname = \"shop.public.recent\"\nfrom = \"early\"", `shop.public.recent: a view has no rows of its own; leave it out of the mapping file`},
		{"late", "[[relation]]\nname = \"shop.public.oders\"\nfrom = \"early\"", `t.toml:6: shop.public.oders matches nothing at point early; did you mean shop.public.orders?`},
		{"late", "[[relation]]\nname = \"shop.public.fresh\"\nfrom = \"early\"", `t.toml:6: shop.public.fresh matches nothing at point early; the base has it, made after that point or renamed since`},
		{"late", "[[relation]]\nname = \"shop.public.orders_pkey\"\nfrom = \"early\"", `shop.public.orders_pkey: is an index: name a table instead`},
		{
			"late", "[[relation]]\nname = \"*.public.o*\"\nfrom = \"early\"\n[[relation]]\nname = \"shop.*.orders\"\nfrom = \"late\"",
			`t.toml:9: shop.public.orders would come from two origins: public.orders of early (line 6) and public.orders of late (line 9); except = [...] takes names out of a rule`,
		},
		{"late", "[[relation]]\nname = \"shop.public.orders\"\nfrom = \"early\"\nas = \"public.docs\"", `shop.public.docs: the base has a table of this name already; give as another name`},
	} {
		_, err := mapping.Resolve(parse(t, c.base, c.rules), images, images[c.base])
		got := regexp.MustCompile(`OID \d+`).ReplaceAllString(fmt.Sprint(err), "OID 1")
		if diff := gocmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.rules, diff)
		}
	}
}

func testMix(t *testing.T, donor, base *moment, except []string, sequence, rebuild string) {
	plan, tree := mixOf(t, donor, base, except)
	checkPlan(t, plan, sequence, rebuild)
	checkTree(t, tree, plan)
	c := start(t, tree)
	rebuildIndexes(c, plan)
	checkRows(t, c, donor, base, except)
	checkIndexes(t, c)
	workOn(t, c, donor)
}

// mixOf takes all of the donor's shop that is not excepted.
func mixOf(t *testing.T, donor, base *moment, except []string) (*mapping.Plan, pg0.Tree) {
	t.Helper()
	var rules strings.Builder
	fmt.Fprintf(&rules, "[[relation]]\nname = \"shop.public.*\"\nfrom = %q\nexcept = [", donor.name)
	for _, name := range except {
		fmt.Fprintf(&rules, "\"shop.*.%s\", ", name)
	}
	fmt.Fprintf(&rules, "]\n[[relation]]\nname = \"shop.public.tickets\"\nfrom = %q\n", donor.name)
	images := map[string]*mapping.Image{donor.name: donor.image, base.name: base.image}
	plan, err := mapping.Resolve(parse(t, base.name, rules.String()), images, base.image)
	if err != nil {
		t.Fatal(err)
	}
	return plan, compose(t, plan, images, base.image)
}

// rebuildIndexes gives a server the indexes that the plan has no files for. Until
// then using them is an error.
func rebuildIndexes(c *pgtest.Cluster, plan *mapping.Plan) {
	c.T.Helper()
	for _, index := range plan.RebuildList()["shop"] {
		c.Exec("shop", "reindex index "+index)
	}
}

// compose goes through JSON, as a plan does on its way to the mount.
func compose(t *testing.T, plan *mapping.Plan, images map[string]*mapping.Image, base *mapping.Image) pg0.Tree {
	t.Helper()
	text, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	var again mapping.Plan
	if err := json.Unmarshal(text, &again); err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(*plan, again); diff != "" {
		t.Fatal(diff)
	}
	tree, err := mapping.Compose(&again, images, base, base.Cluster.Control.Redo)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func checkPlan(t *testing.T, plan *mapping.Plan, sequence, rebuild string) {
	t.Helper()
	if !slices.ContainsFunc(plan.Grafts, func(g mapping.Graft) bool { return g.Relation == sequence && g.Kind == "sequence" }) {
		t.Errorf("the plan lacks the sequence %s", sequence)
	}
	if diff := gocmp.Diff([]string{rebuild}, plan.RebuildList()["shop"]); diff != "" {
		t.Error(diff)
	}
	var skipped []string
	for _, s := range plan.Skipped {
		skipped = append(skipped, s.Relation)
	}
	if diff := gocmp.Diff([]string{"shop.public.recent", "shop.public.sessions"}, skipped); diff != "" {
		t.Error(diff)
	}
}

// checkRows compares every table with the truth of its own moment.
func checkRows(t *testing.T, c *pgtest.Cluster, donor, base *moment, except []string) {
	t.Helper()
	want := maps.Clone(base.tables)
	for name := range want {
		if truth, ok := donor.tables[name]; ok && !slices.Contains(except, name) {
			want[name] = truth
		}
	}
	got := rows(c)
	if !slices.Contains(except, "settings") { // the base has columns more
		if got := c.Query("shop", settingsSQL)[0][0]; got != donor.settings {
			t.Errorf("settings: digest %s, want %s", got, donor.settings)
		}
		if diff := gocmp.Diff([][]string{{"51", "0"}}, c.Query("shop", "select count(nullif(more, '')), count(free) from settings where more = 'm'")); diff != "" {
			t.Error(diff)
		}
		delete(got, "settings")
		delete(want, "settings")
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// checkIndexes holds every index against its table.
func checkIndexes(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	c.Query("shop", `select bt_index_check(c.oid, true) from pg_class c join pg_index on indexrelid = c.oid
		where relkind = 'i' and relam = 403 and relpersistence = 'p' and indisvalid`)
	damage := c.Query("shop", `select c.oid::regclass, v.* from pg_class c, lateral verify_heapam(c.oid) v
		where relkind in ('r', 'm', 't') and relpersistence = 'p'`)
	if len(damage) > 0 {
		t.Errorf("verify_heapam: %q", damage)
	}
	for _, where := range []string{
		"customer between 3 and 40", "customer = 7", "id between 100 and 900", "doc @> '{\"k\": 3}'", "pt <@ box '(3,3),(20,20)'",
		"lower(note) > '1' and customer > 10",
	} {
		seq := c.Query("shop", "set enable_indexscan = off; set enable_bitmapscan = off; set enable_indexonlyscan = off; select count(*), sum(id) from orders where "+where)
		index := c.Query("shop", "set enable_seqscan = off; select count(*), sum(id) from orders where "+where)
		if diff := gocmp.Diff(seq, index); diff != "" || seq[0][0] == "0" {
			t.Errorf("%s: sequential scan %v, by index %v", where, seq, index)
		}
	}
}

// workOn changes the mix, lets the server crash, and looks at it again.
func workOn(t *testing.T, c *pgtest.Cluster, donor *moment) {
	t.Helper()
	c.Exec("shop", `insert into orders (customer, note, pt) select 1, 'mixed', point(i % 50, 3) from generate_series(1, 200) i;
		update orders set note = 'again', pt = point(id % 9, id % 8) where id % 7 = 0; delete from orders where id % 13 = 0;
		update docs set body = body || 'more' where id % 3 = 0; insert into docs select i, repeat(i::text, 5000) from generate_series(2000, 2020) i;
		update items set what = 'mixed' where n % 5 = 0; insert into "Odd Names" values (100, 'hundred')`)
	before := rows(c)
	if before["orders"] == donor.tables["orders"] {
		t.Error("the changes did nothing")
	}
	c.Stop(pgtest.Immediate)
	c.Start()
	if diff := gocmp.Diff(before, rows(c)); diff != "" {
		t.Errorf("after a crash: %s", diff)
	}
	checkIndexes(t, c)
	for _, statement := range []string{"vacuum (freeze)", "vacuum full docs", "reindex table orders", "refresh materialized view sales"} {
		c.Exec("shop", statement)
	}
	delete(before, "sales")
	after := rows(c)
	delete(after, "sales")
	if diff := gocmp.Diff(before, after); diff != "" {
		t.Errorf("after VACUUM and REINDEX: %s", diff)
	}
	if bad := regexp.MustCompile(`(WARNING|ERROR|PANIC|FATAL): .*`).FindAllString(c.Log(), -1); slices.ContainsFunc(bad, func(s string) bool {
		return !strings.Contains(s, "terminating connection") && !strings.Contains(s, "starting up")
	}) {
		t.Errorf("the server's log has %q", cmp.Or(strings.Join(bad, "\n"), "nothing"))
	}
}

// testChecksums mixes clusters of which only one has checksums.
func testChecksums(t *testing.T, early, late *moment) {
	c := pgtest.At(t, early.dir, pgtest.Options{})
	bare := filepath.Join(c.TempDir(), "bare")
	c.Run("cp", "-a", early.dir, bare)
	c.Run("pg_checksums", "--disable", "-D", bare)
	donor := *early
	donor.image = openImage(t, "early", bare, early.image.Defs)
	plan, tree := mixOf(t, &donor, late, notInLate)
	c = start(t, tree) // checks every checksum
	rebuildIndexes(c, plan)
	checkRows(t, c, early, late, notInLate)
}
