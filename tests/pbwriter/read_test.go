package pbwriter_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/probackup"
	"github.com/fukanchik/pg0/tests/pbwriter"
	"github.com/fukanchik/pg0/tests/pgtest"
	"github.com/google/go-cmp/cmp"
)

// changes lead from one state of the cluster to the next: relations grow,
// shrink, come and go.
var changes = []string{
	`create table t as select i id, repeat(md5(i::text), 3) v from generate_series(1, 3000) i;
		create table gone as select i id from generate_series(1, 2000) i; create table quiet as select i id from generate_series(1, 2000) i;
		create table in_space (id int) tablespace "odd space"; insert into in_space select generate_series(1, 500); create unlogged table u (id int)`,
	"update t set v = 'x' where id between 100 and 120; delete from t where id > 900; create table late as select 1 id",
	"vacuum t",
	"drop table gone; insert into t select i, 'new' from generate_series(5000, 5400) i; update late set id = 2; insert into in_space values (1)",
}

// states stops the cluster after each change and copies its directory.
func states(t *testing.T) []string {
	t.Helper()
	server := pgtest.New(t, pgtest.Options{})
	space := filepath.Join(server.TempDir(), "a b")
	server.Run("mkdir", space)
	server.Start()
	server.Exec("postgres", `create tablespace "odd space" location '`+space+`'`)
	var dirs []string
	for i, change := range changes {
		if i > 0 {
			server.Start()
		}
		server.Exec("postgres", change)
		server.Stop(pgtest.Fast)
		dir := filepath.Join(server.TempDir(), "state")
		server.Run("cp", "-aL", server.Dir, dir) // tablespaces become directories
		dirs = append(dirs, dir)
	}
	return dirs
}

// alike are files that nobody changes and that there are enough of.
var alike = regexp.MustCompile(`^base/[14]/\d|^base/5/([2-8]\d\d\d?|1[0-9]\d\d|1[0-5]\d\d\d)($|_)|^global/[2-8]\d\d\d`)

// itemsOf lists a state with the map of tablespaces that a backup adds.
func itemsOf(c *pbwriter.Catalog, dir string) []pbwriter.Item {
	items := slices.DeleteFunc(c.Scan(dir), func(it pbwriter.Item) bool { return alike.MatchString(it.Path) })
	spaces := ""
	for _, it := range items {
		if strings.HasPrefix(it.Path, "pg_tblspc/") && strings.Count(it.Path, "/") == 1 {
			spaces += filepath.Base(it.Path) + " /srv/odd place\n"
		}
	}
	return append(items, pbwriter.File("tablespace_map", []byte(spaces)))
}

// want sums up the files that a tree of the items must have.
func want(t *testing.T, items []pbwriter.Item) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, it := range items {
		if it.Open == nil || it.Path == "tablespace_map" {
			continue
		}
		r, err := it.Open()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
		name := it.Path
		if rest, ok := strings.CutPrefix(name, "pg_tblspc/"); ok {
			name = ".pg0_tblspc/" + rest
		}
		files[name] = fmt.Sprintf("%d bytes, %x", len(data), sha256.Sum256(data))
	}
	return files
}

// got sums up the files of a tree.
func got(t *testing.T, tree pg0.Tree) map[string]string {
	t.Helper()
	files := map[string]string{}
	if _, err := fs.Stat(tree, "backup_label"); err != nil {
		t.Error(err)
	}
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || name == "backup_label" {
			return err
		}
		data, err := fs.ReadFile(tree, name)
		files[name] = fmt.Sprintf("%d bytes, %x", len(data), sha256.Sum256(data))
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return files
}

func openPoint(t *testing.T, c *pbwriter.Catalog, id string) (*pg0.Point, error) {
	t.Helper()
	catalog, err := probackup.Open(c.Dir, c.Instance, probackup.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return catalog.Open(context.Background(), id)
}

func checkPoint(t *testing.T, c *pbwriter.Catalog, id string, want map[string]string) {
	t.Helper()
	point, err := openPoint(t, c, id)
	if err != nil {
		t.Error(err)
		return
	}
	defer point.Close()
	if diff := cmp.Diff(want, got(t, point.Tree)); diff != "" {
		t.Errorf("%s: %.3000s", id, diff)
	}
}

// TestRead has the reader give back the states of a cluster from chains in
// every layout.
func TestRead(t *testing.T) {
	dirs := states(t)
	external := t.TempDir()
	if err := os.WriteFile(filepath.Join(external, "note"), []byte("outside"), 0o600); err != nil {
		t.Fatal(err)
	}
	kinds := []pbwriter.Backup{
		{Program: "2.5.16", Compress: pbwriter.Zlib, Note: "it's odd", Externals: []string{"/srv/b", "/srv/a"}},
		{Program: "2.6.0", Compress: pbwriter.PGLZ, Kind: true, Remote: true},
		{Program: "2.5.16", Remote: true, NoHeaderMap: true},
		{Program: "2.3.5", Compress: pbwriter.Zlib, Remote: true},
		{Program: "2.0.24", Compress: pbwriter.PGLZ, Remote: true},
		{Program: "2.0.20", Compress: pbwriter.Zlib},
	}
	modes := []string{"FULL", "PTRACK", "PAGE", "DELTA"}
	algorithms := []string{pbwriter.Zlib, pbwriter.PGLZ, pbwriter.None}
	for k, b := range kinds {
		c := pbwriter.New(t, t.TempDir(), "main", systemID(t, dirs[0]), 0)
		for i, dir := range dirs {
			items := itemsOf(c, dir)
			want := want(t, items)
			if number := b.ExternalNumber("/srv/b"); number > 0 {
				items = append(items, c.External(number, external)...)
			}
			b.Mode, b.StartLSN = modes[i], redo(t, dir)
			b.CompressFile = func(path string) string {
				if b.Compress == "" {
					return ""
				}
				return algorithms[(len(path)+int(path[len(path)-1])+k)%3]
			}
			b.Parent = c.Write(b, items).ID
			checkPoint(t, c, b.Parent, want)
		}
	}
}

func redo(t *testing.T, dir string) pg0.LSN {
	t.Helper()
	control := readFile(t, filepath.Join(dir, "global/pg_control"))
	return pg0.LSN(le64(control[40:]))
}

func systemID(t *testing.T, dir string) uint64 {
	t.Helper()
	return le64(readFile(t, filepath.Join(dir, "global/pg_control")))
}

func le64(b []byte) uint64 {
	var v uint64
	for i := range 8 {
		v |= uint64(b[i]) << (8 * i)
	}
	return v
}

// TestMerge leaves merges in the middle, and damages backups.
func TestMerge(t *testing.T) {
	c := pbwriter.New(t, t.TempDir(), "main", 7, 0)
	chain := c.Chain(4, 3, 50, 7, pbwriter.Backup{Compress: pbwriter.Zlib, Stream: true})
	last := c.Skeleton()
	for r := range 3 {
		last = append(last, pbwriter.ChainRelation(fmt.Sprintf("base/5/%d", 20000+r), 50, 7, 3))
	}
	want := want(t, last)
	checkPoint(t, c, chain[3].ID, want)
	c.HalfMerge(chain, last, func(path string) bool { return strings.HasSuffix(path, "1") })
	checkPoint(t, c, chain[3].ID, want)
	if _, err := openPoint(t, c, chain[0].ID); !errors.Is(err, pg0.ErrUnusable) {
		t.Errorf("a full backup whose files are half new: error %v is not ErrUnusable", err)
	}

	merged := pbwriter.New(t, t.TempDir(), "main", 7, 0)
	w := merged.Write(pbwriter.Backup{Status: "MERGED", MergeDest: chain[3].ID, Stream: true}, last)
	checkPoint(t, merged, w.MergeDest, want)

	name := "base/5/20000"
	damaged := pbwriter.New(t, t.TempDir(), "main", 7, 0).Chain(1, 1, 50, 7, pbwriter.Backup{Stream: true})[0]
	c.Flip(damaged.Path(name), -100)
	unreadable(t, damaged, name)
	c.Cut(damaged.Path(name), 10)
	unreadable(t, damaged, name)
	c.Remove(damaged.Path(name))
	unreadable(t, damaged, name)
	text := filepath.Join(damaged.Dir, "backup.control")
	c.Replace(text, "status = OK", "status = ERROR")
	if _, err := openPoint(t, damaged.Catalog, damaged.ID); !errors.Is(err, pg0.ErrUnusable) {
		t.Errorf("error %v is not ErrUnusable", err)
	}
	if !bytes.Contains(readFile(t, text), []byte("ERROR")) {
		t.Error("backup.control was not changed")
	}
}

// unreadable checks that a file, or the whole backup, is reported as damaged.
func unreadable(t *testing.T, w *pbwriter.Written, name string) {
	t.Helper()
	point, err := openPoint(t, w.Catalog, w.ID)
	if err == nil {
		_, err = fs.ReadFile(point.Tree, name)
		point.Close()
	}
	if !errors.Is(err, pg0.ErrCorrupt) {
		t.Errorf("error %v is not ErrCorrupt", err)
	}
}

// TestHot backs up a server that works, and lets PostgreSQL judge.
func TestHot(t *testing.T) {
	for _, o := range []pgtest.Options{{}, {NoChecksums: true, SegmentMB: 16}} {
		server := pgtest.New(t, o)
		c := pbwriter.Of(t, server)
		server.Options.Settings = c.ArchiveSettings(pbwriter.GZ)
		server.Start()
		server.Exec("postgres", "create table t as select i id, 0 n from generate_series(1, 5000) i; create index on t (id)")
		insert := func() {
			server.Exec("postgres", "insert into t select i, 1 from generate_series(1, 3000) i; checkpoint")
		}
		full := c.Hot(server, pbwriter.Backup{Stream: true, Compress: pbwriter.PGLZ}, insert)
		rowsAt(t, c, full, o, 8000)
		if o.NoChecksums {
			continue
		}
		server.Exec("postgres", "update t set n = 2 where id % 10 = 0; delete from t where id > 4000")
		server.Exec("postgres", "vacuum t")
		delta := c.Hot(server, pbwriter.Backup{Mode: "DELTA", Parent: full.ID, Stream: true}, insert)
		rowsAt(t, c, delta, o, 10000)
		page := c.Hot(server, pbwriter.Backup{Mode: "PAGE", Parent: delta.ID, Compress: pbwriter.Zlib}, insert)
		server.Stop(pgtest.Fast) // archives the rest
		rowsAt(t, c, page, o, 13000)
	}
}

// rowsAt restores a backup by the reader and counts the rows after recovery.
func rowsAt(t *testing.T, c *pbwriter.Catalog, w *pbwriter.Written, o pgtest.Options, want int) {
	t.Helper()
	catalog, err := probackup.Open(c.Dir, c.Instance, probackup.Options{})
	if err != nil {
		t.Fatal(err)
	}
	point, err := catalog.Open(context.Background(), w.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer point.Close()
	server := pgtest.At(t, "", o)
	if err := os.CopyFS(server.Dir, point.Tree); err != nil {
		t.Fatal(err)
	}
	if !w.Stream {
		for _, name := range c.Segments(w.Timeline, w.StartLSN, w.StopLSN) {
			file, err := catalog.WAL(context.Background(), name)
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(file)
			if err = errors.Join(err, os.WriteFile(filepath.Join(server.Dir, "pg_wal", name), data, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	server.Own(server.Dir)
	server.Start()
	if got := server.Query("postgres", "set enable_seqscan = off; select count(*) from t where id > 0"); got[0][0] != fmt.Sprint(want) {
		t.Errorf("%s has %s rows, want %d", w.Mode, got[0][0], want)
	}
	server.Stop(pgtest.Immediate)
}
