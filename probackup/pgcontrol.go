package probackup

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

const controlFile = "global/pg_control"

// Offsets in pg_control (catalog/pg_control.h), equal in PostgreSQL 12 to 18.
const (
	pgControlSystemID = 0
	pgControlSegment  = 220
	pgControlMinCRC   = 256
	pgControlMaxCRC   = 504
)

// pgControl is what a reader needs of global/pg_control.
type pgControl struct {
	systemID      uint64
	segmentBlocks uint32 // pages in a segment file of a relation
	crc           uint32
}

// parsePGControl reads a pg_control of any version that pg0 knows: its checksum
// is found as the first aligned word that is the checksum of all before it.
func parsePGControl(data []byte) (pgControl, error) {
	for at := pgControlMinCRC; at <= pgControlMaxCRC && at+4 <= len(data); at += 4 {
		crc := binary.LittleEndian.Uint32(data[at:])
		if crc != crc32.Checksum(data[:at], castagnoli) {
			continue
		}
		if !isZero(data[min(at+8, len(data)):]) {
			break
		}
		return pgControl{
			systemID:      binary.LittleEndian.Uint64(data[pgControlSystemID:]),
			segmentBlocks: binary.LittleEndian.Uint32(data[pgControlSegment:]),
			crc:           crc,
		}, nil
	}
	return pgControl{}, errors.New("its checksum is wrong")
}
