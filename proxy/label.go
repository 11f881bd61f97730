package proxy

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
)

// Label says how results of grafted relations are marked: the setting pg0.label.
type Label int32

// The values of pg0.label.
const (
	LabelOff     Label = iota
	LabelNotice        // a NOTICE after each statement
	LabelColumns       // columns are renamed to price@monday
)

var labelNames = map[string]Label{"off": LabelOff, "notice": LabelNotice, "columns": LabelColumns}

// ParseLabel reads a value of pg0.label.
func ParseLabel(text string) (Label, bool) {
	label, ok := labelNames[strings.ToLower(strings.TrimSpace(text))]
	return label, ok
}

// A labeller is what a session knows of its labels. The client's side sees the
// statements, the server's side the results.
type labeller struct {
	mode    atomic.Int32 // Label in force
	initial Label        // what RESET goes back to
	// deciding is set while the server carries out a change of pg0.label. The
	// client's side waits meanwhile, so both sides change at the same message.
	deciding atomic.Pointer[decision]

	// Of the client's side alone.
	statements map[string]change // prepared statements that change pg0.label
	portals    map[string]change
	executed   *change // in the group that the next Sync ends

	// Of the server's side alone.
	block *block // transaction block in which pg0.label was changed
	tag   string // of the last command while there is a block

	mu        sync.Mutex
	relations *Relations
	unread    error // why relations could not be read
	over      bool  // nobody will answer any more
	tracker
}

// A decision waits for the end of the group that changes pg0.label.
type decision struct {
	change
	request int64 // the number of its ReadyForQuery
	failed  bool  // of the server's side
	done    chan struct{}
}

// A block remembers what a transaction block has to put back.
type block struct {
	before Label // at its begin, for a rollback
	after  Label // what a commit leaves in force
}

func (l *labeller) init(label Label) {
	l.initial = label
	l.mode.Store(int32(label))
}

func (l *labeller) is(mode Label) bool { return Label(l.mode.Load()) == mode }

// track says whether answers have to be matched with requests.
func (l *labeller) track() bool { return l.is(LabelNotice) }

// wantsBind says whether the client's side has to look at messages of the
// extended protocol.
func (l *labeller) wantsBind() bool { return l.track() || len(l.statements) > 0 }

// know takes the relations of the session's database.
func (l *labeller) know(r *Relations, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.relations, l.unread = r, err
}

func (l *labeller) known() (*Relations, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.relations, l.unread
}

// parsed takes note of a statement that may change pg0.label when executed.
func (l *labeller) parsed(name, text string) {
	if c, ok := labelChange(text); ok {
		if l.statements == nil {
			l.statements, l.portals = map[string]change{}, map[string]change{}
		}
		l.statements[name] = c
		return
	}
	delete(l.statements, name)
}

func (l *labeller) bound(portal, statement string) {
	if c, ok := l.statements[statement]; ok {
		l.portals[portal] = c
		return
	}
	delete(l.portals, portal)
}

func (l *labeller) execute(portal string) {
	if c, ok := l.portals[portal]; ok {
		l.executed = &c
	}
}

// decide makes the client's side wait for the answer to a request.
func (l *labeller) decide(c change, request int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return
	}
	l.deciding.Store(&decision{change: c, request: request, done: make(chan struct{})})
}

// ready is called with the number of a ReadyForQuery and the status in it. What
// it returns is said to the client.
func (l *labeller) ready(number int64, status byte) (warning string) {
	if l.block != nil && status == 'I' {
		l.leaveBlock()
	}
	d := l.deciding.Load()
	if d == nil || d.request != number {
		return ""
	}
	if !d.failed {
		warning = l.apply(d.change, status)
	}
	if l.deciding.CompareAndSwap(d, nil) { // else the session has just ended
		close(d.done)
	}
	return warning
}

func (l *labeller) apply(c change, status byte) (warning string) {
	label, ok := l.initial, true
	if c.value != "" {
		label, ok = ParseLabel(c.value)
	}
	before := Label(l.mode.Load())
	switch {
	case !ok:
		return fmt.Sprintf("pg0.label: %q is none of off, notice, columns; it stays as it was", c.value)
	case status == 'I' && c.local:
		return "" // PostgreSQL warns by itself that this has no effect
	case status != 'I' && l.block == nil:
		l.block = &block{before: before, after: before}
	}
	if l.block != nil && !c.local {
		l.block.after = label
	}
	l.set(label)
	return ""
}

// set changes the mode; it is called only while nothing is under way that
// would be tracked.
func (l *labeller) set(label Label) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tracker.reset()
	l.mode.Store(int32(label))
}

// leaveBlock ends a transaction block as its last command says. A client that
// has sent more already is tracked from a clean start.
func (l *labeller) leaveBlock() {
	label := l.block.before
	if l.tag == "COMMIT" {
		label = l.block.after
	}
	l.block = nil
	if !l.is(label) {
		l.set(label)
	}
}

// abandon lets a waiting client's side go on when the session ends.
func (l *labeller) abandon() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	if d := l.deciding.Swap(nil); d != nil {
		close(d.done)
	}
}
