package main

import (
	"encoding/json"
	"fmt"
	"time"
)

// verifyLine tells how far one part of a verification is, in the manner of a
// progressLine.
type verifyLine struct {
	*progressLine
	what string
}

func (g *global) verifying(what string) *verifyLine {
	return &verifyLine{g.progress(), what}
}

// report takes what is done and what there is to do, in the same unit.
func (l *verifyLine) report(done, total int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	pause := progressPause
	if l.terminal || l.json {
		pause = time.Second / 5
	}
	if time.Since(l.shown) < pause {
		return
	}
	l.shown = time.Now()
	percent := 100 * float64(done) / float64(max(total, 1))
	switch {
	case l.json:
		_ = json.NewEncoder(l.out).Encode(map[string]any{"progress": map[string]any{
			"verify": l.what, "done": done, "total": total, "percent": percent,
		}})
	case l.terminal:
		l.overwrite(l.bar(percent))
	default:
		fmt.Fprintln(l.out, "pg0:", l.text(percent))
	}
}

func (l *verifyLine) text(percent float64) string {
	return fmt.Sprintf("verifying %s: %.0f%%", l.what, percent)
}

// bar is the text with a bar for the terminal.
func (l *verifyLine) bar(percent float64) string {
	const width = 30
	full := min(max(int(percent*width/100), 0), width)
	return fmt.Sprintf("%s [%-*s]", l.text(percent), width, "##############################"[:full])
}
