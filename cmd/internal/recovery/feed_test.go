package recovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/wal"
)

const segmentSize = 1 << 20

// archive is a WAL archive in memory that counts how often a file is read.
type archive struct {
	files fstest.MapFS
	fail  map[string]error

	mu    sync.Mutex
	reads map[string]int
}

func (a *archive) WAL(_ context.Context, name string) (pg0.File, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reads[name]++
	if err := a.fail[name]; err != nil {
		return nil, err
	}
	file, err := a.files.Open(name)
	if err != nil {
		return nil, err
	}
	return file.(pg0.File), nil
}

func (a *archive) WALNames(context.Context) ([]string, error) { return nil, nil }
func (a *archive) SegmentSize() int64                         { return segmentSize }

func segmentName(n int) string { return fmt.Sprintf("0000000100000000%08X", n) }

func content(n, size int) []byte { return bytes.Repeat([]byte{byte(n), 1}, size/2) }

func testFeeder(t *testing.T, last int) (*feeder, *archive) {
	t.Helper()
	a := &archive{files: fstest.MapFS{}, fail: map[string]error{}, reads: map[string]int{}}
	for n := 1; n < 40; n++ {
		a.files[segmentName(n)] = &fstest.MapFile{Data: content(n, segmentSize)}
	}
	f := &feeder{
		dir: t.TempDir(), archive: a, stream: fstest.MapFS{}, size: segmentSize, last: pg0.LSN(last * segmentSize),
		way: noWay{}, log: slog.New(slog.DiscardHandler), slots: make(chan struct{}, 2), segments: map[string]*segment{},
	}
	return f, a
}

// noWay has no neighbours of a segment.
type noWay struct{}

func (noWay) SegmentSize() int64            { return segmentSize }
func (noWay) Expected(number uint64) string { return segmentName(int(number)) }
func (noWay) Segment(context.Context, uint64) (*wal.OpenSegment, error) {
	return nil, fs.ErrNotExist
}

func TestFeederReadsAheadAndForgets(t *testing.T) {
	f, a := testFeeder(t, 30)
	ctx := context.Background()
	for n := 2; n <= 29; n++ {
		name, err := f.get(ctx, segmentName(n))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, content(n, segmentSize)) {
			t.Fatalf("segment %d is wrong: %v", n, err)
		}
	}
	f.wait()
	for n := 2; n < 30; n++ {
		if a.reads[segmentName(n)] != 1 {
			t.Errorf("segment %d was read %d times", n, a.reads[segmentName(n)])
		}
	}
	if a.reads[segmentName(30)] != 0 || a.reads[segmentName(31)] != 0 {
		t.Error("segments behind the end of the recovery were read")
	}
	left, err := os.ReadDir(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > keep+ahead {
		t.Errorf("%d segments are left", len(left))
	}
	if f.position() != 29*segmentSize {
		t.Errorf("replay is at %s", f.position())
	}
	// A segment that was forgotten can be had again.
	_, err = f.get(ctx, segmentName(2))
	f.wait()
	if err != nil || a.reads[segmentName(2)] != 2 {
		t.Errorf("the second time: %v", err)
	}
}

func TestFeederLooksInArchiveAndBackup(t *testing.T) {
	f, a := testFeeder(t, 40)
	ctx := context.Background()
	f.stream = fstest.MapFS{
		"pg_wal/" + segmentName(3):  {Data: content(0x33, segmentSize)},
		"pg_wal/" + segmentName(50): {Data: content(0x50, 4096)},
		"pg_wal/00000002.history":   {Data: []byte("1\t0/1\tx\n")},
	}
	a.files[segmentName(60)+".partial"] = &fstest.MapFile{Data: content(60, 8192)}
	a.fail[segmentName(7)] = fmt.Errorf("segment 7: %w", pg0.ErrCorrupt)
	for _, test := range []struct {
		name  string
		own   bool
		first byte
		size  int
		err   error
	}{
		{name: segmentName(3), first: 3, size: segmentSize},
		{name: segmentName(3), own: true, first: 0x33, size: segmentSize},
		{name: segmentName(50), first: 0x50, size: segmentSize},
		{name: segmentName(60), first: 60, size: segmentSize},
		{name: "00000002.history", first: '1', size: 8},
		{name: "00000003.history", err: fs.ErrNotExist},
		{name: segmentName(70), err: fs.ErrNotExist},
		{name: "../../postgresql.conf", err: fs.ErrNotExist},
		{name: segmentName(7), err: pg0.ErrCorrupt},
	} {
		f.wait() // for what was read ahead
		f.own, f.segments = test.own, map[string]*segment{}
		name, err := f.get(ctx, test.name)
		if !errors.Is(err, test.err) {
			t.Errorf("%s: %v", test.name, err)
		}
		if err != nil {
			continue
		}
		if got, err := os.ReadFile(name); err != nil || len(got) != test.size || got[0] != test.first {
			t.Errorf("%s, own first %t: %d bytes, %v", test.name, test.own, len(got), err)
		}
	}
	f.wait()
}

// TestFetch runs the two sides of restore_command against each other.
func TestFetch(t *testing.T) {
	f, a := testFeeder(t, 40)
	a.fail[segmentName(9)] = fmt.Errorf("segment 9: %w", pg0.ErrCorrupt)
	a.files["00000002.history"] = &fstest.MapFile{Data: []byte("1\t0/1\tx\n")}
	dir, err := os.MkdirTemp("/tmp", "pg0-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	listener, err := net.Listen("unix", filepath.Join(dir, "wal"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx := context.Background()
	go f.listen(ctx, listener)
	recipe, dest := filepath.Join(dir, "recipe"), filepath.Join(dir, "RECOVERYXLOG")
	if err := os.WriteFile(recipe, fmt.Appendf(nil, `{"socket":%q}`, listener.Addr()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		code int
		mode fs.FileMode
	}{
		{segmentName(5), fetched, fs.ModeSymlink},
		{"00000002.history", fetched, 0},
		{segmentName(99), absent, 0},
		{segmentName(9), abort, 0},
	} {
		code, err := Fetch(ctx, recipe, test.name, dest)
		if code != test.code || (err != nil) != (code == abort) {
			t.Errorf("%s: exit code %d, %v", test.name, code, err)
		}
		if code != fetched {
			continue
		}
		if info, err := os.Lstat(dest); err != nil || info.Mode().Type() != test.mode {
			t.Errorf("%s: %v, %v", test.name, info.Mode(), err)
		}
		if _, err := os.ReadFile(dest); err != nil {
			t.Error(err)
		}
	}
	if err := f.refusal(); !errors.Is(err, pg0.ErrCorrupt) {
		t.Errorf("the maker is told %v", err)
	}
	listener.Close()
	if code, err := Fetch(ctx, recipe, segmentName(5), dest); code != abort || err == nil {
		t.Errorf("without a maker: exit code %d, %v", code, err)
	}
	f.wait()
}

func TestRestoreCommandSurvivesTheShell(t *testing.T) {
	dir := filepath.Join(t.TempDir(), `it's "odd" $HOME %f %%`+"`x`")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "pg0")
	if err := os.WriteFile(program, []byte("#!/bin/sh\nprintf '%s\\n' \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	recipe := filepath.Join(dir, "recipe")
	command := restoreCommand(program, recipe)
	// As PostgreSQL does it: BuildRestoreCommand.
	command = strings.NewReplacer("%f", "SEGMENT", "%p", "pg_wal/RECOVERYXLOG", "%%", "%").Replace(command)
	out, err := exec.Command("sh", "-c", command).Output()
	if err != nil {
		t.Fatal(err)
	}
	want := "wal-fetch\n--recipe\n" + recipe + "\nSEGMENT\npg_wal/RECOVERYXLOG\n"
	if diff := cmp.Diff(want, string(out)); diff != "" {
		t.Error(diff)
	}
}

func TestServerLog(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	file, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	f := follower{name: name}
	for _, text := range []string{
		"2026-05-06 14:00:00.000 UTC [1] LOG:  starting point-in-time recovery to WAL location (LSN) \"0/2A02618\"\n",
		"2026-05-06 14:00:00.100 UTC [1] LOG:  consistent recovery state reached at 0/29000B8\n2026-05-06 14:00:01 UTC [1] LOG:  redo in pro",
		"gress, elapsed time: 0.50 s, current LSN: 0/2A00000\n",
		"2026-05-06 14:00:02 UTC [1] LOG:  recovery stopping after WAL location (LSN) \"0/2A02618\"\n" +
			"2026-05-06 14:00:02 UTC [1] LOG:  redo done at 0/2A02618 system usage: CPU: user: 0.00 s\n" +
			"2026-05-06 14:00:02 UTC [1] LOG:  selected new timeline ID: 7\n2026-05-06 14:00:02 UTC [1] LOG:  archive recovery complete\n",
	} {
		if _, err := io.WriteString(file, text); err != nil {
			t.Fatal(err)
		}
		if err := f.read(); err != nil {
			t.Fatal(err)
		}
	}
	want := facts{
		consistent: 0x29000B8, current: 0x2A00000, redone: 0x2A02618, timeline: 7, done: true,
		stopped: `recovery stopping after WAL location (LSN) "0/2A02618"`,
	}
	if diff := cmp.Diff(want, f.facts, cmp.AllowUnexported(facts{})); diff != "" {
		t.Error(diff)
	}
}
