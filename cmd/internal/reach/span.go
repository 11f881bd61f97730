package reach

import (
	"context"
	"errors"

	"github.com/fukanchik/pg0"
)

// A Span is what can be reached from one backup on its own timeline.
type Span struct {
	Backup string `json:"backup"`
	// Reach is nil when the backup cannot even become consistent; Problem says
	// why, or what is wrong behind the end of the reach.
	Reach   *Range `json:"reach,omitempty"`
	Problem string `json:"problem,omitempty"`
	// Lost are the segments that are missing although the archive goes on.
	Lost []Gap `json:"lost,omitempty"`
}

// A Gap is a run of missing segments.
type Gap struct {
	First string `json:"first"`
	Last  string `json:"last"`
}

// String names the segments.
func (g Gap) String() string {
	if g.First == g.Last {
		return g.First
	}
	return g.First + " to " + g.Last
}

// Spans gives the span of every backup, in the order of infos. Of the WAL only
// the ends are read.
func Spans(ctx context.Context, c Catalog, infos []pg0.PointInfo) ([]Span, error) {
	w, err := newWorld(ctx, c)
	if err != nil {
		return nil, err
	}
	defer w.close()
	spans := make([]Span, len(infos))
	for i, info := range infos {
		if spans[i], err = w.span(ctx, info); err != nil {
			return nil, err
		}
	}
	return spans, nil
}

// span tells of problems in words: one bad backup does not hide the others.
func (w *world) span(ctx context.Context, info pg0.PointInfo) (Span, error) {
	s := Span{Backup: info.ID}
	if s.Problem = w.unreadable(info); s.Problem != "" {
		return s, nil
	}
	err := w.measure(ctx, info, &s)
	if errors.Is(err, context.Canceled) {
		return s, err
	}
	if err != nil {
		s.Problem = err.Error()
	}
	return s, nil
}

func (w *world) measure(ctx context.Context, info pg0.PointInfo, s *Span) error {
	h, err := w.current(ctx, info)
	if err != nil {
		return err
	}
	y, err := w.wayFrom(ctx, info, h)
	if err != nil {
		return err
	}
	s.Lost = y.lost()
	last, _ := y.path.Run(y.first())
	if last < y.lastOfBackup() {
		return refuse("WAL %s is missing, which the backup needs to become consistent", y.path.Expected(last+1))
	}
	at, err := y.tail(ctx)
	if err != nil {
		return err
	}
	reached := y.reachable(at)
	s.Reach = &reached
	return nil
}

// lost gives the gaps on the way.
func (y *way) lost() []Gap {
	var gaps []Gap
	for first := y.first(); ; {
		last, next := y.path.Run(first)
		if next == 0 {
			return gaps
		}
		gaps = append(gaps, Gap{y.path.Expected(last + 1), y.path.Expected(next - 1)})
		first = next
	}
}
