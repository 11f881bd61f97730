package heap

import "golang.org/x/sys/cpu"

// mixRowsAVX2 mixes n > 0 rows into the lanes, eight lanes at a time. It needs
// a processor with AVX2.
//
//go:noescape
func mixRowsAVX2(lane *[lanes]uint32, rows *byte, n int)

func init() {
	if cpu.X86.HasAVX2 {
		sumLanes = sumLanesAVX2
	}
}

// sumLanesAVX2 gives what sumLanesGo gives. The first row is mixed from a copy
// in which pd_checksum is zero: the page may have other readers.
func sumLanesAVX2(page []byte) uint32 {
	_ = page[PageSize-1]
	var ends [3 * rowSize]byte // the first row, and two of zeros after the last
	copy(ends[:rowSize], page)
	ends[offChecksum], ends[offChecksum+1] = 0, 0
	lane := laneSeeds
	mixRowsAVX2(&lane, &ends[0], 1)
	mixRowsAVX2(&lane, &page[rowSize], rows-1)
	mixRowsAVX2(&lane, &ends[rowSize], 2)
	var sum uint32
	for _, l := range lane {
		sum ^= l
	}
	return sum
}
