package wal_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/wal"
	"github.com/fukanchik/pg0/tests/fixture"
	"github.com/fukanchik/pg0/tests/walfiles"
)

const waldump = "/usr/lib/postgresql/15/bin/pg_waldump"

// dumped is one record as pg_waldump prints it.
type dumped struct {
	LSN, Prev pg0.LSN
	XID       uint32
	Total     int
	Event     string
}

// TestRecordsAsWaldump reads whole archives and compares every record's place,
// length and transaction, and the text of the events, with pg_waldump.
func TestRecordsAsWaldump(t *testing.T) {
	for name, catalog := range map[string]string{"shop": fixture.Shop(t), "15": fixture.PG15(t)} {
		t.Run(name, func(t *testing.T) {
			archive := walfiles.Load(t, catalog)
			want := dump(t, archive)
			got, end := records(t, archive)
			if !slices.Equal(want, got) {
				diff := cmp.Diff(want, got)
				t.Fatalf("records (-pg_waldump +wal):\n%s", diff[:min(len(diff), 4000)])
			}
			if len(got) < 10000 {
				t.Errorf("only %d records", len(got))
			}
			t.Logf("%d records, %v", len(got), end)
		})
	}
}

func realArchive(t testing.TB) walfiles.Archive {
	t.Helper()
	return walfiles.Load(t, fixture.Shop(t))
}

func records(t *testing.T, archive walfiles.Archive) ([]dumped, *wal.End) {
	t.Helper()
	r := readerOf(t, archive)
	var all []dumped
	for {
		rec, err := r.Next(context.Background())
		var end *wal.End
		if errors.As(err, &end) {
			return all, end
		}
		if err != nil {
			t.Fatal(err)
		}
		e, err := rec.Decode()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, dumped{rec.LSN, rec.Prev(), rec.XID(), len(rec.Bytes), eventText(e)})
	}
}

// readerOf reads an archive of timeline 1 from its first record on.
func readerOf(t testing.TB, archive walfiles.Archive) *wal.Reader {
	t.Helper()
	names, _ := archive.WALNames(context.Background())
	first, ok := wal.ParseSegment(names[0], walfiles.SegmentSize)
	if !ok {
		t.Fatalf("bad first name %s", names[0])
	}
	path, err := wal.NewPath(context.Background(), archive, nil, wal.RootHistory(1))
	if err != nil {
		t.Fatal(err)
	}
	r := wal.NewReader(path, 0)
	t.Cleanup(func() { r.Close() })
	if _, err := r.SeekFirst(context.Background(), pg0.LSN(first.Number*walfiles.SegmentSize)); err != nil {
		t.Fatal(err)
	}
	return r
}

func eventText(e *wal.Event) string {
	if e == nil {
		return ""
	}
	const layout = "2006-01-02 15:04:05.000000"
	switch e.Kind {
	case wal.Commit, wal.Abort:
		text := fmt.Sprintf("%d %s", map[bool]uint32{true: e.XID}[e.Prepared], e.Time.Format(layout))
		for _, sub := range e.Subs {
			text += fmt.Sprintf(" %d", sub)
		}
		return text
	case wal.RestorePoint:
		return e.Name
	case wal.Checkpoint:
		return fmt.Sprintf("redo %s; tli %d; prev tli %d", e.Redo, e.Timeline, e.Previous)
	case wal.BackupEnd:
		return e.Redo.String()
	case wal.TablespaceCreate:
		return fmt.Sprintf("%d \"%s\"", e.OID, e.Path)
	case wal.Prepare:
		return "prepare"
	}
	return fmt.Sprint(e.Kind)
}

var (
	dumpLine = regexp.MustCompile(`^rmgr: (\S+) +len \(rec/tot\): +\d+/ *(\d+), tx: +(\d+), lsn: (\S+), prev (\S+), desc: (\S+) ?(.*?)(?:, blkref.*)?$`)
	xactDesc = regexp.MustCompile(`^(?:(?:(?:gid.*?)?(\d+)|): )?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) UTC(.*)$`)
	subxacts = regexp.MustCompile(`; subxacts:((?: \d+)+)`)
	ckptDesc = regexp.MustCompile(`^(redo \S+; tli \d+; prev tli \d+)`)
)

// dump has pg_waldump read an archive.
func dump(t *testing.T, archive walfiles.Archive) []dumped {
	t.Helper()
	dir := t.TempDir()
	names, _ := archive.WALNames(context.Background())
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), archive[name], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(waldump, "-p", dir, names[0], names[len(names)-1])
	cmd.Env = append(os.Environ(), "TZ=UTC")
	out, err := cmd.Output()
	if len(out) == 0 {
		t.Fatalf("pg_waldump: %v", err)
	}
	var all []dumped
	for line := range strings.Lines(string(out)) {
		m := dumpLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil {
			t.Fatalf("pg_waldump says %q", line)
		}
		all = append(all, parseDumped(t, m))
	}
	return all
}

func parseDumped(t *testing.T, m []string) dumped {
	t.Helper()
	var d dumped
	if _, err := fmt.Sscan(m[2]+" "+m[3], &d.Total, &d.XID); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.LSN.UnmarshalText([]byte(m[4])), d.Prev.UnmarshalText([]byte(m[5]))); err != nil {
		t.Fatal(err)
	}
	switch kind, desc := m[6], m[7]; {
	case m[1] == "Transaction" && slices.Contains([]string{"COMMIT", "ABORT", "COMMIT_PREPARED", "ABORT_PREPARED"}, kind):
		x := xactDesc.FindStringSubmatch(desc)
		if x == nil {
			t.Fatalf("pg_waldump says %q", desc)
		}
		if x[1] == "" {
			x[1] = "0"
		}
		d.Event = x[1] + " " + x[2]
		if subs := subxacts.FindStringSubmatch(x[3]); subs != nil {
			d.Event += subs[1]
		}
	case m[1] == "Transaction" && kind == "PREPARE":
		d.Event = "prepare"
	case kind == "RESTORE_POINT" || kind == "BACKUP_END":
		d.Event = desc
	case strings.HasPrefix(kind, "CHECKPOINT_"):
		d.Event = ckptDesc.FindString(desc)
	case m[1] == "Tablespace" && kind == "CREATE":
		d.Event = desc
	}
	return d
}
