package relmap

import (
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
