package live

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgproto3"
)

// TestStream writes messages that do not keep to the borders of segments.
func TestStream(t *testing.T) {
	const size, begin = 1 << 20, 3 << 20
	ctx := context.Background()
	s := &stream{
		dir: t.TempDir(), timeline: 2, segmentSize: size, throttle: newThrottle(0),
		advance: func(int64) {}, more: make(chan struct{}, 1),
	}
	s.written.Store(begin)
	var all []byte
	for n := 0; len(all) < 2*size+100; n++ {
		part := bytes.Repeat([]byte{byte(n + 1)}, 100_000)
		text := append([]byte{walData}, make([]byte, walDataHeader-1)...)
		binary.BigEndian.PutUint64(text[1:], begin+uint64(len(all)))
		if err := s.take(ctx, &pgproto3.CopyData{Data: append(text, part...)}); err != nil {
			t.Fatal(err)
		}
		all = append(all, part...)
	}
	got := map[string]bool{}
	for n := range 3 {
		text, err := os.ReadFile(filepath.Join(s.dir, segmentName(2, uint64(3+n), size)))
		if err != nil {
			t.Fatal(err)
		}
		want := append([]byte{}, all[n*size:min((n+1)*size, len(all))]...)
		got[segmentName(2, uint64(3+n), size)] = bytes.Equal(text, append(want, make([]byte, size-len(want))...))
	}
	want := map[string]bool{"000000020000000000000003": true, "000000020000000000000004": true, "000000020000000000000005": true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	gap := binary.BigEndian.AppendUint64([]byte{walData}, begin)
	if err := s.take(ctx, &pgproto3.CopyData{Data: append(gap, make([]byte, 50)...)}); err == nil {
		t.Error("WAL from another place is taken")
	}
	if err := s.take(ctx, &pgproto3.CopyDone{}); err == nil {
		t.Error("the end of a timeline is not noticed")
	}
}
