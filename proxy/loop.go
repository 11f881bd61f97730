package proxy

import (
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// A loop drives sessions without TLS: one thread waits for all their sockets
// and passes on what has come. With two goroutines a session, as TLS needs
// them, Go's poller wakes up several threads for every message.
//
// What belongs to a session in a loop is touched by the loop's thread alone;
// others post tasks. Nothing in it may block.
type loop struct {
	epoll   int
	wake    int       // eventfd that says that there are tasks
	sockets []*socket // by descriptor
	stopped bool
	spin    spin

	mu     sync.Mutex
	tasks  []func()
	closed bool // nobody runs tasks any more
}

// processorsEach is the number of processors for one loop: the servers and
// their clients need more of them than the bytes between.
const processorsEach = 4

// batch is how many sockets one look at the poller returns.
const batch = 64

func newLoop() (*loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	l := &loop{epoll: epoll}
	if l.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		_ = unix.Close(epoll)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if err := l.control(unix.EPOLL_CTL_ADD, l.wake, unix.EPOLLIN); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// yieldEvery is the number of looks after which the loop's goroutine gives way.
// It is alone, so it goes on at once; but Go's scheduler takes one that runs for
// 10 ms without that for stuck, and looks after it every 20 us.
const yieldEvery = 64

// run is the loop.
func (l *loop) run() {
	var events [batch]unix.EpollEvent
	for turn := 0; !l.stopped; turn++ {
		if turn%yieldEvery == 0 {
			runtime.Gosched()
		}
		n, err := l.wait(events[:])
		if err != nil && err != unix.EINTR {
			panic(fmt.Sprintf("proxy: epoll_wait: %v", err)) // the descriptor is ours and valid
		}
		woken := false
		for i := range max(n, 0) {
			if fd := int(events[i].Fd); fd == l.wake {
				woken = true
			} else if k := l.sockets[fd]; k != nil { // else it was closed a moment ago
				l.spin.seen(k.of)
				k.of.event(k, events[i].Events)
			}
		}
		// After the events: no descriptor in them may mean another socket by now.
		if woken {
			l.runTasks()
		}
	}
	l.close()
}

// wait returns what has happened.
func (l *loop) wait(events []unix.EpollEvent) (int, error) {
	if l.spin.pays() {
		for range spinLooks {
			if n, err := unix.EpollWait(l.epoll, events, 0); n != 0 {
				l.spin.hit()
				return n, err
			}
		}
		l.spin.missed()
	}
	return unix.EpollWait(l.epoll, events, -1)
}

func (l *loop) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	_ = unix.Close(l.epoll)
	_ = unix.Close(l.wake)
}

// post has the loop's thread do something.
func (l *loop) post(task func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.tasks = append(l.tasks, task)
	if len(l.tasks) == 1 {
		_, _ = unix.Write(l.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // a counter far from its limit
	}
}

func (l *loop) runTasks() {
	var count [8]byte
	_, _ = unix.Read(l.wake, count[:])
	l.mu.Lock()
	tasks := l.tasks
	l.tasks = nil
	l.mu.Unlock()
	for _, task := range tasks {
		task()
	}
}

// stop ends the loop, which has no sessions any more.
func (l *loop) stop() { l.post(func() { l.stopped = true }) }

// add makes a socket known.
func (l *loop) add(k *socket) {
	for len(l.sockets) <= k.fd {
		l.sockets = append(l.sockets, nil)
	}
	l.sockets[k.fd] = k
}

// watch makes the poller report what the socket waits for. One that waits for
// nothing is taken out: the poller would report its end over and over.
func (l *loop) watch(k *socket) error {
	want := k.interest()
	if k.fd < 0 || want == k.watched {
		return nil
	}
	operation := unix.EPOLL_CTL_MOD
	switch {
	case want == 0:
		operation = unix.EPOLL_CTL_DEL
	case k.watched == 0:
		operation = unix.EPOLL_CTL_ADD
	}
	k.watched = want
	return l.control(operation, k.fd, want)
}

// forget closes a socket.
func (l *loop) forget(k *socket) {
	if k.fd < 0 {
		return
	}
	l.remove(k)
	_ = unix.Close(k.fd)
	k.fd = -1
}

// remove takes a socket out of the loop.
func (l *loop) remove(k *socket) {
	if k.watched != 0 {
		_ = l.control(unix.EPOLL_CTL_DEL, k.fd, 0) // it is there
		k.watched = 0
	}
	l.sockets[k.fd] = nil
}

func (l *loop) control(operation, fd int, events uint32) error {
	event := unix.EpollEvent{Events: events, Fd: int32(fd)}
	if err := unix.EpollCtl(l.epoll, operation, fd, &event); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

// loopFor takes a session into one of the loops. It returns nil for those that
// goroutines have to drive: TLS and the log of statements may block.
func (s *Server) loopFor(one *session) *loop {
	if s.LogStatements || s.maxLoops == 0 {
		return nil
	}
	l, err := s.nextLoop()
	if err == nil {
		err = one.enter(l)
	}
	if err != nil {
		return nil
	}
	return l
}

func (s *Server) nextLoop() (*loop, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	if i := s.next % s.maxLoops; i < len(s.loops) {
		return s.loops[i], nil
	}
	l, err := newLoop()
	if err != nil {
		return nil, err
	}
	go l.run()
	s.loops = append(s.loops, l)
	return l, nil
}

func (s *Server) stopLoops() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.loops {
		l.stop()
	}
}
