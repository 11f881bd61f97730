package wal_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/fukanchik/pg0/cmd/internal/wal"
	"github.com/fukanchik/pg0/tests/fixture"
	"github.com/fukanchik/pg0/tests/walfiles"
)

// TestRestorePointsOfTruth finds the restore points that the truth of the
// fixtures names, with the transaction that ended last before and the time.
func TestRestorePointsOfTruth(t *testing.T) {
	for version, catalog := range map[int]string{15: fixture.PG15(t), 17: fixture.PG17(t)} {
		seen := restorePoints(t, walfiles.Load(t, catalog), version)
		for _, point := range fixture.TruthOf(t, fmt.Sprint(version)).Points {
			if point.RestorePoint == "" {
				continue
			}
			at, err := time.Parse("2006-01-02 15:04:05-07", point.Time)
			if err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf("%s after %s", point.LSN, point.XID)
			got := seen[point.RestorePoint]
			if got.text != want || got.time.Sub(at).Abs() > 2*time.Second {
				t.Errorf("%d %s: %+v, want %s about %s", version, point.RestorePoint, got, want, at)
			}
		}
	}
}

type seenPoint struct {
	text string
	time time.Time
}

func restorePoints(t *testing.T, archive walfiles.Archive, version int) map[string]seenPoint {
	t.Helper()
	r := readerOf(t, archive)
	points, xid := map[string]seenPoint{}, uint32(0)
	for {
		rec, err := r.Next(context.Background())
		var end *wal.End
		if errors.As(err, &end) {
			if end.Missing == "" {
				t.Errorf("%d: %v", version, end)
			}
			return points
		}
		if err != nil {
			t.Fatal(err)
		}
		if rec.Version != version {
			t.Fatalf("version %d, want %d", rec.Version, version)
		}
		e, err := rec.Decode()
		switch {
		case err != nil:
			t.Fatal(err)
		case e == nil:
		case e.Kind == wal.Commit || e.Kind == wal.Abort:
			xid = e.XID
		case e.Kind == wal.RestorePoint:
			points[e.Name] = seenPoint{fmt.Sprintf("%s after %d", e.LSN, xid), e.Time}
		}
	}
}
