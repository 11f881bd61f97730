package proxy

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"

	"github.com/jackc/pgx/v5/pgproto3"
)

// clientSide is a session as it sees what its client says.
type clientSide session

// longestChangeText is the longest statement that is looked at for a change of
// pg0.label.
const longestChangeText = 4096

func (c *clientSide) wants(kind byte, size int) (bool, error) {
	if (kind == 'Q' || kind == 'P') && size > maxLook && c.server.ReadOnly {
		return false, errLongText
	}
	return c.wantsTo(kind, size), nil
}

func (c *clientSide) wantsTo(kind byte, size int) bool {
	switch kind {
	case 'Q':
		c.asked.Add(1)
		c.simple.Store(true)
		c.audit.statements.Add(1)
		return c.wantsText(size)
	case 'F':
		c.asked.Add(1)
		c.audit.statements.Add(1)
		return (c.labels.track() || c.server.ReadOnly) && size <= maxLook
	case 'S':
		return c.wantsSync()
	case 'P':
		c.unsynced.Store(true)
		return c.wantsText(size)
	case 'E':
		c.unsynced.Store(true)
		c.audit.statements.Add(1)
		return c.labels.wantsBind() && size <= maxLook
	case 'B', 'D', 'C':
		c.unsynced.Store(true)
		return c.wantsBind(kind, size)
	case 'c', 'f':
		c.copyIn.Store(false)
	case 'X':
		c.left.Store(true)
	}
	return false
}

func (c *clientSide) wantsText(size int) bool {
	switch {
	case c.labels.track(), c.server.ReadOnly, c.server.LogStatements:
		return size <= maxLook
	}
	return size <= longestChangeText
}

func (c *clientSide) wantsSync() bool {
	c.unsynced.Store(false)
	if c.copyIn.Load() {
		return false
	}
	c.asked.Add(1)
	c.simple.Store(false)
	return c.labels.track() || c.labels.executed != nil
}

// wantsBind does not want parameters of any length: their statement is then
// taken for one that nobody has described yet.
func (c *clientSide) wantsBind(kind byte, size int) bool {
	if !c.labels.wantsBind() {
		return false
	}
	if size > maxLook && c.labels.track() {
		c.labels.mu.Lock()
		c.labels.push(request{kind: kind})
		c.labels.mu.Unlock()
	}
	return size <= maxLook
}

func (c *clientSide) look(kind byte, body, message []byte) ([]byte, error) {
	switch kind {
	case 'Q':
		return c.query(body, message)
	case 'P':
		return c.parse(body, message)
	case 'F':
		if c.server.ReadOnly && setConfigByNumber(body) {
			return nil, errReadOnly
		}
	}
	return c.extended(kind, body, message)
}

func (c *clientSide) query(body, message []byte) ([]byte, error) {
	text, _, ok := cstring(body)
	if !ok {
		return message, nil // the server's to refuse
	}
	c.log(text)
	if c.server.ReadOnly && switchesToWrite(text) {
		message = refusedQuery()
	} else if change, ok := labelChange(text); ok {
		c.prepareLabels()
		c.labels.decide(change, c.asked.Load())
	}
	c.tracked(func(t *tracker) { t.query('Q') })
	return message, nil
}

func (c *clientSide) parse(body, message []byte) ([]byte, error) {
	name, rest, ok := cstring(body)
	text, _, ok2 := cstring(rest)
	if !ok || !ok2 {
		return message, nil
	}
	c.log(text)
	if c.server.ReadOnly && switchesToWrite(text) {
		message = refusedParse(name)
	} else {
		c.labels.parsed(name, text)
	}
	c.tracked(func(t *tracker) { t.parse(name) })
	return message, nil
}

// extended looks at the other messages of the extended protocol.
func (c *clientSide) extended(kind byte, body, message []byte) ([]byte, error) {
	switch kind {
	case 'B':
		portal, rest, _ := cstring(body)
		statement, _, _ := cstring(rest)
		c.labels.bound(portal, statement)
		c.tracked(func(t *tracker) { t.bind(portal, statement) })
	case 'D', 'C':
		if len(body) == 0 {
			return message, nil
		}
		name, _, _ := cstring(body[1:])
		c.tracked(func(t *tracker) {
			if kind == 'D' {
				t.describe(body[0], name, false)
			} else {
				t.push(request{kind: 'C', what: body[0], name: name})
			}
		})
	case 'E':
		return c.execute(body, message)
	case 'S':
		if c.labels.executed != nil {
			c.prepareLabels()
			c.labels.decide(*c.labels.executed, c.asked.Load())
			c.labels.executed = nil
		}
		c.tracked(func(t *tracker) { t.push(request{kind: 'S'}) })
	case 'F':
		c.tracked(func(t *tracker) { t.query('F') })
	}
	return message, nil
}

func (c *clientSide) execute(body, message []byte) ([]byte, error) {
	portal, _, _ := cstring(body)
	c.labels.execute(portal)
	ask := false
	c.tracked(func(t *tracker) { ask = t.execute(portal) })
	if !ask {
		return message, nil
	}
	return append(encode(&pgproto3.Describe{ObjectType: 'P', Name: portal}), message...), nil
}

func (c *clientSide) tracked(do func(*tracker)) {
	if !c.labels.track() {
		return
	}
	c.labels.mu.Lock()
	defer c.labels.mu.Unlock()
	do(&c.labels.tracker)
}

// prepareLabels reads anew which relations are grafted.
func (c *clientSide) prepareLabels() { (*session)(c).readRelations(true) }

func (s *session) readRelations(anew bool) {
	if s.target.Relations == nil {
		return
	}
	relations, err := s.target.Relations(s.server.ctx, anew)
	if err != nil {
		s.server.Logger.Warn("read which relations are grafted", "mix", s.target.Labels.Mix, "error", err)
	}
	s.labels.know(relations, err)
	s.grafted.Store(relations != nil && len(relations.ByOID) > 0)
}

func (c *clientSide) log(text string) {
	if c.server.LogStatements {
		c.server.Audit.LogAttrs(c.server.ctx, slog.LevelInfo, "statement",
			slog.String("user", c.audit.who), slog.String("database", c.audit.database), slog.String("mix", c.audit.mix), slog.String("text", text))
	}
}

func (c *clientSide) send(b []byte, _ bool) error {
	c.active.Store(c.server.now.Load())
	c.audit.received.Add(int64(len(b)))
	_, err := c.toServer.Write(b)
	return err
}

func (c *clientSide) blocks(kind byte, body []byte) bool {
	switch kind {
	case 'Q':
		text, _, _ := cstring(body)
		_, changes := labelChange(text)
		return changes
	case 'S':
		return c.labels.executed != nil
	}
	return false
}

// waits holds the client while the server carries out a change of pg0.label.
func (c *clientSide) waits() <-chan struct{} {
	if d := c.labels.deciding.Load(); d != nil {
		return d.done
	}
	return nil
}

// cstring reads up to a NUL byte.
func cstring(b []byte) (text string, rest []byte, ok bool) {
	end := bytes.IndexByte(b, 0)
	if end < 0 {
		return "", nil, false
	}
	return string(b[:end]), b[end+1:], true
}

// serverSide is a session as it sees what its server says.
type serverSide session

func (v *serverSide) wants(kind byte, size int) (bool, error) {
	return v.wantsTo(kind, size), nil
}

func (v *serverSide) wantsTo(kind byte, size int) bool {
	switch kind {
	case 'D', 'd':
		return false
	case 'Z':
		return size == 1
	case 'S', 'E':
		return size <= maxLook
	case 'G':
		v.startCopy()
	case 'T':
		return v.wantsDescription() && size <= maxLook
	case 'C':
		return (v.labels.track() || v.labels.block != nil) && size <= maxLook
	}
	return v.labels.track() && size <= maxLook
}

// wantsDescription is false where every column comes from the same point.
func (v *serverSide) wantsDescription() bool {
	return !v.labels.is(LabelOff) || v.grafted.Load()
}

// startCopy corrects the count of requests: in COPY FROM STDIN of the extended
// protocol the server ignores Sync until the client has ended it.
func (v *serverSide) startCopy() {
	v.copyIn.Store(true)
	if v.unsynced.Load() || v.simple.Load() {
		return
	}
	v.asked.Store(v.answered.Load() + v.ready)
}

func (v *serverSide) look(kind byte, body, message []byte) ([]byte, error) {
	switch kind {
	case 'Z':
		return v.readyForQuery(body[0], message), nil
	case 'S':
		if name, value := (*session)(v).parameter(body); name == readOnlySettings[0] && v.server.ReadOnly && value == "off" {
			return nil, errReadOnly
		}
	case 'E':
		v.failed(body)
	case 'T':
		return v.description(body, message), nil
	case 'C':
		v.labels.tag, _, _ = cstring(body)
	}
	if !v.labels.track() {
		return message, nil
	}
	return v.answer(kind, message), nil
}

func (v *serverSide) failed(body []byte) {
	var response pgproto3.ErrorResponse
	if response.Decode(body) == nil && (response.SeverityUnlocalized == "FATAL" || response.SeverityUnlocalized == "PANIC") {
		v.lastFatal.Store(true)
	}
	if d := v.labels.deciding.Load(); d != nil {
		d.failed = d.request == v.answered.Load()+v.ready+1
	}
}

func (v *serverSide) readyForQuery(status byte, message []byte) []byte {
	v.status.Store(uint32(status))
	v.copyIn.Store(false)
	v.ready++
	if v.labels.track() {
		v.labels.mu.Lock()
		v.labels.tracker.ready(status == 'I')
		v.labels.mu.Unlock()
	}
	warning := v.labels.ready(v.answered.Load()+v.ready, status)
	if warning == "" {
		return message
	}
	return append(notice("WARNING", codeWarning, warning), message...)
}

// answer matches a message with the request it belongs to.
func (v *serverSide) answer(kind byte, message []byte) []byte {
	v.labels.mu.Lock()
	defer v.labels.mu.Unlock()
	t := &v.labels.tracker
	label := ""
	switch kind {
	case '1':
		t.parsed()
	case '2':
		t.bound()
	case '3':
		t.closed()
	case 'n':
		if t.described("") {
			return nil
		}
	case 'C', 's', 'I':
		label = t.completed()
	case 'E':
		t.failed()
	case 'G':
		t.copying()
	}
	if label == "" {
		return message
	}
	return append(append([]byte{}, message...), notice("NOTICE", codeSuccess, (*session)(v).words(label))...)
}

// description takes note of the points that a result comes from, and labels it.
func (v *serverSide) description(body, message []byte) []byte {
	var description pgproto3.RowDescription
	relations, unread := v.labels.known()
	if description.Decode(body) != nil {
		return message // the client's to refuse
	}
	label := ""
	switch {
	case relations != nil:
		v.touch(relations, description.Fields)
		label = relations.describe(description.Fields)
	case unread != nil:
		label = fmt.Sprintf("pg0: cannot tell where these columns come from: %v", unread)
	}
	switch {
	case v.labels.track():
		v.labels.mu.Lock()
		defer v.labels.mu.Unlock()
		if v.labels.described(label) {
			return nil
		}
	case v.labels.is(LabelColumns) && relations != nil && relations.rename(description.Fields):
		return encode(&description)
	}
	return message
}

// touch remembers points for the audit.
func (v *serverSide) touch(r *Relations, fields []pgproto3.FieldDescription) {
	for _, f := range fields {
		relation, ok := r.ByOID[f.TableOID]
		for _, origin := range relation.Origins {
			v.audit.points[origin.Point] = true
		}
		if !ok && f.TableOID >= firstUserOID {
			v.audit.points[r.Base.Point] = true
		}
	}
}

func (v *serverSide) send(b []byte, whole bool) error {
	v.active.Store(v.server.now.Load())
	v.audit.sent.Add(int64(len(b)))
	v.clientMu.Lock()
	defer v.clientMu.Unlock()
	if v.ended {
		return io.ErrClosedPipe
	}
	v.aligned = whole
	return v.write(b)
}

// pass writes to the client what was counted already.
func (v *serverSide) pass(owed []byte) error {
	if len(owed) == 0 {
		return nil
	}
	v.clientMu.Lock()
	defer v.clientMu.Unlock()
	if v.ended {
		return io.ErrClosedPipe
	}
	return v.write(owed)
}

func (v *serverSide) write(b []byte) error {
	if _, err := v.toClient.Write(b); err != nil {
		return errGone
	}
	if x := v.looped.Load(); x == nil || !x.client.lags() {
		v.delivered()
	}
	return nil
}

// delivered is called after the write: a session counts as idle when its client
// has the answer.
func (v *serverSide) delivered() {
	v.answered.Add(v.ready)
	v.ready = 0
}

func (v *serverSide) waits() <-chan struct{} { return nil }

func (v *serverSide) blocks(byte, []byte) bool { return false }
