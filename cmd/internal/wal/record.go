package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/fukanchik/pg0"
)

// Resource managers whose records are decoded (access/rmgrlist.h).
const (
	rmgrXLOG  = 0
	rmgrXact  = 1
	rmgrTblSp = 5
	rmgrMax   = 21 // the last built-in one
	rmgrFirst = 128
)

// Kinds of records of the XLOG and transaction managers.
const (
	infoMask = 0xF0 // the other half of the byte belongs to the reader of records

	xlogCheckpointShutdown = 0x00
	xlogCheckpointOnline   = 0x10
	xlogSwitch             = 0x40
	xlogBackupEnd          = 0x50
	xlogRestorePoint       = 0x70
	xlogEndOfRecovery      = 0x90

	xactMask          = 0x70
	xactHasInfo       = 0x80
	xactCommit        = 0x00
	xactPrepare       = 0x10
	xactAbort         = 0x20
	xactCommitPrep    = 0x30
	xactAbortPrep     = 0x40
	tablespaceCreate  = 0x00
	restorePointBytes = 8 + 64
)

// Contents flags of a commit or abort record (xinfo).
const (
	xinfoDatabase   = 1 << 0
	xinfoSubxacts   = 1 << 1
	xinfoRelations  = 1 << 2
	xinfoInvals     = 1 << 3
	xinfoTwoPhase   = 1 << 4
	xinfoGID        = 1 << 7
	xinfoStats      = 1 << 8
	bytesRelation   = 12
	bytesInval      = 16
	bytesStats      = 12
	bytesStatsSince = 16 // from PostgreSQL 18 on: 64-bit object ids
)

// headerSize is the length of XLogRecord, the fixed beginning of a record.
const headerSize = 24

// maxRecord is longer than any record that PostgreSQL can read back.
const maxRecord = 1 << 30

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errRecord says that the bytes of a record contradict themselves.
var errRecord = errors.New("the record contradicts itself")

// A Record is one entry of the log. Bytes is the whole of it, page headers
// taken out; it is valid until the reader goes on.
type Record struct {
	LSN      pg0.LSN // where it begins
	End      pg0.LSN // where the next one may begin
	Timeline uint32  // of the page it begins on
	Version  int     // PostgreSQL's major version, from the page
	Bytes    []byte
}

// XID is the transaction that wrote the record, 0 for none.
func (r *Record) XID() uint32 { return binary.LittleEndian.Uint32(r.Bytes[4:]) }

// Prev is where the record before this one begins.
func (r *Record) Prev() pg0.LSN { return pg0.LSN(binary.LittleEndian.Uint64(r.Bytes[8:])) }

// Info is the kind of the record within its resource manager.
func (r *Record) Info() byte { return r.Bytes[16] & infoMask }

// Manager is the number of the resource manager that replays the record.
func (r *Record) Manager() byte { return r.Bytes[17] }

func (r *Record) isSwitch() bool { return r.Manager() == rmgrXLOG && r.Info() == xlogSwitch }

// intact checks the CRC, which covers the body first and the header last.
func (r *Record) intact() bool {
	crc := crc32.Update(0, castagnoli, r.Bytes[headerSize:])
	crc = crc32.Update(crc, castagnoli, r.Bytes[:20])
	return crc == binary.LittleEndian.Uint32(r.Bytes[20:])
}

// Ids of the parts of a record's body (access/xlogrecord.h).
const (
	idBlockMax   = 32
	idTopXID     = 252
	idOrigin     = 253
	idDataLong   = 254
	idDataShort  = 255
	blockImage   = 0x10
	blockSameRel = 0x80
	imageHole    = 0x01
)

// Main is the main data of the record: what its resource manager put there
// apart from blocks.
func (r *Record) Main() ([]byte, error) {
	p := r.Bytes[headerSize:]
	var rest, main uint64 // bytes of all data that follow the headers, and of the main data
	for uint64(len(p)) > rest {
		id := p[0]
		size, data := 0, uint64(0)
		switch {
		case id == idDataShort && len(p) >= 2:
			size, main = 2, uint64(p[1])
			data = main
		case id == idDataLong && len(p) >= 5:
			size, main = 5, uint64(binary.LittleEndian.Uint32(p[1:]))
			data = main
		case id == idOrigin:
			size = 3
		case id == idTopXID:
			size = 5
		case id <= idBlockMax:
			size, data = blockHeader(p, r.Version)
		}
		if size == 0 || size > len(p) {
			return nil, fmt.Errorf("WAL record at %s: %w", r.LSN, errRecord)
		}
		p, rest = p[size:], rest+data
	}
	if uint64(len(p)) != rest || main > rest {
		return nil, fmt.Errorf("WAL record at %s: %w", r.LSN, errRecord)
	}
	return p[rest-main:], nil
}

// blockHeader gives the length of a block reference and of the data that it
// promises; 0 when p is too short.
func blockHeader(p []byte, version int) (size int, data uint64) {
	if len(p) < 4 {
		return 0, 0
	}
	flags := p[1]
	size, data = 4, uint64(binary.LittleEndian.Uint16(p[2:]))
	if flags&blockImage != 0 {
		if len(p) < size+5 {
			return 0, 0
		}
		image := p[size+4]
		data += uint64(binary.LittleEndian.Uint16(p[size:]))
		size += 5
		if image&imageHole != 0 && image&compressed(version) != 0 {
			size += 2
		}
	}
	if flags&blockSameRel == 0 {
		size += 12
	}
	return size + 4, data
}

// compressed is the flags of a block image that say so.
func compressed(version int) byte {
	if version < 15 {
		return 0x02
	}
	return 0x04 | 0x08 | 0x10 // pglz, lz4, zstd
}

// EventKind says what an Event is.
type EventKind int

// Kinds of events.
const (
	Commit EventKind = iota + 1
	Abort
	Prepare
	Checkpoint
	BackupEnd
	RestorePoint
	EndOfRecovery
	TablespaceCreate
)

// An Event is a record that matters to whoever looks for a moment. Times are
// in UTC; fields that the kind has not are zero.
type Event struct {
	Kind EventKind
	LSN  pg0.LSN // where the record begins
	End  pg0.LSN // where it ends
	Time time.Time
	// XID is the transaction that ends or is prepared; for one that was
	// prepared earlier, that transaction and not the one that ended it.
	XID uint32
	// Subs are its subtransactions.
	Subs []uint32
	// Prepared says that a commit or abort ends a prepared transaction.
	Prepared bool
	// Name of a restore point.
	Name string
	// Redo is where replay from a checkpoint begins; of a backup's end, where
	// the backup began.
	Redo pg0.LSN
	// Shutdown says that a checkpoint was made while the server stopped.
	Shutdown bool
	// Timeline of a checkpoint or an end of recovery, and the one before.
	Timeline, Previous uint32
	// OID and Path of a tablespace; an empty path means inside the cluster.
	OID  uint32
	Path string
}

// Decode gives the event a record stands for; nil for all others.
func (r *Record) Decode() (*Event, error) {
	decode := decoderOf(r)
	if decode == nil {
		return nil, nil
	}
	main, err := r.Main()
	if err != nil {
		return nil, err
	}
	e := &Event{LSN: r.LSN, End: r.End, XID: r.XID()}
	if !decode(e, main, r) {
		return nil, fmt.Errorf("WAL record at %s: %w", r.LSN, errRecord)
	}
	return e, nil
}

// A decoder fills the event from a record's main data and tells whether that
// was long enough.
type decoder func(e *Event, main []byte, r *Record) bool

func decoderOf(r *Record) decoder {
	switch r.Manager() {
	case rmgrXLOG:
		switch r.Info() {
		case xlogCheckpointShutdown, xlogCheckpointOnline:
			return decodeCheckpoint
		case xlogBackupEnd:
			return decodeBackupEnd
		case xlogRestorePoint:
			return decodeRestorePoint
		case xlogEndOfRecovery:
			return decodeEndOfRecovery
		}
	case rmgrXact:
		switch r.Info() & xactMask {
		case xactCommit, xactCommitPrep, xactAbort, xactAbortPrep:
			return decodeEnd
		case xactPrepare:
			return decodePrepare
		}
	case rmgrTblSp:
		if r.Info() == tablespaceCreate {
			return decodeTablespace
		}
	}
	return nil
}

// timestamp reads PostgreSQL's: microseconds from the year 2000 on.
func timestamp(p []byte) time.Time {
	const epoch = 946684800
	us := int64(binary.LittleEndian.Uint64(p))
	return time.Unix(epoch+us/1e6, us%1e6*1e3).UTC()
}

// decodeCheckpoint reads struct CheckPoint as far as all versions agree, and
// its time, whose place depends on what lies before it.
func decodeCheckpoint(e *Event, main []byte, r *Record) bool {
	at := 64 // of the field "time", PostgreSQL 12 to 18
	if len(main) < at+8 {
		return false
	}
	e.Kind = Checkpoint
	e.Shutdown = r.Info() == xlogCheckpointShutdown
	e.Redo = pg0.LSN(binary.LittleEndian.Uint64(main))
	e.Timeline = binary.LittleEndian.Uint32(main[8:])
	e.Previous = binary.LittleEndian.Uint32(main[12:])
	e.Time = time.Unix(int64(binary.LittleEndian.Uint64(main[at:])), 0).UTC()
	return true
}

func decodeBackupEnd(e *Event, main []byte, _ *Record) bool {
	if len(main) < 8 {
		return false
	}
	e.Kind, e.Redo = BackupEnd, pg0.LSN(binary.LittleEndian.Uint64(main))
	return true
}

func decodeRestorePoint(e *Event, main []byte, _ *Record) bool {
	if len(main) < restorePointBytes {
		return false
	}
	name, _, _ := bytes.Cut(main[8:restorePointBytes], []byte{0})
	e.Kind, e.Time, e.Name = RestorePoint, timestamp(main), string(name)
	return true
}

func decodeEndOfRecovery(e *Event, main []byte, _ *Record) bool {
	if len(main) < 16 {
		return false
	}
	e.Kind, e.Time = EndOfRecovery, timestamp(main)
	e.Timeline = binary.LittleEndian.Uint32(main[8:])
	e.Previous = binary.LittleEndian.Uint32(main[12:])
	return true
}

func decodeTablespace(e *Event, main []byte, _ *Record) bool {
	if len(main) < 5 {
		return false
	}
	path, _, ok := bytes.Cut(main[4:], []byte{0})
	e.Kind, e.OID, e.Path = TablespaceCreate, binary.LittleEndian.Uint32(main), string(path)
	return ok
}

// decodePrepare reads struct xl_xact_prepare as far as the xid.
func decodePrepare(e *Event, main []byte, _ *Record) bool {
	const xidAt, timeAt = 8, 16
	if len(main) < timeAt+8 {
		return false
	}
	e.Kind, e.XID = Prepare, binary.LittleEndian.Uint32(main[xidAt:])
	e.Time = timestamp(main[timeAt:])
	return true
}

// decodeEnd reads the records of commits and aborts: the time, then the parts
// that the flags announce, in this order.
func decodeEnd(e *Event, main []byte, r *Record) bool {
	if len(main) < 8 {
		return false
	}
	op := r.Info() & xactMask
	e.Kind = Commit
	if op == xactAbort || op == xactAbortPrep {
		e.Kind = Abort
	}
	e.Prepared = op == xactCommitPrep || op == xactAbortPrep
	e.Time = timestamp(main)
	p := parts{main[8:], true}
	var flags uint32
	if r.Bytes[16]&xactHasInfo != 0 {
		flags = p.uint32()
	}
	if flags&xinfoDatabase != 0 {
		p.skip(8)
	}
	if flags&xinfoSubxacts != 0 {
		e.Subs = p.xids()
	}
	if flags&xinfoRelations != 0 {
		p.skipArray(bytesRelation)
	}
	if flags&xinfoStats != 0 {
		p.skipArray(statsItem(r.Version))
	}
	if flags&xinfoInvals != 0 {
		p.skipArray(bytesInval)
	}
	if flags&xinfoTwoPhase != 0 {
		e.XID = p.uint32()
	}
	return p.ok
}

func statsItem(version int) uint64 {
	if version >= 18 {
		return bytesStatsSince
	}
	return bytesStats
}

// parts reads the parts of a record one after the other; ok turns false when
// the record is too short.
type parts struct {
	rest []byte
	ok   bool
}

func (p *parts) skip(n uint64) {
	if uint64(len(p.rest)) < n {
		p.rest, p.ok = nil, false
		return
	}
	p.rest = p.rest[n:]
}

func (p *parts) uint32() uint32 {
	if len(p.rest) < 4 {
		p.rest, p.ok = nil, false
		return 0
	}
	v := binary.LittleEndian.Uint32(p.rest)
	p.rest = p.rest[4:]
	return v
}

func (p *parts) skipArray(item uint64) { p.skip(uint64(p.uint32()) * item) }

func (p *parts) xids() []uint32 {
	n := uint64(p.uint32())
	if uint64(len(p.rest)) < 4*n {
		p.rest, p.ok = nil, false
		return nil
	}
	xids := make([]uint32, n)
	for i := range xids {
		xids[i] = p.uint32()
	}
	return xids
}
