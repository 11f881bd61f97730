package mapping

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/fukanchik/pg0"
)

// TransformVersion changes whenever the same donor bytes would be served as
// other bytes. A layer written over one version must not be used over another.
const TransformVersion = 1

// A Plan says which files of which image are served at which paths of the
// base. It is a function of the spec and the images alone, and holds all that
// Compose needs, so that a mount can be made again from its JSON.
type Plan struct {
	Version int      `json:"version"`
	Base    Origin   `json:"base"`
	Points  []Origin `json:"points"` // the donors, sorted by point
	Grafts  []Graft  `json:"grafts"` // sorted by target
	Own     []Own    `json:"own,omitempty"`
	// Foreign are relations whose rows a running server gives at query time.
	Foreign []Foreign `json:"foreign,omitempty"` // sorted by target
	Skipped []Skip    `json:"skipped,omitempty"`
	Notes   []string  `json:"notes,omitempty"`
}

// Mode says how a donor's relation got its place in the base.
type Mode string

// The modes of a graft.
const (
	ModeReplace Mode = "replace" // the base has the relation and it fits
	ModeAdopt   Mode = "adopt"   // an empty twin was made for it
)

// A Graft is one relation of the base that is served from a donor.
type Graft struct {
	Relation string `json:"relation"` // the target as SQL writes it, with its database
	Database string `json:"database"`
	Schema   string `json:"schema"`
	Name     string `json:"name"`
	OID      uint32 `json:"oid"`
	Kind     string `json:"kind"` // table, partition, materialized view, sequence
	Mode     Mode   `json:"mode"`
	Point    string `json:"point"`
	From     string `json:"from,omitempty"` // the donor's relation, where its name is another
	DonorOID uint32 `json:"donor_oid"`
	Line     int    `json:"line"` // of the rule
	// Parts are the physical relations: the heap, its TOAST table with index,
	// the indexes.
	Parts []Part `json:"parts"`
	Files int    `json:"files"`
	Bytes int64  `json:"bytes"`
	// Drift names harmless differences between donor and base.
	Drift []string `json:"drift,omitempty"`
	// Rebuild names the indexes (schema.name) that no file of the donor can
	// stand for: they have no file in the mix until REINDEX has made one.
	Rebuild []string `json:"rebuild,omitempty"`
	// Limit replaces the limit given to Compose: a graft that joined an existing
	// layer later has its own.
	Limit pg0.LSN `json:"limit,omitempty"`
}

// PartKind says how the bytes of a part are transformed.
type PartKind string

// The kinds of parts.
const (
	HeapPart     PartKind = "heap"
	ToastPart    PartKind = "toast"
	IndexPart    PartKind = "index"
	GiSTPart     PartKind = "gist"
	SequencePart PartKind = "sequence"
	MissingPart  PartKind = "missing" // an index that is to be rebuilt: nothing is served
)

// A Part is one physical relation of a graft.
type Part struct {
	Name  string     `json:"name"` // in the base
	Kind  PartKind   `json:"kind"`
	Files []PartFile `json:"files,omitempty"`
	// Hide are the base's files at this place that the donor's do not cover.
	Hide []string `json:"hide,omitempty"`
	// Toast maps TOAST tables of the donor to those of the base; nil where they
	// are the same. Attrs then says how to walk a tuple.
	Toast map[uint32]uint32 `json:"toast,omitempty"`
	Attrs []Attr            `json:"attrs,omitempty"`
}

// A PartFile is one segment that is served.
type PartFile struct {
	Path  string `json:"path"`  // in the mix
	Donor string `json:"donor"` // in the donor's tree
	Size  int64  `json:"size"`
	Block uint32 `json:"block"` // number of its first block in the fork
	VM    bool   `json:"vm,omitempty"`
}

// Attr is a column as far as walking over its values needs it.
type Attr struct {
	Len     int16  `json:"len"`
	Align   string `json:"align"`
	ByVal   bool   `json:"byval,omitempty"`
	Dropped bool   `json:"dropped,omitempty"`
}

// Own is a relation for which a rule names the base's own point.
type Own struct {
	Relation string `json:"relation"`
	Line     int    `json:"line"`
}

// A Skip is a relation that a wildcard met and that cannot be grafted for its
// kind.
type Skip struct {
	Relation string `json:"relation"`
	Reason   string `json:"reason"`
	Line     int    `json:"line"`
}

// RebuildList names every index that must be rebuilt before the mix is used,
// by database, as SQL writes them.
func (p *Plan) RebuildList() map[string][]string {
	list := map[string][]string{}
	for _, g := range p.Grafts {
		if len(g.Rebuild) > 0 {
			list[g.Database] = append(list[g.Database], g.Rebuild...)
		}
	}
	return list
}

// WriteTable prints the plan for people.
func (p *Plan) WriteTable(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "RELATION\tFROM\tRECOVERED TO\tHOW\tFILES\tBYTES\tDRIFT")
	for _, g := range p.Grafts {
		how := string(g.Mode)
		if g.From != "" {
			how += " of " + g.From
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", g.Relation, g.Point, p.Origin(g.Point).Recovered(), how, g.Files, Size(g.Bytes), strings.Join(g.Drift, "; "))
	}
	for _, f := range p.Foreign {
		how := "foreign table"
		if f.RemoteSchema != f.Schema || f.RemoteName != f.Name {
			how += " of " + quoteName(f.RemoteSchema, f.RemoteName)
		}
		if f.Writable {
			how += ", writable"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t\t\t\n", f.Relation, f.Point, LiveTarget, how)
	}
	for _, o := range p.Own {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t\t\t\n", o.Relation, p.Base.Point, p.Base.Recovered(), "own")
	}
	fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t\t\t\n", "everything else", p.Base.Point, p.Base.Recovered(), "base")
	if err := tw.Flush(); err != nil {
		return err
	}
	return p.writeRemarks(w)
}

func (p *Plan) writeRemarks(w io.Writer) error {
	var b strings.Builder
	for i, o := range append([]Origin{p.Base}, p.Points...) {
		donorToo := i > 0 && o.Point == p.Base.Point // it has its line already
		if o.Target != "" && !donorToo {
			fmt.Fprintf(&b, "point %s: %s, from backup %s of %s\n", o.Point, o.Target, o.Backup, o.Source)
		}
	}
	for _, s := range p.Skipped {
		fmt.Fprintf(&b, "skipped: %s (%s)\n", s.Relation, s.Reason)
	}
	for _, n := range p.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Origin finds the origin of a point of the plan.
func (p *Plan) Origin(point string) Origin {
	for _, o := range append([]Origin{p.Base}, p.Points...) {
		if o.Point == point {
			return o
		}
	}
	return Origin{Point: point}
}

// Recovered says where recovery stopped, as closely as it is known.
func (o Origin) Recovered() string {
	place := o.LSN.String()
	if o.XID != 0 {
		place += fmt.Sprintf(", xid %d", o.XID)
	}
	switch {
	case !o.Time.IsZero() && o.LSN != 0:
		return o.Time.UTC().Format(time.RFC3339Nano) + " (" + place + ")"
	case !o.Time.IsZero():
		return o.Time.UTC().Format(time.RFC3339Nano)
	case o.LSN != 0:
		return place
	}
	return cmp.Or(o.Target, "-")
}

// Size prints a number of bytes as pg_size_pretty does: in the largest unit
// that leaves more than ten of it.
func Size(n int64) string {
	units := []string{"bytes", "kB", "MB", "GB", "TB", "PB"}
	i := 0
	for ; i < len(units)-1 && n >= 10*1024; i++ {
		n = (n + 512) / 1024
	}
	return fmt.Sprintf("%d %s", n, units[i])
}
