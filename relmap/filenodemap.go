package relmap

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path"

	"github.com/fukanchik/pg0"
)

// filenodeMap gives the filenode of the relations whose pg_class row says 0.
type filenodeMap map[uint32]uint32

const filenodeMapMagic = 0x592717

// readFilenodeMap reads the pg_filenode.map of one database directory, or of
// global.
func readFilenodeMap(tree fs.FS, dir string) (filenodeMap, error) {
	name := path.Join(dir, "pg_filenode.map")
	data, err := fs.ReadFile(tree, name)
	if err != nil {
		return nil, fmt.Errorf("read the map of system catalogs: %w", err)
	}
	m, err := parseFilenodeMap(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return m, nil
}

// parseFilenodeMap decodes 512 bytes with 62 slots (until PostgreSQL 15) or
// 524 with 64 (utils/cache/relmapper.c).
func parseFilenodeMap(data []byte) (filenodeMap, error) {
	var slots int
	switch len(data) {
	case 512:
		slots = 62
	case 524:
		slots = 64
	default:
		return nil, fmt.Errorf("%w: %d bytes long, expected 512 or 524", pg0.ErrCorrupt, len(data))
	}
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(data[at:]) }
	if u32(0) != filenodeMapMagic {
		return nil, fmt.Errorf("%w: magic number is %X", pg0.ErrCorrupt, u32(0))
	}
	end := 8 + 8*slots
	if sum := crc32.Checksum(data[:end], castagnoli); sum != u32(end) {
		return nil, fmt.Errorf("%w: checksum is %08X, the file says %08X", pg0.ErrCorrupt, sum, u32(end))
	}
	count := u32(4)
	if count > uint32(slots) {
		return nil, fmt.Errorf("%w: %d entries in %d slots", pg0.ErrCorrupt, count, slots)
	}
	m := make(filenodeMap, count)
	for i := range int(count) {
		m[u32(8+8*i)] = u32(12 + 8*i)
	}
	return m, nil
}
