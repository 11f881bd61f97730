package mapping

import (
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// lineIndex knows the line of every key of a document. The library keeps no
// positions of the keys in arrays of tables, so they are found again by walking
// its list of keys, which is in the document's order, along the text.
type lineIndex map[string]int

// indexLines gives the line of each key under its path, in which every element
// of an array of tables has its index: relation.0.name.
func indexLines(text string, keys []toml.Key) lineIndex {
	index, found := lineIndex{}, scanKeys(text)
	elements := map[string]int{}
	next := 0
	for _, key := range keys {
		for next < len(found) && found[next].name != key[len(key)-1] {
			next++
		}
		if next == len(found) {
			break
		}
		path := keyPath(key, elements, found[next].element)
		if _, ok := index[path]; !ok {
			index[path] = found[next].line
		}
		next++
	}
	return index
}

// keyPath joins a key's parts, putting the index of the current element behind
// each part that is an array of tables; element starts a new one.
func keyPath(key toml.Key, elements map[string]int, element bool) string {
	path := ""
	for i, part := range key {
		path = joinPath(path, part)
		if element && i == len(key)-1 {
			if _, ok := elements[path]; ok {
				elements[path]++
			} else {
				elements[path] = 0
			}
		}
		if n, ok := elements[path]; ok {
			path = joinPath(path, strconv.Itoa(n))
		}
	}
	return path
}

func joinPath(path, part string) string {
	if path == "" {
		return part
	}
	return path + "\x00" + part
}

// line is the line of the longest known part of a path.
func (x lineIndex) line(path string) int {
	for {
		if n, ok := x[path]; ok {
			return n
		}
		cut := strings.LastIndexByte(path, 0)
		if cut < 0 {
			return 0
		}
		path = path[:cut]
	}
}

// keyMark is a key where it stands in the text. element: it heads a table of
// an array.
type keyMark struct {
	name    string
	line    int
	element bool
}

// keyScanner walks a document that the library has accepted, so it need not
// tell good syntax from bad.
type keyScanner struct {
	text    string
	at      int
	line    int
	depth   int // of brackets and braces in values
	header  int // 1 in [table], 2 in [[table]], else 0
	fresh   bool
	pending string // a word that is a key if = or . follows
	pend    bool
	marks   []keyMark
}

func scanKeys(text string) []keyMark {
	s := &keyScanner{text: text, line: 1, fresh: true}
	for s.at < len(s.text) {
		s.step()
	}
	return s.marks
}

func (s *keyScanner) step() {
	c := s.text[s.at]
	switch {
	case c == '\n':
		s.at++
		s.line++
		s.header, s.pend, s.fresh = 0, false, s.depth == 0
		return
	case c == '#':
		s.skipTo("\n")
		return
	case c == '"' || c == '\'':
		s.pending, s.pend = s.quoted(c), true
	case c == '=':
		s.mark(false)
		s.at++
	case c == '[':
		s.open()
	case c == ']' && s.header > 0:
		s.mark(s.header == 2)
		s.header = 0
		s.at++
	case c == '{':
		s.depth++
		s.at++
	case c == ']' || c == '}':
		s.depth = max(0, s.depth-1)
		s.pend = false
		s.at++
	case isBareKey(c):
		start := s.at
		for s.at < len(s.text) && isBareKey(s.text[s.at]) {
			s.at++
		}
		s.pending, s.pend = s.text[start:s.at], true
	default:
		s.at++
	}
	s.fresh = s.fresh && (c == ' ' || c == '\t' || c == '\r')
}

// open takes a bracket: of a table's header when it begins a line, else of an
// array.
func (s *keyScanner) open() {
	switch {
	case s.fresh && strings.HasPrefix(s.text[s.at:], "[["):
		s.header = 2
		s.at += 2
	case s.fresh:
		s.header = 1
		s.at++
	default:
		s.depth++
		s.at++
	}
}

func (s *keyScanner) mark(element bool) {
	if s.pend {
		s.marks = append(s.marks, keyMark{s.pending, s.line, element})
	}
	s.pend = false
}

// quoted skips a string and gives its content, unescaped if it is a key's.
func (s *keyScanner) quoted(quote byte) string {
	if three := strings.Repeat(string(quote), 3); strings.HasPrefix(s.text[s.at:], three) {
		s.at += 3
		s.skipString(three, quote == '"')
		return ""
	}
	s.at++
	start := s.at
	s.skipString(string(quote), quote == '"')
	body := s.text[start:max(start, s.at-1)]
	if quote == '"' {
		if plain, err := strconv.Unquote(`"` + body + `"`); err == nil {
			return plain
		}
	}
	return body
}

// skipString goes behind the end mark, counting lines on the way.
func (s *keyScanner) skipString(end string, escapes bool) {
	for s.at < len(s.text) {
		switch {
		case escapes && s.text[s.at] == '\\' && s.at+1 < len(s.text):
			s.at++
		case strings.HasPrefix(s.text[s.at:], end):
			s.at += len(end)
			return
		}
		if s.text[s.at] == '\n' {
			s.line++
		}
		s.at++
	}
}

func (s *keyScanner) skipTo(end string) {
	if i := strings.Index(s.text[s.at:], end); i >= 0 {
		s.at += i
		return
	}
	s.at = len(s.text)
}

func isBareKey(c byte) bool {
	return c == '_' || c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}
