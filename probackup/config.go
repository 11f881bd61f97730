package probackup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/fukanchik/pg0"
)

// A setting is one "key = value" line of a control or configuration file.
type setting struct {
	key   string // lower case, words joined with "-"
	value string
}

// parseSettings reads the text format of backup.control and pg_probackup.conf.
func parseSettings(text []byte) ([]setting, error) {
	var settings []setting
	number := 0
	for line := range bytes.Lines(text) {
		number++
		key, value, ok := strings.Cut(string(bytes.TrimSpace(line)), "=")
		switch {
		case key == "" && !ok, strings.HasPrefix(key, "#"):
			continue
		case !ok || strings.TrimSpace(key) == "":
			return nil, fmt.Errorf("line %d is no \"key = value\"", number)
		}
		settings = append(settings, setting{settingKey(key), settingValue(value)})
	}
	return settings, nil
}

// settingKey makes keys comparable: the tool takes "-", "_" and a space, upper
// and lower case as the same.
func settingKey(key string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r == ' ' {
			return '-'
		}
		return r
	}, strings.ToLower(strings.TrimSpace(key)))
}

func settingValue(text string) string {
	text = strings.TrimSpace(text)
	if quoted, ok := strings.CutPrefix(text, "'"); ok {
		return unquote(quoted)
	}
	text, _, _ = strings.Cut(text, "#")
	return strings.TrimSpace(text)
}

// unquote reads what follows an opening quote. The tool's writer never escapes,
// so a note with a quote in it breaks the rule that ” stands for one quote:
// then everything up to the last quote of the line is the value.
func unquote(text string) string {
	var value strings.Builder
	for rest := text; ; {
		head, tail, ok := strings.Cut(rest, "'")
		if !ok {
			break
		}
		value.WriteString(head)
		if rest, ok = strings.CutPrefix(tail, "'"); ok {
			value.WriteByte('\'')
			continue
		}
		if tail = strings.TrimSpace(tail); tail == "" || tail[0] == '#' {
			return value.String()
		}
		break
	}
	if end := strings.LastIndexByte(text, '\''); end >= 0 {
		return text[:end]
	}
	return text
}

// config is what a reader needs of an instance's pg_probackup.conf.
type config struct {
	systemID    uint64
	segmentSize int64
}

// readConfig reads pg_probackup.conf; the tool, too, goes on without one.
func readConfig(name string) (config, error) {
	c := config{segmentSize: defaultSegmentSize}
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("read the instance's configuration: %w", err)
	}
	settings, err := parseSettings(text)
	if err != nil {
		return c, fmt.Errorf("read the instance's configuration %s: %w", name, err)
	}
	for _, s := range settings {
		switch s.key {
		case "system-identifier":
			c.systemID, err = strconv.ParseUint(s.value, 10, 64)
		case "xlog-seg-size":
			c.segmentSize, err = parseSegmentSize(s.value)
		}
		if err != nil {
			return c, fmt.Errorf("read the instance's configuration %s: %s: %w", name, s.key, err)
		}
	}
	return c, nil
}

// parseSegmentSize accepts what PostgreSQL does: powers of two, 1 MiB to 1 GiB.
func parseSegmentSize(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	switch {
	case err != nil:
		return 0, err
	case n == 0:
		return defaultSegmentSize, nil
	case n < 1<<20 || n > 1<<30 || n&(n-1) != 0:
		return 0, fmt.Errorf("%d is no size of a WAL segment", n)
	}
	return n, nil
}

// parseTime reads the control file's times. Without an offset they are UTC.
func parseTime(s string) (time.Time, error) {
	var first error
	for _, layout := range []string{"2006-01-02 15:04:05Z07", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05Z0700", "2006-01-02 15:04:05"} {
		t, err := time.Parse(layout, s)
		if err == nil {
			return t.UTC(), nil
		}
		if first == nil {
			first = err
		}
	}
	return time.Time{}, first
}

// control is the content of one backup.control.
type control struct {
	mode       string
	stream     bool
	algorithm  string
	replica    bool
	blockSize  int
	xlogBlock  int
	checksums  bool
	version    version
	program    string
	server     int // PostgreSQL's major version
	timeline   uint32
	start      pg0.LSN
	stop       pg0.LSN
	startTime  time.Time
	endTime    time.Time
	recXID     uint64
	recTime    time.Time
	mergeDest  string
	dataBytes  int64
	walBytes   int64
	pgdata     int64
	status     string
	parent     string
	external   string
	note       string
	contentCRC uint32 // 0: unknown
	symlink    string
	warnings   []string
}

// parseControl reads a backup.control. Required keys are checked by missing.
func parseControl(text []byte) (*control, error) {
	settings, err := parseSettings(text)
	if err != nil {
		return nil, err
	}
	c := &control{blockSize: 8192, xlogBlock: 8192, algorithm: "none"}
	for _, s := range settings {
		if err := c.set(s.key, s.value); err != nil {
			return nil, fmt.Errorf("%s = %q: %w", s.key, s.value, err)
		}
	}
	return c, nil
}

func (c *control) set(key, value string) (err error) {
	switch key {
	case "backup-mode":
		c.mode, err = parseMode(value)
	case "stream":
		c.stream, err = parseBool(value)
	case "compress-alg":
		c.algorithm = strings.ToLower(value)
	case "from-replica":
		c.replica, err = parseBool(value)
	case "status":
		c.status = strings.ToUpper(value)
	case "program-version":
		c.program, c.version = value, parseVersion(value)
	case "parent-backup-id":
		c.parent = strings.ToUpper(value)
	case "merge-dest-id":
		c.mergeDest = strings.ToUpper(value)
	case "symlink":
		c.symlink = strings.ToUpper(value)
	case "external-dirs":
		c.external = value
	case "note":
		c.note = value
	case "start-time":
		c.startTime, err = parseTime(value)
	case "end-time":
		c.endTime, err = parseTime(value)
	case "recovery-time":
		c.recTime, err = parseTime(value)
	default:
		err = c.setNumber(key, value)
	}
	return err
}

func (c *control) setNumber(key, value string) (err error) {
	var n uint64
	switch key {
	case "start-lsn":
		c.start, err = pg0.ParseLSN(value)
		return err
	case "stop-lsn":
		c.stop, err = pg0.ParseLSN(value)
		return err
	case "server-version":
		major, _, _ := strings.Cut(value, ".")
		c.server, err = strconv.Atoi(major)
		return err
	case "block-size":
		n, err = strconv.ParseUint(value, 0, 17)
		c.blockSize = int(n)
	case "xlog-block-size":
		n, err = strconv.ParseUint(value, 0, 17)
		c.xlogBlock = int(n)
	case "checksum-version":
		n, err = strconv.ParseUint(value, 0, 32)
		c.checksums = n != 0
	case "timelineid":
		n, err = strconv.ParseUint(value, 0, 32)
		c.timeline = uint32(n)
	case "content-crc":
		n, err = strconv.ParseUint(value, 0, 32)
		c.contentCRC = uint32(n)
	case "recovery-xid":
		c.recXID, err = strconv.ParseUint(value, 0, 64)
	case "data-bytes":
		c.dataBytes, err = strconv.ParseInt(value, 0, 64)
	case "wal-bytes":
		c.walBytes, err = strconv.ParseInt(value, 0, 64)
	case "pgdata-bytes":
		c.pgdata, err = strconv.ParseInt(value, 0, 64)
	case "compress-level", "merge-time", "expire-time", "uncompressed-bytes", "primary-conninfo":
	default:
		c.warnings = append(c.warnings, fmt.Sprintf("backup.control has the unknown key %q", key))
	}
	return err
}

func parseMode(value string) (string, error) {
	for _, mode := range []string{"FULL", "PAGE", "DELTA", "PTRACK"} {
		if value != "" && strings.HasPrefix(mode, strings.ToUpper(value)) {
			return mode, nil
		}
	}
	return "", errors.New("unknown backup mode")
}

func parseBool(value string) (bool, error) {
	switch strings.ToLower(value) {
	case "true", "t", "on", "yes", "y", "1":
		return true, nil
	case "false", "f", "off", "no", "n", "0":
		return false, nil
	}
	return false, errors.New("neither true nor false")
}

// missing names the first key that a finished backup must have and this one
// has not, "" when it is complete.
func (c *control) missing() string {
	switch {
	case c.mode == "":
		return "backup-mode"
	case c.status == "":
		return "status"
	case c.server == 0:
		return "server-version"
	case c.timeline == 0:
		return "timelineid"
	case c.start == 0:
		return "start-lsn"
	case c.stop == 0:
		return "stop-lsn"
	}
	return ""
}

// externalDirs splits external-dirs.
func (c *control) externalDirs() []string {
	if c.external == "" {
		return nil
	}
	return strings.Split(c.external, ":")
}
