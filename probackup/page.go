package probackup

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Offsets in PostgreSQL's page header (storage/bufpage.h) and its sizes.
const (
	pageHeaderSize = 24
	pageChecksum   = 8
	pageFlags      = 10
	pageLower      = 12
	pageUpper      = 14
	pageSpecial    = 16
	pageSizeField  = 18
	pageFlagsMask  = 0x0007
)

// isZero tells whether all bytes are zero.
func isZero(p []byte) bool {
	for len(p) >= 32 {
		if binary.LittleEndian.Uint64(p)|binary.LittleEndian.Uint64(p[8:])|
			binary.LittleEndian.Uint64(p[16:])|binary.LittleEndian.Uint64(p[24:]) != 0 {
			return false
		}
		p = p[32:]
	}
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

var errPageHeader = errors.New("page header is invalid")

// checkHeader tells whether a page that is not all zero has a valid header.
func checkHeader(page []byte) error {
	size := len(page)
	lower := int(binary.LittleEndian.Uint16(page[pageLower:]))
	upper := int(binary.LittleEndian.Uint16(page[pageUpper:]))
	special := int(binary.LittleEndian.Uint16(page[pageSpecial:]))
	sized := int(binary.LittleEndian.Uint16(page[pageSizeField:]) & 0xff00)
	flags := binary.LittleEndian.Uint16(page[pageFlags:])
	if sized != size&0xff00 || flags&^pageFlagsMask != 0 || lower < pageHeaderSize ||
		lower > upper || upper > special || special > size || special%8 != 0 {
		return errPageHeader
	}
	return nil
}

// pageLSN is the position of the last WAL record that changed the page.
func pageLSN(page []byte) uint64 {
	return uint64(binary.LittleEndian.Uint32(page))<<32 | uint64(binary.LittleEndian.Uint32(page[4:]))
}

// checksumBases start the 32 lanes of PostgreSQL's page checksum
// (storage/checksum_impl.h).
var checksumBases = [32]uint32{
	0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
	0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
	0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
	0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
}

const fnvPrime = 16777619

// checksum is PostgreSQL's checksum of a page, whose block number counts from
// the start of the relation. Eight lanes at a time stay in registers; each goes
// down the page, 128 bytes a step.
func checksum(page []byte, block uint32) uint16 {
	var sum uint32
	for lane := 0; lane < 32; lane += 8 {
		k := (*[8]uint32)(checksumBases[lane:])
		a, b, c, d, e, f, g, h := k[0], k[1], k[2], k[3], k[4], k[5], k[6], k[7]
		// pd_checksum itself, the low half of the third word, counts as zero.
		mask := uint32(0xffffffff)
		if lane == 0 {
			mask = 0xffff0000
		}
		for rest := page[lane*4:]; len(rest) >= 32; {
			row := (*[32]byte)(rest)
			a = fnvStep(a, binary.LittleEndian.Uint32(row[0:]))
			b = fnvStep(b, binary.LittleEndian.Uint32(row[4:]))
			c = fnvStep(c, binary.LittleEndian.Uint32(row[8:])&mask)
			d = fnvStep(d, binary.LittleEndian.Uint32(row[12:]))
			e = fnvStep(e, binary.LittleEndian.Uint32(row[16:]))
			f = fnvStep(f, binary.LittleEndian.Uint32(row[20:]))
			g = fnvStep(g, binary.LittleEndian.Uint32(row[24:]))
			h = fnvStep(h, binary.LittleEndian.Uint32(row[28:]))
			mask = 0xffffffff
			if len(rest) < 128 {
				break
			}
			rest = rest[128:]
		}
		sum ^= fnvEnd(a) ^ fnvEnd(b) ^ fnvEnd(c) ^ fnvEnd(d) ^ fnvEnd(e) ^ fnvEnd(f) ^ fnvEnd(g) ^ fnvEnd(h)
	}
	return uint16((sum^block)%65535 + 1)
}

func fnvStep(lane, word uint32) uint32 {
	t := lane ^ word
	return t*fnvPrime ^ t>>17
}

// fnvEnd mixes the last word in by two more rounds.
func fnvEnd(lane uint32) uint32 { return fnvStep(fnvStep(lane, 0), 0) }

// pageFacts is what a page is checked against.
type pageFacts struct {
	block     uint32 // number in the relation
	checksums bool   // the cluster had data checksums when this copy was made
	known     bool   // the header map tells sum and lsn
	sum       uint16 // checksum computed by the writer; 0 for a page of zeros
	lsn       uint16 // folded, see foldLSN
}

// foldLSN keeps 16 bits of an LSN for comparison. The page checksum covers the
// LSN, so this only tells other pages with an equal checksum apart.
func foldLSN(lsn uint64) uint16 {
	return uint16(lsn>>3) ^ uint16(lsn>>19) ^ uint16(lsn>>35)
}

// checkPage tells whether a decoded page is the one that was backed up.
func checkPage(page []byte, f pageFacts) error {
	if isZero(page[:pageHeaderSize]) && isZero(page) {
		if f.known && f.sum != 0 {
			return errors.New("page is all zeros, which the header map denies")
		}
		return nil
	}
	if err := checkHeader(page); err != nil {
		return err
	}
	if !f.known && !f.checksums {
		return nil
	}
	sum := checksum(page, f.block)
	if f.known && (sum != f.sum || foldLSN(pageLSN(page)) != f.lsn) {
		return fmt.Errorf("page has checksum %d, the header map says %d", sum, f.sum)
	}
	if stored := binary.LittleEndian.Uint16(page[pageChecksum:]); f.checksums && stored != sum {
		return fmt.Errorf("page checksum is %d, should be %d", stored, sum)
	}
	return nil
}
