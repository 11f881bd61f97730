package heap

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// A plan is what becomes of a heap page's line pointers. Everything is decided
// from the bytes as they were; nothing is written until all is decided. Arrays
// are indexed by line pointer number; index 0 is not used.
//
// Space of pruned tuples is not given back: kept tuples stay where they are, so
// that the bytes depend on the donor's page alone and on nothing that could be
// done better one day. Redo of the base's WAL counts on equal bytes.
type plan struct {
	page    []byte
	count   int
	items   [maxItems + 1]item
	fate    [maxItems + 1]item
	visible [maxItems + 1]bool
	claimed [maxItems + 1]bool
	next    [maxItems + 1]uint32 // transaction that made the next chain member

	pointers     [PageSize / externalSize]uint16 // offsets of TOAST OIDs in the page
	pointerCount int
	orphans      int
}

// load checks the page and judges each tuple.
func (p *plan) load(page []byte, s Status) error {
	n, err := itemCount(page)
	if err != nil {
		return err
	}
	p.page, p.count = page, n
	var used space
	for i := 1; i <= n; i++ {
		it := itemAt(page, i)
		p.items[i], p.fate[i] = it, it
		if it.state() != itemNormal {
			continue
		}
		t, err := tupleAt(page, i, it)
		if err != nil {
			return err
		}
		if !used.take(it.offset(), it.length()) {
			return corrupt("line pointer %d: its tuple overlaps another", i)
		}
		if err := p.judge(t, s); err != nil {
			return fmt.Errorf("line pointer %d: %w", i, err)
		}
	}
	return nil
}

func (p *plan) judge(t Tuple, s Status) (err error) {
	if p.visible[t.Offset], err = t.Visible(s); err != nil {
		return err
	}
	p.next[t.Offset], err = t.next(s)
	return err
}

// tuple returns the tuple of a normal line pointer that load has checked.
func (p *plan) tuple(number int) Tuple {
	it := p.items[number]
	return Tuple{Offset: uint16(number), Bytes: p.page[it.offset() : it.offset()+it.length()]}
}

// decide gives every line pointer its fate: first the chains from their roots,
// then what no root leads to.
func (p *plan) decide(block uint32) error {
	for root := 1; root <= p.count; root++ {
		switch it := p.items[root]; {
		case it.state() == itemRedirect:
			if err := p.chain(root, it.offset(), block); err != nil {
				return err
			}
		case it.state() == itemNormal && !p.tuple(root).heapOnly():
			if err := p.chain(root, root, block); err != nil {
				return err
			}
		}
	}
	for i := 1; i <= p.count; i++ {
		if p.items[i].state() != itemNormal || p.claimed[i] {
			continue
		}
		if p.visible[i] {
			p.orphans++
		} else {
			p.fate[i] = newItem(itemUnused, 0) // unclaimed, so heap-only: no index leads to it
		}
	}
	return nil
}

// chain follows a HOT chain from its root and leaves of it the visible member,
// reached through the root, if there is one. An index may lead to the root but
// to no other member.
func (p *plan) chain(root, first int, block uint32) error {
	keep, member, made := 0, first, uint32(0)
	for member != 0 && p.joins(member, made, member != root) {
		p.claimed[member] = true
		p.fate[member] = newItem(itemUnused, 0)
		if p.visible[member] {
			if keep != 0 {
				return corrupt("line pointers %d and %d: two versions of one row are both valid", keep, member)
			}
			keep = member
		}
		made = p.next[member]
		member = p.successor(member, block)
	}
	p.fate[root] = newItem(itemDead, 0)
	if keep != 0 {
		p.fate[root] = newItem(itemRedirect, keep)
		p.fate[keep] = p.items[keep] // also if it is the root itself
	}
	return nil
}

// joins reports whether a line pointer is the member of a chain that the
// transaction made (0: first member, made by any).
func (p *plan) joins(number int, made uint32, mustBeHeapOnly bool) bool {
	if number > p.count || p.items[number].state() != itemNormal || p.claimed[number] {
		return false
	}
	t := p.tuple(number)
	return t.heapOnly() == mustBeHeapOnly && (made == 0 || t.effectiveXmin() == made)
}

func (p *plan) successor(number int, block uint32) int {
	if p.next[number] == 0 {
		return 0
	}
	ctidBlock, ctidItem := p.tuple(number).ctid()
	if ctidBlock != block {
		return 0
	}
	return ctidItem
}

// findPointers collects where kept tuples name a TOAST table.
func (p *plan) findPointers(attrs []Attr, toast map[uint32]uint32) error {
	for i := 1; i <= p.count; i++ {
		if p.fate[i].state() != itemNormal || !p.tuple(i).HasExternal() {
			continue
		}
		if err := p.pointersOf(i, attrs, toast); err != nil {
			return err
		}
	}
	return nil
}

func (p *plan) pointersOf(number int, attrs []Attr, toast map[uint32]uint32) error {
	t := p.tuple(number)
	if t.Natts() > len(attrs) {
		return corrupt("line pointer %d: tuple has %d attributes, its relation %d", number, t.Natts(), len(attrs))
	}
	return t.walk(attrs, func(i, off, _ int) error {
		if attrs[i].Len != -1 || t.Bytes[off] != 1 {
			return nil
		}
		rel := parseExternal(t.Bytes[off:]).ToastRel
		if _, known := toast[rel]; !known {
			return corrupt("line pointer %d: attribute %d lies in TOAST table %d, which is not the relation's own", number, i+1, rel)
		}
		p.pointers[p.pointerCount] = uint16(p.items[number].offset() + off + offToastRel)
		p.pointerCount++
		return nil
	})
}

// space marks which aligned units of eight bytes of a page are taken.
type space [PageSize / tupleAlignment / 64]uint64

// take marks the units of a range that lies within a page and reports whether
// all were free.
func (s *space) take(offset, length int) bool {
	first, end := offset/tupleAlignment, (offset+length+tupleAlignment-1)/tupleAlignment
	for first < end {
		bit := first % 64
		n := min(64-bit, end-first)
		mask := ^uint64(0) >> (64 - n) << bit
		if s[first/64]&mask != 0 {
			return false
		}
		s[first/64] |= mask
		first += n
	}
	return true
}

// write carries the plan out.
func (p *plan) write(e *edit, block uint32, toast map[uint32]uint32) Result {
	r := Result{Orphans: p.orphans, Pointers: p.pointerCount}
	var freed, dead bool
	for i := 1; i <= p.count; i++ {
		switch fate := p.fate[i]; {
		case fate != p.items[i]:
			e.put32(itemOffset(i), uint32(fate))
			freed = freed || fate.state() == itemUnused
			dead = dead || fate.state() == itemDead
			r.Pruned++
		case fate.state() == itemNormal:
			e.freeze(fate.offset(), block, i)
			r.Frozen++
		}
	}
	for _, off := range p.pointers[:p.pointerCount] {
		e.put32(int(off), toast[u32(e.page, int(off))])
	}
	flags := u16(e.page, offFlags)
	if freed {
		flags |= flagHasFreeLines // without the hint their slots are not reused
	}
	if (freed || dead) && flags&flagAllVisible != 0 {
		flags &^= flagAllVisible
		r.NotAllVisible = true
	}
	e.put16(offFlags, flags)
	e.put32(offPruneXID, 0)
	return r
}

// freeze makes the tuple at a page offset one that everybody sees and nobody
// locks. Both XMAX bits together are reserved, so the old ones go first. The
// header's fields lie in three words, and tuples are aligned to words: xmin and
// xmax; t_cid and the block of t_ctid, whose high half comes first; the line
// pointer of t_ctid, both infomasks, and two bytes that stay.
func (e *edit) freeze(tuple int, block uint32, number int) {
	head := e.page[tuple : tuple+headWords*8]
	last := binary.LittleEndian.Uint64(head[16:])
	mask2 := uint16(last>>16) &^ (keysUpdated | hotUpdated)
	mask := uint16(last>>32)&(shapeMask|updated) | xminFrozen | xmaxInvalid
	e.put64(head, frozenXID)
	e.put64(head[8:], uint64(bits.RotateLeft32(block, 16))<<32)
	e.put64(head[16:], last>>48<<48|uint64(mask)<<32|uint64(mask2)<<16|uint64(uint16(number)))
}

// headWords is the number of words that freeze rewrites.
const headWords = 3

func (e *edit) put64(b []byte, v uint64) {
	if binary.LittleEndian.Uint64(b) != v {
		binary.LittleEndian.PutUint64(b, v)
		e.changed = true
	}
}
