package recovery

import (
	"bytes"
	"io"
	"os"
	"regexp"
	"strconv"

	"github.com/fukanchik/pg0"
)

// facts are what a server says of its recovery in its log, in English.
type facts struct {
	consistent pg0.LSN // consistent recovery state reached at
	current    pg0.LSN // redo in progress ... current LSN; 15 and later
	redone     pg0.LSN // redo done at: where the last record replayed begins
	timeline   uint32  // selected new timeline
	stopped    string  // recovery stopping after ...
	done       bool    // archive recovery complete
	// missing are pages that replay did not find, by relation
	missing map[string]string
}

var (
	consistentLine = regexp.MustCompile(`LOG:  consistent recovery state reached at ([0-9A-F]+/[0-9A-F]+)`)
	currentLine    = regexp.MustCompile(`LOG:  redo in progress, .*current LSN: ([0-9A-F]+/[0-9A-F]+)`)
	redoneLine     = regexp.MustCompile(`LOG:  redo done at ([0-9A-F]+/[0-9A-F]+)`)
	timelineLine   = regexp.MustCompile(`LOG:  selected new timeline ID: (\d+)`)
	stoppedLine    = regexp.MustCompile(`LOG:  (recovery stopping (?:after|before) .*)`)
	doneLine       = regexp.MustCompile(`LOG:  archive recovery complete`)
)

// take reads one line of the log.
func (f *facts) take(line []byte) {
	for _, lsn := range []struct {
		pattern *regexp.Regexp
		into    *pg0.LSN
	}{{consistentLine, &f.consistent}, {currentLine, &f.current}, {redoneLine, &f.redone}} {
		if match := lsn.pattern.FindSubmatch(line); match != nil {
			if value, err := pg0.ParseLSN(string(match[1])); err == nil {
				*lsn.into = value
			}
		}
	}
	if match := timelineLine.FindSubmatch(line); match != nil {
		if value, err := strconv.ParseUint(string(match[1]), 10, 32); err == nil {
			f.timeline = uint32(value)
		}
	}
	if match := stoppedLine.FindSubmatch(line); match != nil {
		f.stopped = string(match[1])
	}
	f.done = f.done || doneLine.Match(line)
	f.noteMissing(line)
}

// A follower reads the complete lines that are appended to a log.
type follower struct {
	name   string
	offset int64
	facts  facts
}

// read takes what has been written since the last call.
func (f *follower) read() error {
	file, err := os.Open(f.name)
	if err != nil {
		return err
	}
	defer file.Close()
	text, err := io.ReadAll(io.NewSectionReader(file, f.offset, 1<<62))
	if err != nil {
		return err
	}
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	f.offset += int64(len(text))
	for line := range bytes.Lines(text) {
		f.facts.take(line)
	}
	return nil
}
