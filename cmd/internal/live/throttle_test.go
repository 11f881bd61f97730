package live

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestThrottle reads by several workers at once, some of whom get less than
// they waited for, and compares the time with the rate.
func TestThrottle(t *testing.T) {
	for _, rate := range []int64{200 << 10, 3 << 20, 50 << 20, 5 << 30} {
		synctest.Test(t, func(t *testing.T) {
			limit := newThrottle(rate)
			begin := time.Now()
			var read int64
			var mu sync.Mutex
			var workers sync.WaitGroup
			for worker := range 4 {
				workers.Go(func() {
					for n := range 200 {
						want := limit.chunk()
						if err := limit.wait(context.Background(), want); err != nil {
							t.Error(err)
						}
						got := want
						if n%3 == worker%3 {
							got /= 5
							limit.giveBack(want - got)
						}
						mu.Lock()
						read += int64(got)
						mu.Unlock()
					}
				})
			}
			workers.Wait()
			measured := float64(read) / time.Since(begin).Seconds()
			if off := measured/float64(rate) - 1; off > 0.1 || off < -0.1 {
				t.Errorf("rate %d: %.0f bytes a second", rate, measured)
			}
		})
	}
}

// TestThrottleEnds gives up waiting with its context.
func TestThrottleEnds(t *testing.T) {
	limit := newThrottle(1)
	ctx, cancel := context.WithCancel(context.Background())
	if err := limit.wait(ctx, 1<<20); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := limit.wait(ctx, 1); err == nil {
		t.Error("it waits for ever")
	}
}
