package wal_test

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0/cmd/internal/wal"
	"github.com/fukanchik/pg0/tests/walfiles"
)

// le appends values as PostgreSQL's structs have them on little-endian machines.
func le(values ...any) []byte {
	var b []byte
	for _, v := range values {
		b, _ = binary.Append(b, binary.LittleEndian, v) // sizes are fixed
	}
	return b
}

// TestVersions reads a commit with every part that may precede the prepared
// transaction's id, in the layout of each version (access/xact.h, ParseCommitRecord).
func TestVersions(t *testing.T) {
	at := time.Date(2026, 5, 6, 14, 0, 1, 354222000, time.UTC)
	stamp := at.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).Microseconds()
	for magic, version := range map[uint16]int{0xD101: 12, 0xD106: 13, 0xD10D: 14, 0xD110: 15, 0xD113: 16, 0xD116: 17, 0xD118: 18} {
		const database, subs, relations, invals, twoPhase, origin, stats = 1, 2, 4, 8, 16, 32, 256
		flags := uint32(database | subs | relations | invals | twoPhase | origin)
		var dropped []byte
		if version >= 15 {
			flags |= stats
			dropped = le(uint32(2), make([]byte, 2*12))
		}
		if version >= 18 {
			dropped = le(uint32(2), make([]byte, 2*16))
		}
		main := le(stamp, flags, uint32(5), uint32(1663), uint32(2), uint32(901), uint32(902), uint32(1), make([]byte, 12),
			dropped, uint32(1), make([]byte, 16), uint32(900), uint64(0x99), stamp)
		w := walfiles.NewWriter(magic, 5)
		lsn := w.Record(1, 0x30|0x80, 0, main) // XLOG_XACT_COMMIT_PREPARED with information
		r := readerOf(t, w.Archive)
		rec, err := r.Next(context.Background())
		if err != nil {
			t.Fatalf("%d: %v", version, err)
		}
		got, err := rec.Decode()
		if err != nil {
			t.Fatalf("%d: %v", version, err)
		}
		want := &wal.Event{
			Kind: wal.Commit, LSN: rec.LSN, End: rec.End, Time: at, XID: 900, Subs: []uint32{901, 902}, Prepared: true,
		}
		if diff := cmp.Diff(want, got); diff != "" || uint64(rec.LSN) != lsn || rec.Version != version {
			t.Errorf("%d read as %d at %s (-want +got):\n%s", version, rec.Version, rec.LSN, diff)
		}
	}
}

// TestGivenUp goes on behind a record that a crash cut short: the next page
// says that the record was overwritten (XLP_FIRST_IS_OVERWRITE_CONTRECORD).
func TestGivenUp(t *testing.T) {
	w := walfiles.NewWriter(magic15, 5)
	w.Fill(walfiles.SegmentSize - 8192 + 64) // the page has 64 bytes left
	w.Record(0, 0x20, 7, make([]byte, 200))
	w.Record(0, 0x20, 8, make([]byte, 8))
	archive := w.Archive.Clone()
	page := archive["000000010000000000000005"][8192:]
	after := walfiles.NewWriter(magic15, 5)
	after.Fill(walfiles.SegmentSize - 8192 + 64)
	cut := after.Position()
	after.SkipPage()
	after.Record(0, 0xD0, 0, make([]byte, 16)) // XLOG_OVERWRITE_CONTRECORD
	copy(page, after.Archive["000000010000000000000005"][8192:])
	binary.LittleEndian.PutUint16(page[2:], 0x0008)
	r := readerOf(t, archive)
	var last *wal.Record
	for {
		rec, err := r.Next(context.Background())
		if err != nil {
			break
		}
		if uint64(rec.LSN) == cut {
			t.Errorf("the record at %s was read", rec.LSN)
		}
		last = rec
	}
	if last == nil || last.LSN != 5*walfiles.SegmentSize+8192+24 || last.Info() != 0xD0 {
		t.Fatalf("last record: %+v", last)
	}
	if got := dump(t, archive); got[len(got)-1].LSN != last.LSN {
		t.Errorf("pg_waldump reads to %s", got[len(got)-1].LSN)
	}
}
