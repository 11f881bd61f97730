package pagesum

import (
	"hash/adler32"

	"golang.org/x/sys/cpu"
)

// mixRowsAVX2 mixes n > 0 rows into the lanes, eight lanes at a time. It needs
// a processor with AVX2, as does adlerAVX2.
//
//go:noescape
func mixRowsAVX2(lane *[lanes]uint32, rows *byte, n int)

// adlerAVX2 takes n > 0 runs of 32 bytes into the sums of Adler-32, which must
// be reduced, and does not reduce them. Above maxRuns they overflow.
//
//go:noescape
func adlerAVX2(a, b uint32, runs *byte, n int) (newA, newB uint32)

func init() {
	if cpu.X86.HasAVX2 {
		sumLanes, adler = sumLanesAVX2, adlerVector
	}
}

// sumLanesAVX2 gives what sumLanesGo gives. The first row is mixed from a copy
// in which pd_checksum is zero: the page may have other readers.
func sumLanesAVX2(page []byte) uint32 {
	_ = page[2*rowSize-1]
	var ends [3 * rowSize]byte // the first row, and two of zeros after the last
	copy(ends[:rowSize], page)
	ends[atChecksum], ends[atChecksum+1] = 0, 0
	lane := laneSeeds
	mixRowsAVX2(&lane, &ends[0], 1)
	mixRowsAVX2(&lane, &page[rowSize], len(page)/rowSize-1)
	mixRowsAVX2(&lane, &ends[rowSize], 2)
	var sum uint32
	for _, l := range lane {
		sum ^= l
	}
	return sum
}

const (
	adlerPrime = 65521
	runSize    = 32
	maxRuns    = 5552 / runSize // as many bytes as 32 bits take (zlib's NMAX)
)

// adlerVector gives what adler32.Checksum gives.
func adlerVector(p []byte) uint32 {
	if len(p)%runSize != 0 || len(p) == 0 {
		return adler32.Checksum(p)
	}
	a, b := uint32(1), uint32(0)
	for len(p) > 0 {
		n := min(len(p)/runSize, maxRuns)
		a, b = adlerAVX2(a, b, &p[0], n)
		a, b = a%adlerPrime, b%adlerPrime
		p = p[n*runSize:]
	}
	return b<<16 | a
}
