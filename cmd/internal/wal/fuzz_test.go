package wal_test

import (
	"context"
	"errors"
	"testing"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/wal"
	"github.com/fukanchik/pg0/tests/fixture"
	"github.com/fukanchik/pg0/tests/walfiles"
)

// FuzzReader damages two segments of a real archive, with the CRCs of records
// set right again or not, and reads them: no panic, no endless loop, records in
// ascending order.
func FuzzReader(f *testing.F) {
	real := walfiles.Load(f, fixture.PG15(f))
	first, second := "000000010000000000000027", "000000010000000000000028"
	f.Add(uint32(0), []byte{})
	f.Add(uint32(16), []byte{0xFF, 0xFF, 0xFF, 0x7F})
	f.Add(uint32(40), []byte{0xFF, 0xFF, 0xFF, 0x3F})
	f.Add(uint32(8192+16), []byte{0xFF, 0xFF})
	f.Add(uint32(8192+2), []byte{0x08})
	f.Fuzz(func(t *testing.T, at uint32, patch []byte) {
		archive := walfiles.Archive{first: append([]byte(nil), real[first]...), second: real[second]}
		copy(archive[first][int(at)%walfiles.SegmentSize:], patch)
		path, err := wal.NewPath(context.Background(), archive, nil, wal.RootHistory(1))
		if err != nil {
			t.Fatal(err)
		}
		r := wal.NewReader(path, 0)
		defer r.Close()
		if _, err := r.SeekFirst(context.Background(), 0x27*walfiles.SegmentSize); err != nil {
			return
		}
		last := pg0.LSN(0)
		for {
			rec, err := r.Next(context.Background())
			if err != nil {
				var end *wal.End
				if !errors.As(err, &end) {
					t.Logf("refused: %v", err)
				}
				return
			}
			if rec.LSN <= last || rec.End <= rec.LSN {
				t.Fatalf("record at %s to %s after one at %s", rec.LSN, rec.End, last)
			}
			last = rec.LSN
			_, _ = rec.Decode()
		}
	})
}

// FuzzDecode decodes records of any bytes under any version.
func FuzzDecode(f *testing.F) {
	f.Add(byte(1), byte(0x80), []byte{255, 12, 1, 2, 3, 4, 5, 6, 7, 8, 2, 0, 0, 0}, byte(15))
	f.Add(byte(5), byte(0), []byte{255, 7, 1, 0, 0, 0, '/', 'x', 0}, byte(12))
	f.Add(byte(0), byte(0x70), []byte{254, 72, 0, 0, 0}, byte(18))
	f.Fuzz(func(t *testing.T, manager, info byte, body []byte, version byte) {
		rec := &wal.Record{LSN: 0x1000028, Version: int(version), Bytes: append(make([]byte, 24), body...)}
		rec.Bytes[16], rec.Bytes[17] = info, manager
		if e, err := rec.Decode(); err != nil && e != nil {
			t.Error("an event and an error")
		}
	})
}
