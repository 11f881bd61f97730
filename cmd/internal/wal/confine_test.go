package wal_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0/cmd/internal/wal"
	"github.com/fukanchik/pg0/tests/walfiles"
)

const magic15 = 0xD110

func createTablespace(w *walfiles.Writer, oid uint32, path string) string {
	main := append(binary.LittleEndian.AppendUint32(nil, oid), path...)
	w.Record(5, 0, 800, append(main, 0))
	return fmt.Sprintf("%d \"%s\"", oid, path)
}

// spacious writes three segments with tablespaces in the middle and on the
// boundaries, cut at several places: in the header of the record, in its path.
func spacious(left uint64) (archive walfiles.Archive, paths []string) {
	w := walfiles.NewWriter(magic15, 5)
	w.Fill(walfiles.SegmentSize - 1000)
	paths = append(paths, createTablespace(w, 16390, "/t"), createTablespace(w, 16391, "/srv/a long path with spaces/and a tail"))
	w.Fill(left)
	paths = append(paths, createTablespace(w, 16392, "/over/the/boundary"))
	w.Fill(left + 8)
	paths = append(paths, createTablespace(w, 16393, "/over/the/next/"+string(bytes.Repeat([]byte("x"), 900))))
	w.Fill(8000)
	return w.Archive, paths
}

// TestConfine changes segments one by one, in any order, and has pg_waldump
// read the result: every path is inside, everything else is as it was.
func TestConfine(t *testing.T) {
	for _, left := range []uint64{16, 24, 40, 64} {
		archive, paths := spacious(left)
		before := dump(t, archive)
		var found []string
		for _, r := range before {
			if r.Event != "" {
				found = append(found, r.Event)
			}
		}
		if diff := cmp.Diff(paths, found); diff != "" {
			t.Fatalf("the writer is wrong (-written +pg_waldump):\n%s", diff)
		}
		inside, seen := confineAll(t, archive)
		want := before
		for i := range want {
			if oid, _, ok := bytes.Cut([]byte(want[i].Event), []byte(" ")); ok {
				want[i].Event = string(oid) + ` "."`
			}
		}
		if got := dump(t, inside); !slices.Equal(want, got) {
			t.Errorf("left %d: confined (-want +pg_waldump):\n%s", left, cmp.Diff(want, got))
		}
		for _, path := range paths {
			if !seen[path] {
				t.Errorf("left %d: %s was not reported", left, path)
			}
		}
	}
}

func confineAll(t *testing.T, archive walfiles.Archive) (walfiles.Archive, map[string]bool) {
	t.Helper()
	way, err := wal.NewPath(context.Background(), archive, nil, wal.RootHistory(1))
	if err != nil {
		t.Fatal(err)
	}
	inside, seen := archive.Clone(), map[string]bool{}
	for name, data := range inside {
		seg, ok := wal.ParseSegment(name, walfiles.SegmentSize)
		if !ok {
			t.Fatalf("bad name %s", name)
		}
		events, err := wal.Confine(context.Background(), way, seg, data)
		if err != nil {
			t.Fatal(err)
		}
		for i := range events {
			seen[eventText(&events[i])] = true
		}
	}
	return inside, seen
}

// TestConfineLeavesAlone takes a real archive, which creates no tablespace.
func TestConfineLeavesAlone(t *testing.T) {
	archive := realArchive(t)
	inside, seen := confineAll(t, archive)
	if len(seen) != 0 {
		t.Errorf("reported: %v", seen)
	}
	for name, data := range archive {
		if !bytes.Equal(data, inside[name]) {
			t.Errorf("%s was changed", name)
		}
	}
}
