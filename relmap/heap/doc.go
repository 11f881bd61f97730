// Package heap reads and changes the bytes of PostgreSQL's pages: heap pages
// and their tuples, and as much of index, sequence and visibility-map pages as
// a page must have before it can be shown inside another cluster. It does no
// I/O and keeps no state: bytes in, bytes out.
//
// The layout is that of PostgreSQL 12 to 18 on little-endian machines with
// pages of 8192 bytes and a MAXALIGN of 8 (bufpage.h, itemid.h,
// htup_details.h, postgres.h).
package heap
