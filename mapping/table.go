package mapping

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// table is a TOML table with its place in the file.
type table struct {
	p      *parser
	name   string // the last part of its key
	path   string
	values map[string]any
}

const (
	required = true
	optional = false
)

// line is where a key of the table stands, or the table itself for "".
func (t table) line(key string) int {
	if key == "" {
		return t.p.lines.line(t.path)
	}
	return t.p.lines.line(joinPath(t.path, key))
}

// only reports every key that is not known.
func (t table) only(known ...string) bool {
	fine := true
	for _, key := range slices.Sorted(maps.Keys(t.values)) {
		if !slices.Contains(known, key) {
			t.p.errorf(t.line(key), "key %s is not known in %s%s", strconv.Quote(key), t.where(), didYouMean(key, known))
			fine = false
		}
	}
	return fine
}

// where names the table as the file does.
func (t table) where() string {
	if t.path == "" {
		return "this file (known: version, sources, points, base, relation)"
	}
	parts := strings.Split(t.path, "\x00")
	if len(parts) == 2 && parts[0] == "relation" {
		return "[[relation]]"
	}
	return "[" + strings.Join(parts, ".") + "]"
}

// text is a string value; a required one may neither be missing nor empty.
func (t table) text(key string, must bool) string {
	v, ok := t.values[key]
	if !ok {
		if must {
			t.p.errorf(t.line(""), "%s needs %s", t.where(), key)
		}
		return ""
	}
	s, ok := v.(string)
	switch {
	case !ok:
		t.p.errorf(t.line(key), "%s must be a string in double quotes, not %s", key, describe(v))
	case s == "" || strings.ContainsRune(s, 0):
		t.p.errorf(t.line(key), "%s is empty or holds a zero byte", key)
		s = ""
	}
	return s
}

// texts is a list of strings that need not be there.
func (t table) texts(key string) []string {
	v, ok := t.values[key]
	if !ok {
		return nil
	}
	list, ok := v.([]any)
	if !ok {
		t.p.errorf(t.line(key), "%s must be a list of strings, not %s", key, describe(v))
		return nil
	}
	var texts []string
	for _, one := range list {
		s, ok := one.(string)
		if !ok || s == "" {
			t.p.errorf(t.line(key), "%s must be a list of strings; %s is not one", key, describe(one))
			continue
		}
		texts = append(texts, s)
	}
	return texts
}

// table is one table below this one.
func (t table) table(key string) (table, bool) {
	v, ok := t.values[key]
	if !ok {
		return table{}, false
	}
	values, ok := v.(map[string]any)
	if !ok {
		t.p.errorf(t.line(key), "%s must be a table, not %s", key, describe(v))
		return table{}, false
	}
	return table{p: t.p, name: key, path: joinPath(t.path, key), values: values}, true
}

// tables are the tables in a table of tables, sorted by name.
func (t table) tables(key string) []table {
	outer, ok := t.table(key)
	if !ok {
		return nil
	}
	var all []table
	for _, name := range slices.Sorted(maps.Keys(outer.values)) {
		if name == "" {
			t.p.errorf(outer.line(name), "a name in [%s] is empty", key)
			continue
		}
		if inner, ok := outer.table(name); ok {
			all = append(all, inner)
		}
	}
	return all
}

// elements are the tables of an array of tables.
func (t table) elements(key string) []table {
	v, ok := t.values[key]
	if !ok {
		return nil
	}
	list, ok := v.([]map[string]any)
	if !ok {
		t.p.errorf(t.line(key), "%s must be written as [[%s]], not as %s", key, key, describe(v))
		return nil
	}
	all := make([]table, len(list))
	for i, values := range list {
		path := joinPath(joinPath(t.path, key), strconv.Itoa(i))
		all[i] = table{p: t.p, name: key, path: path, values: values}
	}
	return all
}

// describe names a value that is of the wrong kind.
func describe(v any) string {
	switch v := v.(type) {
	case string:
		return "the string " + strconv.Quote(v)
	case map[string]any:
		return "a table"
	case []any, []map[string]any:
		return "a list"
	default:
		return fmt.Sprint(v)
	}
}
