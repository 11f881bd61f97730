package relmap

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
)

// Fork is one of the files a relation consists of.
type Fork int

// The forks of a relation.
const (
	Main Fork = iota
	FSM
	VM
	Init
)

// suffix is what PostgreSQL appends to the name of the main fork.
func (f Fork) suffix() string {
	return [...]string{"", "_fsm", "_vm", "_init"}[f]
}

// String gives PostgreSQL's name of the fork, as pg_relation_size takes it.
func (f Fork) String() string {
	return [...]string{"main", "fsm", "vm", "init"}[f]
}

// File is one segment of one fork. Path opens it in the tree the cluster was
// opened from.
type File struct {
	Path    string
	Fork    Fork
	Segment int   // 0, 1, ...: SegmentBlocks blocks each but the last
	Size    int64 // bytes
}

// segmentPath names a segment of a fork by the name of its first.
func segmentPath(name string, segment int) string {
	if segment == 0 {
		return name
	}
	return name + "." + strconv.Itoa(segment)
}

// Path gives the name of the first segment of a relation's main fork as
// pg_relation_filepath prints it, "" for a kind without storage. Temporary
// relations have their files in their session's name, which no start of a server
// survives, so they have none here.
func (d *Database) Path(r *Relation) (string, error) {
	_, nominal, err := d.place(r)
	return nominal, err
}

// Place gives where the tree has, or would have, the first segment of a
// relation's main fork; "" for a kind without storage.
func (d *Database) Place(r *Relation) (string, error) {
	opened, _, err := d.place(r)
	return opened, err
}

// place gives the main fork as the tree opens it and as PostgreSQL names it.
func (d *Database) place(r *Relation) (opened, nominal string, err error) {
	if !r.HasStorage() || r.Persistence == Temporary {
		return "", "", nil
	}
	dir, nominalDir, err := d.cluster.databaseDir(r.Tablespace, d.OID)
	if err != nil {
		return "", "", fmt.Errorf("relation %s.%s: %w", r.Schema, r.Name, err)
	}
	return path.Join(dir, itoa(r.Filenode)), path.Join(nominalDir, itoa(r.Filenode)), nil
}

// Files lists the files of this one relation that the tree has: the segments of
// main, fsm, vm and init, in that order. TOAST table and indexes are relations
// of their own. A kind without storage has none.
func (d *Database) Files(r *Relation) ([]File, error) {
	name, _, err := d.place(r)
	if err != nil || name == "" {
		return nil, err
	}
	var files []File
	for fork := Main; fork <= Init; fork++ {
		for segment := 0; ; segment++ {
			file := File{Path: segmentPath(name+fork.suffix(), segment), Fork: fork, Segment: segment}
			info, err := fs.Lstat(d.cluster.tree, file.Path)
			if errors.Is(err, fs.ErrNotExist) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("relation %s.%s: %w", r.Schema, r.Name, err)
			}
			file.Size = info.Size()
			files = append(files, file)
		}
	}
	return files, nil
}
