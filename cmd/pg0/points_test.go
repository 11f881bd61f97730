package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/reach"
	"github.com/fukanchik/pg0/cmd/internal/source"
	"github.com/fukanchik/pg0/tests/fixture"
)

func TestMain(m *testing.M) {
	time.Local = time.UTC
	os.Unsetenv("BACKUP_PATH")
	os.Exit(m.Run())
}

// command runs a command that needs no process of its own.
func command(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, log bytes.Buffer
	root := rootCommand(&out, &log)
	root.SetArgs(append(args, "--state-dir", t.TempDir()))
	err = root.ExecuteContext(context.Background())
	return out.String(), log.String(), err
}

func TestPointsTable(t *testing.T) {
	got, _, err := command(t, "points", "-B", fixture.Shop(t))
	if err != nil {
		t.Fatal(err)
	}
	want := `
ID      TIME                    MODE   CHAIN      WAL      SIZE     STATUS  REACHES UNTIL           LSN
TEI900  2026-05-04 09:00:00+00  FULL   TEI900     STREAM   14 MB    OK      2026-05-07 09:00:02+00  0/1B00170 .. 0/3400000
TEK3O0  2026-05-05 09:00:00+00  DELTA  TEI900 +1  STREAM   11 MB    OK      2026-05-07 09:00:02+00  0/2100170 .. 0/3400000
TELYC0  2026-05-06 09:00:00+00  PAGE   TEI900 +2  ARCHIVE  7132 kB  OK      2026-05-07 09:00:02+00  0/29000B8 .. 0/3400000
TENT00  2026-05-07 09:00:00+00  DELTA  TEI900 +3  ARCHIVE  6329 kB  OK      2026-05-07 09:00:02+00  0/30000B8 .. 0/3400000
`
	if diff := cmp.Diff(strings.TrimPrefix(want, "\n"), got); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

// TestPointsWithoutWAL loses a segment of the archive: the span of the backups
// before it ends there, one that needs it is of no use.
func TestPointsWithoutWAL(t *testing.T) {
	dir := fixture.Copy(t, fixture.ShopCatalog)
	if err := os.Remove(filepath.Join(dir, "wal", "shop", "000000010000000000000029.gz")); err != nil {
		t.Fatal(err)
	}
	got, _, err := command(t, "points", "-B", dir, "--json")
	if err != nil {
		t.Fatal(err)
	}
	var points []listedPoint
	if err := json.Unmarshal([]byte(got), &points); err != nil {
		t.Fatal(err)
	}
	lost := []reach.Gap{{First: "000000010000000000000029", Last: "000000010000000000000029"}}
	if p := points[1]; p.Reach == nil || p.Reach.To != 0x2900000 || !cmp.Equal(p.Lost, lost) {
		t.Errorf("Tuesday reaches %v, lost %v", p.Reach, p.Lost)
	}
	if p := points[2]; p.Reach != nil || p.Problem != "WAL 000000010000000000000029 is missing, which the backup needs to become consistent" {
		t.Errorf("Wednesday reaches %v: %s", p.Reach, p.Problem)
	}
	if p := points[3]; p.Reach == nil || p.Reach.To != 0x3400000 || p.Lost != nil {
		t.Errorf("Thursday reaches %v, lost %v", p.Reach, p.Lost)
	}
	table, _, err := command(t, "points", "-B", dir)
	if err != nil || !strings.HasSuffix(table, "\nlost WAL: 000000010000000000000029\n") {
		t.Errorf("%v: %s", err, table)
	}
}

func TestPointFlags(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "tables.toml")
	text := "version = 1\n[sources.nightly]\nformat = \"probackup\"\npath = \"backups\"\ninstance = \"shop\"\n" +
		"[points]\nnoon = { source = \"nightly\", at = 2026-05-06T14:00:02Z, inclusive = false, timeline = \"latest\" }\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	srv := source.Ref{Format: "probackup", Path: "/srv/backups", Instance: "shop"}
	noon := time.Date(2026, 5, 6, 14, 0, 2, 0, time.UTC)
	for _, c := range []struct {
		args string
		ref  source.Ref
		want reach.Target
		err  string
	}{
		{"-B /srv/backups --instance shop", srv, reach.Target{Kind: reach.Latest, Inclusive: true}, ""},
		{"-B /srv/backups --instance shop -i TELYC0", srv, reach.Target{Kind: reach.Backup, Backup: "TELYC0", Inclusive: true}, ""},
		{"-B /srv/backups --instance shop -i TELYC0 --recovery-target=latest", srv, reach.Target{Kind: reach.Latest, Backup: "TELYC0", Inclusive: true}, ""},
		{"-B /srv/backups --instance shop --recovery-target-xid=870 --recovery-target-inclusive=false", srv, reach.Target{Kind: reach.XID, XID: 870}, ""},
		{"-B /srv/backups --instance shop --recovery-target-time=2026-05-06T17:00:02+03 --recovery-target-timeline=2", srv, reach.Target{Kind: reach.Time, Time: noon, Timeline: "2", Inclusive: true}, ""},
		{"--map " + file + " --point noon", source.Ref{Format: "probackup", Path: dir + "/backups", Instance: "shop"}, reach.Target{Kind: reach.Time, Time: noon, Timeline: "latest"}, ""},
		{"--instance shop", source.Ref{}, reach.Target{}, "no catalog: give -B DIR or set BACKUP_PATH"},
		{"-B /x --recovery-target-xid=870 --recovery-target-name=x", source.Ref{}, reach.Target{}, "--recovery-target-xid and --recovery-target-name cannot be given together"},
		{"-B /x --recovery-target=soon", source.Ref{}, reach.Target{}, `--recovery-target: "soon" is neither latest nor immediate`},
		{"-B /x --recovery-target-lsn=12", source.Ref{}, reach.Target{}, `--recovery-target-lsn: "12" is not an LSN: two hexadecimal numbers with a slash between them, such as 0/2C079A0`},
		{"--map " + file, source.Ref{}, reach.Target{}, "--map FILE and --point NAME belong together"},
		{"--map " + file + " --point midnight", source.Ref{}, reach.Target{}, file + ` has no point "midnight"; there are: noon`},
		{"--map " + file + " --point noon -i TELYC0", source.Ref{}, reach.Target{}, "--backup-id and --point cannot be given together: the mapping file says it"},
	} {
		var f pointFlags
		flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
		f.register(flags)
		if err := flags.Parse(strings.Fields(c.args)); err != nil {
			t.Fatal(err)
		}
		ref, got, err := f.point()
		if c.err != "" {
			if err == nil || err.Error() != c.err || exit.Code(err) != exit.Usage {
				t.Errorf("%s: %v, want %s", c.args, err, c.err)
			}
			continue
		}
		if err != nil || ref != c.ref || got != c.want {
			t.Errorf("%s: %+v %+v %v\nwant %+v %+v", c.args, ref, got, err, c.ref, c.want)
		}
	}
}

func TestUsageErrors(t *testing.T) {
	for _, args := range [][]string{{"nonsense"}, {"points", "--nonsense"}, {"points", "extra"}, {"points"}, {"verify", "-j", "0", "-B", "/x"}} {
		if _, _, err := command(t, args...); exit.Code(err) != exit.Usage || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: exit code %d, %v", args, exit.Code(err), err)
		}
	}
	if _, _, err := command(t, "points", "-B", t.TempDir()+"/none"); exit.Code(err) != exit.NotFound {
		t.Errorf("no catalog: exit code %d, %v", exit.Code(err), err)
	}
}

func TestVerify(t *testing.T) {
	dir := fixture.Copy(t, fixture.PG17Catalog)
	for point, want := range map[string]string{
		"--all":     "no damage: backup TENT02 with all that it is built on, and the WAL archive\n",
		"-i=TEI907": "no damage: backup TEI907 with all that it is built on, and the WAL to 0/1900198\n",
	} {
		if out, _, err := command(t, "verify", "-B", dir, point, "-j", "2"); err != nil || out != want {
			t.Errorf("%s: %v\n%s", point, err, out)
		}
	}
	flip(t, filepath.Join(dir, "backups", "shop", "TEI907", "database", "base", "16385", "1255"), 3000)
	flip(t, filepath.Join(dir, "wal", "shop", "00000001000000000000001E.gz"), 1000)
	out, _, err := command(t, "verify", "-B", dir, "--all", "--json")
	if exit.Code(err) != exit.Corrupt {
		t.Errorf("damaged: exit code %d, %v", exit.Code(err), err)
	}
	var found verification
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		t.Fatal(err)
	}
	if len(found.Damage) == 0 || found.Damage[0].Backup != "TEI907" || found.Damage[0].File != "base/16385/1255" {
		t.Errorf("damage of the backup: %+v", found.Damage)
	}
	if len(found.WAL) != 1 || found.WAL[0].Segment != "00000001000000000000001E" {
		t.Errorf("damage of the archive: %+v", found.WAL)
	}
}

func flip(t *testing.T, name string, at int) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data[at] ^= 0x10
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
