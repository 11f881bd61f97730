package probackup

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/fukanchik/pg0"
)

// Parts of the names in a WAL archive.
const (
	segmentDigits = 24
	partialSuffix = ".partial"
	historySuffix = ".history"
)

// walSuffixes are the compressions of archived segments, in the order in which
// they are preferred.
var walSuffixes = []string{".gz", "", ".lz4", ".zst"}

// WALNames lists the segments and history files of the archive, sorted, by the
// names that WAL takes.
func (c *Catalog) WALNames(ctx context.Context) ([]string, error) {
	entries, err := os.ReadDir(c.wal)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list archived WAL: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if name, ok := walName(e.Name()); ok && e.Type().IsRegular() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// walName gives the name without compression of a file in the archive, and
// whether it is WAL at all and not a temporary or a backup history file.
func walName(file string) (string, bool) {
	if strings.HasSuffix(file, historySuffix) {
		return file, isHistory(file)
	}
	segment, rest := file, ""
	if len(file) > segmentDigits {
		segment, rest = file[:segmentDigits], file[segmentDigits:]
	}
	if len(segment) != segmentDigits || !isHex(segment) {
		return "", false
	}
	compression, partial := strings.CutSuffix(rest, partialSuffix)
	if !slices.Contains(walSuffixes, compression) {
		return "", false
	}
	if partial {
		return segment + partialSuffix, true
	}
	return segment, true
}

func isHex(s string) bool { return strings.Trim(s, "0123456789ABCDEF") == "" }

func isHistory(name string) bool {
	timeline, ok := strings.CutSuffix(name, historySuffix)
	return ok && len(timeline) == 8 && isHex(timeline)
}

// WAL opens one segment or history file, decompressed in memory. A segment has
// the full length, a shorter unfinished one is filled up with zeros.
func (c *Catalog) WAL(ctx context.Context, name string) (pg0.File, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if isHistory(name) {
		return c.openHistory(name)
	}
	segment, partial := strings.CutSuffix(name, partialSuffix)
	if clean, ok := walName(segment); !ok || clean != segment {
		return nil, &fs.PathError{Op: "open WAL", Path: name, Err: fs.ErrNotExist}
	}
	tail := ""
	if partial {
		tail = partialSuffix
	}
	for _, suffix := range walSuffixes {
		f, err := c.openSegment(name, segment+suffix+tail, suffix, partial)
		if !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
	}
	return nil, &fs.PathError{Op: "open archived WAL", Path: name, Err: fs.ErrNotExist}
}

func (c *Catalog) openHistory(name string) (pg0.File, error) {
	f, err := os.Open(filepath.Join(c.wal, name))
	if err != nil {
		return nil, fmt.Errorf("open archived WAL: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxHistory))
	if err != nil {
		return nil, fmt.Errorf("read archived WAL: %w", err)
	}
	return newWALFile(f, name, data)
}

// maxHistory bounds a history file, which has one line for each timeline.
const maxHistory = 1 << 20

// openSegment opens one file of the archive.
func (c *Catalog) openSegment(name, file, suffix string, partial bool) (pg0.File, error) {
	f, err := os.Open(filepath.Join(c.wal, file))
	if err != nil {
		return nil, fmt.Errorf("open archived WAL: %w", err)
	}
	if suffix == "" && !partial {
		return c.checkRaw(f)
	}
	defer f.Close()
	data, err := readSegment(f, suffix, c.SegmentSize())
	if n := int64(len(data)); err == nil && partial && n < c.SegmentSize() {
		data = append(data, make([]byte, c.SegmentSize()-n)...)
	}
	if err == nil {
		err = c.checkLength(int64(len(data)))
	}
	if err != nil {
		return nil, fmt.Errorf("archived WAL %s: %w: %w", f.Name(), pg0.ErrCorrupt, err)
	}
	return newWALFile(f, name, data)
}

// checkRaw gives a segment that is stored as it was, closed on error.
func (c *Catalog) checkRaw(f *os.File) (pg0.File, error) {
	info, err := f.Stat()
	if err == nil {
		err = c.checkLength(info.Size())
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("archived WAL %s: %w: %w", f.Name(), pg0.ErrCorrupt, err)
	}
	return f, nil
}

func (c *Catalog) checkLength(n int64) error {
	if n != c.SegmentSize() {
		return fmt.Errorf("it holds %d bytes, should hold %d", n, c.SegmentSize())
	}
	return nil
}

// readSegment reads a segment into memory, at most one byte more than size.
func readSegment(f *os.File, suffix string, size int64) ([]byte, error) {
	r, err := decompress(f, suffix)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	buffer := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead))
	if _, err := buffer.ReadFrom(io.LimitReader(r, size+1)); err != nil {
		return nil, err
	}
	return buffer.Bytes(), nil
}

func decompress(f *os.File, suffix string) (io.ReadCloser, error) {
	switch suffix {
	case ".gz":
		return gzip.NewReader(f)
	case ".lz4":
		return io.NopCloser(lz4.NewReader(f)), nil
	case ".zst":
		z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(f), nil
}

// walFile is an open WAL file held in memory.
type walFile struct {
	*bytes.Reader
	info walInfo
}

func newWALFile(f *os.File, name string, data []byte) (*walFile, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("stat archived WAL: %w", err)
	}
	return &walFile{bytes.NewReader(data), walInfo{name, int64(len(data)), info.ModTime()}}, nil
}

func (f *walFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *walFile) Close() error               { return nil }

type walInfo struct {
	name string
	size int64
	time time.Time
}

func (i walInfo) Name() string       { return i.name }
func (i walInfo) Size() int64        { return i.size }
func (i walInfo) Mode() fs.FileMode  { return 0o600 }
func (i walInfo) ModTime() time.Time { return i.time }
func (i walInfo) IsDir() bool        { return false }
func (i walInfo) Sys() any           { return nil }
