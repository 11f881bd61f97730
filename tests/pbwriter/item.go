package pbwriter

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// An Item is a file or directory of a data directory, or of an external
// directory, as it goes into a backup.
type Item struct {
	Path     string // relative, with slashes
	Mode     uint32 // st_mode
	External int    // number of the external directory, from 1; 0 is the data directory
	CFS      bool   // a segment of a compressed tablespace: stored as it is
	Open     func() (io.ReadCloser, error)

	// Stored chooses the pages of a data file that a backup stores. A plain file
	// is asked for once, as page 0 without bytes. nil leaves it to the backup's
	// mode; plain files are then stored if they changed, whatever their times. A
	// full backup stores everything.
	Stored func(block uint32, page []byte) bool
}

// File makes an item of bytes.
func File(name string, data []byte) Item {
	return Item{Path: name, Mode: modeFile | 0o600, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	}}
}

// Directory makes an item of a directory.
func Directory(name string) Item { return Item{Path: name, Mode: modeDir | 0o700} }

// Relation makes an item of a data file that is made up page by page. fill gets
// a page of zeros.
func Relation(name string, blocks uint32, fill func(block uint32, page []byte)) Item {
	return Item{Path: name, Mode: modeFile | 0o600, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(&pages{blocks: blocks, fill: fill}), nil
	}}
}

type pages struct {
	next, blocks uint32
	fill         func(uint32, []byte)
	page         []byte
}

func (p *pages) Read(b []byte) (int, error) {
	if len(p.page) == 0 {
		if p.next == p.blocks {
			return 0, io.EOF
		}
		p.page = make([]byte, pageSize)
		p.fill(p.next, p.page)
		p.next++
	}
	n := copy(b, p.page)
	p.page = p.page[n:]
	return n, nil
}

func (it Item) isDir() bool { return it.Mode&modeDir != 0 && it.Mode&modeFile == 0 }

var dataFile = regexp.MustCompile(`^(?:global|base/\d+|pg_tblspc/\d+/PG_[^/]*/\d+)/\d+(?:\.(\d+))?$`)

// segment says whether an item is stored page by page, and its number.
func (it Item) segment() (number int, ok bool) {
	m := dataFile.FindStringSubmatch(it.Path)
	if m == nil || it.External != 0 || it.isDir() {
		return 0, false
	}
	number, _ = strconv.Atoi(m[1])
	return number, true
}

var databaseDir = regexp.MustCompile(`^(?:base|pg_tblspc/\d+/PG_[^/]*)/(\d+)(?:/|$)`)

func (it Item) database() string {
	if m := databaseDir.FindStringSubmatch(it.Path); m != nil && it.External == 0 {
		return m[1]
	}
	return "0"
}

// What the tool leaves out: the content of some directories, some files of the
// data directory, and some of any database.
var (
	emptied = []string{"pg_wal", "pg_stat_tmp", "pgsql_tmp", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_subtrans"}
	left    = []string{
		"postgresql.auto.conf.tmp", "current_logfiles.tmp", "recovery.conf", "postmaster.pid", "postmaster.opts",
		"probackup_recovery.conf", "recovery.signal", "standby.signal", "backup_label", "tablespace_map",
	}
	leftAnywhere = regexp.MustCompile(`^(pg_internal\.init(\..*)?|ptrack\.map\.(mmap|tmp)|t\d+_\d+(_fsm|_vm)?(\.\d+)?|\..*)$`)
	unloggedInit = regexp.MustCompile(`^(.*/\d+)_init$`)
	unloggedFork = regexp.MustCompile(`^(.*/\d+)(\.\d+|_fsm)?$`)
)

// Scan lists a data directory by the tool's rules, tablespaces included.
func (c *Catalog) Scan(dir string) []Item {
	c.t.Helper()
	items, err := scan(dir, "")
	c.must(err)
	unlogged := map[string]bool{}
	for _, it := range items {
		if m := unloggedInit.FindStringSubmatch(it.Path); m != nil {
			unlogged[m[1]] = true
		}
	}
	return slices.DeleteFunc(items, func(it Item) bool {
		m := unloggedFork.FindStringSubmatch(it.Path)
		return m != nil && unlogged[m[1]]
	})
}

// External lists an external directory.
func (c *Catalog) External(number int, dir string) []Item {
	c.t.Helper()
	items, err := scanAll(dir, "", nil)
	c.must(err)
	for i := range items {
		items[i].External = number
	}
	return items
}

func scan(dir, name string) ([]Item, error) {
	return scanAll(dir, name, func(child string, d fs.FileInfo) bool {
		base := path.Base(child)
		return leftAnywhere.MatchString(base) || slices.Contains(left, child)
	})
}

// scanAll follows symbolic links, as the tool does.
func scanAll(dir, name string, skip func(string, fs.FileInfo) bool) ([]Item, error) {
	entries, err := os.ReadDir(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	var items []Item
	for _, entry := range entries {
		child, full := path.Join(name, entry.Name()), filepath.Join(dir, name, entry.Name())
		info, err := os.Stat(full)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if !info.IsDir() && !info.Mode().IsRegular() || skip != nil && skip(child, info) {
			continue
		}
		if !info.IsDir() {
			items = append(items, Item{Path: child, Mode: modeFile | uint32(info.Mode().Perm()), Open: func() (io.ReadCloser, error) {
				return os.Open(full)
			}})
			continue
		}
		items = append(items, Item{Path: child, Mode: modeDir | uint32(info.Mode().Perm())})
		if skip != nil && slices.Contains(emptied, entry.Name()) && !strings.HasPrefix(child, "pg_tblspc/") {
			continue
		}
		below, err := scanAll(dir, child, skip)
		if err != nil {
			return nil, err
		}
		items = append(items, below...)
	}
	return items, nil
}
