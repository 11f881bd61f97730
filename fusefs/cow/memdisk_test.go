package cow_test

import (
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"syscall"

	"github.com/fukanchik/pg0/fusefs/cow"
)

// inMemory are the options of a persistent layer on disks; what it says of
// batches that a crash cut short is expected.
var inMemory = cow.Options{Dir: "memory", Logger: slog.New(slog.DiscardHandler)}

// sector is what a disk writes in one piece.
const sector = 4096

// disks are the files of a layer in memory. A crash loses an arbitrary part of
// what was not synced.
type disks struct {
	mu    sync.Mutex
	files map[string]*memDisk
	// fail decides about an operation ("write", "sync") before it happens.
	fail func(op, name string) error
}

func newDisks() *disks { return &disks{files: map[string]*memDisk{}} }

func (d *disks) open(name string) (cow.Disk, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.files[name] == nil {
		d.files[name] = &memDisk{d: d, name: name}
	}
	return d.files[name], nil
}

// put makes a file with a copy of b, all of it durable.
func (d *disks) put(name string, b []byte) {
	d.files[name] = &memDisk{
		d: d, name: name, live: append([]byte(nil), b...), durable: append([]byte(nil), b...),
	}
}

func (d *disks) check(op, name string) error {
	if d.fail == nil {
		return nil
	}
	return d.fail(op, name)
}

// crash gives the files as a machine may find them after losing power.
func (d *disks) crash(r *rand.Rand) *disks {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := newDisks()
	for name, f := range d.files {
		b := append([]byte(nil), f.durable...)
		for _, op := range f.pending {
			b = op.lose(b, r)
		}
		c.put(name, b)
	}
	return c
}

// memDisk is one file.
type memDisk struct {
	d             *disks
	name          string
	live, durable []byte
	pending       []edit
}

// An edit is a write, or a new length when data is nil.
type edit struct {
	off  int64
	data []byte
}

func (c edit) apply(b []byte) []byte {
	end := c.off + int64(len(c.data))
	if c.data == nil && end < int64(len(b)) {
		return b[:end]
	}
	if end > int64(len(b)) {
		b = append(b, make([]byte, end-int64(len(b)))...)
	}
	copy(b[c.off:], c.data)
	return b
}

// lose applies some sectors of a change.
func (c edit) lose(b []byte, r *rand.Rand) []byte {
	if c.data == nil {
		if r.IntN(2) == 0 {
			return c.apply(b)
		}
		return b
	}
	for off := int64(0); off < int64(len(c.data)); {
		n := min(int64(len(c.data))-off, sector-(c.off+off)%sector)
		if r.IntN(2) == 0 {
			b = edit{c.off + off, c.data[off : off+n]}.apply(b)
		}
		off += n
	}
	return b
}

func (m *memDisk) do(c edit) {
	m.live = c.apply(m.live)
	m.pending = append(m.pending, c)
}

func (m *memDisk) ReadAt(p []byte, off int64) (int, error) {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	if off >= int64(len(m.live)) {
		return 0, io.EOF
	}
	n := copy(p, m.live[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memDisk) WriteAt(p []byte, off int64) (int, error) {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	if err := m.d.check("write", m.name); err != nil {
		// A full disk takes part of a write.
		m.do(edit{off, append([]byte{}, p[:len(p)/2]...)})
		return len(p) / 2, err
	}
	m.do(edit{off, append([]byte{}, p...)})
	return len(p), nil
}

func (m *memDisk) Size() (int64, error) {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	return int64(len(m.live)), nil
}

func (m *memDisk) Truncate(size int64) error {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	m.do(edit{off: size})
	return nil
}

func (m *memDisk) Punch(off, n int64) error {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	m.do(edit{off, make([]byte, n)})
	return nil
}

func (m *memDisk) Sync() error {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	if err := m.d.check("sync", m.name); err != nil {
		return err
	}
	m.durable, m.pending = append([]byte(nil), m.live...), nil
	return nil
}

func (m *memDisk) Rename(name string) error {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	delete(m.d.files, m.name)
	m.name = name
	m.d.files[name] = m
	return nil
}

func (m *memDisk) Close() error { return nil }

var errDisk = syscall.EIO
