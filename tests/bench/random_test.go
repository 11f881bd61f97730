//go:build bench

package bench

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	pageSize    = 8192
	randomReads = 4096
)

// randomOne is the latency of one read of a page at a time, against a read of
// the backup's own file.
func randomOne(b *bed) (backup, mounted []float64) {
	from := mustMake(b).none.Path(b.accounts)
	return b.random(from, 1, b.read)
}

// randomCached and randomUncached are the throughput of sixteen at once.
func randomCached(b *bed) (native, mounted []float64) {
	return b.random(filepath.Join(b.native(mustMake(b).none), b.accounts), 16, b.read)
}

func randomUncached(b *bed) (native, mounted []float64) {
	return b.random(filepath.Join(b.native(mustMake(b).none), b.accounts), 16, b.forget)
}

// random reads pages of a file that the mount has not read yet. before readies
// the file that it is compared with, and the backup's.
func (b *bed) random(from string, inFlight int, before func(name string)) (native, mounted []float64) {
	return alternate(func() float64 {
		before(from)
		return b.readRandom(from, inFlight)
	}, func() float64 {
		dir := b.mount(b.none)
		defer b.umount(dir)
		before(b.none.Path(b.accounts))
		return b.readRandom(filepath.Join(dir, b.accounts), inFlight)
	})
}

// readRandom gives the microseconds of a read if one is under way at a time,
// else the reads of a second.
func (b *bed) readRandom(name string, inFlight int) float64 {
	file, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		b.Fatal(err)
	}
	blocks := rand.Perm(int(info.Size() / pageSize))[:randomReads]
	began := time.Now()
	var all sync.WaitGroup
	for i := range inFlight {
		all.Go(func() {
			page := make([]byte, pageSize)
			for at := i; at < len(blocks); at += inFlight {
				if _, err := file.ReadAt(page, int64(blocks[at])*pageSize); err != nil && !errors.Is(err, io.EOF) {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	each := time.Since(began).Seconds() / randomReads
	if inFlight == 1 {
		return each * 1e6
	}
	return 1 / each
}

// randomOver says how much later a page comes from the mount.
func randomOver(b *bed) string {
	backup, mounted := randomOne(b)
	return fmt.Sprintf("%.0f us", median(mounted)-median(backup))
}
