package xact

import (
	"fmt"

	"github.com/fukanchik/pg0"
)

// Layout of the two multixact logs. Members lie in groups of four: four bytes
// of status, then four transaction ids.
const (
	offsetsPerPage  = pageSize / 4
	groupSize       = 20
	groupsPerPage   = pageSize / groupSize
	membersPerPage  = groupsPerPage * 4
	statusUpdate    = 4 // MultiXactStatusNoKeyUpdate; 5 is Update, below are locks
	statusMax       = 5
	membersSensible = 1 << 20 // far above the number of sessions a server can have
)

// Updater returns the transaction that updated or deleted a tuple whose xmax is
// the multixact, 0 if it has none. The error wraps pg0.ErrCorrupt for a
// multixact that the cluster has not, or not any more.
func (l *Log) Updater(multi uint32) (uint32, error) {
	if multi == 0 {
		return 0, nil
	}
	xid, err := l.updater(multi)
	if err != nil {
		return 0, fmt.Errorf("multixact %d (oldest %d, next %d): %w", multi, l.horizon.OldestMulti, l.horizon.NextMulti, err)
	}
	return xid, nil
}

func (l *Log) updater(multi uint32) (uint32, error) {
	if int32(multi-l.horizon.NextMulti) >= 0 || int32(multi-l.horizon.OldestMulti) < 0 {
		return 0, fmt.Errorf("not a multixact of this cluster: %w", pg0.ErrCorrupt)
	}
	first, count, err := l.span(multi)
	if err != nil {
		return 0, err
	}
	for i := range count {
		xid, status, err := l.member(first + i)
		if err != nil {
			return 0, err
		}
		if xid != invalidXID && status >= statusUpdate {
			return xid, nil
		}
	}
	return 0, nil
}

// span returns where the members of a multixact begin and how many there are.
// Both counters wrap around; number 0 is not used for a multixact.
func (l *Log) span(multi uint32) (first, count uint32, err error) {
	if first, err = l.offset(multi); err != nil {
		return 0, 0, err
	}
	next := multi + 1
	if next == 0 {
		next = 1
	}
	end := l.horizon.NextMultiOffset
	if next != l.horizon.NextMulti {
		if end, err = l.offset(next); err != nil {
			return 0, 0, err
		}
	}
	if count = end - first; count > membersSensible {
		return 0, 0, fmt.Errorf("members lie from %d to %d: %w", first, end, pg0.ErrCorrupt)
	}
	return first, count, nil
}

// offset returns where the members of a multixact begin, which is never 0.
func (l *Log) offset(multi uint32) (uint32, error) {
	page, err := l.offsets.page(multi / offsetsPerPage)
	if err != nil {
		return 0, err
	}
	first := le32(page, multi%offsetsPerPage*4)
	if first == 0 {
		return 0, fmt.Errorf("members of %d were never written: %w", multi, pg0.ErrCorrupt)
	}
	return first, nil
}

func (l *Log) member(m uint32) (xid uint32, status byte, err error) {
	page, err := l.members.page(m / membersPerPage)
	if err != nil {
		return 0, 0, err
	}
	group := m % membersPerPage / 4 * groupSize
	status = page[group+m%4]
	if status > statusMax {
		return 0, 0, fmt.Errorf("member %d has status %d: %w", m, status, pg0.ErrCorrupt)
	}
	return le32(page, group+4+m%4*4), status, nil
}
