package proxy

import (
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"
)

// An audit is what one line says of a session. It never has the text of
// statements.
type audit struct {
	who, from, database, mix, application string
	secure                                bool
	since                                 time.Time
	statements                            atomic.Int64
	received, sent                        atomic.Int64    // bytes, as the server sees it
	points                                map[string]bool // touched; of the server side alone
	reason                                *Error
}

func (a *audit) begin(g *greeting, target *Backend) {
	a.who, a.from, a.secure, a.since = g.role, g.remote, g.secure, time.Now()
	a.database, a.mix, a.application = target.Database, target.Labels.Mix, g.params["application_name"]
	a.points = map[string]bool{}
}

// because takes note of why pg0 ends a session.
func (a *audit) because(e *Error) { a.reason = e }

// write is called once, after both directions have ended.
func (a *audit) write(s *session) {
	if relations, _ := s.labels.known(); !s.grafted.Load() && relations != nil && a.statements.Load() > 0 {
		a.points[relations.Base.Point] = true
	}
	attrs := []slog.Attr{
		slog.String("user", a.who), slog.String("from", a.from), slog.Bool("tls", a.secure),
		slog.String("application", a.application),
		slog.String("database", a.database), slog.String("mix", a.mix),
		slog.Any("points", append([]string{}, slices.Sorted(maps.Keys(a.points))...)),
		slog.Int64("statements", a.statements.Load()),
		slog.Int64("bytes_received", a.received.Load()), slog.Int64("bytes_sent", a.sent.Load()),
		slog.Duration("duration", time.Since(a.since)),
	}
	if a.reason != nil {
		attrs = append(attrs, slog.String("ended", a.reason.Error()))
	}
	s.server.Audit.LogAttrs(s.server.ctx, slog.LevelInfo, "session", attrs...)
}
