package recovery_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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
	}
	os.Exit(m.Run())
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
		maker: &recovery.Maker{State: dir, Logger: testLogger(t), Progress: func(p recovery.Progress) { t.Logf("%s %+v", time.Now().Format("05.000"), p) }},
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

func (s *shop) tryMake(at string) (*image.Image, error) {
	ctx := context.Background()
	target, err := reach.Parse(at)
	if err != nil {
		return nil, err
	}
	choice, err := reach.Choose(ctx, s.catalog, target)
	if err != nil {
		return nil, err
	}
	return s.maker.Make(ctx, s.ref, s.catalog, choice)
}

// tables starts a server on a copy-on-write mount of an image and gives the
// rows and sums of the tables that the truth names.
func tables(t *testing.T, made *image.Image, truth map[string]map[string]fixture.TableTruth) map[string]map[string]fixture.TableTruth {
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
	defer func() {
		if err := child.Stop(); err != nil {
			t.Error(err)
		}
	}()
	bin, err := pgserver.Find(15, "")
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
	defer func() {
		if err := server.Stop(ctx, pgserver.Immediate); err != nil {
			t.Error(err)
		}
	}()
	if err := server.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	got := map[string]map[string]fixture.TableTruth{}
	for database, names := range truth {
		got[database] = map[string]fixture.TableTruth{}
		for name := range names {
			rows, err := server.Query(ctx, database, made.Meta.Role,
				`select count(*), coalesce(md5(string_agg(t::text, E'\n' order by t::text collate "C")), '') from `+name+" t")
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
	if diff := cmp.Diff(truth.Tables, tables(t, made, truth.Tables)); diff != "" {
		t.Error(diff)
	}
	again := s.make(t, truth.Backup)
	text, _ := json.MarshalIndent(made.Meta, "", " ")
	t.Log(string(text))
	text, _ = json.MarshalIndent(made.Defs.Databases["shop"], "", " ")
	t.Log(string(text))
	if again.Meta.Created != made.Meta.Created {
		t.Error("the second use made the image anew")
	}
}

var (
	_ = io.EOF
	_ sync.Mutex
)
