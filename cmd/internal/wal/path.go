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

// An Index knows which segments an archive has, without opening any.
type Index struct {
	size    int64
	have    map[archived]bool
	numbers []uint64 // of segments of all timelines, sorted
}

// archived is a segment in an archive, whole or not.
type archived struct {
	Segment
	partial bool
}

func (a archived) name(size int64) string {
	if a.partial {
		return a.Name(size) + PartialSuffix
	}
	return a.Name(size)
}

// NewIndex lists an archive.
func NewIndex(ctx context.Context, archive pg0.WALArchive) (*Index, error) {
	names, err := archive.WALNames(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the WAL archive: %w", err)
	}
	x := &Index{size: archive.SegmentSize(), have: make(map[archived]bool, len(names))}
	for _, name := range names {
		whole := strings.TrimSuffix(name, PartialSuffix)
		if seg, ok := ParseSegment(whole, x.size); ok {
			x.have[archived{seg, whole != name}] = true
			x.numbers = append(x.numbers, seg.Number)
		}
	}
	slices.Sort(x.numbers)
	return x, nil
}

// A Path is the way through the log that recovery takes to one timeline: for
// each number the file of the newest timeline that has begun by then, as
// PostgreSQL chooses. The archive comes before a backup's own pg_wal, whose
// last segment is often cut short.
type Path struct {
	History History

	archive pg0.WALArchive
	index   *Index
	own     fs.FS // a cluster directory; nil: none
	size    int64

	mu   sync.Mutex
	gone map[archived]bool // listed, but removed since
}

// NewPath follows history through the archive and the pg_wal of own, which may
// be nil.
func NewPath(ctx context.Context, archive pg0.WALArchive, own fs.FS, history History) (*Path, error) {
	index, err := NewIndex(ctx, archive)
	if err != nil {
		return nil, err
	}
	return index.Path(archive, own, history), nil
}

// Path is NewPath for an archive that was listed before.
func (x *Index) Path(archive pg0.WALArchive, own fs.FS, history History) *Path {
	return &Path{History: history, archive: archive, index: x, own: own, size: x.size, gone: map[archived]bool{}}
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
	_, _, _, err := p.locate(number)
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
	i, _ := slices.BinarySearch(p.index.numbers, last)
	for _, next := range p.index.numbers[i:] {
		if p.Has(next) {
			return last - 1, next
		}
	}
	return last - 1, 0
}

// locate chooses the file for a segment, and tells whether it is the backup's
// own and not the archive's.
func (p *Path) locate(number uint64) (s Stretch, file archived, own bool, err error) {
	for i := len(p.History) - 1; i >= 0; i-- {
		s := p.History[i]
		if !p.covers(s, number) {
			continue
		}
		whole := archived{Segment{s.Timeline, number}, false}
		for _, file := range []archived{whole, {whole.Segment, true}} {
			if p.index.have[file] && !p.isGone(file) {
				return s, file, false, nil
			}
		}
		if p.own == nil {
			continue
		}
		if _, err := fs.Stat(p.own, "pg_wal/"+whole.Name(p.size)); err == nil {
			return s, whole, true, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return s, whole, true, err
		}
	}
	return Stretch{}, archived{}, false, errNoSegment
}

func (p *Path) isGone(file archived) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gone[file]
}

// Segment opens the file for a segment. One that retention has removed since
// the archive was listed is missing from then on.
func (p *Path) Segment(ctx context.Context, number uint64) (*OpenSegment, error) {
	for {
		s, file, own, err := p.locate(number)
		if err != nil {
			return nil, err
		}
		open, err := p.open(ctx, s, file, own)
		if own || !errors.Is(err, fs.ErrNotExist) {
			return open, err
		}
		p.mu.Lock()
		p.gone[file] = true
		p.mu.Unlock()
	}
}

func (p *Path) open(ctx context.Context, s Stretch, file archived, own bool) (*OpenSegment, error) {
	open := &OpenSegment{Segment: file.Segment, Path: file.name(p.size), Unfinished: own || file.partial}
	if s.End != 0 && file.Number == uint64(s.End)/uint64(p.size) {
		open.Limit = s.End
	}
	var err error
	if own {
		open.Path = "pg_wal/" + open.Path
		open.File, err = p.openOwn(open.Path)
	} else {
		open.File, err = p.archive.WAL(ctx, open.Path)
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
	if f, ok := file.(pg0.File); ok {
		return f, nil
	}
	return nil, errors.Join(fmt.Errorf("%s is not a regular file", path), file.Close())
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
