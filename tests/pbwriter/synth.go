package pbwriter

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/fukanchik/pg0"
)

// FillPage makes an empty page a sane heap page with a right checksum and some
// bytes that depend on seed and block, half of it compressible. block counts in
// the fork.
func FillPage(page []byte, lsn pg0.LSN, block uint32, seed uint64) {
	binary.LittleEndian.PutUint32(page, uint32(lsn>>32))
	binary.LittleEndian.PutUint32(page[4:], uint32(lsn))
	for i, v := range []uint16{0, 0, 24, pageSize / 2, pageSize, pageSize | 4} { // checksum, flags, lower, upper, special, version
		binary.LittleEndian.PutUint16(page[8+2*i:], v)
	}
	x := seed*0x9e3779b97f4a7c15 + uint64(block) + 1
	for off := pageSize / 2; off < pageSize; off += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(page[off:], x)
	}
	binary.LittleEndian.PutUint16(page[8:], Checksum(page, block))
}

// Skeleton lists the least of a data directory of PostgreSQL 15 that a reader
// may ask for.
func (c *Catalog) Skeleton() []Item {
	return []Item{
		Directory("base"), Directory("base/5"), Directory("global"), Directory("pg_wal"), Directory("pg_tblspc"),
		File("PG_VERSION", []byte("15\n")), File("base/5/PG_VERSION", []byte("15\n")),
		File("global/pg_control", c.control()),
	}
}

// control makes a pg_control with what identifies a cluster.
func (c *Catalog) control() []byte {
	b := make([]byte, pageSize)
	put := func(off int, v uint32) { binary.LittleEndian.PutUint32(b[off:], v) }
	binary.LittleEndian.PutUint64(b, c.SystemID)
	put(8, 1300)
	put(12, 202209061)
	put(16, 6) // in production
	binary.LittleEndian.PutUint64(b[32:], 0x1000028)
	binary.LittleEndian.PutUint64(b[40:], 0x1000028)
	put(48, 1)
	binary.LittleEndian.PutUint64(b[64:], 1000)
	put(76, 1)
	put(204, 8)
	binary.LittleEndian.PutUint64(b[208:], 0x4132d68700000000) // 1234567.0
	put(216, pageSize)
	put(220, blocksPerSegment)
	put(224, pageSize)
	put(228, uint32(c.SegmentSize))
	put(232, 64)
	put(236, 32)
	put(240, 1996)
	put(244, 2048)
	b[248] = 1
	put(252, 1)
	put(288, crc32.Checksum(b[:288], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// Chain writes a full backup and increments over it, length in all: a database
// of so many relations with so many blocks, of which each increment stores
// changed ones, other ones each time. A page's bytes tell which backup wrote it.
func (c *Catalog) Chain(length, relations int, blocks, changed uint32, b Backup) []*Written {
	c.t.Helper()
	var chain []*Written
	for n := range length {
		items := c.Skeleton()
		for r := range relations {
			items = append(items, ChainRelation(fmt.Sprintf("base/5/%d", 20000+r), blocks, changed, n))
		}
		b.Mode = "PTRACK"
		if n == 0 {
			b.Mode = "FULL"
		} else {
			b.Parent = chain[n-1].ID
		}
		chain = append(chain, c.Write(b, items))
	}
	return chain
}

// ChainRelation is a relation of Chain as its backup number n saw it.
func ChainRelation(path string, blocks, changed uint32, n int) Item {
	it := Relation(path, blocks, func(block uint32, page []byte) {
		FillPage(page, 0x1000000, block, uint64(lastWriter(block, blocks, changed, n)))
	})
	it.Stored = func(block uint32, _ []byte) bool { return n == 0 || lastWriter(block, blocks, changed, n) == n }
	return it
}

// lastWriter says which backup of a chain stored a block last: number i stores
// the blocks from i*changed on, around the end.
func lastWriter(block, blocks, changed uint32, n int) int {
	for ; n > 0; n-- {
		if (block+blocks-uint32(n)*changed%blocks)%blocks < changed {
			return n
		}
	}
	return 0
}
