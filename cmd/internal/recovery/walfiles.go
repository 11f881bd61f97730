package recovery

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/fukanchik/pg0/cmd/internal/wal"
	"github.com/fukanchik/pg0/relmap"
)

// emptyDir removes the files and links in a directory but those to keep.
func emptyDir(dir string, keep func(name string) bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := filepath.Join(dir, entry.Name())
		switch {
		case entry.IsDir():
			err = emptyDir(name, func(string) bool { return false })
		case !keep(entry.Name()):
			err = os.Remove(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// longestCheckpoint is more than a shutdown checkpoint record has, with the
// page header it may meet.
const longestCheckpoint = 512

// neededWAL keeps the segments of the shutdown checkpoint that the next start
// reads, and the histories of timelines.
func neededWAL(control *relmap.Control) func(name string) bool {
	size := uint64(control.WALSegmentSize)
	needed := map[string]bool{}
	for _, lsn := range []uint64{uint64(control.Checkpoint), uint64(control.Checkpoint) + longestCheckpoint} {
		segment := wal.Segment{Timeline: control.Timeline, Number: lsn / size}
		needed[segment.Name(int64(size))] = true
	}
	return func(name string) bool { return needed[name] || strings.HasSuffix(name, ".history") }
}

// restoreCommand is what PostgreSQL gives to a shell, which sees each path as
// one word; % begins one of PostgreSQL's own replacements.
func restoreCommand(program, recipe string) string {
	quote := func(s string) string {
		return "'" + strings.ReplaceAll(strings.ReplaceAll(s, "'", `'\''`), "%", "%%") + "'"
	}
	return quote(program) + " wal-fetch --recipe " + quote(recipe) + ` %f "%p"`
}
