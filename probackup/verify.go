package probackup

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/fukanchik/pg0"
)

// Damage is one damaged place of a backup. Block counts from the start of the
// file; -1 means the file as a whole.
type Damage struct {
	Backup string `json:"backup"`
	File   string `json:"file"`
	Block  int64  `json:"block"`
	Reason string `json:"reason"`
}

// Verify reads everything that a backup and its chain store, and the WAL that
// the backup needs to become consistent. It calls report for each damaged place
// and progress with the bytes read so far and in all; neither is called from two
// goroutines at once, either may be nil. jobs bounds the files read at the same
// time, 0 means one for each processor. The error wraps pg0.ErrCorrupt when
// anything is damaged.
func (c *Catalog) Verify(ctx context.Context, id string, jobs int, report func(Damage), progress func(done, total int64)) error {
	set, err := c.readBackups(ctx)
	if err != nil {
		return err
	}
	b, err := set.find(id)
	if err != nil {
		return err
	}
	p, err := c.openChain(set, b)
	if err != nil {
		return err
	}
	v := &verification{point: p, groups: map[string]*group{}, report: report, progress: progress}
	err = errors.Join(v.run(ctx, cmp.Or(max(jobs, 0), runtime.GOMAXPROCS(0))), p.close())
	if err == nil && v.found > 0 {
		err = fmt.Errorf("%w: %s has %d damaged places", pg0.ErrCorrupt, b.id, v.found)
	}
	return err
}

// A verification is one run of Verify.
type verification struct {
	point  *point
	member int
	groups map[string]*group
	total  int64
	done   atomic.Int64

	mu       sync.Mutex // guards what follows, and the calls
	found    int
	report   func(Damage)
	progress func(done, total int64)
}

// A group is what all members store of one path, newest first.
type group struct {
	file   *file
	copies []*stored
	epochs []int // members with equal numbers had the same relation under this name
	last   int   // member that listed it last
	epoch  int
}

func (v *verification) run(ctx context.Context, jobs int) error {
	tree, err := v.point.build(ctx)
	if err != nil {
		v.damage(err)
		return ignoreDamage(err)
	}
	var buffer bytes.Buffer
	for i, m := range v.point.members {
		v.member = i
		if err := m.readList(&buffer, "", v.collect); err != nil {
			v.damage(err)
			return ignoreDamage(err)
		}
	}
	v.checkLists(tree)
	v.checkFiles(ctx, jobs)
	if err := ctx.Err(); err != nil {
		return err
	}
	v.checkWAL(ctx, tree)
	return ctx.Err()
}

// checkLists reports files of which the lists of the chain disagree.
func (v *verification) checkLists(t *tree) {
	for _, name := range slices.Sorted(maps.Keys(t.nodes)) {
		f := t.nodes[name].file
		if f == nil {
			continue
		}
		for _, c := range f.copies {
			if c.fault != nil {
				v.damage(c.member.damaged(f.path, -1, c.fault))
			}
		}
	}
}

// ignoreDamage drops errors that have been reported as damage.
func ignoreDamage(err error) error {
	if errors.Is(err, pg0.ErrCorrupt) {
		return nil
	}
	return err
}

// damage reports an error as a damaged place.
func (v *verification) damage(err error) {
	d := Damage{Backup: v.point.members[0].id, Block: -1, Reason: err.Error()}
	var place *damageError
	if errors.As(err, &place) {
		d = Damage{Backup: place.backup, File: strings.TrimPrefix(place.path, "../"), Block: place.block, Reason: place.cause.Error()}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.found++
	if v.report != nil {
		v.report(d)
	}
}

// Write counts bytes read.
func (v *verification) Write(p []byte) (int, error) {
	done := v.done.Add(int64(len(p)))
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.progress != nil {
		v.progress(done, v.total)
	}
	return len(p), nil
}

// collect enters a line of a member's list.
func (v *verification) collect(e *entry) error {
	if e.isDir() {
		return nil
	}
	key := string(e.path)
	if e.external != 0 {
		key = externalPath(e.external, key)
	}
	g := v.groups[key]
	if g == nil {
		g = &group{file: &file{path: key, segment: e.segment, target: v.point.members[0]}, last: v.member}
		v.groups[key] = g
	}
	if v.member > g.last+1 {
		g.epoch++
	}
	g.last = v.member
	if e.size <= 0 || len(g.copies) > 0 && g.copies[len(g.copies)-1].member == v.point.members[v.member] {
		return nil
	}
	c := newStored(g.file, v.point.members[v.member], e)
	c.stripe = uint8(len(v.groups))
	g.copies, g.epochs = append(g.copies, c), append(g.epochs, g.epoch)
	v.total += e.size
	return nil
}

// checkFiles verifies all groups by jobs workers.
func (v *verification) checkFiles(ctx context.Context, jobs int) {
	work := make(chan *group)
	var workers sync.WaitGroup
	for range jobs {
		workers.Go(func() {
			for g := range work {
				v.checkGroup(ctx, g)
			}
		})
	}
	for _, key := range slices.Sorted(maps.Keys(v.groups)) {
		if ctx.Err() != nil {
			break
		}
		work <- v.groups[key]
	}
	close(work)
	workers.Wait()
}

// checkGroup verifies the copies of one file, oldest first: the LSN of a page
// can only grow from one backup to the next.
func (v *verification) checkGroup(ctx context.Context, g *group) {
	seen := &pageHistory{}
	for i := len(g.copies) - 1; i >= 0 && ctx.Err() == nil; i-- {
		c := g.copies[i]
		if i < len(g.copies)-1 && g.epochs[i] != g.epochs[i+1] {
			seen.forget()
		}
		var err error
		if c.data {
			err = v.checkData(c, seen)
		} else {
			err = c.verifyPlain(v)
		}
		if err != nil {
			v.damage(err)
		}
	}
}

// checkData reads a stored data file record by record.
func (v *verification) checkData(c *stored, seen *pageHistory) error {
	h, err := c.open()
	if err != nil {
		return err
	}
	defer h.release()
	size, err := c.sizeOnDisk(h)
	if err != nil {
		return err
	}
	sum := c.member.control.version.newCRC()
	section := io.NewSectionReader(h.file, 0, size)
	w := getWorkspace()
	defer w.free()
	check := &fileCheck{
		v: v, c: c, w: w, seen: seen, x: v.indexOf(c),
		r: bufio.NewReaderSize(io.TeeReader(section, io.MultiWriter(sum, v)), rawBytes),
	}
	if err := check.run(size); err != nil {
		return c.member.damaged(c.file.path, -1, err)
	}
	if got := sum.Sum32(); got != c.crc && !c.member.distrusted && !check.damaged {
		return c.member.damaged(c.file.path, -1, fmt.Errorf("checksum of the file is %d, should be %d", got, c.crc))
	}
	return nil
}

// indexOf reads the header map's part for a file. Damage of it is reported; an
// empty index then stands for it.
func (v *verification) indexOf(c *stored) *pageIndex {
	if c.headers > 0 && !c.member.distrusted {
		x, err := c.readMap()
		if err == nil {
			return x
		}
		v.mapDamage(c, err)
	}
	return &pageIndex{of: c, cut: unknownBlocks}
}

// mapDamage reports damage of the header map, and a map that cannot be opened
// only once.
func (v *verification) mapDamage(c *stored, err error) {
	if c.member.mapErr != nil && c.member.mapWarned.Swap(true) {
		return
	}
	v.damage(&damageError{
		backup: c.member.id, path: mapName, block: -1,
		cause: fmt.Errorf("entries of %s: %w", c.file.path, err),
	})
}

// fileCheck is the state of reading one stored data file.
type fileCheck struct {
	v       *verification
	c       *stored
	w       *workspace
	x       *pageIndex
	r       *bufio.Reader
	seen    *pageHistory
	damaged bool
	number  int
	next    int64 // lowest block that may follow
}

// run walks the records. Damaged pages are reported, an error means that what
// follows cannot be read.
func (k *fileCheck) run(size int64) error {
	layout := k.c.layout()
	for pos := int64(0); pos < size; {
		header := k.w.raw[:recordHeader]
		if _, err := io.ReadFull(k.r, header); err != nil {
			return fmt.Errorf("record at byte %d: %w", pos, err)
		}
		block := int64(binary.LittleEndian.Uint32(header))
		length := int(int32(binary.LittleEndian.Uint32(header[4:])))
		if layout.old && length == truncateMark {
			return nil
		}
		if layout.old && block == 0 && length == 0 {
			pos += recordHeader
			continue
		}
		err := layout.check(block, length)
		if err == nil && block < k.next {
			err = errOrder
		}
		if err != nil {
			return fmt.Errorf("record at byte %d: %w", pos, err)
		}
		record := k.w.raw[:recordHeader+layout.padded(length)]
		if _, err := io.ReadFull(k.r, record[recordHeader:]); err != nil {
			return fmt.Errorf("record at byte %d: %w", pos, err)
		}
		if err := k.page(record, uint32(block), pos); err != nil {
			k.damaged = true
			k.v.damage(k.c.member.damaged(k.c.file.path, block, err))
		}
		pos += int64(len(record))
		k.next = block + 1
		k.number++
	}
	return nil
}

// page checks one record.
func (k *fileCheck) page(record []byte, block uint32, pos int64) error {
	if k.x.sums != nil {
		number, ok := k.x.find(block)
		if !ok || number != k.number || int64(k.x.starts[number]) != pos {
			return errRecord
		}
	}
	page := k.w.page[:k.c.member.control.blockSize]
	if err := k.c.decodePage(k.w, k.x, page, record, k.number, block); err != nil {
		return err
	}
	return k.seen.add(block, pageLSN(page), k.c.member)
}

// pageHistory remembers the LSN that each page of a file had in older backups.
type pageHistory struct {
	lsns    []uint64
	members []*member
}

func (s *pageHistory) forget() { s.lsns, s.members = nil, nil }

// add enters a page of the next newer backup. After a switch of timelines LSNs
// can fall back.
func (s *pageHistory) add(block uint32, lsn uint64, m *member) error {
	for len(s.lsns) <= int(block) {
		s.lsns, s.members = append(s.lsns, 0), append(s.members, nil)
	}
	older, before := s.lsns[block], s.members[block]
	s.lsns[block], s.members[block] = lsn, m
	if lsn != 0 && lsn < older && before.control.timeline == m.control.timeline {
		return fmt.Errorf("page has LSN %s, older than %s in backup %s", pg0.LSN(lsn), pg0.LSN(older), before.id)
	}
	return nil
}

// externalPath is where a file of an external directory lies, seen from the
// directory of the cluster's files.
func externalPath(number int32, name string) string {
	return "../external_directories/externaldir" + strconv.Itoa(int(number)) + "/" + name
}

// checkWAL sees that the WAL from start to stop is there.
func (v *verification) checkWAL(ctx context.Context, tree pg0.Tree) {
	target := v.point.members[0]
	for _, name := range target.neededWAL(v.point.catalog.SegmentSize()) {
		if ctx.Err() != nil {
			return
		}
		place, open := walDir+"/"+v.point.catalog.instance+"/"+name, func() (io.ReadCloser, error) {
			f, err := v.point.catalog.WAL(ctx, name)
			if errors.Is(err, fs.ErrNotExist) {
				// Where a standby was promoted, the last segment of its old timeline.
				if part, partErr := v.point.catalog.WAL(ctx, name+partialSuffix); partErr == nil {
					return part, nil
				}
			}
			return f, err
		}
		if target.control.stream {
			place, open = "pg_wal/"+name, func() (io.ReadCloser, error) { return tree.Open("pg_wal/" + name) }
		}
		if err := checkSegment(open, name, v.point.catalog.SegmentSize()); err != nil {
			v.damage(&damageError{backup: target.id, path: place, block: -1, cause: err})
		}
	}
}

// checkSegment opens a segment and looks at its first page header: it must say
// that it is this part of the WAL.
func checkSegment(open func() (io.ReadCloser, error), name string, size int64) error {
	f, err := open()
	if err != nil {
		return err
	}
	defer f.Close()
	var header [16]byte
	if _, err := io.ReadFull(f, header[:]); err != nil {
		return err
	}
	at := binary.LittleEndian.Uint64(header[8:])
	if want := segmentStart(name, size); at != want {
		return fmt.Errorf("segment begins with the page of %s, not %s", pg0.LSN(at), pg0.LSN(want))
	}
	return nil
}

// neededWAL names the segments between start and stop of the backup.
func (m *member) neededWAL(size int64) []string {
	if m.control.stop <= m.control.start {
		return nil
	}
	first := uint64(m.control.start) / uint64(size)
	last := (uint64(m.control.stop) - 1) / uint64(size)
	var names []string
	for n := first; n <= last && n-first < maxNeeded; n++ {
		names = append(names, segmentName(m.control.timeline, n, size))
	}
	return names
}

// maxNeeded bounds the segments named for one backup against absurd LSNs.
const maxNeeded = 1 << 16

func segmentName(timeline uint32, number uint64, size int64) string {
	per := uint64(1<<32) / uint64(size)
	return fmt.Sprintf("%08X%08X%08X", timeline, number/per, number%per)
}

func segmentStart(name string, size int64) uint64 {
	high, herr := strconv.ParseUint(name[8:16], 16, 32)
	low, lerr := strconv.ParseUint(name[16:24], 16, 32)
	if herr != nil || lerr != nil {
		return 0
	}
	return high<<32 + low*uint64(size)
}
