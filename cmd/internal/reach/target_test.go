package reach_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0/cmd/internal/reach"
)

func TestParse(t *testing.T) {
	noon := time.Date(2026, 5, 6, 14, 0, 2, 0, time.UTC)
	for text, want := range map[string]reach.Target{
		"TELYC0":                          {Kind: reach.Backup, Backup: "TELYC0", Inclusive: true},
		"telyc0":                          {Kind: reach.Backup, Backup: "TELYC0", Inclusive: true},
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
		got, err := reach.Parse(text)
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
		"":                    "the moment is empty: give a backup id, latest, immediate, a time, or lsn:, xid:, name: and a value",
		"2026-05-06 14:00:02": `"2026-05-06 14:00:02" has no time zone: add the offset, such as "2026-05-06 14:00:02+00" for UTC`,
		"2026-05-06":          `"2026-05-06" has no time zone: add the offset, such as "2026-05-06+00" for UTC`,
		"yesterday, noon":     `"yesterday, noon" is not a time: write it as 2026-05-06 14:00:02+00`,
		"xid:2":               `"2" is not a transaction id: a decimal number from 3 on`,
		"lsn:2C079A0":         `"2C079A0" is not an LSN: two hexadecimal numbers with a slash between them, such as 0/2C079A0`,
		"name:":               `"" is not the name of a restore point: it has 1 to 63 bytes`,
	} {
		if got, err := reach.Parse(text); err == nil || err.Error() != want {
			t.Errorf("%s: %v, %v, want %s", text, got, err, want)
		}
	}
}
