package proxy

import (
	"strings"
)

// options are the settings of pg0 that a start-up packet asks for.
type options struct {
	notice string // pg0.notice
	label  string // pg0.label
	write  bool   // it asks for transactions that are not read-only
}

// The settings of pg0 that sessions can give.
const (
	settingNotice = "pg0.notice"
	settingLabel  = "pg0.label"
)

// readOnlySettings are those that --read-only owns.
var readOnlySettings = []string{"default_transaction_read_only", "transaction_read_only"}

// readOptions looks at the parameters of a start-up packet. As in PostgreSQL
// parameters of their own come after those in "options".
func readOptions(params map[string]string) *options {
	o := &options{}
	words := splitOptions(params["options"])
	for i := 0; i < len(words); i++ {
		text := ""
		switch {
		case words[i] == "-c" && i+1 < len(words):
			i++
			text = words[i]
		case strings.HasPrefix(words[i], "-c"):
			text = words[i][2:]
		case strings.HasPrefix(words[i], "--"):
			text = words[i][2:]
		}
		if name, value, ok := strings.Cut(text, "="); ok {
			o.take(strings.ReplaceAll(name, "-", "_"), value)
		}
	}
	for name, value := range params {
		o.take(name, value)
	}
	return o
}

func (o *options) take(name, value string) {
	switch name = strings.ToLower(name); name {
	case settingNotice:
		o.notice = value
	case settingLabel:
		o.label = value
	case readOnlySettings[0], readOnlySettings[1]:
		if on, ok := parseBool(value); !ok || !on {
			o.write = true
		}
	}
}

// splitOptions splits as pg_split_opts does: at white space, which a backslash
// makes part of a word.
func splitOptions(text string) (words []string) {
	var word strings.Builder
	inWord := false
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case isSpace(c):
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
			continue
		case c == '\\' && i+1 < len(text):
			i++
			c = text[i]
		}
		inWord = true
		word.WriteByte(c)
	}
	if inWord {
		words = append(words, word.String())
	}
	return words
}

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

// parseBool reads a boolean as PostgreSQL does: a unique beginning of a word.
func parseBool(text string) (value, ok bool) {
	text = strings.ToLower(strings.TrimSpace(text))
	switch text {
	case "":
		return false, false
	case "on", "1":
		return true, true
	case "of", "off", "0":
		return false, true
	}
	switch {
	case strings.HasPrefix("true", text), strings.HasPrefix("yes", text):
		return true, true
	case strings.HasPrefix("false", text), strings.HasPrefix("no", text):
		return false, true
	}
	return false, false
}
