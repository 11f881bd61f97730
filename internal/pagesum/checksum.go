// Package pagesum computes the two checksums that the pages of a backup are
// under: PostgreSQL's pd_checksum and the Adler-32 of zlib. Every page of a
// point passes through both, so they use what the processor has.
package pagesum

import "encoding/binary"

const (
	lanes      = 32
	rowSize    = 4 * lanes // a word for each lane
	atChecksum = 8         // of pd_checksum in the page (storage/bufpage.h)
	fnvPrime   = 16777619
)

// laneSeeds start the lanes (storage/checksum_impl.h).
var laneSeeds = [lanes]uint32{
	0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
	0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
	0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
	0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
}

// sumLanes mixes a page into the lanes and folds them, by the fastest means
// that the machine has.
var sumLanes = sumLanesGo

// Page computes what pd_checksum must be for a page, whose length is a multiple
// of 128 bytes as that of every block size is. block counts from the start of
// the fork, over all its segments.
func Page(page []byte, block uint32) uint16 {
	return uint16((sumLanes(page)^block)%65535) + 1
}

func sumLanesGo(page []byte) uint32 {
	_ = page[rowSize-1]
	var sum uint32
	for first := 0; first < lanes; first += 8 {
		sum ^= stripe(page, first)
	}
	return sum
}

// stripe mixes eight neighbouring lanes, few enough to stay in registers.
func stripe(page []byte, first int) uint32 {
	s := [8]uint32(laneSeeds[first : first+8])
	a, b, c, d, e, f, g, h := s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]
	for row := 4 * first; row+32 <= len(page); row += rowSize {
		w := page[row : row+32 : row+32]
		a = mix(a, binary.LittleEndian.Uint32(w))
		b = mix(b, binary.LittleEndian.Uint32(w[4:]))
		word := binary.LittleEndian.Uint32(w[8:])
		if row == atChecksum-8 {
			word &= 0xffff0000 // pd_checksum itself counts as zero
		}
		c = mix(c, word)
		d = mix(d, binary.LittleEndian.Uint32(w[12:]))
		e = mix(e, binary.LittleEndian.Uint32(w[16:]))
		f = mix(f, binary.LittleEndian.Uint32(w[20:]))
		g = mix(g, binary.LittleEndian.Uint32(w[24:]))
		h = mix(h, binary.LittleEndian.Uint32(w[28:]))
	}
	var sum uint32
	for _, lane := range [8]uint32{a, b, c, d, e, f, g, h} {
		sum ^= mix(mix(lane, 0), 0)
	}
	return sum
}

func mix(lane, word uint32) uint32 {
	t := lane ^ word
	return t*fnvPrime ^ t>>17
}
