package mapping_test

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/fukanchik/pg0/mapping"
)

// Each table of the database drift differs in one way between the moments.
const earlyDriftSQL = `
create type color as enum ('red', 'green');
create type pair as (a int, b text);
create domain small as int check (value < 100);
create collation german (provider = icu, locale = 'de');
create table retyped (a int, b text);
create table col_dropped (a int, b int);
create table col_renamed (a int, b int);
create table col_added (a int);
create table col_default (a int); insert into col_default values (1); alter table col_default add b int default 7;
create table col_generated (a int);
create table col_required (a int);
create table col_rewritten (a int, b int);
create table made_anew (a int, b int);
create table became_view (a int);
create table became_matview (a int);
create table became_unlogged (a int);
create table longer (a varchar(10));
create table without_toast (a varchar(3000)); insert into without_toast values (repeat('x', 3000));
alter table without_toast alter a set storage external; update without_toast set a = repeat('y', 3000);
create table colored (c color);
create table paired (p pair[]);
create table domained (s small);
create table not_null (a int);
create table holds_oids (r regclass);
create table owner (a int);
create materialized view filled as select 1 as a;
create materialized view hollow as select 1 as a with no data;
create table keyed (a int, b int) partition by list (a);
create table parted (a int) partition by range (a);
create table parted_1 partition of parted for values from (0) to (10);
create table parted_2 partition of parted for values from (10) to (20);
create table parted_3 partition of parted for values from (20) to (30);
create table indexed (a int, b text collate german, c point);
create index on indexed (a);
create index fill on indexed (a) with (fillfactor = 50);
create index ranges on indexed using brin (a);
create index sorted on indexed (b);
create index redefined on indexed (a, b);
create function twice(int) returns int language sql immutable as 'select $1 * 2';
create index calls on indexed (twice(a)); create index calls_partly on indexed (a) where twice(a) > 5;
create text search configuration own (copy = simple); create index searched on indexed using gin (to_tsvector('own', b));
create index searched_simply on indexed using gin (to_tsvector('simple', b));
create unique index exprs on indexed ((a + 1)) where b > 'x';
alter table indexed add primary key (a);
create table pg0_plain (a int)`

const lateDriftSQL = `
alter table retyped alter b type int using 0;
alter table col_dropped drop b;
alter table col_renamed rename b to c;
alter table col_added add b int default 5, add c int, add d int default 1;
alter table col_added drop d;
vacuum full col_default;
alter table col_generated add b int generated always as (a + 1) stored;
alter table col_required add b int not null default 5;
vacuum full col_required;
alter table col_rewritten add c int default 5;
vacuum full col_rewritten;
drop table made_anew; create table made_anew (b int, a int);
drop table became_view; create view became_view as select 1 as a;
drop table became_matview; create materialized view became_matview as select 1 as a;
alter table became_unlogged set unlogged;
alter table longer alter a type varchar(20);
drop table without_toast; create table without_toast (a varchar(10));
drop table colored; drop type color; create type color as enum ('green', 'red'); create table colored (c color);
alter type pair add attribute c int cascade;
alter domain small drop constraint small_check;
alter table not_null alter a set not null;
alter table owner add id serial;
refresh materialized view hollow; refresh materialized view filled with no data;
drop table keyed; create table keyed (a int, b int) partition by list (b);
drop table parted_1;
alter table parted detach partition parted_2; alter table parted attach partition parted_2 for values from (10) to (15);
create table parted_4 partition of parted for values from (30) to (40);
alter index fill set (fillfactor = 90);
create or replace function twice(int) returns int language sql immutable as 'select $1 * 3'; alter text search configuration own drop mapping for word; reindex table indexed;
drop index ranges; create index ranges on indexed using brin (a) with (pages_per_range = 4);
drop index redefined; create index redefined on indexed (b, a);
alter index sorted rename to sorted_german;
create index fresh on indexed using gist (c)`

// testDrift holds the verdict on every kind of difference against the golden
// files, in both directions.
func testDrift(t *testing.T, early, late *moment) {
	images := map[string]*mapping.Image{"early": early.image, "late": late.image}
	for _, c := range []struct{ donor, base, rules string }{
		{"early", "late", "drift.*.*"}, {"late", "early", "drift.*.*"}, {"early", "late", "gone.public.*"}, {"early", "late", "template1.public.t"},
	} {
		rule := fmt.Sprintf("[[relation]]\nname = %q\nfrom = %q\n", c.rules, c.donor)
		_, err := mapping.Resolve(parse(t, c.base, rule), images, images[c.base])
		got := regexp.MustCompile(`OID \d+`).ReplaceAllString(fmt.Sprint(err), "OID N") + "\n"
		name := fmt.Sprintf("testdata/drift/%s-%s-in-%s.err", strings.Split(c.rules, ".")[0], c.donor, c.base)
		compareGolden(t, name, got)
		testAccepted(t, c.rules, c.donor, c.base, images, err)
	}
}

// testAccepted plans what is left when the refused relations are taken out.
func testAccepted(t *testing.T, rules, donor, base string, images map[string]*mapping.Image, refused error) {
	t.Helper()
	var list *mapping.Refused
	if !errors.As(refused, &list) {
		t.Fatalf("%v is no refusal", refused)
	}
	except := map[string]bool{}
	for _, r := range list.Refusals {
		except[fmt.Sprintf("%q", r.Relation)] = true
	}
	rule := fmt.Sprintf("[[relation]]\nname = %q\nfrom = %q\nexcept = [%s]\n", rules, donor, strings.Join(slices.Sorted(maps.Keys(except)), ", "))
	plan, err := mapping.Resolve(parse(t, base, rule), images, images[base])
	if rules != "drift.*.*" {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, g := range plan.Grafts {
		fmt.Fprintf(&text, "%s: %s; rebuild %q\n", g.Relation, strings.Join(g.Drift, "; "), g.Rebuild)
	}
	for _, s := range plan.Skipped {
		fmt.Fprintf(&text, "%s skipped: %s\n", s.Relation, s.Reason)
	}
	compareGolden(t, fmt.Sprintf("testdata/drift/%s-in-%s.txt", donor, base), text.String())
}
