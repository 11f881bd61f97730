package pbwriter

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/tests/pgtest"
)

// A WALForm says how a segment lies in the archive.
type WALForm string

// The forms of segments. A partial one is the last of a timeline.
const (
	Raw       WALForm = ""
	GZ        WALForm = ".gz"
	Partial   WALForm = ".partial"
	GZPartial WALForm = ".gz.partial"
)

// AddWAL puts a file into the archive.
func (c *Catalog) AddWAL(name string, data []byte, form WALForm) {
	c.t.Helper()
	if strings.HasPrefix(string(form), string(GZ)) {
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		_, err := z.Write(data)
		c.must(err)
		c.must(z.Close())
		data = packed.Bytes()
	}
	c.must(os.WriteFile(filepath.Join(c.WALDir(), name+string(form)), data, 0o644))
}

// SegmentName is the name of the segment that holds the byte before an LSN, or
// at it if at is true: an LSN at a boundary ends the one and begins the other.
func (c *Catalog) SegmentName(timeline uint32, lsn pg0.LSN, at bool) string {
	if !at {
		lsn--
	}
	number, perID := uint64(lsn)/uint64(c.SegmentSize), (uint64(1)<<32)/uint64(c.SegmentSize)
	return fmt.Sprintf("%08X%08X%08X", timeline, number/perID, number%perID)
}

// Segments names the segments from one LSN to another.
func (c *Catalog) Segments(timeline uint32, from, to pg0.LSN) []string {
	names := []string{c.SegmentName(timeline, from, true)}
	for last := c.SegmentName(timeline, to, false); names[len(names)-1] < last; {
		from += pg0.LSN(c.SegmentSize)
		names = append(names, c.SegmentName(timeline, from, true))
	}
	return names
}

// Archive copies the segments of a span from a cluster into the archive.
func (c *Catalog) Archive(cluster *pgtest.Cluster, timeline uint32, from, to pg0.LSN, form WALForm) {
	c.t.Helper()
	for _, name := range c.Segments(timeline, from, to) {
		data, err := os.ReadFile(filepath.Join(cluster.Dir, "pg_wal", name))
		c.must(err)
		c.AddWAL(name, data, form)
	}
}

// ArchiveSettings make a server archive here by itself, as archive-push does:
// under another name first, only whole segments compressed.
func (c *Catalog) ArchiveSettings(form WALForm) map[string]string {
	pack := "cat"
	if form == GZ {
		pack = "gzip -c"
	}
	command := fmt.Sprintf(`cd '%s' && case %%f in *.history|*.backup|*.partial) to=%%f; pack=cat;; *) to=%%f%s; pack="%s";; esac && $pack < "$OLDPWD/%%p" > $to.part && mv $to.part $to`,
		c.WALDir(), form, pack)
	return map[string]string{"archive_mode": "on", "archive_command": command}
}
