package reach_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0/cmd/internal/reach"
)

// parse reads a moment: a backup id, latest, immediate, or time:, lsn:, xid:, name:
// and a value. The target includes the moment itself.
func parse(at string) (reach.Target, error) {
	kind, value, ok := strings.Cut(at, ":")
	switch {
	case at == string(reach.Latest) || at == string(reach.Immediate):
		return reach.Target{Kind: reach.Kind(at), Inclusive: true}, nil
	case ok && kind[0] >= 'a':
		return reach.ParseValue(reach.Kind(kind), value)
	case ok:
		return reach.ParseValue(reach.Time, at)
	}
	return reach.Target{Kind: reach.Backup, Backup: at, Inclusive: true}, nil
}

func TestParse(t *testing.T) {
	noon := time.Date(2026, 5, 6, 14, 0, 2, 0, time.UTC)
	for text, want := range map[string]reach.Target{
		"TELYC0":                          {Kind: reach.Backup, Backup: "TELYC0", Inclusive: true},
		"latest":                          {Kind: reach.Latest, Inclusive: true},
		"immediate":                       {Kind: reach.Immediate, Inclusive: true},
		"2026-05-06T14:00:02Z":            {Kind: reach.Time, Time: noon, Inclusive: true},
		"2026-05-06 14:00:02+00":          {Kind: reach.Time, Time: noon, Inclusive: true},
		"2026-05-06 17:00:02 +0300":       {Kind: reach.Time, Time: noon, Inclusive: true},
		"2026-05-06 14:00:02 UTC":         {Kind: reach.Time, Time: noon, Inclusive: true},
		"time:2026-05-06 14:00:02.000+00": {Kind: reach.Time, Time: noon, Inclusive: true},
		"2026-05-06 14:00:02.5+00":        {Kind: reach.Time, Time: noon.Add(time.Second / 2), Inclusive: true},
		"lsn:0/2C079A0":                   {Kind: reach.LSN, LSN: 0x2C079A0, Inclusive: true},
		"xid:870":                         {Kind: reach.XID, XID: 870, Inclusive: true},
		"name:a:b c":                      {Kind: reach.Name, Name: "a:b c", Inclusive: true},
	} {
		got, err := parse(text)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", text, err, diff)
		}
		packed, err := json.Marshal(want)
		var unpacked reach.Target
		if err == nil {
			err = json.Unmarshal(packed, &unpacked)
		}
		if diff := cmp.Diff(want, unpacked); err != nil || diff != "" {
			t.Errorf("%s through JSON: %v (-want +got):\n%s", packed, err, diff)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		"2026-05-06 14:00:02": `time "2026-05-06 14:00:02" needs its offset from UTC, as in 2026-05-06 14:00:02Z or 2026-05-06 14:00:02+02:00`,
		"time:2026-05-06":     `time "2026-05-06" needs its offset from UTC, as in 2026-05-06Z or 2026-05-06+02:00`,
		"time:yesterday":      `"yesterday" is not a time such as 2026-05-06T14:00:02Z or 2026-05-06 14:00:02.5+02`,
		"xid:2":               `"2" is not a transaction id: a decimal number from 3 on`,
		"lsn:2C079A0":         `"2C079A0" is not an LSN: two hexadecimal numbers with a slash between them, such as 0/2C079A0`,
		"name:":               `"" is not the name of a restore point: it has 1 to 63 bytes`,
	} {
		if got, err := parse(text); err == nil || err.Error() != want {
			t.Errorf("%s: %v, %v, want %s", text, got, err, want)
		}
	}
}
