// Package xact says how the transactions of a stopped cluster ended, from the
// files below pg_xact and pg_multixact of any tree. It knows PostgreSQL 12 to
// 18 with pages of 8192 bytes (clog.c, multixact.c).
package xact

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"sync/atomic"

	"github.com/fukanchik/pg0"
)

// Special transaction ids, and the status that alone means committed. After
// recovery nothing runs any more, so "in progress" crashed and "sub-committed"
// has a parent that never committed.
const (
	invalidXID   = 0
	bootstrapXID = 1
	frozenXID    = 2
	committed    = 1
)

const xidsPerPage = pageSize * 4

// Horizon holds the limits that pg_control gives: the next transaction and
// multixact to be made, the oldest still of use.
type Horizon struct {
	NextXID         uint64
	OldestXID       uint32
	NextMulti       uint32
	NextMultiOffset uint32
	OldestMulti     uint32
}

// A Log answers for one cluster. It reads pages of the logs when first asked
// and keeps them. It is safe for concurrent use and takes no locks.
type Log struct {
	horizon Horizon
	xacts   *slru
	offsets *slru
	members *slru
	future  atomic.Int64
}

// Open prepares a log. Nothing is read until the first question.
func Open(tree fs.FS, h Horizon) (*Log, error) {
	if h.NextXID < 3 || h.NextMulti == 0 {
		return nil, fmt.Errorf("transaction log: next transaction %d and next multixact %d are no counters of a cluster: %w", h.NextXID, h.NextMulti, pg0.ErrCorrupt)
	}
	return &Log{
		horizon: h,
		xacts:   newSLRU(tree, "pg_xact", 1<<32/xidsPerPage),
		offsets: newSLRU(tree, "pg_multixact/offsets", 1<<32/offsetsPerPage),
		members: newSLRU(tree, "pg_multixact/members", 1<<32/membersPerPage+1),
	}, nil
}

// Committed reports whether a transaction's changes are part of the cluster. A
// transaction that the cluster has not begun is not, and is counted by Future.
// The error names the log's file and wraps pg0.ErrCorrupt if it does not reach
// as far as it must.
func (l *Log) Committed(xid uint32) (bool, error) {
	switch {
	case xid == invalidXID:
		return false, nil
	case xid == bootstrapXID || xid == frozenXID:
		return true, nil
	case int32(xid-uint32(l.horizon.NextXID)) >= 0:
		l.future.Add(1)
		return false, nil
	}
	page, err := l.xacts.page(xid / xidsPerPage)
	if err != nil {
		return false, fmt.Errorf("transaction %d (oldest %d, next %d): %w", xid, l.horizon.OldestXID, uint32(l.horizon.NextXID), err)
	}
	return page[xid%xidsPerPage/4]>>(xid%4*2)&3 == committed, nil
}

// Future counts the questions about transactions that had not begun. A cluster
// that was recovered has none.
func (l *Log) Future() int64 { return l.future.Load() }

// le32 reads the number at byte offset off of a page.
func le32(page *page, off uint32) uint32 {
	return binary.LittleEndian.Uint32(page[off:])
}
