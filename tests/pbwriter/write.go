package pbwriter

import (
	"bytes"
	"compress/zlib"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

type fileKey struct {
	path     string
	external int
}

// fileState is what a backup remembers of a file of the source, for the next
// backup in the chain.
type fileState struct {
	size   int64
	crc    uint32
	pages  []uint64 // hashes
	exists bool
}

// Write writes a backup of the items. If they have no backup_label it gets one.
func (c *Catalog) Write(b Backup, items []Item) *Written {
	c.t.Helper()
	out, labelled := c.begin(b), false
	for _, it := range items {
		c.must(out.item(it))
		labelled = labelled || it.Path == "backup_label"
	}
	if !labelled {
		c.must(out.item(File("backup_label", []byte(c.label(&out.Backup)))))
	}
	return c.end(out)
}

func (c *Catalog) label(b *Backup) string {
	return fmt.Sprintf("START WAL LOCATION: %v (file %s)\nCHECKPOINT LOCATION: %v\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n"+
		"START TIME: %s\nLABEL: pg_probackup\nSTART TIMELINE: %d\n",
		b.StartLSN, c.SegmentName(b.Timeline, b.StartLSN, true), b.StartLSN+0x38, b.StartTime.Format("2006-01-02 15:04:05 UTC"), b.Timeline)
}

// begin makes the backup's directory.
func (c *Catalog) begin(b Backup) *writer {
	c.t.Helper()
	b.defaults(c)
	w := &Written{Backup: b, Catalog: c, ID: ID(b.StartTime), files: map[fileKey]fileState{}}
	w.Dir = filepath.Join(c.InstanceDir(), w.ID)
	parent := c.backups[b.Parent]
	if parent == nil && b.Mode != "FULL" {
		c.t.Fatalf("pbwriter: %s backup without a parent", b.Mode)
	}
	c.must(os.MkdirAll(filepath.Join(w.Dir, "database"), 0o755))
	return c.writer(w, parent)
}

func (c *Catalog) writer(w, parent *Written) *writer {
	pages, err := zlib.NewWriterLevel(nil, w.Level)
	c.must(err)
	indexes, err := zlib.NewWriterLevel(nil, zlib.BestSpeed)
	c.must(err)
	return &writer{Written: w, parent: parent, crcTable: crcTable(w.version()), pages: pages, indexes: indexes}
}

// crcTable is that of the checksums of files.
func crcTable(version int) *crc32.Table {
	if version >= versionOldCRC && version <= versionOldCRCUntil {
		return crc32.IEEETable
	}
	return crc32.MakeTable(crc32.Castagnoli)
}

func (c *Catalog) end(out *writer) *Written {
	c.t.Helper()
	c.must(out.finish())
	c.backups[out.ID] = out.Written
	return out.Written
}

// A writer carries the state of a backup that is being written.
type writer struct {
	*Written
	parent   *Written
	crcTable *crc32.Table
	headers  bytes.Buffer // page_header_map
	pages    *zlib.Writer // used for one page after the other
	indexes  *zlib.Writer // and for one file's part of the map
}

func (w *writer) item(it Item) error {
	l := Line{
		Path: it.Path, Mode: it.Mode, External: it.External, DBOid: it.database(), Alg: None, IsCFS: it.CFS,
		FullSize: -1, Segno: -1, NBlocks: -1, NHeaders: -1,
	}
	if it.isDir() {
		w.Lines = append(w.Lines, l)
		return os.MkdirAll(w.target(it), 0o755)
	}
	segno, isData := it.segment()
	l.IsDatafile = isData
	source, err := it.Open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // gone since it was listed
	}
	if err != nil {
		return err
	}
	defer source.Close()
	if err := os.MkdirAll(filepath.Dir(w.target(it)), 0o755); err != nil {
		return err
	}
	if isData && !it.CFS {
		l.Segno = segno
		err = w.dataFile(&l, it, source)
	} else {
		err = w.plainFile(&l, it, source)
	}
	w.Lines = append(w.Lines, l)
	return err
}

func (w *writer) target(it Item) string {
	if it.External > 0 {
		return filepath.Join(w.Dir, "external_directories", "externaldir"+strconv.Itoa(it.External), it.Path)
	}
	return w.Path(it.Path)
}

func (w *writer) before(it Item) fileState {
	if w.parent == nil {
		return fileState{}
	}
	return w.parent.files[fileKey{it.Path, it.External}]
}

// alwaysCopied are the plain files that no backup takes from its parent.
func alwaysCopied(name string) bool {
	return strings.HasPrefix(name, "pg_wal/") || name == "global/pg_control" || filepath.Base(name) == "pg_filenode.map" ||
		name == "backup_label" || name == "tablespace_map" || name == "database_map"
}

func (w *writer) plainFile(l *Line, it Item, source io.Reader) error {
	data, err := io.ReadAll(source)
	if err != nil {
		return err
	}
	l.Size, l.CRC = int64(len(data)), w.crc(it.Path, data)
	old := w.before(it)
	w.files[fileKey{it.Path, it.External}] = fileState{size: l.Size, crc: l.CRC, exists: true}
	switch {
	case l.Size == 0:
		l.CRC = 0
		return nil
	case !w.storedPlain(it, old.exists && old.size == l.Size && old.crc == l.CRC):
		l.FullSize, l.Size = l.Size, sizeUnchanged
		return nil
	}
	return os.WriteFile(w.target(it), data, os.FileMode(it.Mode&0o777|0o600))
}

func (w *writer) storedPlain(it Item, same bool) bool {
	if it.Stored != nil && w.Mode != "FULL" {
		return it.Stored(0, nil)
	}
	return !same || alwaysCopied(it.Path)
}

// crc is the list's checksum of a plain file. That of pg_control is the one
// inside it.
func (w *writer) crc(name string, data []byte) uint32 {
	if name == "global/pg_control" && w.version() >= versionControlCRC {
		for off := 256; off+4 <= len(data) && off < 512; off += 4 {
			if sum := crc32.Checksum(data[:off], w.crcTable); sum == le32(data, off) {
				return sum
			}
		}
	}
	return crc32.Checksum(data, w.crcTable)
}

// finish writes the header map, the list and backup.control.
func (w *writer) finish() error {
	if w.headers.Len() > 0 && w.version() >= versionHeaderMap && !w.NoHeaderMap {
		if err := os.WriteFile(filepath.Join(w.Dir, "page_header_map"), w.headers.Bytes(), 0o600); err != nil {
			return err
		}
	}
	return w.Save()
}

// Save writes list and backup.control anew, after a change of the fields.
func (w *Written) Save() error {
	var lines []string
	for _, l := range w.Lines {
		lines = append(lines, l.text(&w.Backup))
	}
	if w.List != nil {
		lines = w.List(lines)
	}
	list := []byte(strings.Join(lines, "\n") + "\n")
	control := w.controlText(crc32.Checksum(list, crc32.MakeTable(crc32.Castagnoli)))
	if w.Control != nil {
		control = w.Control(control)
	}
	return errors.Join(
		os.WriteFile(filepath.Join(w.Dir, "backup_content.control"), list, 0o600),
		os.WriteFile(filepath.Join(w.Dir, "backup.control"), []byte(control), 0o600),
	)
}
