package cow_test

import (
	"fmt"
	"testing"

	"github.com/fukanchik/pg0/fusefs/cow"
	"github.com/fukanchik/pg0/tests/filesuite"
)

func openStore(t testing.TB, base string, o cow.Options) *cow.Store {
	t.Helper()
	if o.TempDir == "" {
		o.TempDir = t.TempDir()
	}
	s, err := cow.Open(filesuite.Tree(base), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestSuiteTemporary(t *testing.T) {
	filesuite.Run(t, func(t *testing.T) filesuite.FS {
		return filesuite.Store{S: openStore(t, filesuite.Base(t), cow.Options{})}
	})
}

func TestSuitePersistent(t *testing.T) {
	filesuite.Run(t, func(t *testing.T) filesuite.FS {
		return filesuite.Store{S: openStore(t, filesuite.Base(t), cow.Options{Dir: t.TempDir()})}
	})
}

// TestSuiteTruth runs the suite on a directory of the operating system: what it
// expects must be what a file system does.
func TestSuiteTruth(t *testing.T) {
	filesuite.Run(t, func(t *testing.T) filesuite.FS { return filesuite.Dir(filesuite.Base(t)) })
}

// TestRandom compares a store with a directory, taking the layer up again and
// again in between.
func TestRandom(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			base, layer := filesuite.Base(t), t.TempDir()
			model := t.TempDir()
			filesuite.CopyDir(t, base, model)
			s := openStore(t, base, cow.Options{Dir: layer})
			r := filesuite.NewRandom(t, seed, filesuite.Store{S: s}, filesuite.Dir(model))
			for range 4 {
				r.Run(300)
				r.Check()
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = openStore(t, base, cow.Options{Dir: layer})
				r.Reopened(filesuite.Store{S: s})
				r.Check()
			}
		})
	}
}
