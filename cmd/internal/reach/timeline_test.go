package reach_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/reach"
	"github.com/fukanchik/pg0/tests/fixture"
)

// forked is the shop's archive as if Wednesday's server had been promoted at
// 0/2B55918, in the middle of a segment: timeline 2 has a copy of that segment
// and what follows, timeline 1 ends in an unfinished one.
func forked(t *testing.T) catalog {
	t.Helper()
	c := open(t, fixture.Shop(t))
	for _, n := range []string{"2B", "2C", "2D", "2E"} {
		old := "0000000100000000000000" + n
		c.Archive["0000000200000000000000"+n] = c.Archive[old]
		delete(c.Archive, old)
	}
	for _, n := range []string{"2F", "30", "31", "32", "33"} {
		delete(c.Archive, "0000000100000000000000"+n)
	}
	cut := bytes.Clone(c.Archive["00000002000000000000002B"][:0x55918+16])
	c.Archive["00000001000000000000002B.partial"] = cut
	c.Archive["00000002.history"] = []byte("1\t0/2B55918\tno recovery target specified\n")
	c.Archive["00000009.history"] = []byte("1\t0/2000000\tof another branch\n")
	return c
}

func TestTimelines(t *testing.T) {
	c := forked(t)
	for _, test := range []struct {
		name, at, timeline string
		backup             string // to start from; that is what is chosen anyway
		want               string // timeline and stop
	}{
		{"current", "latest", "current", "TELYC0", "1 after 0/2B558E0"},
		{"latest", "latest", "latest", "TELYC0", "2 after 0/2E000A0"},
		{"number", "latest", "2", "TELYC0", "2 after 0/2E000A0"},
		{"time behind the fork", "2026-05-06 14:30:02+00", "2", "TELYC0", "2 before 0/2D25420"},
		{"time before the fork", "2026-05-06 14:00:02+00", "2", "TELYC0", "2 before 0/2B55918"},
		{"LSN behind the fork", "lsn:0/2C079A0", "2", "TELYC0", "2 after 0/2C079A0"},
		{"LSN in the shared segment", "lsn:0/2B00028", "2", "TELYC0", "2 after 0/2B00028"},
		{"name", "name:after_bug", "latest", "TELYC0", "2 after 0/2D5F7A8"},
		{"another branch, without WAL of its own", "latest", "9", "TEI900", "9 after 0/1F170F8"},
	} {
		t.Run(test.name, func(t *testing.T) {
			target, err := parse(test.at)
			if err != nil {
				t.Fatal(err)
			}
			target.Timeline = test.timeline
			if test.timeline == "current" {
				target.Backup = test.backup
			}
			choice, err := reach.Choose(context.Background(), c, target)
			if err != nil {
				t.Fatal(err)
			}
			if err := reach.Examine(context.Background(), c, choice, nil); err != nil {
				t.Fatal(err)
			}
			got := strings.TrimPrefix(choice.Key(), "timeline ")
			if got != test.want || choice.Backup.ID != test.backup {
				t.Errorf("backup %s timeline %s, want %s and %s", choice.Backup.ID, got, test.backup, test.want)
			}
		})
	}
}

func TestTimelineRefusals(t *testing.T) {
	c := forked(t)
	for _, test := range []struct {
		at, timeline, backup string
		code                 int
		want                 string
	}{
		{"2026-05-06 14:30:02+00", "", "TELYC0", exit.Refused, "timeline 2 goes on from there: --recovery-target-timeline=2"},
		{"latest", "7", "", exit.Refused, "timeline 7 is not known: 00000007.history is not in the archive"},
		{"latest", "2", "TENT00", exit.Refused, "no usable backup TENT00 lies on the way to timeline 2"},
		{"latest", "next", "", exit.Usage, `timeline "next" is neither a number nor current nor latest`},
	} {
		target, err := parse(test.at)
		if err != nil {
			t.Fatal(err)
		}
		target.Timeline, target.Backup = test.timeline, test.backup
		choice, err := reach.Choose(context.Background(), c, target)
		if err == nil {
			t.Errorf("%v: chosen: %+v", target, choice)
		} else if exit.Code(err) != test.code || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: exit code %d: %v\nwant %d: %s", target, exit.Code(err), err, test.code, test.want)
		}
	}
}
