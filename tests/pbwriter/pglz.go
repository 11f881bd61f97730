package pbwriter

const (
	pglzMinMatch = 3
	pglzMaxMatch = 273
	pglzMaxBack  = 4095
)

// packPGLZ packs a page as the tool may: a valid stream, not the same one, for
// it looks only at the last place where three bytes stood.
func packPGLZ(in []byte) []byte {
	var out []byte
	last := map[[3]byte]int{}
	control, bit := 0, 8
	token := func(isMatch bool, b ...byte) {
		if bit == 8 {
			control, bit = len(out), 0
			out = append(out, 0)
		}
		if isMatch {
			out[control] |= 1 << bit
		}
		out, bit = append(out, b...), bit+1
	}
	for at := 0; at < len(in); {
		length, back := longestMatch(in, at, last)
		switch {
		case length < pglzMinMatch:
			token(false, in[at])
			length = 1
		case length < 18:
			token(true, byte(back>>4&0xf0|(length-3)), byte(back))
		default:
			token(true, byte(back>>4&0xf0|15), byte(back), byte(length-18))
		}
		for end := at + length; at < end; at++ {
			if at+3 <= len(in) {
				last[[3]byte(in[at:])] = at
			}
		}
	}
	return out
}

func longestMatch(in []byte, at int, last map[[3]byte]int) (length, back int) {
	if at+3 > len(in) {
		return 0, 0
	}
	from, seen := last[[3]byte(in[at:])]
	if back = at - from; !seen || back > pglzMaxBack {
		return 0, 0
	}
	for length < pglzMaxMatch && at+length < len(in) && in[from+length] == in[at+length] {
		length++
	}
	return length, back
}
