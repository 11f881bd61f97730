package supervise

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0/cmd/internal/pgserver"
)

func TestChangeLines(t *testing.T) {
	const conf = "# port = 1\nport = '5432'\n  Work_Mem=4MB # mine\nother = 'x'\nport = 7"
	tests := []struct {
		name     string
		settings []pgserver.Setting
		want     string
	}{
		{"none", nil, conf},
		{
			"one of two",
			[]pgserver.Setting{{Name: "port", Value: "9"}},
			"# port = 1\nport = '9'\n  Work_Mem=4MB # mine\nother = 'x'\n",
		},
		{
			"any case",
			[]pgserver.Setting{{Name: "work_mem", Value: "8MB"}},
			"# port = 1\nport = '5432'\nwork_mem = '8MB'\nother = 'x'\nport = 7",
		},
		{
			"added, quoted",
			[]pgserver.Setting{{Name: "search_path", Value: `it's \`}},
			conf + "\nsearch_path = 'it''s \\\\'\n",
		},
	}
	for _, test := range tests {
		if diff := cmp.Diff(test.want, changeLines(conf, test.settings)); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
}
