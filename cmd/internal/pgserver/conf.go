package pgserver

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// carried are the settings that change how data reads: the only ones of the
// backed-up cluster that a server on it takes over.
var carried = []string{
	"timezone", "datestyle", "intervalstyle", "lc_messages", "lc_monetary", "lc_numeric", "lc_time",
	"default_text_search_config", "bytea_output", "xmlbinary", "array_nulls",
}

// maxIncludes bounds files that include each other; PostgreSQL has the same
// limit on depth.
const maxIncludes = 10

// ParseConf reads the settings of name, a configuration file of PostgreSQL in
// tree, and of the files of the tree that it includes. Names are in lower case;
// the last of several lines for a setting counts. Includes that are missing or
// lead out of the tree are left out: what is not in a backup cannot be read.
// A missing file has no settings.
func ParseConf(tree fs.FS, name string) (map[string]string, error) {
	settings := map[string]string{}
	if err := parseInto(settings, tree, name, 0); err != nil {
		return nil, err
	}
	return settings, nil
}

func parseInto(settings map[string]string, tree fs.FS, name string, depth int) error {
	if depth > maxIncludes || !fs.ValidPath(name) {
		return nil
	}
	info, err := fs.Stat(tree, name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	text, err := fs.ReadFile(tree, name)
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		key, value, ok := parseLine(line)
		if !ok {
			continue
		}
		switch key {
		case "include", "include_if_exists":
			err = parseInto(settings, tree, path.Join(path.Dir(name), value), depth+1)
		case "include_dir":
			err = includeDir(settings, tree, path.Join(path.Dir(name), value), depth+1)
		default:
			settings[key] = value
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func includeDir(settings map[string]string, tree fs.FS, dir string, depth int) error {
	if !fs.ValidPath(dir) {
		return nil
	}
	info, err := fs.Stat(tree, dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	entries, err := fs.ReadDir(tree, dir)
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	for _, entry := range entries {
		name := entry.Name()
		if strings.HasPrefix(name, ".") || !strings.HasSuffix(name, ".conf") {
			continue
		}
		if err := parseInto(settings, tree, path.Join(dir, name), depth); err != nil {
			return err
		}
	}
	return nil
}

// parseLine reads "name = value", the equals sign optional, by the rules of
// guc-file.l. ok is false for blank lines, comments and what is no setting.
func parseLine(line string) (key, value string, ok bool) {
	line = strings.TrimSpace(line)
	end := strings.IndexFunc(line, func(r rune) bool {
		return r != '_' && r != '.' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && r < 0x80
	})
	if end <= 0 {
		return "", "", false
	}
	key = strings.ToLower(line[:end])
	rest := strings.TrimSpace(line[end:])
	rest = strings.TrimSpace(strings.TrimPrefix(rest, "="))
	if strings.HasPrefix(rest, "'") {
		value, ok = unquote(rest[1:])
		return key, value, ok
	}
	if end := strings.IndexAny(rest, " \t#"); end >= 0 {
		rest = rest[:end]
	}
	return key, rest, rest != ""
}

// unquote reads a string up to its closing quote. A quote in it is doubled or
// behind a backslash.
func unquote(s string) (string, bool) {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\'' && i+1 < len(s) && s[i+1] == '\'':
			i++
			out.WriteByte('\'')
		case s[i] == '\'':
			return out.String(), true
		case s[i] == '\\' && i+1 < len(s):
			n := unescape(s[i+1:], &out)
			i += n
		default:
			out.WriteByte(s[i])
		}
	}
	return "", false
}

// unescape writes what stands behind a backslash and returns its length.
func unescape(s string, out *strings.Builder) int {
	if i := strings.IndexByte("bfnrt", s[0]); i >= 0 {
		out.WriteByte("\b\f\n\r\t"[i])
		return 1
	}
	n, value := 0, 0
	for n < 3 && n < len(s) && s[n] >= '0' && s[n] <= '7' {
		value = value*8 + int(s[n]-'0')
		n++
	}
	if n == 0 {
		out.WriteByte(s[0])
		return 1
	}
	out.WriteByte(byte(value))
	return n
}

// quote writes a value as a configuration file wants it.
func quote(value string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(value) + "'"
}

// carriedOver picks the settings that a server on the copy keeps. Locales that
// this machine lacks are left out: PostgreSQL would not start on them.
func carriedOver(all map[string]string, hasLocale func(string) bool) []Setting {
	var kept []Setting
	for _, name := range carried {
		value, ok := all[name]
		if !ok || strings.HasPrefix(name, "lc_") && !hasLocale(value) {
			continue
		}
		kept = append(kept, Setting{name, value})
	}
	return slices.Clip(kept)
}
