package probackup

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"strings"
	"unsafe"
)

// An entry is one line of backup_content.control: a file or directory of the
// cluster, and what of it is stored in this backup.
type entry struct {
	path      []byte // valid only until the next line is read
	size      int64  // bytes stored here; 0 nothing, -1 as in the parent
	mode      uint32 // st_mode
	kind      []byte // "reg", "dir", ...: 2.6 writers; empty otherwise
	data      bool   // stored as page records
	cfs       bool
	crc       uint32
	algorithm algorithm
	external  int32
	fullSize  int64 // 0: not written
	segment   uint32
	blocks    int64 // length in pages; -1: not written
	headers   int64 // pages stored here, by the header map
	hdrCRC    uint32
	hdrOffset int64
	hdrSize   int64
}

// algorithm is how the pages of one file are compressed.
type algorithm uint8

const (
	algNone algorithm = iota
	algZlib
	algPGLZ
)

func parseAlgorithm(name string) (algorithm, error) {
	switch name {
	case "none", "":
		return algNone, nil
	case "zlib":
		return algZlib, nil
	case "pglz":
		return algPGLZ, nil
	}
	return 0, fmt.Errorf("compress_alg %s is not supported (pg_probackup Enterprise)", name)
}

const (
	modeType = 0o170000
	modeDir  = 0o040000
	modeLink = 0o120000
)

const unknownBlocks = -1

func (e *entry) isDir() bool {
	if len(e.kind) > 0 {
		return string(e.kind) == "dir"
	}
	return e.mode&modeType == modeDir
}

func (e *entry) isRegular() bool {
	if len(e.kind) > 0 {
		return string(e.kind) == "reg"
	}
	t := e.mode & modeType
	return t != modeDir && t != modeLink
}

// perm is the permission part of the mode, with set-id and sticky bits.
func (e *entry) perm() fs.FileMode {
	m := fs.FileMode(e.mode & 0o777)
	if e.mode&0o4000 != 0 {
		m |= fs.ModeSetuid
	}
	if e.mode&0o2000 != 0 {
		m |= fs.ModeSetgid
	}
	if e.mode&0o1000 != 0 {
		m |= fs.ModeSticky
	}
	return m
}

var (
	linePrefix = []byte(`{"path":"`)
	sizePrefix = []byte(`", "size":"`)
)

// parseList calls visit for every line of a file list whose path begins with
// prefix. The text must match crc unless that is 0. Errors name the line.
func parseList(text []byte, crc uint32, prefix string, visit func(*entry) error) error {
	if sum := crc32.Checksum(text, castagnoli); crc != 0 && sum != crc {
		return fmt.Errorf("checksum is %d, not %d as %s says", sum, crc, controlName)
	}
	if len(text) > 0 && text[len(text)-1] != '\n' {
		return errors.New("last line is cut off")
	}
	var e entry
	begin := append(bytes.Clone(linePrefix), prefix...)
	for number := 1; len(text) > 0; number++ {
		end := bytes.IndexByte(text, '\n')
		line := text[:end]
		text = text[end+1:]
		if prefix != "" && !bytes.HasPrefix(line, begin) {
			continue
		}
		err := parseEntry(line, &e)
		if err == nil {
			err = visit(&e)
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
	}
	return nil
}

var errLine = errors.New("not a line of a file list")

// parseEntry reads one line. It looks like JSON but nothing in it is escaped:
// the path ends at the last place where the size follows.
func parseEntry(line []byte, e *entry) error {
	rest, ok := bytes.CutPrefix(line, linePrefix)
	if !ok {
		return errLine
	}
	end := bytes.Index(rest, sizePrefix)
	if end < 0 {
		return errLine
	}
	for {
		next := bytes.Index(rest[end+1:], sizePrefix)
		if next < 0 {
			break
		}
		end += 1 + next
	}
	*e = entry{path: rest[:end], blocks: unknownBlocks}
	if !validPath(e.path) {
		return fmt.Errorf("path %q leaves the directory", e.path)
	}
	return parsePairs(rest[end+len(`", `):], e)
}

// parsePairs reads `"name":"value"` pairs up to the closing brace.
func parsePairs(rest []byte, e *entry) error {
	sized := false
	for {
		name, tail, ok := cutQuoted(rest)
		if !ok || len(tail) == 0 || tail[0] != ':' {
			return errLine
		}
		value, tail, ok := cutQuoted(tail[1:])
		if !ok || len(tail) == 0 {
			return errLine
		}
		if err := e.set(name, value); err != nil {
			return err
		}
		sized = sized || string(name) == "size"
		switch {
		case tail[0] == '}' && len(tail) == 1 && sized:
			return nil
		case tail[0] != ',':
			return errLine
		}
		rest = bytes.TrimLeft(tail[1:], " ")
	}
}

func cutQuoted(s []byte) (value, rest []byte, ok bool) {
	if len(s) == 0 || s[0] != '"' {
		return nil, nil, false
	}
	end := bytes.IndexByte(s[1:], '"')
	if end < 0 {
		return nil, nil, false
	}
	return s[1 : 1+end], s[2+end:], true
}

// set takes one value. Unknown names are passed over: newer writers add some.
func (e *entry) set(name, value []byte) (err error) {
	switch string(name) {
	case "size":
		e.size, err = parseSize(value)
	case "mode":
		e.mode, err = parseUint32(value)
	case "kind":
		e.kind = value
	case "is_datafile":
		e.data, err = parseFlag(value)
	case "is_cfs":
		e.cfs, err = parseFlag(value)
	case "crc":
		e.crc, err = parseUint32(value)
	case "compress_alg":
		e.algorithm, err = parseAlgorithm(text(value))
	case "external_dir_num":
		var n int64
		n, err = parseInt(value)
		e.external = int32(n)
	case "full_size":
		e.fullSize, err = parseInt(value)
	case "segno":
		e.segment, err = parseUint32(value)
	case "n_blocks":
		e.blocks, err = parseBlocks(value)
	case "n_headers":
		e.headers, err = parseInt(value)
	case "hdr_crc":
		e.hdrCRC, err = parseUint32(value)
	case "hdr_off":
		e.hdrOffset, err = parseInt(value)
	case "hdr_size":
		e.hdrSize, err = parseInt(value)
	}
	return err
}

// text views bytes as a string without a copy, for a call that keeps nothing.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func parseInt(value []byte) (int64, error) {
	digits, negative := value, false
	if len(digits) > 0 && digits[0] == '-' {
		digits, negative = digits[1:], true
	}
	if len(digits) == 0 || len(digits) > 20 {
		return 0, fmt.Errorf("%q is no number", value)
	}
	n := uint64(0)
	for _, c := range digits {
		d := c - '0'
		if d > 9 || n > (math.MaxUint64-uint64(d))/10 {
			return 0, fmt.Errorf("%q is no number", value)
		}
		n = n*10 + uint64(d)
	}
	switch {
	case n > math.MaxInt64:
		return -1, nil // old writers printed -1 as an unsigned number
	case negative:
		return -int64(n), nil
	}
	return int64(n), nil
}

func parseSize(value []byte) (int64, error) {
	n, err := parseInt(value)
	if err == nil && n < -1 {
		err = fmt.Errorf("size %d is no size", n)
	}
	return n, err
}

// maxBlocks bounds the pages of one file so that no size overflows.
const maxBlocks = 1 << 32

func parseBlocks(value []byte) (int64, error) {
	n, err := parseInt(value)
	if err == nil && (n < -1 || n > maxBlocks) {
		err = fmt.Errorf("n_blocks %d is no number of blocks", n)
	}
	return n, err
}

func parseUint32(value []byte) (uint32, error) {
	n, err := parseInt(value)
	if err == nil && (n < 0 || n > math.MaxUint32) {
		err = fmt.Errorf("%q is out of range", value)
	}
	return uint32(n), err
}

func parseFlag(value []byte) (bool, error) {
	switch string(value) {
	case "0":
		return false, nil
	case "1":
		return true, nil
	}
	return false, fmt.Errorf("%q is neither 0 nor 1", value)
}

// validPath tells whether a path stays below the directory it is relative to.
// File names need not be UTF-8, so fs.ValidPath is too strict.
func validPath(path []byte) bool {
	if len(path) == 0 || bytes.IndexByte(path, 0) >= 0 {
		return false
	}
	for element := range strings.SplitSeq(text(path), "/") {
		if element == "" || element == "." || element == ".." {
			return false
		}
	}
	return true
}
