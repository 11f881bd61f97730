package pagesum

import "hash/adler32"

// adler is the Adler-32 of a buffer, by the fastest means that the machine has.
var adler = adler32.Checksum

// Adler computes the checksum that ends a zlib stream (RFC 1950).
func Adler(b []byte) uint32 { return adler(b) }
