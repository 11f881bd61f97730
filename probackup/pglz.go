package probackup

import "errors"

var errPGLZ = errors.New("pglz data is damaged")

// decodePGLZ decompresses PostgreSQL's own format (common/pg_lzcompress.c),
// without the length words that a datum has, to exactly len(dst) bytes. It must
// use up src exactly.
func decodePGLZ(dst, src []byte) error {
	out, in := 0, 0
	for in < len(src) && out < len(dst) {
		control := src[in]
		in++
		for bit := 0; bit < 8 && in < len(src) && out < len(dst); bit++ {
			if control&1 == 0 {
				dst[out] = src[in]
				in++
				out++
			} else {
				read, wrote := copyMatch(dst, out, src[in:])
				if read == 0 {
					return errPGLZ
				}
				in += read
				out += wrote
			}
			control >>= 1
		}
	}
	if in != len(src) || out != len(dst) {
		return errPGLZ
	}
	return nil
}

// copyMatch decodes one back reference at the start of src and appends it to
// dst[:out]. It returns the bytes read and written, 0 read for a bad one.
func copyMatch(dst []byte, out int, src []byte) (read, wrote int) {
	if len(src) < 2 {
		return 0, 0
	}
	length := int(src[0]&0x0f) + 3
	offset := int(src[0]&0xf0)<<4 | int(src[1])
	read = 2
	if length == 18 {
		if len(src) < 3 {
			return 0, 0
		}
		length += int(src[2])
		read = 3
	}
	if offset == 0 || offset > out {
		return 0, 0
	}
	length = min(length, len(dst)-out)
	// Source and destination may overlap: then the bytes between them repeat,
	// and each round doubles what can be copied at once.
	for done := 0; done < length; {
		done += copy(dst[out+done:out+length], dst[out-offset:out+done])
	}
	return read, length
}
