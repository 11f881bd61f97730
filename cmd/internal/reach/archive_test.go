package reach_test

import (
	"context"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0/cmd/internal/reach"
	"github.com/fukanchik/pg0/tests/fixture"
)

func verify(t *testing.T, c catalog) ([]string, int64) {
	t.Helper()
	var found []string
	var last int64
	err := reach.VerifyArchive(context.Background(), c, 3,
		func(d reach.WALDamage) { found = append(found, d.String()) },
		func(done, total int64) {
			if done < last || done > total {
				t.Errorf("progress %d of %d after %d", done, total, last)
			}
			last = done
		})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(found)
	return found, last
}

func TestVerifyArchive(t *testing.T) {
	whole := open(t, fixture.Shop(t))
	name := func(n string) string { return "0000000100000000000000" + n }
	for _, test := range []struct {
		name   string
		damage func(c catalog)
		done   int64
		want   []string
	}{
		{"whole", func(catalog) {}, 25, nil},
		{"record", func(c catalog) { c.Archive[name("2B")][0x55930] ^= 1 }, 25, []string{"WAL 00000001000000000000002B at 0/2B55918: the CRC of the record is wrong"}},
		{"page header", func(c catalog) { c.Archive[name("2D")][0x2000] ^= 1 }, 25, []string{
			"WAL 00000001000000000000002D at 0/2D018A0: the page has the magic number D111, which no known version writes",
		}},
		{"two segments", func(c catalog) { c.Archive[name("1D")][0x5000] ^= 1; c.Archive[name("2E")][0x80] ^= 4 }, 25, []string{
			"WAL 00000001000000000000001D at 0/1D04FE0: the CRC of the record is wrong",
			"WAL 00000001000000000000002E at 0/2E00028: the CRC of the record is wrong",
		}},
		{"beginning of a segment", func(c catalog) { c.Archive[name("32")][0] ^= 4 }, 25, []string{
			"WAL 000000010000000000000032 at 0/31FFE50: the page has the magic number D114, which no known version writes",
		}},
		{"zeros in the middle", func(c catalog) { clear(c.Archive[name("32")][0x8000:]) }, 25, []string{
			"WAL 000000010000000000000032 at 0/3206840: the page is empty",
		}},
		{"other cluster", func(c catalog) { c.Archive[name("2E")][24] ^= 1 }, 25, []string{
			"WAL 00000001000000000000002E at 0/2E00000: WAL segment 00000001000000000000002E is of another cluster: its system identifier is 7635943328547681868, not 7635943328547681869",
		}},
		{"lost", func(c catalog) { delete(c.Archive, name("2A")); delete(c.Archive, name("2B")) }, 23, []string{
			"WAL 00000001000000000000002A at 0/2A00000: missing: 00000001000000000000002A to 00000001000000000000002B",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := catalog{whole.backups, whole.Clone()}
			test.damage(c)
			found, done := verify(t, c)
			t.Log(found)
			if diff := cmp.Diff(test.want, found); diff != "" {
				t.Errorf("damage (-want +got):\n%s", diff)
			}
			if done != test.done {
				t.Errorf("%d segments done, want %d", done, test.done)
			}
		})
	}
}
