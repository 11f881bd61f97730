package pagesum

import (
	"encoding/binary"
	"hash/adler32"
	"math/rand/v2"
	"testing"
)

const pageSize = 8192

// plainChecksum is the definition, word by word.
func plainChecksum(page []byte, block uint32) uint16 {
	lane := laneSeeds
	for off := 0; off < len(page); off += 4 {
		word := binary.LittleEndian.Uint32(page[off:])
		if off == atChecksum {
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

func random(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func TestPage(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, size := range []int{1024, 2048, pageSize, 32768} {
		for range 20 {
			page, block := random(r, size), r.Uint32()
			want := plainChecksum(page, block)
			if got := Page(page, block); got != want {
				t.Errorf("checksum %#x, want %#x", got, want)
			}
			if got := uint16((sumLanesGo(page)^block)%65535) + 1; got != want {
				t.Errorf("checksum without vectors %#x, want %#x", got, want)
			}
		}
	}
}

// TestAdler holds the sums against those of the standard library, also where
// they are as high as they can be.
func TestAdler(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	high := make([]byte, 64<<10)
	for i := range high {
		high[i] = 0xff
	}
	for _, size := range []int{0, 1, 31, 32, 33, 64, 5536, 5552, 5568, pageSize, 3*5536 + 32, 64 << 10} {
		for _, b := range [][]byte{random(r, size), make([]byte, size), high[:size]} {
			if got, want := Adler(b), adler32.Checksum(b); got != want {
				t.Errorf("%d bytes: %#x, want %#x", size, got, want)
			}
		}
	}
}

func BenchmarkPage(b *testing.B) { benchmark(b, func(page []byte) { Page(page, 1) }) }

func BenchmarkAdler(b *testing.B) { benchmark(b, func(page []byte) { Adler(page) }) }

func benchmark(b *testing.B, sum func([]byte)) {
	page := random(rand.New(rand.NewPCG(1, 2)), pageSize)
	b.SetBytes(pageSize)
	for b.Loop() {
		sum(page)
	}
}
