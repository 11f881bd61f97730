package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0/cmd/internal/recovery"
)

// half is a replay half way.
var half = recovery.Progress{
	Stage: recovery.StageReplay, Backup: "TELYC0", From: 0x2000000, LSN: 0x3000000, To: 0x4000000,
	Percent: 50, Rate: 8 << 20, Left: 2,
}

const (
	halfText = "backup TELYC0: replay at 0/3000000 of 0/4000000, 50%, 8192 kB/s, 2s left"
	both     = halfText + "; backup TENT00: keeping the image"
)

// TestProgress shows a replay in each of the three ways, and two at once.
func TestProgress(t *testing.T) {
	other := recovery.Progress{Stage: recovery.StageSeal, Backup: "TENT00"}
	long := time.Now().Add(-time.Hour)
	for _, test := range []struct {
		name string
		line *progressLine
		want string
	}{
		{
			"terminal", &progressLine{terminal: true},
			"\r" + halfText + "\r" + both + "\r" + strings.Repeat(" ", len(both)) + "\r",
		},
		{"lines", &progressLine{shown: long}, "pg0: " + halfText + "\n"}, // the second comes too soon
		{"quick", &progressLine{shown: time.Now()}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			line := test.line
			line.out, line.last = &out, map[string]recovery.Progress{}
			line.report(half)
			line.report(other)
			line.done()
			if diff := cmp.Diff(test.want, out.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
	var out bytes.Buffer
	line := &progressLine{out: &out, json: true, last: map[string]recovery.Progress{}}
	line.report(half)
	var got map[string]recovery.Progress
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || strings.Count(out.String(), "\n") != 1 {
		t.Fatalf("%v: %q", err, out.String())
	}
	if diff := cmp.Diff(map[string]recovery.Progress{"progress": half}, got); diff != "" {
		t.Error(diff)
	}
}
