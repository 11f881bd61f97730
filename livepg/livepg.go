// Package livepg reads the points that were taken of a running PostgreSQL: a
// directory with one cluster directory for each, whose WAL lies in its own
// pg_wal. A point may hold the files of some relations only.
package livepg

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fukanchik/pg0"
)

// The names below the directory of a catalog: ID/point.json, ID/data, and
// ID.tmp for a point that is being taken.
const (
	recordFile = "point.json"
	dataDir    = "data"
	tmpSuffix  = ".tmp"
)

// Mode is the PointInfo.Mode of the points.
const Mode = "LIVE"

// A Record says what was taken.
type Record struct {
	pg0.PointInfo
	SegmentSize int64 `json:"wal_segment_size"`
	// Hollow are the relations that were not taken, as paths without fork and
	// segment: base/5/16384. Their files have the right length and nothing in
	// them.
	Hollow []string `json:"hollow,omitempty"`
	// Files are the files that were copied with their lengths.
	Files map[string]int64 `json:"files"`
	Relay string           `json:"relay,omitempty"` // how the bytes came: pgdata or sql
}

// A Catalog is one directory of points.
type Catalog struct{ dir string }

// Open opens a directory of points. One that does not exist yet has none.
func Open(dir string) (*Catalog, error) {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case !info.IsDir():
		return nil, fmt.Errorf("%s is no directory", dir)
	}
	return &Catalog{dir}, nil
}

// Dir is the directory of the catalog.
func (c *Catalog) Dir() string { return c.dir }

// Points lists what was taken, oldest first. Points that are still being taken
// are not listed.
func (c *Catalog) Points(context.Context) ([]pg0.PointInfo, error) {
	entries, err := os.ReadDir(c.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list live points: %w", err)
	}
	var infos []pg0.PointInfo
	for _, entry := range entries {
		if !entry.IsDir() || strings.HasSuffix(entry.Name(), tmpSuffix) {
			continue
		}
		r, err := c.record(entry.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed just now
		}
		if err != nil {
			r = &Record{PointInfo: pg0.PointInfo{ID: entry.Name(), Mode: Mode, Status: "CORRUPT", Unusable: err.Error()}}
		}
		infos = append(infos, r.PointInfo)
	}
	slices.SortFunc(infos, func(a, b pg0.PointInfo) int { return strings.Compare(a.ID, b.ID) })
	return infos, nil
}

// record reads what is known about a point.
func (c *Catalog) record(id string) (*Record, error) {
	text, err := os.ReadFile(filepath.Join(c.dir, id, recordFile))
	if err != nil {
		return nil, err
	}
	r := new(Record)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("live point %s: %s: %w: %w", id, recordFile, pg0.ErrCorrupt, err)
	}
	if !strings.EqualFold(r.ID, id) {
		return nil, fmt.Errorf("live point %s: %s is of point %q: %w", id, recordFile, r.ID, pg0.ErrCorrupt)
	}
	return r, nil
}

// find gives the record of an id in any case.
func (c *Catalog) find(id string) (*Record, error) {
	entries, err := os.ReadDir(c.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, entry := range entries {
		if strings.EqualFold(entry.Name(), id) && entry.IsDir() && !strings.HasSuffix(entry.Name(), tmpSuffix) {
			return c.record(entry.Name())
		}
	}
	return nil, fmt.Errorf("live point %s: %w", id, fs.ErrNotExist)
}

// Open opens a point by its id.
func (c *Catalog) Open(_ context.Context, id string) (*pg0.Point, error) {
	r, err := c.find(id)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(filepath.Join(c.dir, r.ID, dataDir))
	if err != nil {
		return nil, fmt.Errorf("live point %s: %w", r.ID, err)
	}
	p := &pg0.Point{PointInfo: r.PointInfo, Tree: tree{root}, OnClose: root.Close}
	if r.Partial {
		p.Holds = allBut(r.Hollow)
	}
	return p, nil
}

// OpenWAL opens the point: its WAL lies beside everything else.
func (c *Catalog) OpenWAL(ctx context.Context, id string) (*pg0.Point, error) { return c.Open(ctx, id) }

func allBut(relations []string) func(string) bool {
	set := make(map[string]bool, len(relations))
	for _, name := range relations {
		set[name] = true
	}
	return func(relation string) bool { return !set[relation] }
}

// WAL has nothing: every point has its WAL in its own pg_wal.
func (c *Catalog) WAL(_ context.Context, name string) (pg0.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// WALNames lists nothing, see WAL.
func (c *Catalog) WALNames(context.Context) ([]string, error) { return nil, nil }

const defaultSegment = 16 << 20

// SegmentSize is that of the newest point.
func (c *Catalog) SegmentSize() int64 {
	if r := c.newest(); r != nil {
		return r.SegmentSize
	}
	return defaultSegment
}

// SystemID is that of the newest point, 0 when there is none.
func (c *Catalog) SystemID() uint64 {
	if r := c.newest(); r != nil {
		return r.SystemID
	}
	return 0
}

func (c *Catalog) newest() *Record {
	infos, err := c.Points(context.Background())
	if err != nil {
		return nil
	}
	for _, info := range slices.Backward(infos) {
		if r, err := c.record(info.ID); err == nil {
			return r
		}
	}
	return nil
}

// Damage is a file that is not as it was taken.
type Damage struct {
	Backup, File string
	Block        int64 // -1: the file as a whole
	Reason       string
}

// Verify compares the lengths of all files of a point with what was taken and
// reads them. The error wraps pg0.ErrCorrupt when one differs.
func (c *Catalog) Verify(ctx context.Context, id string, report func(Damage), progress func(done, total int64)) error {
	r, err := c.find(id)
	if err != nil {
		return err
	}
	var total, done, bad int64
	for _, size := range r.Files {
		total += size
	}
	for name, size := range r.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if why := readAll(filepath.Join(c.dir, r.ID, dataDir, filepath.FromSlash(name)), size); why != "" {
			bad++
			report(Damage{r.ID, name, -1, why})
		}
		done += size
		progress(done, total)
	}
	if bad > 0 {
		return fmt.Errorf("live point %s: %d damaged files: %w", r.ID, bad, pg0.ErrCorrupt)
	}
	return nil
}

// readAll says what is wrong with a file, or "".
func readAll(name string, size int64) string {
	file, err := os.Open(name)
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	buf := make([]byte, 1<<20)
	var got int64
	for {
		n, err := file.Read(buf)
		got += int64(n)
		if err != nil || n == 0 {
			break
		}
	}
	if got != size {
		return fmt.Sprintf("%d bytes can be read, %d were taken", got, size)
	}
	return ""
}
