package wal

import (
	"context"
	"runtime"
	"sync"
)

// aheadBytes bounds what is held open ahead of a reader.
const aheadBytes = 256 << 20

// Ahead opens segments before a reader asks for them: opening a compressed
// segment unpacks it, and that takes longer than reading its records.
type Ahead struct {
	Segments
	count uint64

	mu      sync.Mutex
	opening map[uint64]*opening
}

type opening struct {
	done    chan struct{}
	segment *OpenSegment
	err     error
}

// NewAhead reads ahead in segs as far as processors and memory allow.
func NewAhead(segs Segments) *Ahead {
	count := min(int64(runtime.GOMAXPROCS(0)), max(1, aheadBytes/segs.SegmentSize()))
	return &Ahead{Segments: segs, count: uint64(count), opening: map[uint64]*opening{}}
}

// Segment gives a segment and begins to open those that follow.
func (a *Ahead) Segment(ctx context.Context, number uint64) (*OpenSegment, error) {
	a.mu.Lock()
	for n := number; n <= number+a.count; n++ {
		if a.opening[n] == nil {
			a.opening[n] = a.start(ctx, n)
		}
	}
	o := a.opening[number]
	delete(a.opening, number)
	a.mu.Unlock()
	<-o.done
	return o.segment, o.err
}

func (a *Ahead) start(ctx context.Context, number uint64) *opening {
	o := &opening{done: make(chan struct{})}
	go func() {
		defer close(o.done)
		if o.err = ctx.Err(); o.err == nil {
			o.segment, o.err = a.Segments.Segment(ctx, number)
		}
	}()
	return o
}

// Close closes what was opened and never asked for.
func (a *Ahead) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var first error
	for number, o := range a.opening {
		<-o.done
		if o.segment != nil {
			if err := o.segment.Close(); first == nil {
				first = err
			}
		}
		delete(a.opening, number)
	}
	return first
}
