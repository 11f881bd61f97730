package relmap_test

import (
	"encoding/binary"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0/relmap"
)

// testDefinitions finds the server's definitions by what relmap reads.
func (o *odd) testDefinitions(t *testing.T) {
	var defs relmap.DatabaseDefinitions
	if err := json.Unmarshal([]byte(o.definitions), &defs); err != nil {
		t.Fatal(err)
	}
	_, d := o.open(t)
	index := d.Relation("public", "expression, partial")
	checkDefinition(t, defs.Indexes[index.OID], relmap.IndexDefinition{
		Name: "expression, partial",
		Def: `CREATE INDEX "expression, partial" ON public.indexed USING btree (lower(t) text_pattern_ops DESC NULLS LAST, ((u + 1))) ` +
			`WHERE (b AND (t <> 'some words'::text))`,
	})
	index = d.Relation("public", "named unique")
	checkDefinition(t, defs.Indexes[index.OID], relmap.IndexDefinition{
		Name:       "named unique",
		Def:        `CREATE UNIQUE INDEX "named unique" ON public.indexed USING btree (t, b) INCLUDE (u)`,
		Constraint: "UNIQUE (t, b) INCLUDE (u)", Conname: "named unique",
	})
	south := d.Relation("public", "parted_south")
	typed, evolved := d.Relation("public", "typed"), d.Relation("public", "evolved")
	got := []string{
		defs.Bounds[south.OID], defs.PartitionKeys[south.OID], defs.Columns[relmap.ColumnKey(typed.OID, 2)],
		defs.Columns[relmap.ColumnKey(d.Relation("public", "plain").OID, 4)],
		defs.Missing[relmap.ColumnKey(evolved.OID, 6)], defs.Missing[relmap.ColumnKey(evolved.OID, 8)],
		defs.Missing[relmap.ColumnKey(evolved.OID, 9)], defs.Missing[relmap.ColumnKey(evolved.OID, 11)],
		defs.Missing[relmap.ColumnKey(evolved.OID, 12)],
	}
	want := append([]string{"FOR VALUES IN ('south')", "RANGE (at, ((v + 1)))", "public.mood[]", "numeric(10,2)"}, o.evolved...)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func checkDefinition(t *testing.T, got, want relmap.IndexDefinition) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// testMissing checks the bytes of values that rows older than their column
// lack. They are as the server stores such a value in a row, varlenas with the
// long header.
func (o *odd) testMissing(t *testing.T) {
	_, d := o.open(t)
	le := binary.LittleEndian
	varlena := func(content string) []byte {
		return append(le.AppendUint32(nil, uint32(4+len(content))<<2), content...)
	}
	uuid := []byte{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef}
	want := map[string][]byte{
		"m1": {42, 0, 0, 0},
		"m2": varlena("a missing value"),
		"m3": varlena("\x80\x80\x0c\x00\x88\x13"), // NUMERIC_SHORT, scale 1: 12, 5000
		"m4": uuid,
		"m5": append([]byte("named"), make([]byte, 59)...),
		"m6": {1},
		"m7": varlena(o.evolved[3]),
		"m8": varlena("\x01\x00\x00\x00\x00\x00\x00\x00\x17\x00\x00\x00\x03\x00\x00\x00\x01\x00\x00\x00" +
			"\x01\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00"),
		"m9": {0, 0, 0, 0, 0, 0, 0xf8, 0x3f},
	}
	got := map[string][]byte{}
	for _, a := range d.Relation("public", "evolved").Attributes {
		if a.HasMissing {
			got[a.Name] = a.Missing
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// testLayouts holds the columns that relmap believes the catalogs to have
// against the ones that they say themselves to have.
func (o *odd) testLayouts(t *testing.T) {
	cluster, d := o.open(t)
	for catalog, want := range relmap.Layouts(cluster.Version) {
		r := d.ByOID(catalog)
		var got []relmap.LayoutColumn
		for _, a := range r.Attributes[:len(want)] {
			name := strings.Replace(a.Name, "iculocale", "locale", 1) // its name in 15 and 16
			got = append(got, relmap.LayoutColumn{Name: name, Len: a.Len, Align: a.Align})
		}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("%s says (-) and relmap believes (+):\n%s", r.Name, diff)
		}
	}
}
