package recovery_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/image"
	"github.com/fukanchik/pg0/cmd/internal/pgserver"
	"github.com/fukanchik/pg0/cmd/internal/reach"
	"github.com/fukanchik/pg0/cmd/internal/recovery"
	"github.com/fukanchik/pg0/cmd/internal/serve"
	"github.com/fukanchik/pg0/cmd/internal/source"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/relmap"
	"github.com/fukanchik/pg0/tests/fixture"
)

// TestMain lets the test binary be the pg0 that serves mounts and WAL.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 {
		os.Exit(m.Run())
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	switch os.Args[1] {
	case serve.Command:
		os.Exit(serve.Main(os.Stdin, os.NewFile(3, "replies"), logger))
	case "wal-fetch": // --recipe FILE NAME DEST
		code, err := recovery.Fetch(context.Background(), os.Args[3], os.Args[4], os.Args[5])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(code)
	case "make": // STATE CATALOG MOMENT
		if err := makeAndTell(os.Args[2], os.Args[3], os.Args[4]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// makeAndTell makes an image of the shop and prints each stage that begins.
func makeAndTell(dir, catalog, at string) error {
	s := &shop{
		ref:   source.Ref{Format: "probackup", Path: catalog, Instance: fixture.ShopCatalog.Instance},
		maker: &recovery.Maker{State: state.Dir(dir), Logger: slog.Default()},
	}
	s.maker.Progress = func(p recovery.Progress) { fmt.Println(p.Stage) }
	var err error
	if s.catalog, err = s.ref.Open(slog.Default()); err != nil {
		return err
	}
	made, err := s.tryMake(at)
	if err != nil {
		return err
	}
	return made.Close()
}

func testLogger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, nil))
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(text []byte) (int, error) {
	w.t.Helper()
	w.t.Log(string(text))
	return len(text), nil
}

// shop is a catalog, and a maker with a cache of its own.
type shop struct {
	ref     source.Ref
	catalog source.Catalog
	maker   *recovery.Maker
}

func openShop(t *testing.T) *shop {
	t.Helper()
	dir, err := state.Open(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{
		ref:   source.Ref{Format: "probackup", Path: fixture.Shop(t), Instance: fixture.ShopCatalog.Instance},
		maker: &recovery.Maker{State: dir, Logger: testLogger(t)},
	}
	if s.catalog, err = s.ref.Open(testLogger(t)); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *shop) make(t *testing.T, at string) *image.Image {
	t.Helper()
	made, err := s.tryMake(at)
	if err != nil {
		t.Fatalf("make the image of %s: %v", at, err)
	}
	t.Cleanup(func() {
		if err := made.Close(); err != nil {
			t.Error(err)
		}
	})
	return made
}

// tryMake makes the image of a backup's own end, or of name: and a restore point.
func (s *shop) tryMake(at string) (*image.Image, error) {
	ctx := context.Background()
	target := reach.Target{Kind: reach.Backup, Backup: at, Inclusive: true}
	if name, ok := strings.CutPrefix(at, "name:"); ok {
		target = reach.Target{Kind: reach.Name, Name: name, Inclusive: true}
	}
	choice, err := reach.Choose(ctx, s.catalog, target)
	if err != nil {
		return nil, err
	}
	return s.maker.Make(ctx, s.ref, s.catalog, choice)
}

// boot starts a server on a copy-on-write mount of an image, until the test
// ends.
func boot(t *testing.T, made *image.Image) *pgserver.Server {
	t.Helper()
	ctx := context.Background()
	mountpoint, sockets := filepath.Join(t.TempDir(), "mnt"), shortDir(t)
	if err := os.Mkdir(mountpoint, 0o700); err != nil {
		t.Fatal(err)
	}
	child, err := serve.Start(ctx, serve.Recipe{Tree: made.Ref(), Mountpoint: mountpoint, Name: "pg0-test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := child.Stop(); err != nil {
			t.Error(err)
		}
	})
	bin, err := pgserver.Find(made.Meta.Choice.Backup.Version, "")
	if err != nil {
		t.Fatal(err)
	}
	control, err := relmap.ReadControl(made.Tree)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pgserver.Configure(mountpoint, pgserver.Config{Major: 15, Control: control, SocketDir: sockets}); err != nil {
		t.Fatal(err)
	}
	server, err := pgserver.Start(pgserver.Options{Bin: bin, DataDir: mountpoint, LogFile: filepath.Join(t.TempDir(), "log")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(ctx, pgserver.Immediate); err != nil {
			t.Error(err)
		}
	})
	if err := server.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return server
}

// tables gives the rows and sums of the tables that the truth names, as the
// server has them.
func tables(t *testing.T, server *pgserver.Server, truth map[string]map[string]fixture.TableTruth) map[string]map[string]fixture.TableTruth {
	t.Helper()
	got := map[string]map[string]fixture.TableTruth{}
	for database, names := range truth {
		got[database] = map[string]fixture.TableTruth{}
		for name := range names {
			rows, err := server.Query(context.Background(), database, "postgres",
				`select count(*), coalesce(md5(string_agg(t::text, E'\n' order by t::text collate "C")), '') from `+quoted(name)+" t")
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			var one fixture.TableTruth
			if _, err := fmt.Sscan(rows[0][0], &one.Rows); err != nil {
				t.Fatal(err)
			}
			one.MD5 = rows[0][1]
			got[database][name] = one
		}
	}
	return got
}

// quoted makes an identifier of the truth's "schema.table".
func quoted(name string) string { return pgx.Identifier(strings.SplitN(name, ".", 2)).Sanitize() }

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pg0-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func truthOf(t *testing.T, label string) fixture.TruthPoint {
	t.Helper()
	for _, point := range fixture.TruthOf(t, "shop").Points {
		if point.Label == label {
			return point
		}
	}
	t.Fatalf("no truth of %s", label)
	return fixture.TruthPoint{}
}

func TestImageHasTheRowsOfItsPoint(t *testing.T) {
	s := openShop(t)
	truth := truthOf(t, "mon")
	made := s.make(t, truth.Backup)
	if diff := cmp.Diff(truth.Tables, tables(t, boot(t, made), truth.Tables)); diff != "" {
		t.Error(diff)
	}
	if again := s.make(t, truth.Backup); again.Meta.Created != made.Meta.Created {
		t.Error("the second use made the image anew")
	}
	checkMeta(t, made)
	checkWAL(t, made)
	checkDefinitions(t, made)
	checkLeftovers(t, s)
}

func checkMeta(t *testing.T, made *image.Image) {
	t.Helper()
	m := made.Meta
	if m.Role != "postgres" || m.Database != "shop" || m.Recovered.LSN != 0x1B00170 || m.Recovered.Timeline != 2 || m.Bytes == 0 {
		t.Errorf("meta %+v", m)
	}
	control, err := relmap.ReadControl(made.Tree)
	if err != nil {
		t.Fatal(err)
	}
	if control.State != relmap.StateShutdowned || control.Redo != m.Recovered.Redo {
		t.Errorf("control file: %v, redo %s", control.State, control.Redo)
	}
}

// checkWAL: of pg_wal there are the segment of the shutdown checkpoint and the
// history file.
func checkWAL(t *testing.T, made *image.Image) {
	t.Helper()
	entries, err := made.Tree.ReadDir("pg_wal")
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, entry := range entries {
		if !entry.IsDir() {
			files = append(files, entry.Name())
		}
	}
	if diff := cmp.Diff([]string{"00000002.history", "00000002000000000000001B"}, files); diff != "" {
		t.Error(diff)
	}
	for _, name := range []string{"recovery.signal", "backup_label", "tablespace_map", "postmaster.pid", "postmaster.opts"} {
		if _, err := made.Tree.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is in the image: %v", name, err)
		}
	}
}

func checkDefinitions(t *testing.T, made *image.Image) {
	t.Helper()
	defs := made.Defs.Databases["shop"]
	if defs == nil {
		t.Fatal("no definitions of shop")
	}
	index := defs.Indexes[16406] // the OIDs are those of the fixture
	want := relmap.IndexDefinition{
		Name: "products_pkey", Def: "CREATE UNIQUE INDEX products_pkey ON public.products USING btree (id)",
		Constraint: "PRIMARY KEY (id)", Conname: "products_pkey",
	}
	if diff := cmp.Diff(want, index); diff != "" {
		t.Error(diff)
	}
	if got := defs.PartitionKeys[16427]; got != "RANGE (placed)" {
		t.Errorf("partition key %q", got)
	}
	if got := defs.Bounds[16430]; got != "FOR VALUES FROM ('2026-04-01') TO ('2026-05-01')" {
		t.Errorf("bound %q", got)
	}
}

// checkSameDefinitions compares the definitions of the image with those that
// the question of relmap gives.
func checkSameDefinitions(t *testing.T, server *pgserver.Server, made *image.Image) {
	t.Helper()
	rows, err := server.Query(context.Background(), "shop", "postgres", relmap.DefinitionsSQL)
	if err != nil {
		t.Fatal(err)
	}
	var want relmap.DatabaseDefinitions
	if err := json.Unmarshal([]byte(rows[0][0]), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&want, made.Defs.Databases["shop"]); diff != "" {
		t.Error(diff)
	}
}

// checkLeftovers: nothing is left of a recovery but its image.
func checkLeftovers(t *testing.T, s *shop) {
	t.Helper()
	entries, err := os.ReadDir(s.maker.State.Images())
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if strings.Contains(entry.Name(), ".") {
			t.Errorf("left behind: %s", entry.Name())
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), string(s.maker.State)) {
		t.Errorf("a mount is left below %s", s.maker.State)
	}
}

// TestTargetInTheArchive recovers a chain whose WAL is in the archive, to a
// record in the middle of it.
func TestTargetInTheArchive(t *testing.T) {
	s := openShop(t)
	var stages []recovery.Stage
	s.maker.Progress = func(p recovery.Progress) { stages = append(stages, p.Stage) }
	truth := truthOf(t, "name:before_accident")
	made := s.make(t, "name:before_accident")
	server := boot(t, made)
	if diff := cmp.Diff(truth.Tables, tables(t, server, truth.Tables)); diff != "" {
		t.Error(diff)
	}
	checkSameDefinitions(t, server, made)
	r := made.Meta.Recovered
	if r.XID != 865 || r.Time.IsZero() || !strings.Contains(r.Stopped, "0/2A02618") || made.Meta.Choice.Backup.ID != "TELYC0" {
		t.Errorf("recovered to %+v", r)
	}
	if len(stages) < 4 || stages[len(stages)-1] != recovery.StageSeal {
		t.Errorf("stages %q", stages)
	}
}

func TestTwoMakersShareOneRecovery(t *testing.T) {
	s := openShop(t)
	other := &recovery.Maker{State: s.maker.State, Logger: testLogger(t)}
	var waited atomic.Bool
	report := func(p recovery.Progress) {
		if p.Stage == recovery.StageWait {
			waited.Store(true)
		}
	}
	s.maker.Progress, other.Progress = report, report
	var created [2]time.Time
	var wait sync.WaitGroup
	for i, maker := range []*recovery.Maker{s.maker, other} {
		wait.Go(func() {
			made, err := (&shop{s.ref, s.catalog, maker}).tryMake("TENT00")
			if err != nil {
				t.Error(err)
				return
			}
			created[i] = made.Meta.Created
			if err := made.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if created[0] != created[1] || !waited.Load() {
		t.Errorf("made at %v, one waited: %t", created, waited.Load())
	}
	checkLeftovers(t, s)
}

// TestKilledMaker kills the process that makes an image while the server
// recovers.
func TestKilledMaker(t *testing.T) {
	s := openShop(t)
	cmd := exec.Command(os.Args[0], "make", string(s.maker.State), s.ref.Path, "TELYC0")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if lines.Text() == string(recovery.StageAsk) { // the server runs
			break
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	truth := truthOf(t, "wed")
	made := s.make(t, "TELYC0")
	if diff := cmp.Diff(truth.Tables, tables(t, boot(t, made), truth.Tables)); diff != "" {
		t.Error(diff)
	}
	checkLeftovers(t, s)
}

func TestInterruptedMaker(t *testing.T) {
	s := openShop(t)
	ctx, cancel := context.WithCancel(context.Background())
	s.maker.Progress = func(p recovery.Progress) {
		if p.Stage == recovery.StageAsk {
			cancel()
		}
	}
	choice, err := reach.Choose(ctx, s.catalog, reach.Target{Kind: reach.Backup, Backup: "TEI900"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.maker.Make(ctx, s.ref, s.catalog, choice); exit.Code(err) != exit.Interrupted {
		t.Errorf("interrupted: %v", err)
	}
	checkLeftovers(t, s)
}

func TestStateAmongBackups(t *testing.T) {
	s := openShop(t)
	for _, name := range []string{"backups", "new/state"} {
		s.maker.State = state.Dir(filepath.Join(s.ref.Path, name))
		if _, err := s.tryMake("TEI900"); exit.Code(err) != exit.Refused {
			t.Errorf("images among the backups: %v", err)
		}
	}
}

// TestDamage: a page of pg_class is damaged in the backup.
func TestDamage(t *testing.T) {
	s := openShop(t)
	s.ref.Path = fixture.Copy(t, fixture.ShopCatalog)
	const file = "base/16385/1259"
	name := filepath.Join(s.ref.Path, "backups/shop/TEI900/database", file)
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := 100; i < len(data); i += 500 {
		data[i] ^= 0xff
	}
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if s.catalog, err = s.ref.Open(testLogger(t)); err != nil {
		t.Fatal(err)
	}
	_, err = s.tryMake("TEI900")
	if exit.Code(err) != exit.Corrupt || !strings.Contains(err.Error(), file) {
		t.Errorf("exit code %d: %v", exit.Code(err), err)
	}
}

// TestDerive changes an image and changes the result once more.
func TestDerive(t *testing.T) {
	s := openShop(t)
	parent := s.make(t, "TENT00")
	change := func(name string) recovery.Change {
		return recovery.Change{Digest: name, Title: "with " + name, Do: func(ctx context.Context, connect recovery.Connect) error {
			conn, err := connect(ctx, "shop")
			if err != nil {
				return err
			}
			defer conn.Close(ctx)
			_, err = conn.Exec(ctx, "create table public."+name+" (id int primary key)")
			return err
		}}
	}
	ctx := context.Background()
	first, err := s.maker.Derive(ctx, parent, change("first"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.maker.Derive(ctx, first, change("second"))
	if err != nil {
		t.Fatal(err)
	}
	cached, err := s.maker.Derive(ctx, first, change("second"))
	if err != nil {
		t.Fatal(err)
	}
	if cached.Meta.Created != second.Meta.Created {
		t.Error("the second use changed it anew")
	}
	cluster, err := relmap.Open(second.Tree)
	if err != nil {
		t.Fatal(err)
	}
	database, err := cluster.Database("shop")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"first", "second"} {
		relation := database.Relation("public", name)
		if relation == nil || len(relation.Indexes) != 1 || second.Defs.Databases["shop"].Indexes[relation.Indexes[0].OID].Def == "" {
			t.Errorf("table %s: %+v", name, relation)
		}
	}
	if database.Relation("public", "orders") == nil {
		t.Error("the table orders is gone")
	}
	if err := image.Cache(s.maker.State.Images()).Remove(parent.Meta.Key); !errors.Is(err, image.ErrBusy) {
		t.Errorf("a parent in use is removed: %v", err)
	}
	for _, one := range []*image.Image{first, second, cached} {
		if err := one.Close(); err != nil {
			t.Error(err)
		}
	}
}
