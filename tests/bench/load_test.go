//go:build bench

package bench

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
)

// selectOnly is pgbench -S on files that the kernel has cached on both sides.
func selectOnly(b *bed) (native, mounted []float64) {
	dir := b.mount(mustMake(b).none)
	defer b.umount(dir)
	n, m := b.serve(b.native(b.none)), b.serve(dir)
	defer n.stop()
	defer m.stop()
	for _, s := range []*server{n, m} {
		b.read(filepath.Join(s.Dir, "base"))
		s.pgbench("-S")
	}
	return alternate(func() float64 { return n.pgbench("-S") }, func() float64 { return m.pgbench("-S") })
}

// writing is pgbench's own mix of statements, on a layer that is kept.
func (b *bed) writing(fsync string) (native, mounted []float64) {
	layer := b.pg0Temp()
	dir := b.mount(mustMake(b).none, "--layer", layer)
	defer b.umount(dir)
	n, m := b.serve(b.copy(b.native(b.none)), "fsync", fsync), b.serve(dir, "fsync", fsync)
	defer n.stop()
	defer m.stop()
	for _, s := range []*server{n, m} {
		b.read(filepath.Join(s.Dir, "base"))
		s.pgbench()
	}
	return alternate(func() float64 { return n.checkpointed() }, func() float64 { return m.checkpointed() })
}

func writingSynced(b *bed) (native, mounted []float64)   { return b.writing("on") }
func writingUnsynced(b *bed) (native, mounted []float64) { return b.writing("off") }

// checkpointed begins a run behind a checkpoint, so that each writes as many
// full pages.
func (s *server) checkpointed() float64 {
	s.time("checkpoint")
	return s.pgbench()
}

var tps = regexp.MustCompile(`tps = ([0-9.]+)`)

// pgbench gives transactions a second of four clients.
func (s *server) pgbench(flags ...string) float64 {
	s.T.Helper()
	args := append([]string{"-n", "-c", "4", "-j", "2", "-T", fmt.Sprint(*seconds)}, flags...)
	out, err := s.Command("pgbench", append(args, "postgres")...).CombinedOutput()
	m := tps.FindSubmatch(out)
	if err != nil || m == nil {
		s.T.Fatalf("pgbench: %v\n%s", err, out)
	}
	rate, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		s.T.Fatal(err)
	}
	return rate
}
