package heap

// plainPage is the short way for the usual page, which no HOT chain and no dead
// tuple is on: every tuple is visible, is its own root, and needs no more than
// to be frozen. It says false, and has written nothing, for any page of which
// that is not so, damaged ones too: the plan judges those.
func (t *Transform) plainPage(e *edit, block uint32) (Result, bool) {
	n, err := itemCount(e.page)
	if err != nil {
		return Result{}, false
	}
	var used space
	last := uint32(0) // the inserter that was asked for last, and committed
	for i := 1; i <= n; i++ {
		switch it := itemAt(e.page, i); it.state() {
		case itemRedirect:
			return Result{}, false
		case itemNormal:
			tuple, err := tupleAt(e.page, i, it)
			if err != nil || !used.take(it.offset(), it.length()) || !t.plainTuple(tuple, &last) {
				return Result{}, false
			}
		}
	}
	r := Result{}
	for i := 1; i <= n; i++ {
		if it := itemAt(e.page, i); it.state() == itemNormal {
			e.freeze(it.offset(), block, i)
			r.Frozen++
		}
	}
	e.put32(offPruneXID, 0)
	return r, true
}

// plainTuple reports whether a tuple stands alone, nobody deleted or locked it,
// and its inserter committed.
func (t *Transform) plainTuple(tuple Tuple, last *uint32) bool {
	mask := tuple.infomask()
	switch {
	case tuple.infomask2()&(heapOnly|hotUpdated) != 0, mask&xmaxInvalid == 0, mask&hasExternal != 0 && len(t.Toast) > 0:
		return false
	case mask&xminCommitted != 0:
		return true
	case mask&(xminInvalid|movedOff|movedIn) != 0:
		return false
	}
	xmin := tuple.Xmin()
	if xmin == *last && xmin != 0 {
		return true
	}
	committed, err := t.Status.Committed(xmin)
	if err == nil && committed {
		*last = xmin
	}
	return err == nil && committed
}
