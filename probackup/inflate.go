package probackup

import (
	"encoding/binary"
	"errors"
	"sync"

	"github.com/fukanchik/pg0/internal/pagesum"
)

// An inflater decodes whole zlib streams (RFC 1950, RFC 1951) from memory to
// memory. Pages are small, so what counts is the time to set up, and that there
// is no window to move: the output itself is the window.
type inflater struct {
	buf uint64 // bits not used yet, the next one lowest
	n   uint   // how many of them are known to be valid
	src []byte
	in  int // bytes of src taken into buf
	dst []byte
	out int

	lengths [maxLitCodes + maxDistCodes]byte
	lit     [litEntries]uint32
	dist    [distEntries]uint32
}

// Sizes of the decoding tables: a code longer than the first lookup has a table
// of its own behind it. The numbers of entries are the most that any complete
// code of that many symbols can need.
const (
	litBits      = 10
	distBits     = 8
	preBits      = 7
	litEntries   = 1334 // 288 symbols of at most 15 bits, looked up by 10
	distEntries  = 402  // 32 symbols of at most 15 bits, looked up by 8
	maxLitCodes  = 288
	maxDistCodes = 32
	maxCodeBits  = 15
)

// An entry of a table has in bits 0-5 how many bits the code takes. Then:
// a literal has its byte in bits 16-23; a length or distance its number of extra
// bits in bits 8-12 and its base in bits 13-28; a link the bits of the second
// lookup in bits 8-12 and the place of that table in bits 13-28. An entry of
// zero belongs to no code.
const (
	isLiteral = 1 << 31
	isLink    = 1 << 30
	isEnd     = 1 << 29
	isSpecial = isLink | isEnd
)

var (
	errDeflate  = errors.New("zlib stream is damaged")
	errCut      = errors.New("zlib stream is cut off")
	errNotDone  = errors.New("zlib stream is longer than expected")
	errTrailing = errors.New("bytes follow the zlib stream")
	errAdler    = errors.New("zlib checksum is wrong")
)

// decode inflates src, one whole zlib stream, into dst and returns its length.
// It is an error if the stream does not end where src does or holds more than
// dst takes.
func (f *inflater) decode(dst, src []byte) (int, error) {
	if len(src) < 2 || src[0]&0x0f != 8 || src[0]>>4 > 7 || src[1]&0x20 != 0 || (int(src[0])<<8|int(src[1]))%31 != 0 {
		return 0, errDeflate
	}
	f.buf, f.n, f.src, f.in, f.dst, f.out = 0, 0, src, 2, dst, 0
	defer func() { f.src, f.dst = nil, nil }()
	for final := false; !final; {
		f.refill()
		final = f.take(1) == 1
		if err := f.block(f.take(2)); err != nil {
			return f.out, err
		}
	}
	f.in -= int(f.n / 8)
	switch rest := src[f.in:]; {
	case len(rest) < 4:
		return f.out, errCut
	case len(rest) > 4:
		return f.out, errTrailing
	case binary.BigEndian.Uint32(rest) != pagesum.Adler(dst[:f.out]):
		return f.out, errAdler
	}
	return f.out, nil
}

// refill takes whole bytes until at least 56 bits are there, or the input ends.
func (f *inflater) refill() {
	if f.in+8 <= len(f.src) {
		f.buf |= binary.LittleEndian.Uint64(f.src[f.in:]) << (f.n & 63)
		f.in += int((63 - f.n) >> 3)
		f.n |= 56
		return
	}
	for f.n <= 56 && f.in < len(f.src) {
		f.buf |= uint64(f.src[f.in]) << (f.n & 63)
		f.in++
		f.n += 8
	}
}

// take uses up count bits and returns them, or 0 and uses none if there are not
// so many.
func (f *inflater) take(count uint) uint {
	if count > f.n {
		return 0
	}
	v := uint(f.buf & (1<<(count&63) - 1))
	f.buf >>= count & 63
	f.n -= count
	return v
}

// need refills and tells whether count bits are there.
func (f *inflater) need(count uint) bool {
	if f.n < count {
		f.refill()
	}
	return f.n >= count
}

func (f *inflater) block(kind uint) error {
	switch kind {
	case 0:
		return f.stored()
	case 1:
		fixedOnce.Do(makeFixed)
		return f.codes(&fixed.lit, &fixed.dist)
	case 2:
		if err := f.readCodes(); err != nil {
			return err
		}
		return f.codes(&f.lit, &f.dist)
	}
	return errDeflate
}

// stored copies a block that is not compressed.
func (f *inflater) stored() error {
	f.in -= int(f.n / 8)
	f.buf, f.n = 0, 0
	if len(f.src)-f.in < 4 {
		return errCut
	}
	size := int(binary.LittleEndian.Uint16(f.src[f.in:]))
	if size != int(^binary.LittleEndian.Uint16(f.src[f.in+2:])) {
		return errDeflate
	}
	f.in += 4
	switch {
	case len(f.src)-f.in < size:
		return errCut
	case len(f.dst)-f.out < size:
		return errNotDone
	}
	copy(f.dst[f.out:], f.src[f.in:f.in+size])
	f.in += size
	f.out += size
	return nil
}

// preOrder is the order in which the lengths of the code of the lengths come.
var preOrder = [19]byte{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// readCodes reads the codes of a block and builds its tables.
func (f *inflater) readCodes() error {
	if !f.need(14) {
		return errCut
	}
	lits, dists, pres := int(f.take(5))+257, int(f.take(5))+1, int(f.take(4))+4
	if lits > 286 || dists > 30 {
		return errDeflate
	}
	clear(f.lengths[:19])
	for _, symbol := range preOrder[:pres] {
		if !f.need(3) {
			return errCut
		}
		f.lengths[symbol] = byte(f.take(3))
	}
	if !buildTable(f.lit[:], preBits, f.lengths[:19], preEntries[:]) {
		return errDeflate
	}
	if err := f.readLengths(lits + dists); err != nil {
		return err
	}
	// The distance lengths follow the others; the first table may be built over
	// the one that decoded them.
	if f.lengths[256] == 0 || !buildTable(f.dist[:], distBits, f.lengths[lits:lits+dists], distBases[:]) ||
		!buildTable(f.lit[:], litBits, f.lengths[:lits], litBases[:]) {
		return errDeflate
	}
	return nil
}

// readLengths reads count code lengths, which are run-length coded.
func (f *inflater) readLengths(count int) error {
	for i := 0; i < count; {
		f.need(14)
		e := f.lit[f.buf&(1<<preBits-1)]
		bits := uint(e & 63)
		if bits == 0 {
			return errDeflate
		}
		if bits > f.n {
			return errCut
		}
		f.take(bits)
		value, repeat := byte(e>>16), 1
		if value >= 16 {
			extra := [3]uint{2, 3, 7}[value-16]
			if f.n < extra || value == 16 && i == 0 {
				return errDeflate
			}
			repeat = [3]int{3, 3, 11}[value-16] + int(f.take(extra))
			if value == 16 {
				value = f.lengths[i-1]
			} else {
				value = 0
			}
		}
		if i+repeat > count {
			return errDeflate
		}
		for range repeat {
			f.lengths[i] = value
			i++
		}
	}
	return nil
}

// fastRoom is the room that one round of the fast loop may need: two literals
// and a match, the last word of which may be written past its end.
const fastRoom = 2 + 258 + 8

// codes decodes one block with its tables.
func (f *inflater) codes(lit *[litEntries]uint32, dist *[distEntries]uint32) error {
	for {
		if f.in+16 <= len(f.src) && f.out+fastRoom <= len(f.dst) {
			if done, err := f.fast(lit, dist); done || err != nil {
				return err
			}
			continue
		}
		if done, err := f.careful(lit, dist); done || err != nil {
			return err
		}
	}
}

// fast decodes as long as neither input nor output can end within a round.
func (f *inflater) fast(lit *[litEntries]uint32, dist *[distEntries]uint32) (done bool, err error) {
	src, dst, in, out, buf, n := f.src, f.dst, f.in, f.out, f.buf, f.n
	defer func() { f.in, f.out, f.buf, f.n = in, out, buf, n }()
	for in+16 <= len(src) && out+fastRoom <= len(dst) {
		buf |= binary.LittleEndian.Uint64(src[in:]) << (n & 63)
		in += int((63 - n) >> 3)
		n |= 56
		e := lit[buf&(1<<litBits-1)]
		if e&isLiteral != 0 {
			dst[out] = byte(e >> 16)
			out++
			buf >>= e & 63
			n -= uint(e & 63)
			e = lit[buf&(1<<litBits-1)]
			if e&isLiteral != 0 {
				dst[out] = byte(e >> 16)
				out++
				buf >>= e & 63
				n -= uint(e & 63)
				e = lit[buf&(1<<litBits-1)]
			}
			buf |= binary.LittleEndian.Uint64(src[in:]) << (n & 63)
			in += int((63 - n) >> 3)
			n |= 56
		}
		if e&isLink != 0 {
			buf >>= litBits
			n -= litBits
			e = lit[e>>13&0xffff+uint32(buf)&(1<<(e>>8&31)-1)]
		}
		buf >>= e & 63
		n -= uint(e & 63)
		if e&(isLiteral|isEnd) != 0 || e == 0 {
			switch {
			case e == 0:
				return false, errDeflate
			case e&isEnd != 0:
				return true, nil
			}
			dst[out] = byte(e >> 16)
			out++
			continue
		}
		extra := e >> 8 & 31
		length := int(e>>13&0xffff) + int(uint32(buf)&(1<<extra-1))
		buf >>= extra
		n -= uint(extra)

		d := dist[buf&(1<<distBits-1)]
		if d&isLink != 0 {
			buf >>= distBits
			n -= distBits
			d = dist[d>>13&0xffff+uint32(buf)&(1<<(d>>8&31)-1)]
		}
		buf >>= d & 63
		n -= uint(d & 63)
		extra = d >> 8 & 31
		from := out - int(d>>13&0xffff) - int(uint32(buf)&(1<<extra-1))
		buf >>= extra
		n -= uint(extra)
		if d == 0 || from < 0 {
			return false, errDeflate
		}
		copyWithin(dst[:out+length+8], from, out, length)
		out += length
	}
	return false, nil
}

// longCopy is the length from which on memmove is faster than words.
const longCopy = 40

// copyWithin copies length bytes of p from one place to a later one, where they
// may overlap, which repeats them. It may write 7 bytes more.
func copyWithin(p []byte, from, to, length int) {
	end := to + length
	switch distance := to - from; {
	case distance >= 8:
		if length >= longCopy && distance >= length {
			copy(p[to:end], p[from:from+length])
			return
		}
	case distance == 1:
		word := uint64(p[from]) * 0x0101010101010101
		for ; to < end; to += 8 {
			binary.LittleEndian.PutUint64(p[to:], word)
		}
		return
	default:
		// Once there is a word of the pattern, it repeats by words.
		pattern := (8 + distance - 1) / distance * distance
		for ; to < end && to-from < pattern; to++ {
			p[to] = p[to-distance]
		}
	}
	for ; to < end; to, from = to+8, from+8 {
		binary.LittleEndian.PutUint64(p[to:], binary.LittleEndian.Uint64(p[from:]))
	}
}

// careful decodes one symbol near the end of the input or the output.
func (f *inflater) careful(lit *[litEntries]uint32, dist *[distEntries]uint32) (done bool, err error) {
	f.refill()
	e, err := f.symbol(lit[:], litBits)
	switch {
	case err != nil:
		return false, err
	case e&isEnd != 0:
		return true, nil
	case e&isLiteral != 0:
		if f.out == len(f.dst) {
			return false, errNotDone
		}
		f.dst[f.out] = byte(e >> 16)
		f.out++
		return false, nil
	}
	length, err := f.value(e)
	if err != nil {
		return false, err
	}
	f.refill()
	if e, err = f.symbol(dist[:], distBits); err != nil {
		return false, err
	}
	distance, err := f.value(e)
	switch {
	case err != nil:
		return false, err
	case distance > f.out:
		return false, errDeflate
	case length > len(f.dst)-f.out:
		return false, errNotDone
	}
	for range length {
		f.dst[f.out] = f.dst[f.out-distance]
		f.out++
	}
	return false, nil
}

// symbol looks up the next code.
func (f *inflater) symbol(table []uint32, bits uint) (uint32, error) {
	e := table[f.buf&(1<<bits-1)]
	used := uint(0)
	if e&isLink != 0 {
		used = bits
		e = table[e>>13&0xffff+uint32(f.buf>>bits)&(1<<(e>>8&31)-1)]
	}
	used += uint(e & 63)
	switch {
	case e == 0:
		return 0, errDeflate
	case used > f.n:
		return 0, errCut
	}
	f.take(used)
	return e, nil
}

// value adds the extra bits of a length or distance to its base.
func (f *inflater) value(e uint32) (int, error) {
	extra := uint(e >> 8 & 31)
	if extra > f.n {
		return 0, errCut
	}
	return int(e>>13&0xffff) + int(f.take(extra)), nil
}

// fixed are the tables of the code that needs no description.
var (
	fixedOnce sync.Once
	fixed     struct {
		lit  [litEntries]uint32
		dist [distEntries]uint32
	}
)

func makeFixed() {
	var lengths [maxLitCodes]byte
	for i := range lengths {
		switch {
		case i < 144, i >= 280:
			lengths[i] = 8
		case i < 256:
			lengths[i] = 9
		default:
			lengths[i] = 7
		}
	}
	buildTable(fixed.lit[:], litBits, lengths[:], litBases[:])
	for i := range maxDistCodes {
		lengths[i] = 5
	}
	buildTable(fixed.dist[:], distBits, lengths[:maxDistCodes], distBases[:])
}
