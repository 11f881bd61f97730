package recovery

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/reach"
	"github.com/fukanchik/pg0/cmd/internal/wal"
)

// Replaying the creation of a tablespace changes the mode of the directory at
// its original path, makes one in it and links to it: on the production host,
// production's own. So the record is given a path below the mount before
// PostgreSQL gets to see it. Such a path is relative to the data directory,
// where recovery runs, and short, since the record cannot grow; the link that
// is made to it under pg_tblspc the mount turns into one of its own, whatever
// it leads to.

// A confined record is a record of the log as it is and as PostgreSQL gets it.
// Both have the same length.
type confined struct {
	at       pg0.LSN
	original []byte
	changed  []byte
}

// standIn is the directory, in the data directory, that stands for the original
// path of the nth tablespace during replay. No file of a cluster has such a
// name, and no absolute path is shorter than the first of them.
func standIn(n int) string { return "~" + strconv.FormatInt(int64(n), 36) }

// confine rewrites the records that create the tablespaces of the choice, and
// makes the directories they lead to from then on.
func (r *run) confine(ctx context.Context) ([]confined, error) {
	if len(r.choice.Tablespaces) == 0 {
		return nil, nil
	}
	history, err := wal.LoadHistory(ctx, r.catalog, r.point.Tree, r.choice.Timeline)
	if err != nil {
		return nil, err
	}
	path, err := wal.NewPath(ctx, r.catalog, r.point.Tree, history)
	if err != nil {
		return nil, err
	}
	reader := wal.NewReader(path, 0)
	defer reader.Close()
	var all []confined
	for n, tablespace := range r.choice.Tablespaces {
		reader.Seek(tablespace.LSN)
		record, err := reader.Next(ctx)
		if err != nil {
			return nil, err
		}
		one, ok := confineRecord(record, tablespace.Path, standIn(n))
		if !ok {
			return nil, refuseTablespace(tablespace)
		}
		if err := os.Mkdir(filepath.Join(r.mnt(), standIn(n)), 0o700); err != nil {
			return nil, err
		}
		all = append(all, one)
		r.meta.Notes = append(r.meta.Notes, fmt.Sprintf("WAL at %s creates tablespace %d in %s: its files are below the mount, that directory was not touched",
			tablespace.LSN, tablespace.OID, tablespace.Path))
	}
	return all, nil
}

func refuseTablespace(t reach.Tablespace) error {
	return exit.Error(exit.Refused, fmt.Errorf("WAL at %s creates tablespace %d in %s: replaying it would touch that directory; choose a target before %s, or a backup made after it",
		t.LSN, t.OID, t.Path, t.LSN))
}

// removeStandIns removes what replay has left at the paths of confine: the
// directories that PostgreSQL made there, which nothing leads to.
func (r *run) removeStandIns() error {
	for n := range r.choice.Tablespaces {
		err := os.RemoveAll(filepath.Join(r.mnt(), standIn(n)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Places in a record's header: XLogRecord in access/xlogrecord.h.
const (
	recordHeader = 24
	recordCRC    = 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// confineRecord puts another path into a record that creates a tablespace. The
// path is what the record ends with; PostgreSQL reads it up to its zero byte.
func confineRecord(record *wal.Record, from, to string) (confined, bool) {
	original := bytes.Clone(record.Bytes)
	tail := append([]byte(from), 0)
	if !bytes.HasSuffix(original, tail) || len(to) > len(from) {
		return confined{}, false
	}
	changed := bytes.Clone(original)
	path := changed[len(changed)-len(tail):]
	clear(path)
	copy(path, to)
	crc := crc32.Update(0, castagnoli, changed[recordHeader:])
	crc = crc32.Update(crc, castagnoli, changed[:recordCRC])
	binary.LittleEndian.PutUint32(changed[recordCRC:], crc)
	return confined{record.LSN, original, changed}, true
}

// Lengths of the headers that interrupt a record: access/xlog_internal.h.
const (
	walPage     = 8192
	shortHeader = 24
	longHeader  = 40 // of the first page of a segment
)

// apply changes the part of the record that lies in a segment, which begins at
// start. A segment of another timeline, that has something else there, is left
// alone.
func (c confined) apply(data []byte, start pg0.LSN) {
	if !c.visit(data, start, func(at *byte, i int) bool { return *at == c.original[i] }) {
		return
	}
	c.visit(data, start, func(at *byte, i int) bool {
		*at = c.changed[i]
		return true
	})
}

// visit calls do for each byte of the record in the segment, until it says no.
func (c confined) visit(data []byte, start pg0.LSN, do func(at *byte, i int) bool) bool {
	size := pg0.LSN(len(data))
	at := c.at
	for i := range c.original {
		if at%walPage == 0 {
			if at%size == 0 {
				at += longHeader
			} else {
				at += shortHeader
			}
		}
		if at >= start && at < start+size && !do(&data[at-start], i) {
			return false
		}
		at++
	}
	return true
}
