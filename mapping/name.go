package mapping

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// nameDataLen is PostgreSQL's limit on the bytes of a name.
const nameDataLen = 63

// A Pattern is a dotted name of a mapping file, with * and ? outside quotes.
type Pattern struct {
	text  string
	parts []namePart
}

// namePart is one part of a dotted name. glob holds, for each rune of text,
// whether it is a wildcard and not itself.
type namePart struct {
	text []rune
	wild []bool
}

// String is the pattern as it was written.
func (p Pattern) String() string { return p.text }

// Wild says whether the pattern can match more than one name.
func (p Pattern) Wild() bool {
	for _, part := range p.parts {
		if part.isWild() {
			return true
		}
	}
	return false
}

// Match says whether the pattern matches a name given by its parts.
func (p Pattern) Match(names ...string) bool {
	if len(names) != len(p.parts) {
		return false
	}
	for i, part := range p.parts {
		if !part.match([]rune(names[i])) {
			return false
		}
	}
	return true
}

// literal gives the name of a part without wildcards.
func (p Pattern) literal(i int) string { return string(p.parts[i].text) }

func (n namePart) isWild() bool {
	for _, w := range n.wild {
		if w {
			return true
		}
	}
	return false
}

// match walks name along the part; on a mismatch it goes back to the last star
// and lets that take one rune more.
func (n namePart) match(name []rune) bool {
	i, j, star, mark := 0, 0, -1, 0
	for j < len(name) {
		switch {
		case i < len(n.text) && n.wild[i] && n.text[i] == '*':
			star, mark = i, j
			i++
		case i < len(n.text) && (n.wild[i] || n.text[i] == name[j]):
			i++
			j++
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	for i < len(n.text) && n.wild[i] && n.text[i] == '*' {
		i++
	}
	return i == len(n.text)
}

// parsePattern reads a dotted name of count parts as SQL does: a part outside
// double quotes is folded to lower case and may hold wildcards, a part inside
// is taken literally, two double quotes stand for one.
func parsePattern(text, shape string) (Pattern, error) {
	p := Pattern{text: text}
	rest := text
	for {
		part, tail, err := parsePart(rest)
		if err != nil {
			return p, fmt.Errorf("%q: %w", text, err)
		}
		p.parts = append(p.parts, part)
		if tail == "" {
			break
		}
		rest = tail[1:]
	}
	if want := strings.Count(shape, ".") + 1; len(p.parts) != want {
		return p, fmt.Errorf("%q has %d part%s, not the %d of %s", text, len(p.parts), plural(len(p.parts)), want, shape)
	}
	return p, nil
}

// parsePart reads up to the dot that ends the part; the rest starts with it.
func parsePart(s string) (part namePart, rest string, err error) {
	quoted := false
	for i, r := range s {
		switch {
		case r == '"' && quoted && strings.HasPrefix(s[i+1:], `"`):
			quoted = false // reopened by the second quote, which then is a literal one
		case r == '"' && !quoted && i > 0 && s[i-1] == '"':
			quoted = true
			part.add('"', false)
		case r == '"':
			quoted = !quoted
		case quoted:
			part.add(r, false)
		case r == '.':
			return part, s[i:], part.check()
		case r == '*' || r == '?':
			part.add(r, true)
		case isNameRune(r):
			part.add(foldASCII(r), false)
		default:
			return part, "", fmt.Errorf("%q needs double quotes around its part of the name, as in SQL", r)
		}
	}
	if quoted {
		return part, "", errors.New("a double quote is not closed")
	}
	return part, "", part.check()
}

func (n *namePart) add(r rune, wild bool) {
	n.text = append(n.text, r)
	n.wild = append(n.wild, wild)
}

func (n namePart) check() error {
	switch {
	case len(n.text) == 0:
		return errors.New("a part of the name is empty")
	case len(string(n.text)) > nameDataLen && !n.isWild():
		return fmt.Errorf("%q is longer than PostgreSQL's %d bytes", string(n.text), nameDataLen)
	}
	return nil
}

func isNameRune(r rune) bool {
	return r == '_' || r == '$' || r >= '0' && r <= '9' || unicode.IsLetter(r) || r > unicode.MaxASCII
}

func foldASCII(r rune) rune {
	if r >= 'A' && r <= 'Z' {
		return r + 'a' - 'A'
	}
	return r
}

// QuoteIdent writes a name as SQL needs it: in double quotes unless it is lower
// case letters, digits and underscores, and no key word.
func QuoteIdent(name string) string {
	plain := name != ""
	for i, r := range name {
		plain = plain && (r == '_' || r >= 'a' && r <= 'z' || i > 0 && r >= '0' && r <= '9')
	}
	if plain && !keywords[name] {
		return name
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

// quoteName joins the parts of a name with dots, each quoted where needed.
func quoteName(parts ...string) string {
	quoted := make([]string, len(parts))
	for i, p := range parts {
		quoted[i] = QuoteIdent(p)
	}
	return strings.Join(quoted, ".")
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}
