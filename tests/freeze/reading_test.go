package freeze_test

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/fukanchik/pg0/relmap/heap"
	"github.com/fukanchik/pg0/tests/pbwriter"
	"github.com/fukanchik/pg0/tests/pgtest"
	"github.com/google/go-cmp/cmp"
)

// checkTransactions compares the ends of all transactions, and the updaters of
// all multixacts, with what the running server says.
func checkTransactions(t *testing.T, d donor, nextXID, nextMulti int) {
	t.Helper()
	status := map[string]bool{"committed": true, "aborted": false, "in progress": false}
	asked := 0
	for _, row := range d.Query("postgres", fmt.Sprintf("select x, pg_xact_status(x::text::xid8) from generate_series(3, %d) x where pg_xact_status(x::text::xid8) is not null", nextXID-1)) {
		xid, _ := strconv.Atoi(row[0])
		got, err := d.log.Committed(uint32(xid))
		if want, known := status[row[1]]; err != nil || !known || got != want {
			t.Errorf("transaction %d: committed %v, error %v, want %s", xid, got, err, row[1])
		}
		asked++
	}
	updaters := map[string]string{}
	for _, row := range d.Query("postgres", fmt.Sprintf("select m, xid from generate_series(1, %d) m, lateral pg_get_multixact_members(m::text::xid) where mode in ('nokeyupd', 'upd')", nextMulti-1)) {
		updaters[row[0]] = row[1]
	}
	for multi := 1; multi < nextMulti; multi++ {
		want, _ := strconv.Atoi(updaters[strconv.Itoa(multi)])
		if got, err := d.log.Updater(uint32(multi)); err != nil || int(got) != want {
			t.Errorf("multixact %d: updater %d, error %v, want %d", multi, got, err, want)
		}
	}
	if asked < 100 || len(updaters) < 3 || len(updaters) == nextMulti-1 {
		t.Errorf("only %d transactions and %d multixacts, %d with updater, were there to ask about", asked, nextMulti-1, len(updaters))
	}
}

// TestChecksum verifies every page of a cluster that the server wrote.
func TestChecksum(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{})
	relation := regexp.MustCompile(`^\d+(_vm|_fsm|_init)?$`)
	pages := 0
	err := filepath.WalkDir(filepath.Join(c.Dir, "base"), func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !relation.MatchString(d.Name()) {
			return err
		}
		data, err := os.ReadFile(name)
		for block := 0; block*heap.PageSize < len(data); block++ {
			p := page(data, block)
			if heap.IsNew(p) {
				continue
			}
			pages++
			if got, want := uint16(p[8])|uint16(p[9])<<8, pbwriter.Checksum(p, uint32(block)); got != want {
				t.Errorf("%s: block %d has checksum %#x, computed %#x", name, block, got, want)
			}
			if err := heap.Sane(p); err != nil {
				t.Errorf("%s: block %d: %v", name, block, err)
			}
		}
		return err
	})
	if err != nil || pages < 1000 {
		t.Errorf("%d pages, error %v", pages, err)
	}
}

// TestDeform reads tables from their files and compares each value with the
// server's, in the form of the type's send function.
func TestDeform(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{})
	c.Start()
	c.Exec("postgres", `create table v (a "char", b smallint, c text, d text compression lz4, e int8, f bytea, g name, h text compression lz4, i int4);
		alter table v alter f set storage external, alter h set storage external;
		insert into v values ('x', 1, 'short', '', 5, '\x00ff', 'name', null, 7), (null, null, null, null, null, null, null, null, null),
			('y', 2, repeat('abc', 1000), repeat('d', 3000), -5, decode(repeat('01', 5000), 'hex'), '', 'h', 8),
			('z', 3, repeat('abc', 100000), repeat('abcd', 300000), -5, null, '', repeat('h', 2500), 9);
		alter table v add k text default 'later';
		insert into v(a, k) values ('q', repeat(md5('1'), 1000));
		update v set c = (select string_agg(md5(i::text), '') from generate_series(1, 500) i), d = (select string_agg(md5(i::text), '') from generate_series(1, 500) i) where a = 'q'`)
	c.Exec("postgres", "checkpoint")
	for _, table := range []string{"v", "pg_class", "pg_attribute", "pg_rewrite", "pg_proc", "pg_type", "pg_statistic", "pg_index"} {
		compareTable(t, c, table)
	}
	c.Stop(pgtest.Fast)
}

// compareTable compares fixed-length values as stored and variable ones whose
// content is their text or bytes.
func compareTable(t *testing.T, c *pgtest.Cluster, table string) {
	t.Helper()
	about := c.Query("postgres", `select pg_relation_filepath(c.oid), coalesce(pg_relation_filepath(nullif(c.reltoastrelid, 0)), ''),
		string_agg(concat_ws(' ', attlen, attalign, attisdropped), ',' order by attnum),
		string_agg(case when atttypid in ('text'::regtype, 'pg_node_tree'::regtype) then format('encode(convert_to(%I::text, ''UTF8''), ''hex'')', attname)
			when atttypid = 'bytea'::regtype then format('encode(%I, ''hex'')', attname)
			when atttypid in ('oid'::regtype, 'int4'::regtype) then format('encode(int4send(%I::oid::int8::bit(32)::int4), ''hex'')', attname)
			when atttypid = 'int2'::regtype then format('encode(int2send(%I), ''hex'')', attname) when attlen = 1 and atttypid = 'bool'::regtype then format('encode(boolsend(%I), ''hex'')', attname)
			else format('case when %I is null then null else ''?'' end', attname) end, ',' order by attnum)
		from pg_class c join pg_attribute a on a.attrelid = c.oid and attnum > 0 where c.oid = '`+table+`'::regclass group by c.oid`)[0]
	want := map[string]string{}
	for _, row := range c.Query("postgres", "select ctid::text, concat_ws('|', "+coalesceAll(about[3])+") from "+table) {
		want[row[0]] = row[1]
	}
	attrs, log, toast := parseAttrs(about[2]), openLog(t, c.Dir), chunks(t, c, about[1])
	got := map[string]string{}
	pages := readFile(t, filepath.Join(c.Dir, about[0]))
	for block := 0; block*heap.PageSize < len(pages); block++ {
		for tuple, err := range heap.Tuples(page(pages, block)) {
			if err != nil {
				t.Fatal(err)
			}
			if visible, err := tuple.Visible(log); err != nil || !visible {
				continue
			}
			key := fmt.Sprintf("(%d,%d)", block, tuple.Offset)
			values, err := heap.Deform(tuple, attrs, func(e heap.External) ([]byte, error) { return toast[e.ValueID], nil })
			if err != nil {
				t.Fatalf("%s %s: %v", table, key, err)
			}
			got[key] = inHex(values, attrs, tuple.Natts(), strings.Split(want[key], "|"))
		}
	}
	if len(want) < 4 {
		t.Errorf("%s has %d rows", table, len(want))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: %.3000s", table, diff)
	}
}

func coalesceAll(columns string) string {
	separated := regexp.MustCompile(`,(case|encode)`).ReplaceAllString(columns, "\x00$1")
	parts := strings.Split(separated, "\x00")
	for i, part := range parts {
		parts[i] = "coalesce(" + part + ", '-')"
	}
	return strings.Join(parts, ", ")
}

// inHex writes values as the query does. Numbers are sent with the high byte
// first. A column that was added later has the server's own value.
func inHex(values [][]byte, attrs []heap.Attr, natts int, want []string) string {
	text := make([]string, len(values))
	for i, value := range values {
		switch {
		case i >= natts && i < len(want):
			text[i] = want[i]
		case value == nil:
			text[i] = "-"
		case i < len(want) && want[i] == "?":
			text[i] = "?"
		case attrs[i].Len > 0:
			for _, b := range value {
				text[i] = hex.EncodeToString([]byte{b}) + text[i]
			}
		default:
			text[i] = hex.EncodeToString(value)
		}
	}
	return strings.Join(text, "|")
}

// chunks reads all values of a TOAST table from its file.
func chunks(t *testing.T, c *pgtest.Cluster, path string) map[uint32][]byte {
	t.Helper()
	parts := map[uint32]map[uint32][]byte{}
	if path == "" {
		return nil
	}
	pages := readFile(t, filepath.Join(c.Dir, path))
	attrs := []heap.Attr{{Len: 4, Align: 'i'}, {Len: 4, Align: 'i'}, {Len: -1, Align: 'i'}}
	for block := 0; block*heap.PageSize < len(pages); block++ {
		for tuple, err := range heap.Tuples(page(pages, block)) {
			if err != nil {
				t.Fatal(err)
			}
			row, err := heap.Deform(tuple, attrs, nil)
			if err != nil {
				t.Fatal(err)
			}
			id, number := binary.LittleEndian.Uint32(row[0]), binary.LittleEndian.Uint32(row[1])
			if parts[id] == nil {
				parts[id] = map[uint32][]byte{}
			}
			parts[id][number] = row[2]
		}
	}
	values := map[uint32][]byte{}
	for id, value := range parts {
		for number := range uint32(len(value)) {
			values[id] = append(values[id], value[number]...)
		}
	}
	return values
}
