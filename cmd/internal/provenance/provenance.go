// Package provenance says in words where the relations of a mount come from.
package provenance

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/mapping"
)

// Name is what a mount is called where people meet it: the last element of its
// mount point.
func Name(m *state.Mount) string { return filepath.Base(m.Mountpoint) }

// Recovered says to when a point was recovered.
func Recovered(o state.Origin) string {
	return mapping.Origin{Time: o.Time, LSN: o.LSN, Target: o.Target}.Recovered()
}

// BaseOf is the origin of everything that is not named.
func BaseOf(m *state.Mount) state.Origin {
	for _, o := range m.Provenance {
		if o.Relation == "*" {
			return o
		}
	}
	return state.Origin{}
}

// Base is the point that everything unnamed comes from, with its backup.
func Base(m *state.Mount) string {
	o := BaseOf(m)
	if o.Backup == "" || o.Backup == o.Point {
		return fmt.Sprintf("%s (%s)", o.Point, Recovered(o))
	}
	return fmt.Sprintf("%s (%s, backup %s)", o.Point, Recovered(o), o.Backup)
}

// Text has all origins in one line, counted and named.
func Text(m *state.Mount) string { return text(m, len(m.Provenance)) }

// mostNamed are the relations of a point that a line for people names.
const mostNamed = 4

// Notice is a line for people.
func Notice(m *state.Mount) string {
	if len(m.Provenance) < 2 {
		return "pg0: everything here is from " + Base(m)
	}
	return fmt.Sprintf("pg0: %s mixes moments: %s", Name(m), text(m, mostNamed))
}

func text(m *state.Mount, most int) string {
	var order []string
	byPoint := map[string][]state.Origin{}
	for _, o := range m.Provenance {
		if o.Relation == "*" {
			continue
		}
		if byPoint[o.Point] == nil {
			order = append(order, o.Point)
		}
		byPoint[o.Point] = append(byPoint[o.Point], o)
	}
	parts := []string{}
	for _, point := range order {
		parts = append(parts, relations(byPoint[point], most))
	}
	rest := "everything else"
	if len(order) == 0 {
		rest = "everything"
	}
	return strings.Join(append(parts, rest+" from "+Base(m)), "; ")
}

func relations(origins []state.Origin, most int) string {
	names := make([]string, 0, len(origins))
	for _, o := range origins {
		names = append(names, o.Relation)
	}
	noun := "relations"
	if len(names) == 1 {
		noun = "relation"
	}
	listed := strings.Join(names[:min(most, len(names))], ", ")
	if len(names) > most {
		listed += ", ..."
	}
	return fmt.Sprintf("%d %s from %s (%s): %s", len(names), noun, origins[0].Point, Recovered(origins[0]), listed)
}
