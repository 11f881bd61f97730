package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"github.com/fukanchik/pg0"
)

var errNoSegment = fmt.Errorf("WAL segment: %w", fs.ErrNotExist)

// A Path is the way through the log that recovery takes to one timeline: for
// each number the file of the newest timeline that has begun by then, as
// PostgreSQL chooses. The archive comes before a backup's own pg_wal, whose
// last segment is often cut short.
type Path struct {
	History History

	archive pg0.WALArchive
	names   map[string]bool // of the archive
	own     fs.FS           // a cluster directory; nil: none
	numbers []uint64        // of the archive's segments of all timelines, sorted
	size    int64

	mu   sync.Mutex
	gone map[string]bool // listed, but removed since
}

// NewPath follows history through the archive and the pg_wal of own, which may
// be nil.
func NewPath(ctx context.Context, archive pg0.WALArchive, own fs.FS, history History) (*Path, error) {
	listed, err := archive.WALNames(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the WAL archive: %w", err)
	}
	p := &Path{History: history, archive: archive, names: make(map[string]bool, len(listed)), own: own, size: archive.SegmentSize(), gone: map[string]bool{}}
	for _, name := range listed {
		p.names[name] = true
		if s, ok := ParseSegment(strings.TrimSuffix(name, PartialSuffix), p.size); ok {
			p.numbers = append(p.numbers, s.Number)
		}
	}
	slices.Sort(p.numbers)
	return p, nil
}

// SegmentSize is the length of every segment in bytes.
func (p *Path) SegmentSize() int64 { return p.size }

// Expected names the segment that PostgreSQL would ask for first.
func (p *Path) Expected(number uint64) string {
	for i := len(p.History) - 1; i >= 0; i-- {
		if s := p.History[i]; p.covers(s, number) {
			return Segment{s.Timeline, number}.Name(p.size)
		}
	}
	return Segment{p.History[0].Timeline, number}.Name(p.size)
}

// covers tells whether a stretch has records in a segment.
func (p *Path) covers(s Stretch, number uint64) bool {
	size := uint64(p.size)
	return number >= uint64(s.Begin)/size && (s.End == 0 || number <= uint64(s.End)/size)
}

// Has tells whether a segment is there, without opening it.
func (p *Path) Has(number uint64) bool {
	_, _, err := p.locate(number)
	return err == nil
}

// Run gives the last segment of the unbroken run that begins with first, and
// the next one after a gap. Without first itself last is first-1; without a gap
// next is 0.
func (p *Path) Run(first uint64) (last, next uint64) {
	last = first
	for p.Has(last) {
		last++
	}
	i, _ := slices.BinarySearch(p.numbers, last)
	for _, next := range p.numbers[i:] {
		if p.Has(next) {
			return last - 1, next
		}
	}
	return last - 1, 0
}

// locate chooses the file for a segment. name is as the archive lists it,
// empty for a file of the own pg_wal.
func (p *Path) locate(number uint64) (s Stretch, name string, err error) {
	for i := len(p.History) - 1; i >= 0; i-- {
		s := p.History[i]
		if !p.covers(s, number) {
			continue
		}
		plain := Segment{s.Timeline, number}.Name(p.size)
		for _, name := range []string{plain, plain + PartialSuffix} {
			if p.names[name] && !p.isGone(name) {
				return s, name, nil
			}
		}
		if p.own == nil {
			continue
		}
		if _, err := fs.Stat(p.own, "pg_wal/"+plain); err == nil {
			return s, "", nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return s, "", err
		}
	}
	return Stretch{}, "", errNoSegment
}

func (p *Path) isGone(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gone[name]
}

// Segment opens the file for a segment. One that retention has removed since
// the archive was listed is missing from then on.
func (p *Path) Segment(ctx context.Context, number uint64) (*OpenSegment, error) {
	for {
		s, name, err := p.locate(number)
		if err != nil {
			return nil, err
		}
		open, err := p.open(ctx, number, s, name)
		if name == "" || !errors.Is(err, fs.ErrNotExist) {
			return open, err
		}
		p.mu.Lock()
		p.gone[name] = true
		p.mu.Unlock()
	}
}

func (p *Path) open(ctx context.Context, number uint64, s Stretch, name string) (*OpenSegment, error) {
	open := &OpenSegment{Segment: Segment{s.Timeline, number}, Path: name}
	open.Unfinished = name == "" || strings.HasSuffix(name, PartialSuffix)
	if s.End != 0 && number == uint64(s.End)/uint64(p.size) {
		open.Limit = s.End
	}
	var err error
	if name == "" {
		open.Path = "pg_wal/" + open.Name(p.size)
		open.File, err = p.openOwn(open.Path)
	} else {
		open.File, err = p.archive.WAL(ctx, name)
	}
	if err != nil {
		return nil, fmt.Errorf("WAL segment %s: %w", open.Path, err)
	}
	return open, nil
}

func (p *Path) openOwn(path string) (pg0.File, error) {
	file, err := p.own.Open(path)
	if err != nil {
		return nil, err
	}
	if _, ok := file.(io.ReaderAt); !ok {
		return nil, errors.Join(fmt.Errorf("%s is not a regular file", path), file.Close())
	}
	return file.(pg0.File), nil
}

// LoadHistory reads the history of a timeline from the archive, or else from
// the pg_wal of own, which may be nil. Timeline 1 needs none.
func LoadHistory(ctx context.Context, archive pg0.WALArchive, own fs.FS, timeline uint32) (History, error) {
	if timeline == 1 {
		return RootHistory(1), nil
	}
	name := HistoryName(timeline)
	text, err := readHistory(ctx, archive, own, name)
	if err != nil {
		return nil, fmt.Errorf("history of timeline %d: %s: %w", timeline, name, err)
	}
	return ParseHistory(timeline, text)
}

// maxHistory is far longer than any history file.
const maxHistory = 1 << 20

func readHistory(ctx context.Context, archive pg0.WALArchive, own fs.FS, name string) ([]byte, error) {
	file, err := archive.WAL(ctx, name)
	if errors.Is(err, fs.ErrNotExist) && own != nil {
		return fs.ReadFile(own, "pg_wal/"+name)
	}
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.NewSectionReader(file, 0, maxHistory))
	return text, errors.Join(err, file.Close())
}
