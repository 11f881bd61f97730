package probackup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/fukanchik/pg0"
)

var errNotDir = syscall.ENOTDIR

const lockStripes = 64

// A point is an open backup with its chain.
type point struct {
	catalog       *Catalog
	members       []*member // the target first, the FULL backup last
	exact         bool      // as the tool restores, stale pages included
	oldestFirst   bool      // the tool replays such a chain oldest first, truncations included
	segmentBlocks uint32
	warnings      []string

	fileLocks  [lockStripes]sync.Mutex
	indexLocks [lockStripes]sync.Mutex
	resolving  sync.Mutex
}

// A member is one backup of an open chain.
type member struct {
	point   *point
	id      string
	control *control
	root    *os.Root
	// distrusted: a merge was rewriting this backup's files, so that its list
	// and its header map can be older than they are.
	distrusted bool

	mapOnce   sync.Once
	mapFile   *os.File
	mapErr    error
	mapWarned atomic.Bool
}

// Open opens a backup and the backups that it builds on.
func (c *Catalog) Open(ctx context.Context, id string) (*pg0.Point, error) {
	return c.open(ctx, id, (*point).build)
}

// OpenWAL opens of a backup no more than the WAL that it keeps itself: the tree
// has nothing but pg_wal. Lists of older members are not read.
func (c *Catalog) OpenWAL(ctx context.Context, id string) (*pg0.Point, error) {
	return c.open(ctx, id, (*point).buildWAL)
}

func (c *Catalog) open(ctx context.Context, id string, build func(*point, context.Context) (*tree, error)) (*pg0.Point, error) {
	set, err := c.readBackups(ctx)
	if err != nil {
		return nil, err
	}
	b, err := set.find(id)
	if err != nil {
		return nil, err
	}
	p, err := c.openChain(set, b)
	if err != nil {
		return nil, err
	}
	t, err := build(p, ctx)
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	info := set.info(b)
	info.Warnings = append(info.Warnings, p.warnings...)
	return &pg0.Point{PointInfo: info, Tree: t, OnClose: p.close}, nil
}

// openChain opens the directories of a chain that may be read.
func (c *Catalog) openChain(set *backupSet, b *backup) (*point, error) {
	chain, reason := set.check(b)
	if reason != "" {
		return nil, fmt.Errorf("backup %s: %w: %s", b.id, pg0.ErrUnusable, reason)
	}
	p := &point{catalog: c, segmentBlocks: defaultSegmentBlocks}
	p.exact = c.options.ToolExact
	p.oldestFirst = b.control.version < version2_4
	for _, m := range chain {
		root, err := os.OpenRoot(path.Join(c.dir, m.dir))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open backup %s: %w", m.id, err), p.close())
		}
		p.members = append(p.members, &member{
			point: p, id: m.id, control: m.control, root: root,
			distrusted: m.control.status == statusMerging && m.control.mode == "FULL",
		})
	}
	return p, nil
}

// close drops what the point holds open.
func (p *point) close() error {
	p.catalog.files.purge(p)
	p.catalog.indexes.purge(p)
	var errs []error
	for _, m := range p.members {
		errs = append(errs, m.root.Close())
		if m.mapFile != nil {
			errs = append(errs, m.mapFile.Close())
		}
	}
	return errors.Join(errs...)
}

// readMapAt reads from the member's page_header_map.
func (m *member) readMapAt(p []byte, off int64) error {
	m.mapOnce.Do(func() { m.mapFile, m.mapErr = m.openFile(mapName) })
	if m.mapErr != nil {
		return m.mapErr
	}
	if n, err := m.mapFile.ReadAt(p, off); n < len(p) {
		return m.fault(mapName, err)
	}
	return nil
}

// readList passes every line of the member's file list to visit whose path begins
// with prefix. The buffer takes the list, and can be used again.
func (m *member) readList(buffer *bytes.Buffer, prefix string, visit func(*entry) error) error {
	f, err := m.openFile(listName)
	if err != nil {
		return err
	}
	defer f.Close()
	buffer.Reset()
	if info, err := f.Stat(); err == nil {
		buffer.Grow(int(info.Size()) + bytes.MinRead)
	}
	if _, err := buffer.ReadFrom(f); err != nil {
		return m.fault(listName, err)
	}
	err = parseList(buffer.Bytes(), m.control.contentCRC, prefix, visit)
	switch {
	case errors.Is(err, pg0.ErrUnusable):
		return fmt.Errorf("backup %s: %s: %w", m.id, listName, err)
	case err != nil:
		return m.damaged(listName, -1, err)
	}
	return nil
}

// build reads the lists of the chain and gives the tree of the target.
func (p *point) build(ctx context.Context) (*tree, error) {
	b := newBuilder(p)
	var buffer bytes.Buffer
	for i, m := range p.members {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		visit := b.ancestorEntry
		if i == 0 {
			visit = b.targetEntry
		}
		b.member = i
		if err := m.readList(&buffer, "", visit); err != nil {
			return nil, err
		}
	}
	b.finish()
	if err := p.checkControl(b); err != nil {
		return nil, err
	}
	if err := p.checkLabel(b); err != nil {
		return nil, err
	}
	if err := b.linkTablespaces(); err != nil {
		return nil, err
	}
	b.tree.sort()
	return b.tree, nil
}

// ownWAL is where the paths of a backup's own WAL begin.
const ownWAL = "pg_wal/"

// buildWAL reads the target's list alone. WAL is copied anew for every backup;
// should a list say otherwise, the whole chain is read.
func (p *point) buildWAL(ctx context.Context) (*tree, error) {
	b, elsewhere := newBuilder(p), false
	err := p.members[0].readList(new(bytes.Buffer), ownWAL, func(e *entry) error {
		elsewhere = elsewhere || e.size < 0
		return b.targetEntry(e)
	})
	switch {
	case err != nil:
		return nil, err
	case elsewhere:
		return p.build(ctx)
	}
	b.finish()
	b.tree.sort()
	return b.tree, nil
}

const (
	defaultSegmentBlocks = 131072  // 1 GiB of pages of 8 KiB
	maxSegmentBlocks     = 1 << 24 // so that no index becomes absurdly large
)

// checkControl reads pg_control of the target: it must be of the instance's
// cluster, and says how long the segments of relations are.
func (p *point) checkControl(b *builder) error {
	data, err := b.read(controlFile)
	if err != nil {
		return err
	}
	target := p.members[0]
	control, err := parsePGControl(data)
	if err != nil {
		return target.damaged(controlFile, -1, err)
	}
	if id := p.catalog.config.systemID; id != 0 && control.systemID != id {
		return fmt.Errorf("backup %s: %w: it is of the cluster with system identifier %d, instance %s is of %d",
			target.id, pg0.ErrUnusable, control.systemID, p.catalog.instance, id)
	}
	if n := control.segmentBlocks; n > 0 && n <= maxSegmentBlocks {
		p.segmentBlocks = n
	}
	return nil
}

// checkLabel compares backup_label with the control file: they were written at
// different times and nothing else guards the control file.
func (p *point) checkLabel(b *builder) error {
	label, err := b.read("backup_label")
	if err != nil {
		return err
	}
	target := p.members[0]
	for line := range strings.Lines(string(label)) {
		rest, ok := strings.CutPrefix(line, "START WAL LOCATION: ")
		if !ok {
			continue
		}
		word, _, _ := strings.Cut(rest, " ")
		if lsn, err := pg0.ParseLSN(word); err == nil && lsn == target.control.start {
			return nil
		}
		return target.damaged(controlName, -1, fmt.Errorf("start-lsn is %s, backup_label says %s", target.control.start, word))
	}
	return target.damaged("backup_label", -1, errors.New("it has no START WAL LOCATION"))
}

// read returns a whole small file of the tree.
func (b *builder) read(name string) ([]byte, error) {
	f, err := b.tree.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, b.point.members[0].damaged(listName, -1, fmt.Errorf("it does not list %s", name))
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}
