package probackup

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/fukanchik/pg0/internal/pagesum"
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
	sum := pagesum.Page(page, f.block)
	if f.known && (sum != f.sum || foldLSN(pageLSN(page)) != f.lsn) {
		return fmt.Errorf("page has checksum %d, the header map says %d", sum, f.sum)
	}
	if stored := binary.LittleEndian.Uint16(page[pageChecksum:]); f.checksums && stored != sum {
		return fmt.Errorf("page checksum is %d, should be %d", stored, sum)
	}
	return nil
}
