package cow

import (
	"io/fs"
	"maps"
	"path"
	"slices"
	"syscall"
)

// Touched lists the regular files of the base, by their paths there, whose
// content or name the store has changed: written, cut, extended, renamed or
// removed, sorted. Permissions and times do not count.
func (s *Store) Touched() ([]string, error) {
	s.gate.Lock()
	defer s.gate.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	set := map[string]bool{}
	var written []*inode
	var gone []string // paths of the base that are hidden or moved
	s.inodes.all(func(in *inode) {
		if in.base == "" {
			return
		}
		if in.kind == syscall.S_IFREG && in.changed {
			written = append(written, in)
		}
		for name, e := range in.over {
			if e.hides {
				gone = append(gone, path.Join(in.base, name))
			}
		}
	})
	for _, in := range written {
		same, err := s.readsAsBase(in)
		if err != nil {
			return nil, err
		}
		if !same {
			set[in.base] = true
		}
	}
	for _, p := range gone {
		if err := s.addRegular(set, p); err != nil {
			return nil, err
		}
	}
	return slices.Sorted(maps.Keys(set)), nil
}

// readsAsBase tells whether a file reads as the base has it.
func (s *Store) readsAsBase(in *inode) (bool, error) {
	info, err := s.base.Lstat(in.base)
	if err != nil {
		return false, err
	}
	return in.blocks.count == 0 && in.size == info.Size() && in.limit == info.Size(), nil
}

// addRegular adds the regular files at and below a path of the base.
func (s *Store) addRegular(set map[string]bool, p string) error {
	info, err := s.base.Lstat(p)
	if notExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	switch {
	case info.Mode().IsRegular():
		set[p] = true
		return nil
	case !info.IsDir():
		return nil
	}
	return fs.WalkDir(s.base, p, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			set[name] = true
		}
		return err
	})
}
