//go:build bench

package bench

import (
	"errors"
	"io"
	"sync"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/probackup"
	"github.com/fukanchik/pg0/tests/pbwriter"
)

const countAccounts = "select count(*), sum(abalance) from pgbench_accounts"

// warmScan reads a table that the kernel has cached on both sides.
func warmScan(b *bed) (native, mounted []float64) {
	dir := b.mount(mustMake(b).none)
	defer b.umount(dir)
	n, m := b.serve(b.native(b.none)), b.serve(dir)
	defer n.stop()
	defer m.stop()
	for range 2 {
		n.time(countAccounts)
		m.time(countAccounts)
	}
	return alternate(func() float64 { return n.time(countAccounts) }, func() float64 { return m.time(countAccounts) })
}

func mustMake(b *bed) *bed {
	b.make()
	return b
}

// firstScan reads a table on a new mount and a new server, the backup's files
// and the native ones being cached.
func (b *bed) firstScan(backup *pbwriter.Written, workers string) (native, mounted []float64) {
	from := b.native(backup)
	b.read(b.catalog.InstanceDir())
	b.read(from)
	return alternate(func() float64 { return b.scanOnce(from, countAccounts, workers) }, func() float64 {
		dir := b.mount(backup)
		defer b.umount(dir)
		return b.scanOnce(dir, countAccounts, workers)
	})
}

// PostgreSQL's own number of workers beside the process that leads them, and
// that process alone.
const (
	withWorkers = "2"
	alone       = "0"
)

func (b *bed) scanOnce(dir, sql, workers string) float64 {
	s := b.serve(dir, "max_parallel_workers_per_gather", workers)
	defer s.stop()
	return s.time(sql)
}

func firstScanNone(b *bed) (native, mounted []float64) {
	return b.firstScan(mustMake(b).none, withWorkers)
}

func firstScanNoneAlone(b *bed) (native, mounted []float64) {
	return b.firstScan(mustMake(b).none, alone)
}

func firstScanZlib(b *bed) (bound, mounted []float64)      { return b.bounded(withWorkers) }
func firstScanZlibAlone(b *bed) (bound, mounted []float64) { return b.bounded(alone) }

// bounded compares with the bound: the native scan, and decoding the same pages
// on all processors before it.
func (b *bed) bounded(workers string) (bound, mounted []float64) {
	bound, mounted = b.firstScan(mustMake(b).zlib, workers)
	for i := range bound {
		bound[i] += b.decode(b.zlib)
	}
	return bound, mounted
}

// decode is how long two goroutines take to decode the accounts.
func (b *bed) decode(backup *pbwriter.Written) float64 {
	catalog, err := probackup.Open(b.catalog.Dir, b.catalog.Instance, probackup.Options{})
	if err != nil {
		b.Fatal(err)
	}
	point, err := catalog.Open(b.Context(), backup.ID)
	if err != nil {
		b.Fatal(err)
	}
	defer point.Close()
	opened, err := point.Tree.Open(b.accounts)
	if err != nil {
		b.Fatal(err)
	}
	file := opened.(pg0.File)
	info, err := file.Stat()
	if err != nil {
		b.Fatal(err)
	}
	return took(func() {
		var both sync.WaitGroup
		half := info.Size() / 2 / chunk * chunk
		for _, part := range [][2]int64{{0, half}, {half, info.Size()}} {
			both.Go(func() { b.readRange(file, part[0], part[1]) })
		}
		both.Wait()
	})
}

const chunk = 128 << 10

func (b *bed) readRange(file io.ReaderAt, from, to int64) {
	buf := make([]byte, chunk)
	for ; from < to; from += chunk {
		if _, err := file.ReadAt(buf, from); err != nil && !errors.Is(err, io.EOF) {
			b.Error(err)
			return
		}
	}
}
