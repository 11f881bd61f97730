package heap

import (
	"encoding/binary"

	"github.com/pierrec/lz4/v4"
)

const (
	externalSize = 18 // header, tag and pointer, unaligned
	externalTag  = 18 // VARTAG_ONDISK
	offToastRel  = 14 // of va_toastrelid
	headerLong   = 4
	sizeMask     = 1<<30 - 1
)

// Compression methods, as in the top bits of va_extinfo and va_tcinfo.
const (
	methodPGLZ = 0
	methodLZ4  = 1
)

// An External is a pointer to a value in a TOAST table (varattrib_external).
type External struct {
	RawSize  int    // of the value's content
	Size     int    // of what is stored
	Method   byte   // 0 pglz, 1 lz4, if Size < RawSize
	ValueID  uint32 // chunk_id
	ToastRel uint32 // OID of the TOAST table
}

// Compressed reports whether the stored bytes are compressed. They then begin
// with four bytes that repeat raw size and method.
func (e External) Compressed() bool { return e.Size < e.RawSize }

// Content returns the content of a varlena that lies at the start of b, without
// header and decompressed. fetch is that of Deform.
func Content(b []byte, fetch func(External) ([]byte, error)) ([]byte, error) {
	size, err := varlenaSize(b)
	if err != nil {
		return nil, err
	}
	if size > len(b) {
		return nil, corrupt("value of %d bytes passes the end %d", size, len(b))
	}
	return content(b[:size:size], fetch)
}

// varlenaSize returns the length of a varlena, header included.
func varlenaSize(b []byte) (int, error) {
	switch {
	case len(b) == 0:
		return 0, corrupt("value begins at the end")
	case b[0] == 1:
		if len(b) < externalSize || b[1] != externalTag {
			return 0, corrupt("pointer to a value outside is of no kind that is stored")
		}
		return externalSize, nil
	case b[0]&1 == 1:
		return int(b[0] >> 1), nil
	case len(b) < headerLong:
		return 0, corrupt("value header passes the end")
	}
	size := int(u32(b, 0) >> 2)
	if size < headerLong {
		return 0, corrupt("value of %d bytes is shorter than its header", size)
	}
	return size, nil
}

// content takes exactly one varlena apart.
func content(raw []byte, fetch func(External) ([]byte, error)) ([]byte, error) {
	switch {
	case raw[0] == 1:
		return fetchExternal(parseExternal(raw), fetch)
	case raw[0]&1 == 1:
		return raw[1:], nil
	case raw[0]&3 == 0:
		return raw[headerLong:], nil
	}
	return decompress(raw[headerLong:])
}

func parseExternal(raw []byte) External {
	info := u32(raw, 6)
	return External{
		RawSize:  int(int32(u32(raw, 2))) - headerLong,
		Size:     int(info & sizeMask),
		Method:   byte(info >> 30),
		ValueID:  u32(raw, 10),
		ToastRel: u32(raw, offToastRel),
	}
}

func fetchExternal(e External, fetch func(External) ([]byte, error)) ([]byte, error) {
	if fetch == nil {
		return nil, corrupt("value %d lies in TOAST table %d where none is expected", e.ValueID, e.ToastRel)
	}
	stored, err := fetch(e)
	if err != nil {
		return nil, err
	}
	if len(stored) != e.Size {
		return nil, corrupt("value %d of TOAST table %d has %d bytes, not %d", e.ValueID, e.ToastRel, len(stored), e.Size)
	}
	if !e.Compressed() {
		return stored, nil
	}
	value, err := decompress(stored)
	if err == nil && len(value) != e.RawSize {
		err = corrupt("value %d of TOAST table %d unpacks to %d bytes, not %d", e.ValueID, e.ToastRel, len(value), e.RawSize)
	}
	return value, err
}

// decompress takes va_tcinfo (raw size, method in the top two bits) and the
// compressed bytes after it.
func decompress(b []byte) ([]byte, error) {
	if len(b) < 4 {
		return nil, corrupt("compressed value of %d bytes", len(b))
	}
	info := binary.LittleEndian.Uint32(b)
	size, packed := int(info&sizeMask), b[4:]
	if size > (len(packed)+1)*300 { // neither method packs tighter
		return nil, corrupt("%d compressed bytes claim to hold %d", len(packed), size)
	}
	out := make([]byte, size)
	switch info >> 30 {
	case methodPGLZ:
		if !unpackPGLZ(out, packed) {
			return nil, corrupt("pglz value does not unpack to its %d bytes", size)
		}
		return out, nil
	case methodLZ4:
		n, err := lz4.UncompressBlock(packed, out)
		if err != nil || n != size {
			return nil, corrupt("lz4 value does not unpack to its %d bytes", size)
		}
		return out, nil
	}
	return nil, corrupt("unknown compression method %d", info>>30)
}

// unpackPGLZ fills out from a pglz token stream (pg_lzcompress.c) and reports
// whether both came out even. A control byte precedes eight tokens: a literal
// byte, or a match of 3 to 273 bytes up to 4095 bytes back.
func unpackPGLZ(out, in []byte) bool {
	n := 0
	for n < len(out) && len(in) > 0 {
		control := in[0]
		in = in[1:]
		for bit := 0; bit < 8 && n < len(out) && len(in) > 0; bit++ {
			if control>>bit&1 == 0 {
				out[n] = in[0]
				n, in = n+1, in[1:]
				continue
			}
			var ok bool
			if n, in, ok = copyMatch(out, n, in); !ok {
				return false
			}
		}
	}
	return n == len(out) && len(in) == 0
}

func copyMatch(out []byte, n int, in []byte) (int, []byte, bool) {
	if len(in) < 2 {
		return n, in, false
	}
	length, back := int(in[0]&0x0f)+3, int(in[0]&0xf0)<<4|int(in[1])
	in = in[2:]
	if length == 18 {
		if len(in) == 0 {
			return n, in, false
		}
		length, in = length+int(in[0]), in[1:]
	}
	if back == 0 || back > n {
		return n, in, false
	}
	for range min(length, len(out)-n) {
		out[n] = out[n-back]
		n++
	}
	return n, in, true
}
