package provenance_test

import (
	"testing"

	"github.com/fukanchik/pg0/cmd/internal/provenance"
	"github.com/fukanchik/pg0/cmd/internal/state"
)

func TestWords(t *testing.T) {
	base := state.Origin{Relation: "*", Point: "today", Backup: "B2", LSN: 0x20}
	graft := func(relation, point string) state.Origin {
		return state.Origin{Relation: relation, Point: point, LSN: 0x10}
	}
	for _, tt := range []struct {
		m            *state.Mount
		text, notice string
	}{
		{
			&state.Mount{Mountpoint: "/mnt/m", Provenance: []state.Origin{base}},
			"everything from today (0/20, backup B2)",
			"pg0: everything here is from today (0/20, backup B2)",
		},
		{
			&state.Mount{Mountpoint: "/mnt/m", Provenance: []state.Origin{
				base, graft("d.s.a", "mon"), graft("d.s.b", "tue"), graft("d.s.c", "mon"), graft("d.s.d", "mon"), graft("d.s.e", "mon"), graft("d.s.f", "mon"),
			}},
			"5 relations from mon (0/10): d.s.a, d.s.c, d.s.d, d.s.e, d.s.f; 1 relation from tue (0/10): d.s.b; everything else from today (0/20, backup B2)",
			"pg0: m mixes moments: 5 relations from mon (0/10): d.s.a, d.s.c, d.s.d, d.s.e, ...; 1 relation from tue (0/10): d.s.b; everything else from today (0/20, backup B2)",
		},
	} {
		if got := provenance.Text(tt.m); got != tt.text {
			t.Errorf("text: %s", got)
		}
		if got := provenance.Notice(tt.m); got != tt.notice {
			t.Errorf("notice: %s", got)
		}
	}
}
