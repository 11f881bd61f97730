package wal

import (
	"encoding/binary"
	"fmt"

	"github.com/fukanchik/pg0"
)

// pageSize is XLOG_BLCKSZ. Clusters built with another one are refused.
const pageSize = 8192

// Lengths and flags of a page header (access/xlog_internal.h).
const (
	shortHeader = 24
	longHeader  = 40

	flagContinues = 0x0001 // the page begins with the rest of a record
	flagLong      = 0x0002
	flagOverwrite = 0x0008 // the record that should continue here was given up
	flagsKnown    = 0x000F
)

// versions maps XLOG_PAGE_MAGIC to PostgreSQL's major version.
var versions = map[uint16]int{
	0xD101: 12,
	0xD106: 13,
	0xD10D: 14,
	0xD110: 15,
	0xD113: 16,
	0xD116: 17,
	0xD118: 18,
}

// A page is one page of the log whose header fits its place.
type page struct {
	at       pg0.LSN
	bytes    []byte // from the header on
	version  int
	timeline uint32
	flags    uint16
	rest     uint32 // bytes still to come of the record that continues here
}

func (p *page) header() int {
	if p.flags&flagLong != 0 {
		return longHeader
	}
	return shortHeader
}

// empty tells whether the page was never written.
func (p *page) empty() bool {
	return binary.LittleEndian.Uint64(p.bytes) == 0 && binary.LittleEndian.Uint64(p.bytes[8:]) == 0
}

// parsePage checks a page header against the place it was read from. The
// reason is for people, and empty when all is well.
func parsePage(at pg0.LSN, b []byte) (p page, reason string) {
	magic := binary.LittleEndian.Uint16(b)
	p = page{
		at: at, bytes: b, version: versions[magic],
		flags:    binary.LittleEndian.Uint16(b[2:]),
		timeline: binary.LittleEndian.Uint32(b[4:]),
		rest:     binary.LittleEndian.Uint32(b[16:]),
	}
	addr := pg0.LSN(binary.LittleEndian.Uint64(b[8:]))
	switch {
	case p.empty():
		return p, "the page is empty"
	case p.version == 0:
		return p, fmt.Sprintf("the page has the magic number %04X, which no known version writes", magic)
	case p.flags&^flagsKnown != 0:
		return p, fmt.Sprintf("the page has unknown flags %04X", p.flags)
	case addr != at:
		return p, fmt.Sprintf("the page is that of %s", addr)
	}
	return p, ""
}

// A segmentHeader is what only the first page of a segment says.
type segmentHeader struct {
	systemID    uint64
	segmentSize uint32
	pageSize    uint32
}

func (p *page) segment() segmentHeader {
	return segmentHeader{
		binary.LittleEndian.Uint64(p.bytes[24:]),
		binary.LittleEndian.Uint32(p.bytes[32:]),
		binary.LittleEndian.Uint32(p.bytes[36:]),
	}
}
