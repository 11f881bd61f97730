package probackup

import (
	"io/fs"
	"testing"

	"github.com/fukanchik/pg0/tests/fixture"
)

func BenchmarkReadAt(b *testing.B) {
	for _, bench := range []struct {
		name, id, file string
		size           int
	}{
		{"zlib/8K", "TEI900", "base/16385/16410", 8192},
		{"zlib/128K", "TEI900", "base/16385/16410", 131072},
		{"none/8K", "TEK3O0", "base/16385/16410", 8192},
		{"none/128K", "TEK3O0", "base/16385/16410", 131072},
		{"pglz/8K", "TELYC0", "base/16385/16414", 8192},
	} {
		b.Run(bench.name, func(b *testing.B) {
			tree := openPoint(b, fixture.Shop(b), bench.id, Options{}).Tree
			f, err := tree.Open(bench.file)
			if err != nil {
				b.Fatal(err)
			}
			info, err := fs.FileInfo(nil), error(nil)
			if info, err = f.Stat(); err != nil {
				b.Fatal(err)
			}
			file, p, off := f.(*openFile), make([]byte, bench.size), int64(0)
			b.SetBytes(int64(bench.size))
			b.ReportAllocs()
			for b.Loop() {
				if off+int64(len(p)) > info.Size() {
					off = 0
				}
				if _, err := file.ReadAt(p, off); err != nil {
					b.Fatal(err)
				}
				off += int64(len(p))
			}
		})
	}
}
