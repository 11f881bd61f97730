package recovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/fukanchik/pg0/cmd/internal/reach"
	"github.com/fukanchik/pg0/cmd/internal/wal"
)

// checkSegment looks through a segment for records that would make replay
// touch something outside of the mount, up to the end of the recovery. Records
// that reach into the next segment are not seen here; the choice of the target
// has read those too.
func (f *feeder) checkSegment(ctx context.Context, seg wal.Segment, data []byte) error {
	reader := wal.NewReader(&loneSegment{seg, data, f.size}, 0)
	defer reader.Close()
	if _, err := reader.SeekFirst(ctx, startOf(seg, f.size)); err != nil {
		return endOfLog(err)
	}
	for {
		record, err := reader.Next(ctx)
		if err != nil {
			return endOfLog(err)
		}
		if record.LSN >= f.last {
			return nil
		}
		event, err := record.Decode()
		if err != nil {
			return err
		}
		if event != nil && event.Kind == wal.TablespaceCreate && event.Path != "" {
			return tablespaceRefusal(reach.Tablespace{LSN: event.LSN, OID: event.OID, Path: event.Path})
		}
	}
}

// endOfLog: where records end is PostgreSQL's to judge.
func endOfLog(err error) error {
	var end *wal.End
	if errors.As(err, &end) {
		return nil
	}
	return err
}

// A loneSegment is a way through the log of one segment.
type loneSegment struct {
	segment wal.Segment
	data    []byte
	size    int64
}

// Segment opens it: there is one.
func (s *loneSegment) Segment(_ context.Context, number uint64) (*wal.OpenSegment, error) {
	name := s.Expected(number)
	if number != s.segment.Number {
		return nil, fmt.Errorf("WAL segment %s: %w", name, fs.ErrNotExist)
	}
	return &wal.OpenSegment{File: memoryFile{bytes.NewReader(s.data)}, Segment: s.segment, Path: name}, nil
}

func (s *loneSegment) SegmentSize() int64 { return s.size }

func (s *loneSegment) Expected(number uint64) string {
	return wal.Segment{Timeline: s.segment.Timeline, Number: number}.Name(s.size)
}

// A memoryFile is a file whose content is at hand.
type memoryFile struct{ *bytes.Reader }

func (memoryFile) Close() error { return nil }

// Stat is not asked of a segment.
func (memoryFile) Stat() (fs.FileInfo, error) { return nil, errors.ErrUnsupported }
