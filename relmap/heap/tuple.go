package heap

// Offsets of the tuple header's fields. t_infomask2 comes before t_infomask.
const (
	offXmin      = 0
	offXmax      = 4
	offField3    = 8 // t_cid or t_xvac
	offCtidBlock = 12
	offCtidItem  = 16
	offInfomask2 = 18
	offInfomask  = 20
	offHoff      = 22
	offNulls     = 23
)

// Bits of t_infomask.
const (
	hasNull       = 0x0001
	hasExternal   = 0x0004
	xmaxExclLock  = 0x0040
	xmaxLockMask  = 0x0050
	xmaxLockOnly  = 0x0080
	xminCommitted = 0x0100
	xminInvalid   = 0x0200
	xminFrozen    = xminCommitted | xminInvalid
	xmaxCommitted = 0x0400
	xmaxInvalid   = 0x0800
	xmaxIsMulti   = 0x1000
	updated       = 0x2000
	movedOff      = 0x4000
	movedIn       = 0x8000
	shapeMask     = 0x000f // what the tuple looks like, not who may see it
)

// Bits of t_infomask2.
const (
	nattsMask   = 0x07ff
	keysUpdated = 0x2000
	hotUpdated  = 0x4000
	heapOnly    = 0x8000
)

const frozenXID = 2

// A Tuple is one row version: header and data, aliasing its page.
type Tuple struct {
	Offset uint16 // number of its line pointer, from 1
	Bytes  []byte
}

// Xmin returns the raw inserting transaction, also of a frozen tuple.
func (t Tuple) Xmin() uint32 { return u32(t.Bytes, offXmin) }

// Xmax returns the raw deleting or locking transaction or multixact.
func (t Tuple) Xmax() uint32 { return u32(t.Bytes, offXmax) }

// Natts is the number of attributes the tuple has; the relation may have more
// by now.
func (t Tuple) Natts() int { return int(t.infomask2() & nattsMask) }

// HasExternal reports whether the tuple points into a TOAST table.
func (t Tuple) HasExternal() bool { return t.infomask()&hasExternal != 0 }

func (t Tuple) infomask() uint16  { return u16(t.Bytes, offInfomask) }
func (t Tuple) infomask2() uint16 { return u16(t.Bytes, offInfomask2) }
func (t Tuple) hoff() int         { return int(t.Bytes[offHoff]) }
func (t Tuple) heapOnly() bool    { return t.infomask2()&heapOnly != 0 }

// ctid returns the block and line pointer of the next version.
func (t Tuple) ctid() (block uint32, number int) {
	block = uint32(u16(t.Bytes, offCtidBlock))<<16 | uint32(u16(t.Bytes, offCtidBlock+2))
	return block, int(u16(t.Bytes, offCtidItem))
}

// check tests the header's own sizes. Both XMAX bits together mark a row inside
// a column since the minor releases of November 2026 and never a row of a page.
func (t Tuple) check() error {
	if len(t.Bytes) < offNulls {
		return corrupt("tuple has %d bytes, fewer than its header", len(t.Bytes))
	}
	need := offNulls
	if t.infomask()&hasNull != 0 {
		need += (t.Natts() + 7) / 8
	}
	if hoff := t.hoff(); hoff < need || hoff > len(t.Bytes) || hoff%tupleAlignment != 0 {
		return corrupt("tuple header length %d does not fit %d attributes in %d bytes", t.hoff(), t.Natts(), len(t.Bytes))
	}
	return nil
}

// Visible reports whether a row version exists at the end of everything its
// cluster wrote: its inserter committed and no deleter did. Errors are those
// of s.
func (t Tuple) Visible(s Status) (bool, error) {
	created, err := t.created(s)
	if err != nil || !created {
		return false, err
	}
	deleted, err := t.deleted(s)
	return err == nil && !deleted, err
}

func (t Tuple) created(s Status) (bool, error) {
	mask := t.infomask()
	switch {
	case mask&xminCommitted != 0:
		return true, nil
	case mask&xminInvalid != 0:
		return false, nil
	case mask&movedOff != 0: // by VACUUM FULL before 9.0, which went away with its own xid
		moved, err := s.Committed(u32(t.Bytes, offField3))
		return err == nil && !moved, err
	case mask&movedIn != 0:
		return s.Committed(u32(t.Bytes, offField3))
	}
	return s.Committed(t.Xmin())
}

func (t Tuple) deleted(s Status) (bool, error) {
	mask := t.infomask()
	switch {
	case mask&xmaxInvalid != 0 || t.lockedOnly():
		return false, nil
	case mask&xmaxIsMulti != 0: // XMAX_COMMITTED says nothing about a multixact's updater
		xid, err := s.Updater(t.Xmax())
		if err != nil || xid == 0 {
			return false, err
		}
		return s.Committed(xid)
	case mask&xmaxCommitted != 0:
		return true, nil
	}
	return s.Committed(t.Xmax())
}

// lockedOnly covers the form of releases before 9.3 too. The multixact of such
// a tuple may be gone or meaningless and must not be looked up.
func (t Tuple) lockedOnly() bool {
	mask := t.infomask()
	return mask&xmaxLockOnly != 0 || mask&(xmaxIsMulti|xmaxLockMask) == xmaxExclLock
}

// next returns the transaction whose HOT update made the next member of the
// tuple's chain, 0 at the end of the chain.
func (t Tuple) next(s Status) (uint32, error) {
	mask := t.infomask()
	switch {
	case t.infomask2()&hotUpdated == 0 || mask&xmaxInvalid != 0 || mask&xminFrozen == xminInvalid || t.lockedOnly():
		return 0, nil
	case mask&xmaxIsMulti != 0:
		return s.Updater(t.Xmax())
	}
	return t.Xmax(), nil
}

// effectiveXmin is what a chain's previous member is compared with.
func (t Tuple) effectiveXmin() uint32 {
	if t.infomask()&xminFrozen == xminFrozen {
		return frozenXID
	}
	return t.Xmin()
}
