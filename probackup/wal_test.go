package probackup

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/tests/fixture"
)

func TestWALEqualsStreamedSegment(t *testing.T) {
	dir := fixture.Shop(t)
	c, err := Open(dir, "shop", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.SystemID(), uint64(7635943328547681869); got != want {
		t.Errorf("system id = %d, want %d", got, want)
	}
	names, err := c.WALNames(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(names), 0x33-0x1B+1; got != want || names[0] != "00000001000000000000001B" {
		t.Errorf("archive has %d names, want %d: %v", got, want, names)
	}
	got := readWAL(t, c, "00000001000000000000001B")
	want, err := os.ReadFile(filepath.Join(dir, "backups/shop/TEI900/database/pg_wal/00000001000000000000001B"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("archived segment differs from the one that the backup streamed")
	}
}

func readWAL(t *testing.T, c *Catalog, name string) []byte {
	t.Helper()
	f, err := c.WAL(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := f.Stat(); err != nil || info.Size() != int64(len(data)) {
		t.Errorf("%s: length is %d, read %d bytes, %v", name, info.Size(), len(data), err)
	}
	return data
}

// walCatalog has an archive of one-megabyte segments in every form.
func walCatalog(t *testing.T, segment []byte) *Catalog {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"backups/one", "wal/one"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	files := map[string][]byte{
		"000000010000000000000001":                 segment,
		"000000010000000000000002.gz":              compressed(t, segment, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }),
		"000000010000000000000003.lz4":             compressed(t, segment, func(w io.Writer) io.WriteCloser { return lz4.NewWriter(w) }),
		"000000010000000000000004.zst":             compressed(t, segment, newZstd),
		"000000010000000000000005.partial":         segment[:5000],
		"000000010000000000000006.gz.partial":      compressed(t, segment[:5000], func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }),
		"000000010000000000000007":                 segment[:1000],
		"000000010000000000000008.gz":              {0x1f, 0x8b, 8, 0},
		"000000010000000000000001.gz.part":         nil,
		"000000010000000000000001.00000028.backup": nil,
		"00000002.history":                         []byte("1\t0/3000000\tno reason\n"),
		"notes.txt":                                nil,
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, "wal/one", name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	conf := "system-identifier = 5\nxlog-seg-size = 1048576\n"
	if err := os.WriteFile(filepath.Join(dir, "backups/one/pg_probackup.conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := Open(dir, "", Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newZstd(w io.Writer) io.WriteCloser {
	z, err := zstd.NewWriter(w)
	if err != nil {
		panic(err)
	}
	return z
}

func compressed(t *testing.T, data []byte, open func(io.Writer) io.WriteCloser) []byte {
	t.Helper()
	var b bytes.Buffer
	w := open(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestWALForms(t *testing.T) {
	segment := bytes.Repeat([]byte("a WAL segment\n\x00\xff"), 1<<16)
	c := walCatalog(t, segment)
	names, err := c.WALNames(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"000000010000000000000001", "000000010000000000000002", "000000010000000000000003",
		"000000010000000000000004", "000000010000000000000005.partial", "000000010000000000000006.partial",
		"000000010000000000000007", "000000010000000000000008", "00000002.history",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	short := append(bytes.Clone(segment[:5000]), make([]byte, len(segment)-5000)...)
	for i, want := range [][]byte{segment, segment, segment, segment, short, short} {
		if !bytes.Equal(readWAL(t, c, names[i]), want) {
			t.Errorf("%s has other bytes", names[i])
		}
	}
	if got := string(readWAL(t, c, "00000002.history")); got != "1\t0/3000000\tno reason\n" {
		t.Errorf("history = %q", got)
	}
	for _, name := range []string{"000000010000000000000007", "000000010000000000000008"} {
		if _, err := c.WAL(t.Context(), name); !errors.Is(err, pg0.ErrCorrupt) {
			t.Errorf("%s: error = %v, want one that says corrupt", name, err)
		}
	}
	for _, name := range []string{"000000010000000000000009", "000000010000000000000005", "../one/notes.txt", "notes.txt", ""} {
		if _, err := c.WAL(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: error = %v, want one that says missing", name, err)
		}
	}
}
