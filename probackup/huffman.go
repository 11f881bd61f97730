package probackup

import (
	"math/bits"
	"sync"
)

// What each symbol of the three codes means, without the bits of its code.
var (
	preEntries = preMeanings()
	litBases   = litMeanings()
	distBases  = distMeanings()
)

func preMeanings() (m [19]uint32) {
	for i := range m {
		m[i] = isLiteral | uint32(i)<<16
	}
	return m
}

// litMeanings has literals, the end of the block, and lengths: 3 to 10 without
// extra bits, then four codes for each number of them, and one for 258.
func litMeanings() (m [maxLitCodes]uint32) {
	for i := range 256 {
		m[i] = isLiteral | uint32(i)<<16
	}
	m[256] = isEnd
	base := uint32(3)
	for i := range 28 {
		extra := uint32(max(0, i/4-1))
		m[257+i] = base<<13 | extra<<8
		base += 1 << extra
	}
	m[285] = 258 << 13
	return m // 286 and 287 have codes and must not occur: zero
}

// distMeanings has 1 to 4 without extra bits, then two codes for each number.
func distMeanings() (m [maxDistCodes]uint32) {
	base := uint32(1)
	for i := range 30 {
		extra := uint32(max(0, i/2-1))
		m[i] = base<<13 | extra<<8
		base += 1 << extra
	}
	return m
}

// buildTable makes the table that decodes the canonical code with the given
// lengths by a first lookup of width bits. It refuses a code that gives one
// sequence of bits two meanings, and one with unused sequences unless it has
// one symbol or none, as a block with one distance or none has.
func buildTable(table []uint32, width uint, lengths []byte, meanings []uint32) bool {
	var count, start [maxCodeBits + 2]int
	for _, n := range lengths {
		count[n]++
	}
	used := 0
	for n := 1; n <= maxCodeBits; n++ {
		start[n+1] = start[n] + count[n]
		used += count[n] << (maxCodeBits - n)
	}
	symbols := start[maxCodeBits+1]
	if used != 1<<maxCodeBits {
		return sparseTable(table, width, lengths, meanings, symbols, used)
	}
	var sorted [maxLitCodes]uint16
	for symbol, n := range lengths {
		if n != 0 {
			sorted[start[n]] = uint16(symbol)
			start[n]++
		}
	}
	fillTable(table, width, sorted[:symbols], lengths, meanings, &count)
	return true
}

// sparseTable makes the table of a code of one symbol or none.
func sparseTable(table []uint32, width uint, lengths []byte, meanings []uint32, symbols, used int) bool {
	if symbols > 1 || symbols == 1 && used != 1<<(maxCodeBits-1) {
		return false
	}
	clear(table[:1<<width])
	for symbol, n := range lengths {
		if n == 0 {
			continue
		}
		for i := 0; i < 1<<width; i += 2 {
			table[i] = withBits(meanings[symbol], 1)
		}
	}
	return true
}

// withBits adds the length of the code to a meaning; what means nothing stays so.
func withBits(meaning uint32, n uint) uint32 {
	if meaning == 0 {
		return 0
	}
	return meaning | uint32(n)
}

// fillTable enters the symbols of a complete code, sorted by their lengths.
// Codes come first bit lowest, so counting goes from the high bits down. While
// lengths grow, the part filled so far is doubled: a longer lookup has the
// meaning of its beginning.
func fillTable(table []uint32, width uint, sorted []uint16, lengths []byte, meanings []uint32, count *[maxCodeBits + 2]int) {
	code, filled := uint(0), uint(1)
	i := 0
	for n := uint(1); n <= width; n++ {
		copy(table[filled:2*filled], table[:filled])
		filled *= 2
		for range count[n] {
			table[code] = withBits(meanings[sorted[i]], n)
			code = nextCode(code, n)
			i++
		}
	}
	next := filled // where the next second table goes
	prefix, second := ^uint(0), uint(0)
	for ; i < len(sorted); i++ {
		n := uint(lengths[sorted[i]])
		if at := code & (filled - 1); at != prefix {
			prefix = at
			second = secondWidth(n-width, width, count)
			table[prefix] = isLink | uint32(next)<<13 | uint32(second)<<8
			next += 1 << second
		}
		base := next - 1<<second
		for at := code >> width; at < 1<<second; at += 1 << (n - width) {
			table[base+at] = withBits(meanings[sorted[i]], n-width)
		}
		count[n]--
		code = nextCode(code, n)
	}
}

// nextCode counts a code of n bits up by one, from its highest bit down.
func nextCode(code, n uint) uint {
	free := ^code & (1<<n - 1)
	if free == 0 {
		return 0
	}
	bit := uint(1) << (bits.Len(free) - 1)
	return code&(bit-1) | bit
}

// secondWidth is how many bits a second table needs that begins with a code of
// first bits behind the first lookup: as many as its longest code has. count has
// what is left of each length.
func secondWidth(first, width uint, count *[maxCodeBits + 2]int) uint {
	n, space := first, count[width+first]
	for space < 1<<n && n+width < maxCodeBits {
		n++
		space = space<<1 + count[width+n]
	}
	return n
}

// A workspace is the memory that one read needs.
type workspace struct {
	raw   []byte // records as stored
	page  []byte // one decoded page
	plain []byte // a decoded part of the header map
	inflater
}

const rawBytes = 256 << 10

var workspaces = sync.Pool{New: func() any {
	return &workspace{raw: make([]byte, rawBytes), page: make([]byte, maxBlockSize)}
}}

func getWorkspace() *workspace { return workspaces.Get().(*workspace) }
func (w *workspace) free()     { workspaces.Put(w) }

// grow gives n bytes of a buffer that is made longer where it is too short.
func grow(b *[]byte, n int) []byte {
	if len(*b) < n {
		*b = make([]byte, n)
	}
	return (*b)[:n]
}
