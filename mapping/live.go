package mapping

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/fukanchik/pg0/relmap"
)

// liveFormat is the format of sources that are running servers.
const liveFormat = "live"

// IsLive says whether a source is a running server.
func (s Source) IsLive() bool { return s.Format == liveFormat }

// IsLive says whether a point is of a running server.
func (s *Spec) IsLive(point string) bool { return s.Sources[s.Points[point].Source].IsLive() }

// live reads the keys of a running server.
func (p *parser) live(s *Source, t table) {
	s.DSN = t.text("dsn", required)
	s.PasswordCommand = t.text("password_command", optional)
	if s.PGData = t.text("pgdata", optional); s.PGData != "" && !filepath.IsAbs(s.PGData) {
		s.PGData = filepath.Join(filepath.Dir(p.spec.File), s.PGData)
	}
	if text := t.text("rate", optional); text != "" {
		var err error
		if s.Rate, err = parseRate(text); err != nil {
			p.errorf(t.line("rate"), "rate: %v", err)
		}
	}
	const most = 32
	switch n, ok := t.values["connections"].(int64); {
	case t.values["connections"] == nil:
	case !ok || n < 1 || n > most:
		p.errorf(t.line("connections"), "connections must be a number from 1 to %d, not %s", most, describe(t.values["connections"]))
	default:
		s.Connections = int(n)
	}
}

// rateUnits are those of PostgreSQL, but with 1024 spelt as it does.
var rateUnits = []struct {
	name  string
	bytes float64
}{{"kB", 1 << 10}, {"KB", 1 << 10}, {"MB", 1 << 20}, {"GB", 1 << 30}, {"B", 1}}

// parseRate reads bytes a second, such as 50MB/s.
func parseRate(text string) (int64, error) {
	number, _ := strings.CutSuffix(strings.TrimSpace(text), "/s")
	for _, unit := range rateUnits {
		digits, ok := strings.CutSuffix(number, unit.name)
		if !ok {
			continue
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
		if bytes := value * unit.bytes; err == nil && bytes >= 1 && bytes < math.MaxInt64/2 {
			return int64(bytes), nil
		}
		break
	}
	return 0, fmt.Errorf("%q is no rate such as 50MB/s", text)
}

// take reads what a live base is to hold.
func (p *parser) take(t table) {
	texts := t.texts("take")
	if texts != nil && !p.spec.IsLive(p.spec.Base) {
		p.errorf(t.line("take"), "take is for a base of format %s: a backup is read only where it is needed", liveFormat)
	}
	for _, text := range texts {
		if pattern, ok := p.pattern(t.line("take"), text); ok {
			p.spec.Take = append(p.spec.Take, pattern)
		}
	}
}

// via reads how a rule's rows come.
func (p *parser) via(r *Rule, t table) {
	known := []string{"copy", string(ViaFDW)}
	if text := t.text("via", optional); text != "" {
		switch text {
		case "copy":
		case string(ViaFDW):
			r.Via = ViaFDW
		default:
			p.errorf(t.line("via"), "via = %s is none of %s%s", strconv.Quote(text), strings.Join(known, ", "), didYouMean(text, known))
		}
	}
	if _, ok := p.spec.Points[r.From]; ok && r.Via == ViaFDW && !p.spec.IsLive(r.From) {
		p.errorf(t.line("via"), "via = %q asks a running server, and point %s is of a source of another format than %s", r.Via, r.From, liveFormat)
	}
	if r.Via == ViaFDW && t.values["indexes"] != nil {
		p.errorf(t.line("indexes"), "indexes of a foreign table are those of its server: leave indexes out")
	}
	switch v, ok := t.values["writable"].(bool); {
	case t.values["writable"] == nil:
	case !ok:
		p.errorf(t.line("writable"), "writable must be true or false, not %s", describe(t.values["writable"]))
	case r.Via != ViaFDW && v:
		p.errorf(t.line("writable"), "writable is for via = %q: what is copied can always be written, in the mix alone", ViaFDW)
	default:
		r.Writable = v
	}
}

// Copies says whether any rule, or the base, needs files of a point.
func (s *Spec) Copies(point string) bool {
	return point == s.Base || slices.ContainsFunc(s.Rules, func(r Rule) bool { return r.From == point && r.Via != ViaFDW })
}

// All says whether everything of a live point is needed.
func (s *Spec) All(point string) bool { return point == s.Base && s.Take == nil }

// WantsDatabase says whether files of any relation of a database are needed.
func (s *Spec) WantsDatabase(point, database string) bool {
	wants := func(p Pattern) bool { return p.parts[0].match([]rune(database)) }
	return point == s.Base && slices.ContainsFunc(s.Take, wants) ||
		slices.ContainsFunc(s.Rules, func(r Rule) bool { return r.From == point && r.Via != ViaFDW && wants(r.Name) })
}

// Wants says whether the files of a relation are needed.
func (s *Spec) Wants(point, database, schema, name string) bool {
	wants := func(p Pattern) bool { return p.Match(database, schema, name) }
	return point == s.Base && slices.ContainsFunc(s.Take, wants) || slices.ContainsFunc(s.Rules, func(r Rule) bool {
		return r.From == point && r.Via != ViaFDW && wants(r.Name) && !slices.ContainsFunc(r.Except, wants)
	})
}

// MatchesForeign says whether a rule shows a relation through a foreign data
// wrapper; an empty name asks for any of the database.
func (r *Rule) MatchesForeign(database, schema, name string) bool {
	switch {
	case r.Via != ViaFDW:
		return false
	case name == "":
		return r.Name.parts[0].match([]rune(database))
	}
	return r.Name.Match(database, schema, name) &&
		!slices.ContainsFunc(r.Except, func(p Pattern) bool { return p.Match(database, schema, name) })
}

// A ForeignRelation is one of a running server.
type ForeignRelation struct {
	Database string
	Schema   string
	Name     string
	Kind     string // as in pg_class
}

// A Foreign is a foreign table of the mix.
type Foreign struct {
	Relation string `json:"relation"` // the target as SQL writes it, with its database
	Database string `json:"database"`
	Schema   string `json:"schema"`
	Name     string `json:"name"`
	Point    string `json:"point"`
	Source   string `json:"source"`
	// The relation on the server.
	RemoteSchema string `json:"remote_schema"`
	RemoteName   string `json:"remote_name"`
	Writable     bool   `json:"writable,omitempty"`
	Line         int    `json:"line"` // of the rule
}

// LiveTarget is what stands for the moment of a foreign table.
const LiveTarget = "live, at query time"

// Comment is what COMMENT ON says of a foreign table.
func (f *Foreign) Comment() string {
	text := fmt.Sprintf("pg0: %s.%s of point %s, %s", QuoteIdent(f.Database), quoteName(f.RemoteSchema, f.RemoteName), f.Point, LiveTarget)
	if f.Writable {
		text += ", writable"
	}
	return text
}

// foreign applies a rule to the relations that its server has.
func (r *resolver) foreign(rule *Rule) error {
	donor, ok := r.images[rule.From]
	if !ok {
		return fmt.Errorf("nothing is known of point %s", rule.From)
	}
	found := false
	for _, one := range donor.Foreign {
		if !rule.MatchesForeign(one.Database, one.Schema, one.Name) {
			continue
		}
		found = true
		f := Foreign{
			Database: one.Database, Schema: one.Schema, Name: one.Name, Point: rule.From, Source: donor.Info.Source,
			RemoteSchema: one.Schema, RemoteName: one.Name, Writable: rule.Writable, Line: rule.Line,
		}
		if rule.As != nil {
			f.Schema = rule.As.Schema
			if rule.As.Name != "" {
				f.Name = rule.As.Name
			}
		}
		f.Relation = quoteName(f.Database, f.Schema, f.Name)
		r.foreignFits(&f)
	}
	if !found {
		r.mistake(rule.Line, "%s matches nothing on the server of point %s now", rule.Name, rule.From)
	}
	return nil
}

// foreignFits checks that there is a place for a foreign table.
func (r *resolver) foreignFits(f *Foreign) {
	t := target{f.Database, f.Schema, f.Name}
	for i := range r.foreigns {
		if r.foreigns[i].Relation == f.Relation {
			r.mistake(f.Line, "%s would come from two rules (lines %d and %d)", t, r.foreigns[i].Line, f.Line)
			return
		}
	}
	if r.baseDatabase(f.Database) == nil {
		r.refuse(f.Relation, "take a base that has it, or leave the rule out", "database %s is not in the base", QuoteIdent(f.Database))
		return
	}
	made := r.adopter == nil // the base has been given what it lacked
	base := r.baseRelation(t)
	switch {
	case made && (base == nil || base.Kind != relmap.KindForeignTable):
		r.refuse(f.Relation, "use a new layer", "the base was made without the foreign table")
	case !made && base != nil:
		r.refuse(f.Relation, fmt.Sprintf("show it beside the base's own with as = \"%s.%s\"", QuoteIdent(f.Point), QuoteIdent(f.Name)),
			"the base has %s of this name already", kindName(base))
	default:
		r.foreigns = append(r.foreigns, *f)
	}
}

// checkForeign refuses a name that a file's relation has been given too.
func (r *resolver) checkForeign() {
	for i := range r.foreigns {
		f := &r.foreigns[i]
		if claims := r.claims[target{f.Database, f.Schema, f.Name}]; len(claims) > 0 {
			r.mistake(f.Line, "%s would come from two rules (lines %d and %d)", f.Relation, claims[0].rule.Line, f.Line)
		}
	}
	slices.SortFunc(r.foreigns, func(a, b Foreign) int { return strings.Compare(a.Relation, b.Relation) })
}
