// Package freeze_test holds PostgreSQL against pg0's freezing of pages: which
// rows exist, and whether another server takes the pages for its own.
package freeze_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/fukanchik/pg0/relmap/heap"
	"github.com/fukanchik/pg0/relmap/xact"
	"github.com/fukanchik/pg0/tests/pbwriter"
	"github.com/fukanchik/pg0/tests/pgtest"
	"github.com/google/go-cmp/cmp"
)

// A relation is what one cluster has of a relation of the test: its files, and
// what the other's must know of it.
type relation struct {
	path  string
	kind  heap.Kind
	oid   uint32 // of a TOAST table
	attrs []heap.Attr
}

// relations returns table, TOAST table and indexes by name; a TOAST table and
// its index are named after their table.
func relations(c *pgtest.Cluster) map[string]relation {
	rels := map[string]relation{}
	for _, row := range c.Query("postgres", `
		select coalesce(nullif(replace(c.relname, coalesce(t.oid, ti.oid)::text, coalesce(t.relname, ti.relname)), ''), c.relname),
			pg_relation_filepath(c.oid), c.oid, c.relkind, coalesce(a.amname, ''),
			(select string_agg(concat_ws(' ', attlen, attalign, attisdropped), ',' order by attnum) from pg_attribute where attrelid = c.oid and attnum > 0)
		from pg_class c left join pg_am a on a.oid = c.relam left join pg_class t on t.reltoastrelid = c.oid
			left join pg_index i on i.indexrelid = c.oid left join pg_class ti on ti.reltoastrelid = i.indrelid
		where c.relkind in ('r', 't', 'i', 'S') and coalesce(t.oid, ti.oid, i.indrelid, c.oid) >= 16384
			and coalesce(t.relname, ti.relname, (i.indrelid::regclass)::text, c.relname) in ('t', 'p1', 'p2', 'quiet', 's')`) {
		oid, _ := strconv.ParseUint(row[2], 10, 32)
		r := relation{path: row[1], oid: uint32(oid), kind: heap.Heap}
		switch {
		case row[3] == "S":
			r.kind = heap.Sequence
		case row[4] == "gist":
			r.kind = heap.GiST
		case row[3] == "i":
			r.kind = heap.Index
		}
		r.attrs = parseAttrs(row[5])
		rels[row[0]] = r
	}
	return rels
}

func parseAttrs(text string) []heap.Attr {
	var attrs []heap.Attr
	for len(text) > 0 {
		var a heap.Attr
		var dropped string
		var rest string
		if n, _ := fmt.Sscanf(text, "%d %c %1s", &a.Len, &a.Align, &dropped); n != 3 {
			panic("attributes: " + text)
		}
		a.Dropped = dropped == "t"
		if i := slices.Index([]byte(text), ','); i >= 0 {
			rest = text[i+1:]
		}
		attrs, text = append(attrs, a), rest
	}
	return attrs
}

// donor is a stopped cluster with unhinted leftovers of all kinds.
type donor struct {
	*pgtest.Cluster
	rels map[string]relation
	log  *xact.Log
}

func newDonor(t *testing.T, o pgtest.Options) donor {
	c := pgtest.New(t, o)
	c.Start()
	c.Exec("postgres", schema)
	c.Exec("postgres", load)
	c.Exec("postgres", "vacuum freeze quiet")
	work(t, c)
	c.Exec("postgres", "update quiet set note = 'loud' where id between 1 and 20")
	rels := relations(c)
	interrupt(t, c)
	c.Start()
	c.Stop(pgtest.Fast)
	return donor{c, rels, openLog(t, c.Dir)}
}

// openLog takes the counters from their places in pg_control.
func openLog(t *testing.T, dir string) *xact.Log {
	t.Helper()
	control := readFile(t, filepath.Join(dir, "global/pg_control"))
	u32 := func(off int) uint32 { return binary.LittleEndian.Uint32(control[off:]) }
	log, err := xact.Open(os.DirFS(dir), xact.Horizon{
		NextXID: binary.LittleEndian.Uint64(control[64:]), OldestXID: u32(84),
		NextMulti: u32(76), NextMultiOffset: u32(80), OldestMulti: u32(92),
	})
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// transformed returns the pages of a fork as they would be shown.
func (d donor) transformed(t *testing.T, r relation, tr heap.Transform) []byte {
	t.Helper()
	tr.Kind, tr.Status, tr.Attrs, tr.Verify = r.kind, d.log, r.attrs, !d.Options.NoChecksums
	pages := readFile(t, filepath.Join(d.Dir, r.path))
	for block := 0; block*heap.PageSize < len(pages); block++ {
		if _, err := tr.Page(page(pages, block), uint32(block), false); err != nil {
			t.Fatalf("%s: block %d: %v", r.path, block, err)
		}
	}
	return pages
}

func page(pages []byte, block int) []byte {
	return pages[block*heap.PageSize : (block+1)*heap.PageSize]
}

// ctids lists the tuples of pages by block.
func ctids(t *testing.T, pages []byte) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	for block := 0; block*heap.PageSize < len(pages); block++ {
		for tuple, err := range heap.Tuples(page(pages, block)) {
			if err != nil {
				t.Fatalf("block %d: %v", block, err)
			}
			key := strconv.Itoa(block)
			found[key] = append(found[key], strconv.Itoa(int(tuple.Offset)))
		}
	}
	return found
}

// TestVisible compares the row versions that stay with those PostgreSQL sees.
func TestVisible(t *testing.T) {
	d := newDonor(t, pgtest.Options{Settings: map[string]string{"max_prepared_transactions": "2"}})
	got := map[string]map[string][]string{}
	for _, name := range []string{"t", "p1", "p2", "quiet", "pg_toast_t"} {
		got[name] = ctids(t, d.transformed(t, d.rels[name], heap.Transform{Limit: 1, SetChecksum: true}))
	}
	for name, found := range got {
		plain := d.transformed(t, unhinted(t, d, name), heap.Transform{Limit: 1})
		if diff := cmp.Diff(found, ctids(t, plain)); diff != "" {
			t.Errorf("%s without hints:\n%s", name, diff)
		}
	}
	if d.log.Future() != 0 {
		t.Errorf("%d questions about transactions that had not begun", d.log.Future())
	}
	d.Start()
	control := readFile(t, filepath.Join(d.Dir, "global/pg_control"))
	checkTransactions(t, d, int(binary.LittleEndian.Uint32(control[64:])), int(binary.LittleEndian.Uint32(control[76:])))
	for name, found := range got {
		table := name
		if name == "pg_toast_t" {
			table = fmt.Sprintf("pg_toast.%s", d.Query("postgres", "select relname from pg_class where oid = (select reltoastrelid from pg_class where relname = 't')")[0][0])
		}
		want := map[string][]string{}
		for _, row := range d.Query("postgres", "select (ctid::text::point)[0]::int, (ctid::text::point)[1]::int from "+table+" x order by x.ctid") {
			want[row[0]] = append(want[row[0]], row[1])
		}
		if diff := cmp.Diff(want, found); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}

// unhinted writes a copy of a relation whose tuples have lost their hint bits,
// so that each must be judged by the logs.
func unhinted(t *testing.T, d donor, name string) relation {
	t.Helper()
	const committed, invalid, multi = 1, 2, 16 // in the mask's high byte: of xmin, times 4 of xmax
	r := d.rels[name]
	pages := readFile(t, filepath.Join(d.Dir, r.path))
	for block := 0; block*heap.PageSize < len(pages); block++ {
		p := page(pages, block)
		for tuple := range heap.Tuples(p) {
			mask := &tuple.Bytes[21]
			if *mask&(committed|invalid) != committed|invalid {
				*mask &^= committed | invalid
			}
			if *mask &^= 4 * committed; *mask&multi == 0 {
				*mask &^= 4 * invalid
			}
		}
		binary.LittleEndian.PutUint16(p[8:], pbwriter.Checksum(p, uint32(block)))
	}
	r.path += "_unhinted"
	replace(t, filepath.Join(d.Dir, r.path), pages)
	return r
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
