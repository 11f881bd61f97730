package reach_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/reach"
	"github.com/fukanchik/pg0/probackup"
	"github.com/fukanchik/pg0/tests/fixture"
	"github.com/fukanchik/pg0/tests/walfiles"
)

// catalog joins the backups of a fixture with an archive that tests may change.
type catalog struct {
	backups
	walfiles.Archive
}

// backups are those of a catalog without its archive.
type backups interface {
	pg0.Catalog
	OpenWAL(ctx context.Context, id string) (*pg0.Point, error)
}

func open(t testing.TB, dir string) catalog {
	t.Helper()
	c, err := probackup.Open(dir, "shop", probackup.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return catalog{c, walfiles.Load(t, dir)}
}

// target reads the options of a restore as the truth has them.
func target(t testing.TB, options string) reach.Target {
	t.Helper()
	var want reach.Target
	inclusive := true
	for option := range strings.SplitSeq(options, "--") {
		name, value, ok := strings.Cut(strings.TrimSpace(option), "=")
		var err error
		switch kind := strings.TrimPrefix(name, "recovery-target-"); {
		case !ok:
			continue
		case kind == "inclusive":
			inclusive = value == "true"
		case name == "recovery-target":
			want, err = parse(value)
		default:
			want, err = reach.ParseValue(reach.Kind(kind), value)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	want.Inclusive = inclusive
	return want
}

// TestChooseTruth chooses for every target of the shop's truth without being
// told the backup: it is the one that the tool's own restore began with.
func TestChooseTruth(t *testing.T) {
	c := open(t, fixture.Shop(t))
	for _, point := range fixture.TruthOf(t, "shop").Points {
		want := target(t, point.Options)
		if want.Kind == reach.Immediate {
			want = reach.Target{Kind: reach.Backup, Backup: point.Backup}
		}
		t.Run(point.Label, func(t *testing.T) {
			choice, err := reach.Choose(context.Background(), c, want)
			if err != nil {
				t.Fatal(err)
			}
			if err := reach.Examine(context.Background(), c, choice, nil); err != nil {
				t.Fatal(err)
			}
			if choice.Backup.ID != point.Backup {
				t.Errorf("backup %s, want %s", choice.Backup.ID, point.Backup)
			}
			got, ok := shopStops[point.Label]
			if diff := cmp.Diff(got, summary(choice)); !ok || diff != "" {
				t.Errorf("stop (-want +got):\n%s", diff)
			}
		})
	}
}

func summary(c *reach.Choice) string {
	if c.Stop.Record == 0 {
		return "end of backup at " + c.Stop.LSN.String()
	}
	how := "after"
	if c.Stop.Before {
		how = "before"
	}
	return fmt.Sprintf("%s %s; %d ended %s", how, c.Stop.Record, c.Stop.XID, c.Stop.Time.Format("15:04:05.000000"))
}

// shopStops is read off what pg_waldump prints for the shop's archive, by
// PostgreSQL's rules: a time stops before the first later commit, a restore
// point and an LSN after their record.
var shopStops = map[string]string{
	"mon":                  "end of backup at 0/1B00170",
	"tue":                  "end of backup at 0/2100170",
	"wed":                  "end of backup at 0/29000B8",
	"thu":                  "end of backup at 0/30000B8",
	"time:before_accident": "before 0/2B55918; 865 ended 14:00:01.354222",
	"name:before_accident": "after 0/2A02618; 865 ended 14:00:01.354222",
	"lsn:before_accident":  "after 0/2A02618; 865 ended 14:00:01.354222",
	"time:after_delete":    "before 0/2D25420; 870 ended 14:30:01.421733",
	"name:after_delete":    "after 0/2C079A0; 870 ended 14:30:01.421733",
	"lsn:after_delete":     "after 0/2C079A0; 870 ended 14:30:01.421733",
	"time:after_bug":       "before 0/3331F00; 873 ended 15:10:01.369195",
	"name:after_bug":       "after 0/2D5F7A8; 873 ended 15:10:01.369195",
	"lsn:after_bug":        "after 0/2D5F7A8; 873 ended 15:10:01.369195",
	"xid:after_delete":     "before 0/2C07978; 869 ended 14:30:00.184234",
	"latest":               "after 0/3331F28; 874 ended 09:00:02.527800",
}

// TestChooseRefusals names what is missing and what can be had instead.
func TestChooseRefusals(t *testing.T) {
	whole := open(t, fixture.Shop(t))
	without := func(numbers ...string) catalog {
		c := catalog{whole.backups, whole.Clone()}
		for _, n := range numbers {
			delete(c.Archive, "0000000100000000000000"+n)
		}
		return c
	}
	damaged := catalog{whole.backups, whole.Clone()}
	damaged.Archive["00000001000000000000002B"][0x55930] ^= 1
	for _, test := range []struct {
		name, at, backup string
		catalog          catalog
		code             int
		want             string
	}{
		{"time before all", "2026-05-01 00:00+00", "", whole, exit.Refused, `time:2026-05-01T00:00:00Z is before the end of the oldest usable backup TEI900; reachable: from 0/1B00170 (2026-05-04 09:00:03+00) on`},
		{"time before the backup", "2026-05-06 00:00+00", "TELYC0", whole, exit.Refused, `is before the end of backup TELYC0; reachable: from 0/29000B8 (2026-05-06 09:00:01+00) on`},
		{"time after all", "2026-05-08 00:00+00", "", whole, exit.Refused, `time:2026-05-08T00:00:00Z is not in the WAL after backup TENT00; reachable: from 0/30000B8 (2026-05-07 09:00:01+00) to 0/3400000 (2026-05-07 09:00:02.5278+00)`},
		{"lsn after all", "lsn:0/3400001", "", whole, exit.Refused, `lsn:0/3400001 is not in the WAL after backup TENT00; reachable: from 0/30000B8 (2026-05-07 09:00:01+00) to 0/3400000 (2026-05-07 09:00:02.5278+00)`},
		{"xid that never was", "xid:9999", "", whole, exit.Refused, `xid:9999 is not in the WAL after backup TENT00`},
		{"unknown name", "name:nothing", "", whole, exit.Refused, `restore points seen: `},
		{"gap before the time", "2026-05-06 14:30:02+00", "", without("2C"), exit.Refused, `WAL 00000001000000000000002C is missing (and the archive goes on with 00000001000000000000002D); reachable: from 0/29000B8 (2026-05-06 09:00:01+00) to 0/2B`},
		{"gap before the end", "latest", "TELYC0", without("2A", "2B"), exit.Refused, `WAL 00000001000000000000002A is missing (and the archive goes on with 00000001000000000000002C); reachable: from 0/29000B8`},
		{"gap before the LSN", "lsn:0/2C079A0", "", without("2B"), exit.Refused, `WAL 00000001000000000000002B is missing`},
		{"first segment", "TELYC0", "", without("28"), exit.Refused, `WAL 000000010000000000000028 is missing, which backup TELYC0 needs to become consistent (0/2800028 to 0/29000B8); backup TENT00 reaches from`},
		{"last segment of the backup", "TELYC0", "", without("29"), exit.Refused, `WAL 000000010000000000000029 is missing`},
		{"unknown backup", "NOSUCH", "", whole, exit.NotFound, `backup "NOSUCH" is not in the catalog; the newest are TENT00, TELYC0`},
		{"damage", "2026-05-06 14:30:02+00", "", damaged, exit.Corrupt, `WAL segment 00000001000000000000002B is damaged at 0/2B55918: the CRC of the record is wrong; reachable: from 0/29000B8`},
	} {
		t.Run(test.name, func(t *testing.T) {
			target, err := parse(test.at)
			if err != nil {
				t.Fatal(err)
			}
			if test.backup != "" {
				target.Backup = test.backup
			}
			choice, err := reach.Choose(context.Background(), test.catalog, target)
			if err == nil {
				t.Fatalf("chosen: %+v", choice)
			}
			if code := exit.Code(err); code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error:\n%s\nwant:\n%s", err, test.want)
			}
		})
	}
}
