package pbwriter

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Line is an entry of backup_content.control. Numbers that were not written
// are -1, but Size, where it means unchanged.
type Line struct {
	Path       string
	Size       int64
	Mode       uint32
	IsDatafile bool
	IsCFS      bool
	CRC        uint32
	Alg        string
	External   int
	DBOid      string
	FullSize   int64
	Segno      int
	NBlocks    int64
	NHeaders   int64
	HdrCRC     uint32
	HdrOff     int64
	HdrSize    int64
}

// text writes the line as a version of the tool does. Nothing is escaped.
func (l Line) text(b *Backup) string {
	v := b.version()
	var s strings.Builder
	pair := func(sep, key, value string) { fmt.Fprintf(&s, `%s"%s":"%s"`, sep, key, value) }
	number := func(sep, key string, value int64) { pair(sep, key, strconv.FormatInt(value, 10)) }
	s.WriteByte('{')
	pair("", "path", l.Path)
	size := strconv.FormatInt(l.Size, 10)
	if v < versionExternals {
		size = strconv.FormatUint(uint64(l.Size), 10)
	}
	pair(", ", "size", size)
	mode := l.Mode
	if b.Kind {
		pair(", ", "kind", map[bool]string{true: "dir", false: "reg"}[mode&modeFile == 0])
		mode &= 0o777
	}
	number(", ", "mode", int64(mode))
	number(", ", "is_datafile", bit(l.IsDatafile))
	number(", ", "is_cfs", bit(l.IsCFS))
	number(", ", "crc", int64(l.CRC))
	pair(", ", "compress_alg", l.Alg)
	if v >= versionExternals {
		number(", ", "external_dir_num", int64(l.External))
	}
	if v >= versionDBOid {
		pair(", ", "dbOid", l.DBOid)
	}
	if l.FullSize >= 0 && v >= versionFullSize {
		number(",", "full_size", l.FullSize)
	}
	if l.Segno >= 0 {
		number(",", "segno", int64(l.Segno))
	}
	if l.NBlocks >= 0 {
		number(",", "n_blocks", l.NBlocks)
	}
	if l.NHeaders > 0 && v >= versionHeaderMap {
		number(",", "n_headers", l.NHeaders)
		number(",", "hdr_crc", int64(l.HdrCRC))
		number(",", "hdr_off", l.HdrOff)
		number(",", "hdr_size", l.HdrSize)
	}
	s.WriteByte('}')
	return s.String()
}

func bit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// controlText writes backup.control. sizes are those of the list.
func (w *Written) controlText(contentCRC uint32) string {
	var s strings.Builder
	line := func(key string, value any) { fmt.Fprintf(&s, "%s = %v\n", key, value) }
	quoted := func(key, value string) { fmt.Fprintf(&s, "%s = '%s'\n", key, value) }
	moment := func(key string, t time.Time) { quoted(key, t.UTC().Format("2006-01-02 15:04:05+00")) }
	v := w.version()
	s.WriteString("#Configuration\n")
	line("backup-mode", w.Mode)
	line("stream", w.Stream)
	line("compress-alg", w.Compress)
	line("compress-level", w.Level)
	line("from-replica", w.Replica)
	s.WriteString("\n#Compatibility\n")
	line("block-size", pageSize)
	line("xlog-block-size", pageSize)
	line("checksum-version", bit(!w.NoChecksums))
	line("program-version", w.Program)
	line("server-version", w.Server)
	s.WriteString("\n#Result backup info\n")
	line("timelineid", w.Timeline)
	line("start-lsn", w.StartLSN)
	line("stop-lsn", w.StopLSN)
	moment("start-time", w.StartTime)
	moment("end-time", w.StartTime.Add(2*time.Second))
	if w.RecoveryXID != 0 {
		line("recovery-xid", w.RecoveryXID)
	}
	moment("recovery-time", w.StartTime.Add(time.Second))
	if w.MergeDest != "" {
		quoted("merge-dest-id", w.MergeDest)
	}
	stored, wal := w.bytes()
	line("data-bytes", stored)
	line("wal-bytes", wal)
	if v >= versionDBOid {
		line("uncompressed-bytes", stored)
		line("pgdata-bytes", stored)
	}
	line("status", w.Status)
	if w.Parent != "" {
		quoted("parent-backup-id", w.Parent)
	}
	quoted("primary_conninfo", "user=postgres host=/srv/"+path.Base(path.Dir(w.Dir))+"/run port=5432")
	if len(w.Externals) > 0 {
		quoted("external-dirs", strings.Join(w.Externals, ":"))
	}
	if w.Note != "" {
		quoted("note", w.Note)
	}
	if v >= versionContentCRC {
		line("content-crc", contentCRC)
	}
	return s.String()
}

// bytes are the sizes that backup.control gives: of WAL and of all else.
func (w *Written) bytes() (stored, wal int64) {
	for _, l := range w.Lines {
		switch {
		case l.Mode&modeFile == 0:
			stored += directoryOnDisk
		case strings.HasPrefix(l.Path, "pg_wal/"):
			wal += max(l.Size, 0)
		default:
			stored += max(l.Size, 0)
		}
	}
	if !w.Stream {
		wal = (int64(w.StopLSN)/w.Catalog.SegmentSize - int64(w.StartLSN)/w.Catalog.SegmentSize) * w.Catalog.SegmentSize
	}
	return stored, wal
}

// ExternalNumber is the number of an external directory: its place among the
// sorted ones, from 1.
func (b *Backup) ExternalNumber(dir string) int {
	return slices.Index(slices.Sorted(slices.Values(b.Externals)), dir) + 1
}
