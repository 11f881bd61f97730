package pbwriter

import "encoding/binary"

// checksumBases start the lanes of PostgreSQL's page checksum
// (storage/checksum_impl.h).
var checksumBases = [32]uint32{
	0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
	0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
	0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
	0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
}

// Checksum is pd_checksum of a page, word by word as it is defined, so that it
// proves the faster ways of pg0. block counts in the fork.
func Checksum(page []byte, block uint32) uint16 {
	lanes := checksumBases
	for off := 0; off < len(page); off += 4 {
		word := binary.LittleEndian.Uint32(page[off:])
		if off == 8 {
			word &= 0xffff0000 // pd_checksum itself counts as zero
		}
		lane := &lanes[off/4%32]
		*lane = checksumStep(*lane, word)
	}
	sum := block
	for _, lane := range lanes {
		sum ^= checksumStep(checksumStep(lane, 0), 0)
	}
	return uint16(sum%65535 + 1)
}

func checksumStep(lane, word uint32) uint32 {
	t := lane ^ word
	return t*16777619 ^ t>>17
}
