package recovery

import (
	"math"
	"runtime"
	"time"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/wal"
)

// A Stage is a step on the way to an image.
type Stage string

// The stages, in their order.
const (
	StageCopy   Stage = "copy" // of a running server
	StageWait   Stage = "wait" // for another command that makes the same image
	StageMount  Stage = "mount"
	StageReplay Stage = "replay"
	StageChange Stage = "change" // of a derived image, instead of replay
	StageAsk    Stage = "definitions"
	StageStop   Stage = "stop"
	StageSeal   Stage = "seal"
)

// Progress says how far an image is. LSNs count in StageReplay only.
type Progress struct {
	Stage   Stage   `json:"stage"`
	Backup  string  `json:"backup"`
	LSN     pg0.LSN `json:"lsn,omitempty"` // replay has come to here
	From    pg0.LSN `json:"from,omitempty"`
	To      pg0.LSN `json:"to,omitempty"`
	Done    int64   `json:"bytes_done,omitempty"` // in StageCopy
	Total   int64   `json:"bytes_total,omitempty"`
	Percent float64 `json:"percent,omitempty"`
	Rate    float64 `json:"bytes_per_second,omitempty"`
	Left    float64 `json:"seconds_left,omitempty"` // an estimate; 0 is unknown
}

// progressInterval is how often a replay is looked at.
const progressInterval = 200 * time.Millisecond

func (m *Maker) report(p Progress) {
	if m.Progress == nil {
		return
	}
	m.reporting.Lock()
	defer m.reporting.Unlock()
	m.Progress(p)
}

func (s *stand) step(stage Stage) { s.report(Progress{Stage: stage, Backup: s.meta.Choice.Backup.ID}) }

// replayed reports how far replay has come: to the segment it asked for last,
// or further if the server says so.
func (r *run) replayed(logged pg0.LSN) {
	p := Progress{
		Stage: StageReplay, Backup: r.choice.Backup.ID,
		From: r.choice.Backup.StartLSN, To: r.choice.Stop.LSN,
	}
	at := max(r.feed.position(), logged)
	p.LSN = min(max(p.From, at), p.To)
	done, all := float64(p.LSN-p.From), float64(p.To-p.From)
	if all > 0 {
		p.Percent = 100 * done / all
	}
	if seconds := time.Since(r.started).Seconds(); done > 0 {
		p.Rate = done / seconds
		p.Left = math.Round((all - done) / p.Rate)
	}
	r.report(p)
}

// newFeeder makes the feeder of a run.
func newFeeder(r *run, way wal.Segments) *feeder {
	return &feeder{
		dir: r.tmp + "/" + walDir, archive: r.catalog, way: way, stream: r.point.Tree, own: r.choice.Stop.Record == 0,
		size: int64(r.control.WALSegmentSize), last: r.choice.Stop.LSN, log: r.Logger,
		slots: make(chan struct{}, max(2, runtime.NumCPU())), segments: map[string]*segment{},
	}
}
