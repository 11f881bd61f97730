package mapping

import (
	"fmt"
	"strconv"

	"github.com/fukanchik/pg0/relmap"
)

// checkBase refuses a base that is not at rest: WAL that is replayed later would
// change donors' pages.
func (r *resolver) checkBase() {
	if c := &r.base.Cluster.Control; c.State != relmap.StateShutdowned {
		r.refuse("", "recover it and stop it first", "the base %s is %s", r.base.Name, c.State)
	}
}

// clusterFits compares what must be equal between donor and base for any page
// to make sense. It is asked once for each donor; the answer is remembered.
func (r *resolver) clusterFits(donor *Image) bool {
	if refused, known := r.refused[donor]; known {
		return !refused
	}
	before := len(r.refusals)
	d, b := &donor.Cluster.Control, &r.base.Cluster.Control
	if d.State != relmap.StateShutdowned {
		r.refuse("", "recover it and stop it first", "point %s is %s", donor.Name, d.State)
	}
	if d.SystemID != b.SystemID {
		r.refuse("", "take both from backups of one cluster", "point %s is of another cluster than the base: system identifier %d, the base has %d", donor.Name, d.SystemID, b.SystemID)
	}
	for _, fact := range []struct {
		what        string
		donor, base any
	}{
		{"major version of PostgreSQL", donor.Cluster.Version, r.base.Cluster.Version},
		{"catalog version", d.CatalogVersion, b.CatalogVersion},
		{"block size", d.BlockSize, b.BlockSize},
		{"segment size in blocks", d.SegmentBlocks, b.SegmentBlocks},
		{"maximum alignment", d.MaxAlign, b.MaxAlign},
		{"format of floating-point numbers", d.FloatFormat, b.FloatFormat},
		{"length of names", d.NameDataLen, b.NameDataLen},
		{"size of TOAST chunks", d.ToastMaxChunk, b.ToastMaxChunk},
		{"passing of eight-byte values", d.Float8ByVal, b.Float8ByVal},
		{"signedness of char", d.CharSigned, b.CharSigned},
	} {
		if fact.donor != fact.base {
			r.refuse("", "take points of one PostgreSQL installation", "point %s and the base differ in %s: %v and %v", donor.Name, fact.what, fact.donor, fact.base)
		}
	}
	r.refused[donor] = len(r.refusals) > before
	return !r.refused[donor]
}

// databases compares the databases that donor and base keep the relation in.
func (f *fit) databases() {
	donor, base := f.claim.db, f.baseDB
	if donor.Encoding != base.Encoding {
		f.refuse("take a base whose database has the same encoding", "database %s has encoding %s at %s and %s in the base", QuoteIdent(donor.Name),
			relmap.EncodingName(donor.Encoding), f.claim.rule.From, relmap.EncodingName(base.Encoding))
	}
	if why := f.r.localeChange(donor, base); why != "" {
		f.r.note(fmt.Sprintf("database %s of point %s: %s; indexes on text that follow the database's collation are rebuilt", QuoteIdent(donor.Name), f.claim.rule.From, why))
	}
}

// localeChange says how the default collations of two databases differ.
func (r *resolver) localeChange(donor, base *relmap.Database) string {
	for _, fact := range []struct{ what, donor, base string }{
		{"collation provider", donor.Provider, base.Provider},
		{"collation", donor.Collate, base.Collate},
		{"character type", donor.Ctype, base.Ctype},
		{"locale", donor.Locale, base.Locale},
		{"collation rules", donor.Rules, base.Rules},
		{"collation version", donor.CollVersion, base.CollVersion},
	} {
		if fact.donor != fact.base {
			return fmt.Sprintf("%s %s, the base has %s", fact.what, strconv.Quote(fact.donor), strconv.Quote(fact.base))
		}
	}
	return ""
}

// note adds a remark once.
func (r *resolver) note(text string) {
	for _, n := range r.notes {
		if n == text {
			return
		}
	}
	r.notes = append(r.notes, text)
}
