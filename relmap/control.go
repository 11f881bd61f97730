package relmap

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"math/bits"
	"time"

	"github.com/fukanchik/pg0"
)

// State is DBState of pg_control.
type State uint32

// The states of pg_control.
const (
	StateStartup State = iota
	StateShutdowned
	StateShutdownedInRecovery
	StateShutdowning
	StateCrashRecovery
	StateArchiveRecovery
	StateProduction
)

// Control is the content of global/pg_control.
type Control struct {
	SystemID       uint64
	Version        uint32 // pg_control version: 1201, 1300, 1700, 1800
	CatalogVersion uint32
	State          State
	Time           time.Time // of the last write of the file

	Checkpoint        pg0.LSN // place of the latest checkpoint record
	Redo              pg0.LSN // its redo point
	Timeline          uint32
	PrevTimeline      uint32
	FullPageWrites    bool
	NextXID           uint64 // with epoch
	NextOID           uint32
	NextMulti         uint32
	NextMultiOffset   uint32
	OldestXID         uint32
	OldestXIDDB       uint32
	OldestMulti       uint32
	OldestMultiDB     uint32
	CheckpointTime    time.Time
	OldestCommitTs    uint32
	NewestCommitTs    uint32
	OldestActiveXID   uint32
	UnloggedLSN       pg0.LSN
	MinRecovery       pg0.LSN
	MinRecoveryTLI    uint32
	BackupStart       pg0.LSN
	BackupEnd         pg0.LSN
	BackupEndRequired bool

	WALLevel         int32 // 0 minimal, 1 replica, 2 logical
	WALLogHints      bool
	MaxConnections   int32
	MaxWorkers       int32
	MaxWALSenders    int32
	MaxPreparedXacts int32
	MaxLocksPerXact  int32
	TrackCommitTs    bool

	MaxAlign         uint32
	FloatFormat      float64
	BlockSize        int
	SegmentBlocks    int // blocks in a segment of a relation
	WALBlockSize     int
	WALSegmentSize   int // bytes
	NameDataLen      int
	IndexMaxKeys     int
	ToastMaxChunk    int
	LargeObjectBlock int
	Float8ByVal      bool
	Checksums        bool // data_checksum_version is not 0
	CharSigned       bool // default_char_signedness; true before 18
}

// controlPath is the place of pg_control in a cluster directory.
const controlPath = "global/pg_control"

// ReadControl reads global/pg_control of a cluster directory. The error wraps
// pg0.ErrCorrupt for a file that is short, whose checksum is wrong, or whose
// version is none of PostgreSQL 12 to 18.
func ReadControl(tree fs.FS) (*Control, error) {
	data, err := fs.ReadFile(tree, controlPath)
	if err != nil {
		return nil, fmt.Errorf("read pg_control: %w", err)
	}
	control, err := ParseControl(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", controlPath, err)
	}
	return control, nil
}

// ParseControl decodes the bytes of pg_control as PostgreSQL 12 to 18 write
// them on a little-endian 64-bit machine (catalog/pg_control.h). Its error
// wraps pg0.ErrCorrupt.
func ParseControl(data []byte) (*Control, error) {
	if len(data) < 296 {
		return nil, fmt.Errorf("%w: %d bytes long, a control file has 8192", pg0.ErrCorrupt, len(data))
	}
	b := controlBytes(data)
	crcOffset := 288
	switch version := b.u32(8); {
	case version == 1800:
		crcOffset = 292
	case bits.ReverseBytes32(version) < 1<<16:
		return nil, fmt.Errorf("%w: written on a machine with another byte order", pg0.ErrCorrupt)
	case version != 1201 && version != 1300 && version != 1700:
		return nil, fmt.Errorf("%w: control file version %d is none of PostgreSQL 12 to 18", pg0.ErrCorrupt, version)
	}
	if sum := crc32.Checksum(data[:crcOffset], castagnoli); sum != b.u32(crcOffset) {
		return nil, fmt.Errorf("%w: checksum is %08X, the file says %08X", pg0.ErrCorrupt, sum, b.u32(crcOffset))
	}
	c := b.settings()
	b.checkpoint(c)
	return c, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// controlBytes is a control file long enough for every offset used.
type controlBytes []byte

func (b controlBytes) u32(at int) uint32     { return binary.LittleEndian.Uint32(b[at:]) }
func (b controlBytes) i32(at int) int32      { return int32(b.u32(at)) }
func (b controlBytes) u64(at int) uint64     { return binary.LittleEndian.Uint64(b[at:]) }
func (b controlBytes) lsn(at int) pg0.LSN    { return pg0.LSN(b.u64(at)) }
func (b controlBytes) bool(at int) bool      { return b[at] != 0 }
func (b controlBytes) time(at int) time.Time { return time.Unix(int64(b.u64(at)), 0).UTC() }

// checkpoint fills what changes while a cluster runs.
func (b controlBytes) checkpoint(c *Control) {
	c.State, c.Time = State(b.u32(16)), b.time(24)
	c.Checkpoint, c.Redo = b.lsn(32), b.lsn(40)
	c.Timeline, c.PrevTimeline = b.u32(48), b.u32(52)
	c.FullPageWrites = b.bool(56)
	c.NextXID, c.NextOID = b.u64(64), b.u32(72)
	c.NextMulti, c.NextMultiOffset = b.u32(76), b.u32(80)
	c.OldestXID, c.OldestXIDDB = b.u32(84), b.u32(88)
	c.OldestMulti, c.OldestMultiDB = b.u32(92), b.u32(96)
	c.CheckpointTime = b.time(104)
	c.OldestCommitTs, c.NewestCommitTs = b.u32(112), b.u32(116)
	c.OldestActiveXID, c.UnloggedLSN = b.u32(120), b.lsn(128)
	c.MinRecovery, c.MinRecoveryTLI = b.lsn(136), b.u32(144)
	c.BackupStart, c.BackupEnd = b.lsn(152), b.lsn(160)
	c.BackupEndRequired = b.bool(168)
}

// settings makes a Control of what is fixed by initdb and by the configuration.
func (b controlBytes) settings() *Control {
	c := &Control{
		SystemID: b.u64(0), Version: b.u32(8), CatalogVersion: b.u32(12),
		WALLevel: b.i32(172), WALLogHints: b.bool(176),
		MaxConnections: b.i32(180), MaxWorkers: b.i32(184), MaxWALSenders: b.i32(188),
		MaxPreparedXacts: b.i32(192), MaxLocksPerXact: b.i32(196), TrackCommitTs: b.bool(200),
		MaxAlign: b.u32(204), FloatFormat: math.Float64frombits(b.u64(208)),
		BlockSize: int(b.u32(216)), SegmentBlocks: int(b.u32(220)),
		WALBlockSize: int(b.u32(224)), WALSegmentSize: int(b.u32(228)),
		NameDataLen: int(b.u32(232)), IndexMaxKeys: int(b.u32(236)),
		ToastMaxChunk: int(b.u32(240)), LargeObjectBlock: int(b.u32(244)),
		Float8ByVal: b.bool(248), Checksums: b.u32(252) != 0, CharSigned: true,
	}
	if c.Version < 1300 { // before 13 float4 had a flag of its own
		c.Float8ByVal = b.bool(249)
	}
	if c.Version >= 1800 {
		c.CharSigned = b.bool(256)
	}
	return c
}

// String gives the words of pg_controldata.
func (s State) String() string {
	names := [...]string{
		"starting up", "shut down", "shut down in recovery", "shutting down",
		"in crash recovery", "in archive recovery", "in production",
	}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("unrecognized state %d", uint32(s))
}
