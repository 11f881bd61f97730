package live

import (
	"context"
	"sync"
	"time"
)

// A throttle holds all readers together to a number of bytes a second.
type throttle struct {
	rate int64 // 0: no limit

	mu   sync.Mutex
	next time.Time // when the next byte may be read
}

func newThrottle(rate int64) *throttle { return &throttle{rate: rate} }

const (
	largestChunk  = 1 << 20
	smallestChunk = 64 << 10
)

// chunk is how many bytes are read at once: no more than a twentieth of a
// second's.
func (t *throttle) chunk() int {
	if t.rate == 0 {
		return largestChunk
	}
	return int(min(max(t.rate/20, smallestChunk), largestChunk))
}

// wait returns when n bytes may be read.
func (t *throttle) wait(ctx context.Context, n int) error {
	if t.rate == 0 {
		return ctx.Err()
	}
	t.mu.Lock()
	now := time.Now()
	if t.next.Before(now) {
		t.next = now
	}
	at := t.next
	t.next = t.next.Add(time.Duration(float64(n) / float64(t.rate) * float64(time.Second)))
	t.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(at.Sub(now)):
		return nil
	}
}

// giveBack takes back bytes that were waited for and not there.
func (t *throttle) giveBack(n int) {
	if t.rate == 0 || n <= 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next = t.next.Add(-time.Duration(float64(n) / float64(t.rate) * float64(time.Second)))
}
