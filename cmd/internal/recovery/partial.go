package recovery

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/pgserver"
)

// A point may hold the files of some relations only (pg0.Point.Holds). Those of
// the others have their lengths and no content, so that replay does not have to
// fill them up to the block of a record. What replay finds missing there is no
// reason to stop; what it leaves there would be wrong rows, and is removed.

// partialSettings let replay pass over pages that do not exist. It lists them
// in the log once the cluster is consistent.
func (r *run) partialSettings() ([]pgserver.Setting, error) {
	if r.point.Holds == nil {
		return nil, nil
	}
	if r.bin.Major < 13 {
		return nil, fmt.Errorf("a point of some relations needs PostgreSQL 13 or later, this is %d: take all of the cluster", r.bin.Major)
	}
	return []pgserver.Setting{{Name: "ignore_invalid_pages", Value: "on"}}, nil
}

// missingPage is what report_invalid_page of xlogutils.c writes.
var missingPage = regexp.MustCompile(`WARNING:  page (\d+) of relation (\S+) (does not exist|is uninitialized)`)

// noteMissing remembers the relations that a line of the log finds pages of
// missing.
func (f *facts) noteMissing(line []byte) {
	match := missingPage.FindSubmatch(line)
	if match == nil {
		return
	}
	if f.missing == nil {
		f.missing = map[string]string{}
	}
	f.missing[relationOf(string(match[2]))] = string(match[1])
}

// checkMissing refuses a replay that missed pages of a relation that the point
// holds.
func (r *run) checkMissing() error {
	if r.point.Holds == nil {
		return nil
	}
	for relation, page := range r.log.facts.missing {
		if r.point.Holds(relation) {
			return fmt.Errorf("replay found page %s of %s missing, which was taken: %w", page, relation, pg0.ErrCorrupt)
		}
	}
	return nil
}

// removeHollow removes the files of relations that the point does not hold, of
// a stopped server: reading them is PostgreSQL's error then.
func (r *run) removeHollow() error {
	if r.point == nil || r.point.Holds == nil {
		return nil
	}
	for _, pattern := range []string{"global", "base/*", ".pg0_tblspc/*/PG_*/*"} {
		dirs, err := filepath.Glob(filepath.Join(r.mnt(), filepath.FromSlash(pattern)))
		if err != nil {
			return err
		}
		for _, dir := range dirs {
			if err := r.removeHollowIn(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *run) removeHollowIn(dir string) error {
	rel, err := filepath.Rel(r.mnt(), dir)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		relation := relationOf(nominal(path.Join(filepath.ToSlash(rel), entry.Name())))
		if relation == "" || r.point.Holds(relation) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, entry.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

var (
	relationFile = regexp.MustCompile(`^((?:.*/)?\d+)(?:_(?:fsm|vm|init))?(?:\.\d+)?$`)
	shadowFile   = regexp.MustCompile(`^\.pg0_tblspc/`)
)

// relationOf takes fork and segment off the path of a relation's file; "" for
// another file.
func relationOf(name string) string {
	if match := relationFile.FindStringSubmatch(name); match != nil {
		return match[1]
	}
	return ""
}

// nominal is the path that PostgreSQL has for a file of a tablespace.
func nominal(name string) string { return shadowFile.ReplaceAllString(name, "pg_tblspc/") }
