package proxy

// A tracker matches the answers of the server with the requests of the client,
// as long as results are labelled: in the extended protocol the description of
// a result may come long before its rows. It is guarded by the labeller's mutex.
type tracker struct {
	queue    []request
	skipping bool // the server skips everything up to the next Sync

	statements map[string]string // labels of prepared statements; none is ""
	portals    map[string]string
	// told and toldPortal are the statements and portals whose description the
	// client, or pg0 for it, has asked for.
	told       map[string]bool
	toldPortal map[string]bool

	current string // label of the result of a simple query
}

// A request is a message that the server answers.
type request struct {
	kind   byte // of the message: Q F P B D E C S
	what   byte // of Describe and Close: S or P
	name   string
	second string // of Bind: the statement
	own    bool   // pg0 asked, so the client does not get the answer
}

func (t *tracker) reset() { *t = tracker{} }

func (t *tracker) push(r request) {
	if t.skipping && r.kind != 'S' {
		return
	}
	t.queue = append(t.queue, r)
}

func (t *tracker) front() request {
	if len(t.queue) == 0 {
		return request{}
	}
	return t.queue[0]
}

// pop takes the front if it is of that kind.
func (t *tracker) pop(kind byte) (request, bool) {
	r := t.front()
	if r.kind != kind {
		return request{}, false
	}
	t.queue = t.queue[1:]
	return r, true
}

func (t *tracker) parse(name string) {
	t.push(request{kind: 'P', name: name})
	delete(t.told, name)
}

func (t *tracker) bind(portal, statement string) {
	t.push(request{kind: 'B', name: portal, second: statement})
	if t.toldPortal == nil {
		t.toldPortal = map[string]bool{}
	}
	t.toldPortal[portal] = t.told[statement]
}

func (t *tracker) describe(what byte, name string, own bool) {
	t.push(request{kind: 'D', what: what, name: name, own: own})
	told := &t.told
	if what == 'P' {
		told = &t.toldPortal
	}
	if *told == nil {
		*told = map[string]bool{}
	}
	(*told)[name] = true
}

// execute says whether pg0 has to ask for the description first.
func (t *tracker) execute(portal string) (ask bool) {
	if ask = !t.toldPortal[portal]; ask {
		t.describe('P', portal, true)
	}
	t.push(request{kind: 'E', name: portal})
	return ask
}

// query is a simple query, which ends the unnamed statement and portal.
func (t *tracker) query(kind byte) {
	t.push(request{kind: kind})
	delete(t.told, "")
	delete(t.toldPortal, "")
}

// described takes the label of a description. It says whether the client
// should not get the message.
func (t *tracker) described(label string) (own bool) {
	r, ok := t.pop('D')
	if !ok {
		t.current = label
		return false
	}
	labels := &t.portals
	if r.what == 'S' {
		labels = &t.statements
	}
	if *labels == nil {
		*labels = map[string]string{}
	}
	(*labels)[r.name] = label
	return r.own
}

func (t *tracker) parsed() {
	if r, ok := t.pop('P'); ok {
		delete(t.statements, r.name)
	}
}

func (t *tracker) bound() {
	r, ok := t.pop('B')
	if !ok {
		return
	}
	delete(t.portals, r.name)
	if label, known := t.statements[r.second]; known {
		if t.portals == nil {
			t.portals = map[string]string{}
		}
		t.portals[r.name] = label
	}
}

func (t *tracker) closed() {
	r, ok := t.pop('C')
	switch {
	case ok && r.what == 'S':
		delete(t.statements, r.name)
	case ok:
		delete(t.portals, r.name)
	}
}

// completed returns the label of the statement that has ended, or that pauses:
// a portal is labelled once.
func (t *tracker) completed() (label string) {
	if r, ok := t.pop('E'); ok {
		label = t.portals[r.name]
		if label != "" {
			t.portals[r.name] = ""
		}
		return label
	}
	label, t.current = t.current, ""
	return label
}

// failed drops what the server will not answer any more.
func (t *tracker) failed() {
	t.current = ""
	if kind := t.front().kind; kind == 'Q' || kind == 'F' {
		return
	}
	t.skipping = true
	// What was promised may not have been done.
	t.told, t.toldPortal = nil, nil
	for len(t.queue) > 0 && t.queue[0].kind != 'S' {
		t.queue = t.queue[1:]
	}
}

// copying is the begin of COPY FROM STDIN, in which the server ignores every
// Sync that was sent already.
func (t *tracker) copying() {
	kept := t.queue[:0]
	for _, r := range t.queue {
		if r.kind != 'S' {
			kept = append(kept, r)
		}
	}
	t.queue = kept
}

// ready is the end of a simple query or of a group.
func (t *tracker) ready(idle bool) {
	if kind := t.front().kind; kind == 'Q' || kind == 'F' {
		t.queue = t.queue[1:]
	} else {
		for len(t.queue) > 0 {
			kind := t.queue[0].kind
			t.queue = t.queue[1:]
			if kind == 'S' {
				break
			}
		}
	}
	t.skipping, t.current = false, ""
	if idle {
		t.portals = nil // they end with their transaction
	}
	if len(t.queue) == 0 {
		t.queue = nil
		if idle {
			t.toldPortal = nil
		}
	}
}
