package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/fukanchik/pg0/cmd/internal/recovery"
	"github.com/fukanchik/pg0/mapping"
)

// progressPause is the time between two lines where lines are not overwritten.
const progressPause = 5 * time.Second

// A progressLine tells how far images are: on a terminal in one line that is
// overwritten, elsewhere in a line every few seconds, with --json as JSON lines.
type progressLine struct {
	out      io.Writer
	json     bool
	terminal bool

	mu    sync.Mutex
	last  map[string]recovery.Progress // by backup, those that are not finished
	shown time.Time
	width int // of what stands on the terminal
}

// progress gives the reporter of a command. done ends its line.
func (g *global) progress() *progressLine {
	file, ok := g.stderr.(*os.File)
	return &progressLine{
		out: g.stderr, json: g.json, last: map[string]recovery.Progress{},
		shown:    time.Now(),                            // what takes less time needs no words
		terminal: ok && term.IsTerminal(int(file.Fd())), //nolint:gosec // a descriptor is small
	}
}

func (l *progressLine) report(p recovery.Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	changed := l.last[p.Backup].Stage != p.Stage
	l.last[p.Backup] = p
	switch {
	case l.json:
		if changed || time.Since(l.shown) >= time.Second {
			l.shown = time.Now()
			_ = json.NewEncoder(l.out).Encode(map[string]recovery.Progress{"progress": p})
		}
	case l.terminal:
		l.overwrite(l.text())
	case time.Since(l.shown) >= progressPause:
		l.shown = time.Now()
		fmt.Fprintln(l.out, "pg0:", l.text())
	}
}

func (l *progressLine) overwrite(text string) {
	pad := max(0, l.width-len(text))
	fmt.Fprint(l.out, "\r", text, strings.Repeat(" ", pad))
	l.width = len(text)
}

// text has all images that are being made, by their backups.
func (l *progressLine) text() string {
	var parts []string
	for _, backup := range slices.Sorted(maps.Keys(l.last)) {
		parts = append(parts, describe(l.last[backup]))
	}
	return strings.Join(parts, "; ")
}

var stageWords = map[recovery.Stage]string{
	recovery.StageWait:   "waiting for another command that recovers it",
	recovery.StageMount:  "mounting",
	recovery.StageChange: "making what the mix shows",
	recovery.StageAsk:    "reading definitions",
	recovery.StageStop:   "stopping",
	recovery.StageSeal:   "keeping the image",
}

func describe(p recovery.Progress) string {
	var text string
	switch p.Stage {
	case recovery.StageCopy:
		text = fmt.Sprintf("point %s: %s of %s copied, %.0f%%", p.Backup, mapping.Size(p.Done), mapping.Size(p.Total), p.Percent)
	case recovery.StageReplay:
		text = fmt.Sprintf("backup %s: replay at %s of %s, %.0f%%", p.Backup, p.LSN, p.To, p.Percent)
	default:
		return "backup " + p.Backup + ": " + stageWords[p.Stage]
	}
	if p.Rate > 0 {
		text += fmt.Sprintf(", %s/s", mapping.Size(int64(p.Rate)))
	}
	if p.Left > 0 {
		text += fmt.Sprintf(", %s left", time.Duration(p.Left)*time.Second)
	}
	return text
}

// done clears the line of a terminal.
func (l *progressLine) done() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.terminal && l.width > 0 {
		l.overwrite("")
		fmt.Fprint(l.out, "\r")
	}
}
