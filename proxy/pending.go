package proxy

import (
	"container/list"
	"iter"
	"net"
)

// A pending connection has not shown yet that it belongs to a client.
type pending struct {
	conn    net.Conn
	element *list.Element // nil once it has left the list
}

// A pendingList bounds the pending connections: the oldest gives way to a new
// one, so that nobody can keep others out by connecting and staying silent.
type pendingList struct {
	limit int
	order list.List
}

// push returns the connection that gives way, or nil.
func (l *pendingList) push(p *pending) (evicted *pending) {
	if l.order.Len() >= l.limit {
		evicted = l.order.Front().Value.(*pending)
		l.remove(evicted)
	}
	p.element = l.order.PushBack(p)
	return evicted
}

func (l *pendingList) remove(p *pending) {
	if p.element != nil {
		l.order.Remove(p.element)
		p.element = nil
	}
}

func (l *pendingList) all() iter.Seq[*pending] {
	return func(yield func(*pending) bool) {
		for e := l.order.Front(); e != nil; e = e.Next() {
			if !yield(e.Value.(*pending)) {
				return
			}
		}
	}
}
