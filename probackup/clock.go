package probackup

import "sync"

// A clock bounds the total cost of cached things. It evicts those that were not
// used since its hand last passed. Users of the things take no lock.
type clock struct {
	mu    sync.Mutex
	ring  []cached
	hand  int
	used  int64
	limit int64
}

// cached is a thing that a clock can evict.
type cached interface {
	cost() int64
	touched() bool // whether it was used since the last call
	evict()        // takes it out of its owner; called once
	owner() *point
}

func newClock(limit int64) *clock { return &clock{limit: limit} }

// add enters a thing and evicts others until the limit holds again.
func (c *clock) add(thing cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ring = append(c.ring, thing)
	c.used += thing.cost()
	for c.used > c.limit && len(c.ring) > 1 {
		if c.hand >= len(c.ring) {
			c.hand = 0
		}
		if old := c.ring[c.hand]; old == thing || old.touched() {
			c.hand++
			continue
		}
		c.remove(c.hand)
	}
}

// remove evicts the thing at i; the last one takes its place.
func (c *clock) remove(i int) {
	old := c.ring[i]
	last := len(c.ring) - 1
	c.ring[i], c.ring[last] = c.ring[last], nil
	c.ring = c.ring[:last]
	c.used -= old.cost()
	old.evict()
}

// purge evicts everything that belongs to a point.
func (c *clock) purge(p *point) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := len(c.ring) - 1; i >= 0; i-- {
		if c.ring[i].owner() == p {
			c.remove(i)
		}
	}
}
