package pbwriter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/relmap/heap"
	"github.com/fukanchik/pg0/tests/pgtest"
	"github.com/jackc/pgx/v5"
)

// Hot takes a backup of a running server of PostgreSQL 15 or newer, as the tool
// does. Positions, timeline, version and whether pages have checksums are the
// server's. during runs when half of the files are copied; it may be nil. The
// WAL of a STREAM backup goes into it; that of an ARCHIVE backup must get into
// the archive by the server's own archiving, or by Archive. Replica says that
// the server is a standby.
func (c *Catalog) Hot(server *pgtest.Cluster, b Backup, during func()) *Written {
	c.t.Helper()
	conn := server.Connect("postgres")
	defer server.Close(conn)
	ask := func(sql string) []string { return pgtest.Query(c.t, conn, sql)[0] }
	facts := ask("select pg_backup_start('pbwriter', true), pg_snapshot_xmax(pg_current_snapshot()), (select timeline_id from pg_control_checkpoint()), current_setting('server_version_num')::int / 10000, current_setting('data_checksums')")
	b.StartLSN = c.lsn(facts[0])
	b.RecoveryXID, _ = strconv.ParseUint(facts[1], 10, 64)
	timeline, _ := strconv.ParseUint(facts[2], 10, 32)
	b.Timeline, b.Server, b.NoChecksums = uint32(timeline), facts[3], facts[4] == "off"

	out := c.begin(b)
	items := c.hotItems(server.Dir, !b.NoChecksums, during)
	control := items[len(items)-1]
	for i, it := range items[:len(items)-1] {
		if err := out.item(it); err != nil {
			c.t.Fatalf("item %d, %s: %v", i, it.Path, err)
		}
	}
	c.stop(out, server, conn)
	c.must(out.item(c.consistentAt(control, &out.Backup)))
	return c.end(out)
}

// consistentAt makes a standby's pg_control ask for WAL up to the end of the
// backup, as the tool does. The offsets are those of PostgreSQL 15.
func (c *Catalog) consistentAt(control Item, b *Backup) Item {
	if !b.Replica {
		return control
	}
	const minRecoveryPoint, crcOffset = 136, 288
	file, err := control.Open()
	c.must(err)
	defer file.Close()
	data, err := io.ReadAll(file)
	c.must(err)
	binary.LittleEndian.PutUint64(data[minRecoveryPoint:], uint64(b.StopLSN))
	binary.LittleEndian.PutUint32(data[minRecoveryPoint+8:], b.Timeline)
	binary.LittleEndian.PutUint32(data[crcOffset:], crc32.Checksum(data[:crcOffset], crc32.MakeTable(crc32.Castagnoli)))
	return File(control.Path, data)
}

func (c *Catalog) lsn(text string) pg0.LSN {
	c.t.Helper()
	lsn, err := pg0.ParseLSN(text)
	c.must(err)
	return lsn
}

// hotItems lists a data directory with pg_control last, opened so that no page
// is read while it is being written.
func (c *Catalog) hotItems(dir string, checksums bool, during func()) []Item {
	c.t.Helper()
	items := c.Scan(dir)
	slices.SortStableFunc(items, func(a, b Item) int {
		return int(bit(a.Path == "global/pg_control") - bit(b.Path == "global/pg_control"))
	})
	for i := range items {
		if segno, ok := items[i].segment(); ok {
			items[i].Open = func() (io.ReadCloser, error) {
				file, err := os.Open(filepath.Join(dir, items[i].Path))
				return &stableFile{File: file, first: uint32(segno) * blocksPerSegment, checksums: checksums}, err
			}
		}
	}
	if at := slices.IndexFunc(items[len(items)/2:], func(it Item) bool { return it.Open != nil }); at >= 0 && during != nil {
		half := &items[len(items)/2+at]
		open := half.Open
		half.Open = func() (io.ReadCloser, error) {
			during()
			return open()
		}
	}
	return items
}

// stop ends the backup on the server and adds what it gives: label, tablespace
// map, and the WAL of a STREAM backup.
func (c *Catalog) stop(out *writer, server *pgtest.Cluster, conn *pgx.Conn) {
	c.t.Helper()
	row := pgtest.Query(c.t, conn, "select lsn, labelfile, spcmapfile from pg_backup_stop(wait_for_archive => false)")[0]
	if !out.Replica {
		pgtest.Query(c.t, conn, "select pg_switch_wal()")
	}
	out.StopLSN = c.lsn(row[0])
	c.must(out.item(File("backup_label", []byte(row[1]))))
	if row[2] != "" {
		c.must(out.item(File("tablespace_map", []byte(row[2]))))
	}
	c.must(out.item(File("database_map", c.databaseMap(conn))))
	if !out.Stream {
		return
	}
	for _, name := range c.Segments(out.Timeline, out.StartLSN, out.StopLSN) {
		data, err := os.ReadFile(filepath.Join(server.Dir, "pg_wal", name))
		c.must(err)
		c.must(out.item(File("pg_wal/"+name, data)))
	}
}

func (c *Catalog) databaseMap(conn *pgx.Conn) []byte {
	var s strings.Builder
	for _, row := range pgtest.Query(c.t, conn, "select oid, datname from pg_database where datname !~ '^template[01]$'") {
		fmt.Fprintf(&s, "{\"dbOid\":\"%s\", \"datname\":\"%s\"}\n", row[0], row[1])
	}
	return []byte(s.String())
}

// A stableFile reads a data file page by page, each until it is whole: until
// its checksum is right, or where there is none until two readings agree.
type stableFile struct {
	*os.File
	first     uint32 // block of the segment, in the fork
	next      uint32 // block, in the segment
	checksums bool
}

var errTorn = errors.New("page does not come to rest")

func (f *stableFile) Read(b []byte) (int, error) {
	if len(b) != pageSize {
		return 0, fmt.Errorf("read of %d bytes", len(b))
	}
	off := int64(f.next) * pageSize
	again := make([]byte, pageSize)
	for range 1000 {
		n, err := f.ReadAt(b, off)
		if n < pageSize {
			return 0, errors.Join(io.EOF, ignoreEOF(err))
		}
		if f.checksums && (heap.IsNew(b) || Checksum(b, f.first+f.next) == uint16(b[8])|uint16(b[9])<<8) {
			f.next++
			return pageSize, nil
		}
		if n, _ = f.ReadAt(again, off); !f.checksums && n == pageSize && string(again) == string(b) {
			f.next++
			return pageSize, nil
		}
	}
	return 0, errTorn
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
