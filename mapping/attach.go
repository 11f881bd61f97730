package mapping

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/relmap"
)

// A Record says what a layer stands on. It is kept beside the layer as JSON.
type Record struct {
	Transform int           `json:"transform"`
	Base      string        `json:"base"` // key of the base's image
	Limit     pg0.LSN       `json:"limit"`
	Grafts    []RecordGraft `json:"grafts"`
}

// A RecordGraft is what a layer must know of one graft.
type RecordGraft struct {
	Relation string   `json:"relation"`
	Image    string   `json:"image"` // key of the donor's image
	Limit    pg0.LSN  `json:"limit"`
	Files    []string `json:"files"` // paths of the mix it serves or hides, sorted
	// Served is what lies under each path: the donor's path, or nothing.
	Served map[string]string `json:"served"`
	Toast  map[uint32]uint32 `json:"toast,omitempty"`
	// Rebuild are indexes that the layer holds alone: they cover the rows of
	// this graft and of no other.
	Rebuild []string `json:"rebuild,omitempty"`
}

// Attach is the record of a new layer over a plan that is composed with limit.
func Attach(plan *Plan, limit pg0.LSN) Record {
	r := Record{Transform: TransformVersion, Base: plan.Base.Key, Limit: limit}
	for i := range plan.Grafts {
		r.Grafts = append(r.Grafts, recordGraft(plan, &plan.Grafts[i], limit))
	}
	return r
}

func recordGraft(plan *Plan, g *Graft, limit pg0.LSN) RecordGraft {
	r := RecordGraft{Relation: g.Relation, Image: plan.Origin(g.Point).Key, Limit: limit, Served: map[string]string{}, Rebuild: g.Rebuild}
	if g.Limit != 0 {
		r.Limit = g.Limit
	}
	for _, part := range g.Parts {
		for _, f := range part.Files {
			r.Served[f.Path] = f.Donor
		}
		for _, hidden := range part.Hide {
			r.Served[hidden] = ""
		}
		if len(part.Toast) > 0 {
			r.Toast = part.Toast
		}
	}
	r.Files = slices.Sorted(maps.Keys(r.Served))
	return r
}

// Reattach gives the plan the limits under which its grafts joined the layer,
// and grafts that are new the redo LSN of the layer's own pg_control. The
// result is the layer's record from now on. Ask Compatible first.
func Reattach(old Record, plan *Plan, control relmap.Control) Record {
	for i := range plan.Grafts {
		g := &plan.Grafts[i]
		g.Limit = control.Redo
		if before := old.graft(g.Relation); before != nil && before.equal(recordGraft(plan, g, before.Limit)) {
			g.Limit = before.Limit
		}
	}
	return Attach(plan, old.Limit)
}

func (r *Record) graft(relation string) *RecordGraft {
	for i := range r.Grafts {
		if r.Grafts[i].Relation == relation {
			return &r.Grafts[i]
		}
	}
	return nil
}

// equal says whether two grafts serve the same bytes, their limits apart.
func (g *RecordGraft) equal(other RecordGraft) bool {
	return g.Relation == other.Relation && g.Image == other.Image &&
		maps.Equal(g.Served, other.Served) && maps.Equal(g.Toast, other.Toast) && slices.Equal(g.Rebuild, other.Rebuild)
}

// Compatible says whether a layer that stands on old may be mounted over a
// plan. touched are the paths below which the layer holds changes; control is
// the layer's own pg_control. An equal plan always is, also after a crash. A
// changed one needs a layer that was shut down and that has not touched the
// files of the grafts that changed. The error is *Refused.
func Compatible(old Record, plan *Plan, touched []string, control relmap.Control) error {
	switch {
	case old.Transform != TransformVersion:
		return &Refused{[]Refusal{{Reason: fmt.Sprintf("the layer was made by version %d of the page transform and this pg0 has version %d", old.Transform, TransformVersion), Remedy: "use the pg0 that made it, or a new layer"}}}
	case old.Base != plan.Base.Key:
		return &Refused{[]Refusal{{Reason: fmt.Sprintf("the layer stands on another image of the base (%s, now %s)", old.Base, plan.Base.Key), Remedy: "give [base] the point it was made with, or use a new layer"}}}
	}
	changed := changedGrafts(old, plan)
	if len(changed) == 0 {
		return nil
	}
	if control.State != relmap.StateShutdowned {
		return &Refused{[]Refusal{{Reason: "the layer's server was not shut down, and the mapping file has changed for " + strings.Join(slices.Sorted(maps.Keys(changed)), ", "), Remedy: "start and stop it once with the mapping file as it was"}}}
	}
	return untouched(old, changed, touched)
}

// changedGrafts maps each relation whose graft is new, gone or another to the
// paths that this changes.
func changedGrafts(old Record, plan *Plan) map[string][]string {
	changed, kept := map[string][]string{}, map[string]bool{}
	for i := range plan.Grafts {
		now := recordGraft(plan, &plan.Grafts[i], old.Limit)
		before := old.graft(now.Relation)
		kept[now.Relation] = true
		switch {
		case before == nil:
			changed[now.Relation] = now.Files
		case !before.equal(now):
			changed[now.Relation] = append(slices.Clone(before.Files), now.Files...)
		}
	}
	for _, before := range old.Grafts {
		if !kept[before.Relation] {
			changed[before.Relation] = before.Files
		}
	}
	return changed
}

// untouched refuses changed grafts of whose old self the layer holds anything.
func untouched(old Record, changed map[string][]string, touched []string) error {
	written := map[string]bool{}
	for _, path := range touched {
		written[path] = true
	}
	var refused Refused
	for _, relation := range slices.Sorted(maps.Keys(changed)) {
		if before := old.graft(relation); before != nil && len(before.Rebuild) > 0 {
			refused.Refusals = append(refused.Refusals, Refusal{relation, "the layer holds indexes built over its rows (" + strings.Join(before.Rebuild, ", ") + ")", "keep the rule as it was, or use a new layer"})
			continue
		}
		for _, path := range changed[relation] {
			if written[path] {
				refused.Refusals = append(refused.Refusals, Refusal{relation, "the layer has changed " + path + ", which its rule now takes from elsewhere", "keep the rule as it was, or use a new layer"})
				break
			}
		}
	}
	if len(refused.Refusals) > 0 {
		return &refused
	}
	return nil
}
