package wal_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/wal"
)

func TestSegmentNames(t *testing.T) {
	for _, c := range []struct {
		name string
		size int64
		want wal.Segment
		ok   bool
	}{
		{"00000001000000000000002A", 1 << 20, wal.Segment{Timeline: 1, Number: 0x2A}, true},
		{"000000010000000000000FFF", 1 << 20, wal.Segment{Timeline: 1, Number: 0xFFF}, true},
		{"000000010000000000001000", 1 << 20, wal.Segment{}, false},
		{"0000000A00000002000000FF", 16 << 20, wal.Segment{Timeline: 10, Number: 0x2FF}, true},
		{"0000000A0000000200000100", 16 << 20, wal.Segment{}, false},
		{"000000010000000300000003", 1 << 30, wal.Segment{Timeline: 1, Number: 15}, true},
		{"000000000000000000000001", 1 << 20, wal.Segment{}, false},
		{"00000001000000000000002a", 1 << 20, wal.Segment{}, false},
		{"00000001000000000000002A.partial", 1 << 20, wal.Segment{}, false},
		{"00000002.history", 1 << 20, wal.Segment{}, false},
		{"", 1 << 20, wal.Segment{}, false},
	} {
		got, ok := wal.ParseSegment(c.name, c.size)
		if got != c.want || ok != c.ok {
			t.Errorf("%s with segments of %d: %v %v, want %v %v", c.name, c.size, got, ok, c.want, c.ok)
		}
		if ok && got.Name(c.size) != c.name {
			t.Errorf("%s became %s", c.name, got.Name(c.size))
		}
	}
}

// TestHistory reads a file as PostgreSQL writes it: src/backend/access/transam/timeline.c.
func TestHistory(t *testing.T) {
	text := "# comment\n\n1\t0/2C079A0\tno recovery target specified\n2\t0/3000000\tbefore 2026-05-06 14:00:02+00 # x\n"
	got, err := wal.ParseHistory(5, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := wal.History{{1, 0, 0x2C079A0}, {2, 0x2C079A0, 0x3000000}, {5, 0x3000000, 0}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
	for _, c := range []struct {
		timeline uint32
		at       pg0.LSN
		want     bool
	}{
		{1, 0x2C079A0, true}, {1, 0x2C079A1, false}, {2, 0x2D00000, true}, {2, 0x3000001, false}, {3, 1, false}, {5, 1 << 40, true},
	} {
		if got.Holds(c.timeline, c.at) != c.want {
			t.Errorf("passes %s of timeline %d: %v", c.at, c.timeline, !c.want)
		}
	}
}

func TestHistoryErrors(t *testing.T) {
	for name, text := range map[string]string{
		"no LSN":        "1\n",
		"bad LSN":       "1\t0-1\tx\n",
		"bad number":    "x\t0/1000000\tx\n",
		"not rising":    "2\t0/1000000\tx\n2\t0/2000000\tx\n",
		"own number":    "5\t0/1000000\tx\n",
		"LSN goes back": "1\t0/2000000\tx\n2\t0/1000000\tx\n",
	} {
		if h, err := wal.ParseHistory(5, []byte(text)); !errors.Is(err, pg0.ErrCorrupt) {
			t.Errorf("%s: %v, %v", name, h, err)
		}
	}
}

func FuzzHistory(f *testing.F) {
	f.Add([]byte("1\t0/2C079A0\tno recovery target specified\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		h, err := wal.ParseHistory(7, text)
		if err != nil {
			return
		}
		if h.Last() != 7 {
			t.Errorf("leads to %d", h.Last())
		}
		for i, s := range h[:len(h)-1] {
			if s.End != h[i+1].Begin || s.Timeline >= h[i+1].Timeline || s.End < s.Begin {
				t.Errorf("disorder: %v", h)
			}
		}
	})
}
