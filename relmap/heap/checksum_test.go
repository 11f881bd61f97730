package heap

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// plainChecksum is the definition, word by word.
func plainChecksum(page []byte, block uint32) uint16 {
	lane := laneSeeds
	for off := 0; off < PageSize; off += 4 {
		word := binary.LittleEndian.Uint32(page[off:])
		if off == offChecksum {
			word &= 0xffff0000
		}
		lane[off/4%lanes] = mix(lane[off/4%lanes], word)
	}
	sum := block
	for _, l := range lane {
		sum ^= mix(mix(l, 0), 0)
	}
	return uint16(sum%65535 + 1)
}

func TestChecksum(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	page := make([]byte, PageSize)
	for range 50 {
		for off := 0; off < PageSize; off += 8 {
			binary.LittleEndian.PutUint64(page[off:], r.Uint64())
		}
		block := r.Uint32()
		want := plainChecksum(page, block)
		if got := Checksum(page, block); got != want {
			t.Errorf("checksum %#x, want %#x", got, want)
		}
		if got := uint16((sumLanesGo(page)^block)%65535) + 1; got != want {
			t.Errorf("checksum without vectors %#x, want %#x", got, want)
		}
	}
}

func BenchmarkChecksum(b *testing.B) {
	page := make([]byte, PageSize)
	b.SetBytes(PageSize)
	for b.Loop() {
		Checksum(page, 1)
	}
}

func BenchmarkPage(b *testing.B) {
	rows := make([]row, 100)
	for i := range rows {
		rows[i] = row{xmin: 3, data: make([]byte, 40)}
	}
	page, work := buildPage(rows...), make([]byte, PageSize)
	tr := Transform{Status: fates{3}, Limit: 1}
	b.SetBytes(PageSize)
	for b.Loop() {
		copy(work, page)
		if _, err := tr.Page(work, 1, false); err != nil {
			b.Fatal(err)
		}
	}
}
