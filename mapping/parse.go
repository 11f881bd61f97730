package mapping

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
)

// sourceFormat is what a format of sources asks for.
type sourceFormat struct {
	keys    []string
	moments []Kind
}

// formats are the sources that can be opened.
var formats = map[string]sourceFormat{
	"probackup": {
		keys:    []string{"path", "instance"},
		moments: []Kind{KindBackup, KindLatest, KindImmediate, KindTime, KindLSN, KindXID, KindName},
	},
	liveFormat: {
		keys:    []string{"dsn", "pgdata", "rate", "connections", "password_command"},
		moments: []Kind{KindNow},
	},
}

// Parse reads a mapping file. name is its path: errors begin with it and
// relative paths start at its directory. The error is FileErrors.
func Parse(name string, text []byte) (*Spec, error) {
	p := &parser{spec: &Spec{File: name, Sources: map[string]Source{}, Points: map[string]PointRef{}}}
	if !utf8.Valid(text) {
		return nil, FileErrors{{File: name, What: "the file is not UTF-8 text"}}
	}
	var doc map[string]any
	meta, err := toml.Decode(string(text), &doc)
	if err != nil {
		return nil, FileErrors{syntaxError(name, err)}
	}
	p.lines = indexLines(string(text), meta.Keys())
	p.document(table{p: p, values: doc})
	if len(p.errs) > 0 {
		slices.SortStableFunc(p.errs, func(a, b *FileError) int { return a.Line - b.Line })
		return nil, p.errs
	}
	return p.spec, nil
}

func syntaxError(name string, err error) *FileError {
	var pe toml.ParseError
	if errors.As(err, &pe) {
		line := pe.Position.Line
		if strings.Contains(pe.Message, `got '\n'`) {
			line-- // the library counts the line that such an end of line begins
		}
		return &FileError{File: name, Line: line, What: pe.Message}
	}
	return &FileError{File: name, What: err.Error()}
}

// parser collects the spec and everything wrong with it.
type parser struct {
	spec  *Spec
	lines lineIndex
	errs  FileErrors
}

func (p *parser) errorf(line int, format string, args ...any) {
	p.errs = append(p.errs, &FileError{File: p.spec.File, Line: line, What: fmt.Sprintf(format, args...)})
}

func (p *parser) document(doc table) {
	if !doc.only("version", "sources", "points", "base", "relation") {
		return
	}
	switch v, ok := doc.values["version"]; {
	case !ok:
		p.errorf(0, "version = 1 is missing")
	case v != int64(1):
		p.errorf(doc.line("version"), "version = %v is not known: this pg0 reads version = 1", v)
	}
	for _, t := range doc.tables("sources") {
		p.source(t)
	}
	for _, t := range doc.tables("points") {
		p.point(t)
	}
	p.base(doc)
	for _, t := range doc.elements("relation") {
		p.rule(t)
	}
	if p.spec.Base == "" && len(p.spec.Rules) > 0 {
		p.errorf(0, `[base] with point = "..." is missing: relations need a cluster to be shown in`)
	}
}

func (p *parser) source(t table) {
	s := Source{Name: t.name, Line: t.line("")}
	s.Format = t.text("format", required)
	format, ok := formats[s.Format]
	known := slices.Sorted(maps.Keys(formats))
	switch {
	case s.Format == "":
		return
	case !ok:
		p.errorf(t.line("format"), "format %q of source %s is not one that this pg0 reads (%s)%s",
			s.Format, s.Name, strings.Join(known, ", "), didYouMean(s.Format, known))
		p.spec.Sources[s.Name] = s // so that its points are not called unknown as well
		return
	}
	t.only(append([]string{"format"}, format.keys...)...)
	if s.Format == liveFormat {
		p.live(&s, t)
		p.spec.Sources[s.Name] = s
		return
	}
	s.Path = t.text("path", required)
	if s.Path != "" && !filepath.IsAbs(s.Path) {
		s.Path = filepath.Join(filepath.Dir(p.spec.File), s.Path)
	}
	s.Instance = t.text("instance", optional)
	p.spec.Sources[s.Name] = s
}

func (p *parser) base(doc table) {
	t, ok := doc.table("base")
	if !ok {
		return
	}
	t.only("point", "take")
	p.spec.Base = t.text("point", required)
	p.knownPoint(t.line("point"), p.spec.Base)
	p.take(t)
}

func (p *parser) knownPoint(line int, name string) {
	if _, ok := p.spec.Points[name]; !ok && name != "" {
		known := slices.Sorted(maps.Keys(p.spec.Points))
		p.errorf(line, "point %q is not in [points]%s", name, didYouMean(name, known))
	}
}

const ruleShape = "database.schema.relation"

func (p *parser) rule(t table) {
	t.only("name", "from", "as", "except", "indexes", "via", "writable")
	r := Rule{Line: t.line(""), Indexes: GraftIndexes}
	var ok bool
	r.Name, ok = p.pattern(t.line("name"), t.text("name", required))
	r.From = t.text("from", required)
	p.knownPoint(t.line("from"), r.From)
	for _, text := range t.texts("except") {
		pattern, _ := p.pattern(t.line("except"), text)
		r.Except = append(r.Except, pattern)
	}
	if text := t.text("as", optional); text != "" && ok {
		p.as(&r, t.line("as"), text)
	}
	if text := t.text("indexes", optional); text != "" {
		p.indexes(&r, t.line("indexes"), text)
	}
	p.via(&r, t)
	p.spec.Rules = append(p.spec.Rules, r)
}

// pattern reads the name of relations. System catalogs cannot be taken.
func (p *parser) pattern(line int, text string) (Pattern, bool) {
	if text == "" {
		return Pattern{}, false
	}
	pattern, err := parsePattern(text, ruleShape)
	if err != nil {
		p.errorf(line, "%v", err)
		return pattern, false
	}
	if schema := pattern.parts[1]; !schema.isWild() && IsSystemSchema(string(schema.text)) {
		p.errorf(line, "%s is in schema %s: system catalogs always come from the base", text, string(schema.text))
		return pattern, false
	}
	return pattern, true
}

// IsSystemSchema says whether a schema belongs to PostgreSQL itself.
func IsSystemSchema(name string) bool {
	return strings.HasPrefix(name, "pg_") || name == "information_schema"
}

// as reads where a rule's relations are shown. The only wildcard is a name that
// is a star alone.
func (p *parser) as(r *Rule, line int, text string) {
	to, err := parsePattern(text, "schema.relation")
	if err != nil {
		p.errorf(line, "as = %v", err)
		return
	}
	schema, name := to.parts[0], to.parts[1]
	keeps := name.isWild() && string(name.text) == "*"
	switch {
	case schema.isWild(), name.isWild() && !keeps:
		p.errorf(line, "as = %q: the only wildcard here is a relation that is * alone, which keeps each name", text)
	case IsSystemSchema(string(schema.text)) || string(schema.text) == "pg0":
		p.errorf(line, "as = %q: schema %s is reserved", text, string(schema.text))
	case !keeps && (r.Name.parts[1].isWild() || r.Name.parts[2].isWild()):
		p.errorf(line, "as = %q would give every relation that %s matches the same name; write %s.*", text, r.Name, QuoteIdent(string(schema.text)))
	default:
		r.As = &Target{Schema: string(schema.text)}
		if !keeps {
			r.As.Name = string(name.text)
		}
	}
}

func (p *parser) indexes(r *Rule, line int, text string) {
	known := []string{string(GraftIndexes), string(RebuildIndexes), string(NoIndexes)}
	if !slices.Contains(known, text) {
		p.errorf(line, "indexes = %s is none of %s%s", strconv.Quote(text), strings.Join(known, ", "), didYouMean(text, known))
		return
	}
	r.Indexes = Indexes(text)
}
