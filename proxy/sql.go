package proxy

import (
	"strings"
)

// A token is a piece of SQL.
type token struct {
	kind tokenKind
	text string // of words in lower case, of quoted things without their quotes
}

type tokenKind int

const (
	endToken    tokenKind = iota
	wordToken             // identifier or keyword; quoted identifiers too
	stringToken           // literal in any kind of quotes
	otherToken            // one character
)

// A lexer splits SQL as PostgreSQL's scan.l does, as far as it takes to tell
// words, literals and comments apart.
type lexer struct{ rest string }

func (l *lexer) next() token {
	l.skip()
	if l.rest == "" {
		return token{}
	}
	switch c := l.rest[0]; {
	case c == '"':
		return token{wordToken, l.quoted('"', false)}
	case c == '\'':
		return token{stringToken, l.quoted('\'', false)}
	case c == '$':
		if text, ok := l.dollar(); ok {
			return token{stringToken, text}
		}
	case isWordStart(c):
		return l.word()
	}
	text := l.rest[:1]
	l.rest = l.rest[1:]
	return token{otherToken, text}
}

// skip passes white space and comments.
func (l *lexer) skip() {
	for {
		l.rest = strings.TrimLeft(l.rest, " \t\n\r\f\v")
		switch {
		case strings.HasPrefix(l.rest, "--"):
			if end := strings.IndexAny(l.rest, "\n\r"); end >= 0 {
				l.rest = l.rest[end:]
			} else {
				l.rest = ""
			}
		case strings.HasPrefix(l.rest, "/*"):
			l.block()
		default:
			return
		}
	}
}

// block passes a comment, which may hold others.
func (l *lexer) block() {
	depth := 0
	for l.rest != "" {
		switch {
		case strings.HasPrefix(l.rest, "/*"):
			depth++
			l.rest = l.rest[2:]
		case strings.HasPrefix(l.rest, "*/"):
			depth--
			l.rest = l.rest[2:]
		default:
			l.rest = l.rest[1:]
		}
		if depth == 0 {
			return
		}
	}
}

// quoted reads up to the closing quote; a doubled one stands for itself.
func (l *lexer) quoted(quote byte, backslash bool) string {
	var out strings.Builder
	for i := 1; i < len(l.rest); i++ {
		switch {
		case backslash && l.rest[i] == '\\' && i+1 < len(l.rest):
			i++
			out.WriteByte(l.rest[i])
		case l.rest[i] != quote:
			out.WriteByte(l.rest[i])
		case i+1 < len(l.rest) && l.rest[i+1] == quote:
			i++
			out.WriteByte(quote)
		default:
			l.rest = l.rest[i+1:]
			return out.String()
		}
	}
	l.rest = ""
	return out.String()
}

// dollar reads $tag$ text $tag$.
func (l *lexer) dollar() (string, bool) {
	end := strings.IndexByte(l.rest[1:], '$')
	if end < 0 {
		return "", false
	}
	tag := l.rest[:end+2]
	for i := 1; i < len(tag)-1; i++ {
		if !isWordPart(tag[i]) || i == 1 && !isWordStart(tag[i]) {
			return "", false
		}
	}
	text, rest, _ := strings.Cut(l.rest[len(tag):], tag)
	l.rest = rest
	return text, true
}

func (l *lexer) word() token {
	end := 1
	for end < len(l.rest) && isWordPart(l.rest[end]) {
		end++
	}
	text := strings.ToLower(l.rest[:end])
	l.rest = l.rest[end:]
	// E'...', B'...', N'...', X'...', U&'...'
	if strings.HasPrefix(l.rest, "'") && strings.Contains("ebnx", text) {
		return token{stringToken, l.quoted('\'', text == "e")}
	}
	return token{wordToken, text}
}

func isWordStart(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

func isWordPart(c byte) bool { return isWordStart(c) || c >= '0' && c <= '9' || c == '$' }

// tokens splits a text, but not more than limit tokens of it.
func tokens(text string, limit int) []token {
	l := lexer{text}
	var all []token
	for len(all) < limit {
		t := l.next()
		if t.kind == endToken {
			break
		}
		all = append(all, t)
	}
	return all
}

// A change is a statement that sets pg0.label.
type change struct {
	value string // as it was written; empty: back to what it was at the start
	local bool   // until the end of the transaction
}

// longestChange is the most tokens of such a statement:
// SET LOCAL pg0 . label = value ;
const longestChange = 8

// labelChange recognises a statement that sets pg0.label, alone in its text.
func labelChange(text string) (change, bool) {
	if !mayBeChange(text) {
		return change{}, false
	}
	t := tokens(text, longestChange+1)
	if n := len(t); n > 0 && t[n-1] == (token{otherToken, ";"}) {
		t = t[:n-1]
	}
	if len(t) < 2 || len(t) >= longestChange || t[0].kind != wordToken {
		return change{}, false
	}
	switch t[0].text {
	case "reset", "discard":
		all := len(t) == 2 && t[1] == (token{wordToken, "all"})
		return change{}, all || t[0].text == "reset" && len(t) == 4 && isLabelSetting(t[1:])
	case "set":
		return setLabel(t[1:])
	}
	return change{}, false
}

// mayBeChange sorts out most texts by their first word.
func mayBeChange(text string) bool {
	text = strings.TrimLeft(text, " \t\n\r\f\v")
	if text == "" || text[0] == '-' || text[0] == '/' {
		return text != ""
	}
	for _, word := range changeWords {
		if len(text) > len(word) && strings.EqualFold(text[:len(word)], word) && !isWordPart(text[len(word)]) {
			return true
		}
	}
	return false
}

// changeWords are those that a change of pg0.label begins with.
var changeWords = []string{"set", "reset", "discard"}

func isLabelSetting(t []token) bool {
	return t[0] == token{wordToken, "pg0"} && t[1] == token{otherToken, "."} && t[2] == token{wordToken, "label"}
}

// setLabel reads what follows SET.
func setLabel(t []token) (c change, ok bool) {
	if t[0] == (token{wordToken, "session"}) || t[0] == (token{wordToken, "local"}) {
		c.local = t[0].text == "local"
		t = t[1:]
	}
	if len(t) != 5 || !isLabelSetting(t) || t[3] != (token{otherToken, "="}) && t[3] != (token{wordToken, "to"}) {
		return c, false
	}
	if c.value = t[4].text; t[4] == (token{wordToken, "default"}) {
		c.value = ""
	}
	return c, t[4].kind != otherToken
}
