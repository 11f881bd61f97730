//go:build regress

package tests

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/fukanchik/pg0/tests/fixture"
	"github.com/fukanchik/pg0/tests/pbwriter"
	"github.com/fukanchik/pg0/tests/pgtest"
	"github.com/fukanchik/pg0/tests/program"
)

// TestWorldsLarge takes a table of two segments from an older backup.
func TestWorldsLarge(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t, pgtest.Options{})
	catalog := pbwriter.Of(t, server)
	server.Start()
	enlarge(t, server)
	before := sums(t, server)
	full := catalog.Hot(server, pbwriter.Backup{Stream: true}, nil)
	server.Exec("postgres", "delete from large where id % 2 = 0")
	delta := catalog.Hot(server, pbwriter.Backup{Mode: "DELTA", Parent: full.ID, Stream: true}, nil)
	after := sums(t, server)
	server.Stop(pgtest.Fast)

	m := &mapFile{base: "now", catalog: catalog.Dir}
	m.point("then", fmt.Sprintf("%q", full.ID))
	m.point("now", fmt.Sprintf("%q", delta.ID))
	m.rule("postgres.public.large", "then", `as = "then.large"`)
	pg0 := program.New(t)
	mountpoint := pg0.Mountpoint()
	pg0.Must("frankenstein", "--start", "--map", m.write(t, world{catalog: fixture.Catalog{Instance: catalog.Instance}}), mountpoint)
	program.CheckTables(t, pg0.Connect(mountpoint, "postgres"), map[string]fixture.TableTruth{
		"public.large": after["public.large"], "then.large": before["public.large"],
	})
}

// enlarge gives a table rows in a second segment: pages of zeros before them
// take no space and no time to make.
func enlarge(t *testing.T, server *pgtest.Cluster) {
	t.Helper()
	server.Exec("postgres", "create table large (id int, body text)")
	path := server.Query("postgres", "select pg_relation_filepath('large')")[0][0]
	server.Stop(pgtest.Fast)
	file := filepath.Join(server.Dir, path)
	if err := errors.Join(os.Truncate(file, 1<<30), os.WriteFile(file+".1", make([]byte, 3*8192), 0o600)); err != nil {
		t.Fatal(err)
	}
	server.Own(server.Dir)
	server.Start()
	server.Exec("postgres", "insert into large select i, 'large ' || i from generate_series(1, 1000) i")
	if blocks := server.Query("postgres", "select min((ctid::text::point)[0]) >= 131072 from large"); blocks[0][0] != "t" {
		t.Error("the rows are not in the second segment")
	}
}
