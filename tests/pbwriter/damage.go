package pbwriter

import (
	"bytes"
	"os"
)

// Flip inverts the bits of one byte of a file; a negative offset counts from
// the end.
func (c *Catalog) Flip(file string, off int64) {
	c.t.Helper()
	data, err := os.ReadFile(file)
	c.must(err)
	if off < 0 {
		off += int64(len(data))
	}
	data[off] ^= 0xff
	c.must(os.WriteFile(file, data, 0o600))
}

// Cut shortens a file by some bytes.
func (c *Catalog) Cut(file string, bytes int64) {
	c.t.Helper()
	info, err := os.Stat(file)
	c.must(err)
	c.must(os.Truncate(file, info.Size()-bytes))
}

// Replace changes text in a file, which must hold it.
func (c *Catalog) Replace(file, text, by string) {
	c.t.Helper()
	data, err := os.ReadFile(file)
	c.must(err)
	if !bytes.Contains(data, []byte(text)) {
		c.t.Fatalf("%s does not hold %q", file, text)
	}
	c.must(os.WriteFile(file, bytes.ReplaceAll(data, []byte(text), []byte(by)), 0o600))
}

// Remove removes a file or directory of the catalog.
func (c *Catalog) Remove(file string) {
	c.t.Helper()
	_, err := os.Lstat(file)
	c.must(err)
	c.must(os.RemoveAll(file))
}

// HalfMerge leaves a chain, full backup first, as a killed merge does: all are
// MERGING, and of the full backup's data files those that rewritten chooses
// already are what the last backup's items say, while its list and header map
// still are the old ones.
func (c *Catalog) HalfMerge(chain []*Written, items []Item, rewritten func(path string) bool) {
	c.t.Helper()
	full, last := chain[0], chain[len(chain)-1]
	target := *full
	target.Lines, target.files, target.Compress, target.CompressFile = nil, map[fileKey]fileState{}, last.Compress, last.CompressFile
	out := c.writer(&target, nil)
	for _, it := range items {
		if _, isData := it.segment(); isData && rewritten(it.Path) {
			c.must(out.item(it))
		}
	}
	full.MergeDest = last.ID
	for _, w := range chain {
		w.Status = "MERGING"
		c.must(w.Save())
	}
}
