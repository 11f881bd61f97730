package mapping

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fukanchik/pg0/relmap"
)

// parts lists the files of a graft: those of the heap, of its TOAST table and
// of every index, at the places where the base looks for its own.
func (f *fit) parts() error {
	donor, base := f.claim.rel, f.base
	if !donor.HasStorage() || !base.HasStorage() {
		return nil
	}
	kind := HeapPart
	if donor.Kind == relmap.KindSequence {
		kind = SequencePart
	}
	heap, err := f.part(kind, donor, base)
	if err != nil {
		return err
	}
	toast, err := f.toast(heap)
	if err != nil {
		return err
	}
	f.graft.Parts = append([]Part{*heap}, toast...)
	if f.claim.rule.Indexes == NoIndexes && f.adopted == nil && len(base.Indexes) > 0 {
		f.drift("indexes = \"none\" is for adopted relations: the base's indexes stay")
	}
	for _, index := range base.Indexes {
		part, err := f.index(index)
		if err != nil {
			return err
		}
		f.graft.Parts = append(f.graft.Parts, *part)
	}
	return nil
}

// part pairs the files of two physical relations. Free space maps are not
// served: PostgreSQL makes a new one.
func (f *fit) part(kind PartKind, donor, base *relmap.Relation) (*Part, error) {
	p := &Part{Name: relationName(base), Kind: kind}
	from, err := f.claim.db.Files(donor)
	if err != nil {
		return nil, err
	}
	to, err := f.baseDB.Files(base)
	if err != nil {
		return nil, err
	}
	place, err := f.baseDB.Place(base)
	if err != nil {
		return nil, err
	}
	if len(from) == 0 || from[0].Fork != relmap.Main {
		return nil, fmt.Errorf("relation %s has no file at %s", relationName(donor), f.claim.rule.From)
	}
	if !f.r.base.Partial && (len(to) == 0 || to[0].Fork != relmap.Main) {
		return nil, fmt.Errorf("relation %s has no file in the base", relationName(base))
	}
	for _, file := range from {
		if file.Fork == relmap.Main || file.Fork == relmap.VM && kind != SequencePart {
			p.Files = append(p.Files, PartFile{
				Path:  place + strings.TrimPrefix(file.Path, from[0].Path),
				Donor: file.Path, Size: file.Size, VM: file.Fork == relmap.VM,
				Block: uint32(file.Segment * f.r.base.Cluster.Control.SegmentBlocks),
			})
		}
	}
	p.hide(to)
	return p, nil
}

// hide lists those of the base's files that the donor's do not replace.
func (p *Part) hide(base []relmap.File) {
	for _, file := range base {
		if !slices.ContainsFunc(p.Files, func(f PartFile) bool { return f.Path == file.Path }) {
			p.Hide = append(p.Hide, file.Path)
		}
	}
}

// toast pairs the TOAST tables. If their OIDs differ, the heap's pointers have
// to be rewritten, and for that its tuples walked.
func (f *fit) toast(heap *Part) ([]Part, error) {
	donor, base := f.claim.rel.Toast, f.base.Toast
	if donor == nil {
		return nil, nil
	}
	table, err := f.toastTable(donor, base)
	if err != nil || table == nil {
		return nil, err
	}
	if len(donor.Indexes) != 1 || len(base.Indexes) != 1 {
		return nil, fmt.Errorf("TOAST table %s has %d indexes, in the base %d", relationName(donor), len(donor.Indexes), len(base.Indexes))
	}
	index, err := f.part(IndexPart, donor.Indexes[0].Relation, base.Indexes[0].Relation)
	if err != nil {
		return nil, err
	}
	if donor.OID != base.OID {
		heap.Toast = map[uint32]uint32{donor.OID: base.OID}
		heap.Attrs = walkAttrs(f.claim.rel.Attributes)
	}
	return []Part{*table, *index}, nil
}

// toastTable is nil where the donor has no long values and the base no place
// for them.
func (f *fit) toastTable(donor, base *relmap.Relation) (*Part, error) {
	if base != nil {
		return f.part(ToastPart, donor, base)
	}
	files, err := f.claim.db.Files(donor)
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		if file.Fork == relmap.Main && file.Size > 0 {
			f.refuse(f.remedyAs(), "has values in a TOAST table at %s, and the base has none for it", f.claim.rule.From)
			break
		}
	}
	return nil, nil
}

func walkAttrs(attributes []relmap.Attribute) []Attr {
	attrs := make([]Attr, len(attributes))
	for i, a := range attributes {
		attrs[i] = Attr{Len: a.Len, Align: string(a.Align), ByVal: a.ByVal, Dropped: a.Dropped}
	}
	return attrs
}

// index describes one index of the base: the donor's files, or a place that
// stays empty until the index is rebuilt. An empty place makes every use of the
// index before that an error, where the base's own file would give wrong rows.
func (f *fit) index(base *relmap.Index) (*Part, error) {
	twin, why := f.indexTwin(base)
	if twin == nil {
		name := relationName(base.Relation)
		f.graft.Rebuild = append(f.graft.Rebuild, name)
		f.drift("index %s is rebuilt: %s", name, why)
		p := &Part{Name: name, Kind: MissingPart}
		files, err := f.baseDB.Files(base.Relation)
		p.hide(files)
		return p, err
	}
	kind := IndexPart
	if twin.AM == relmap.GistAM {
		kind = GiSTPart
	}
	return f.part(kind, twin.Relation, base.Relation)
}
