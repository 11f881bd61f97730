package fusefs_test

import (
	"os"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"github.com/fukanchik/pg0/tests/filesuite"
)

// notPosix are tests that do not hold here, and why.
var notPosix = map[string]string{
	// The kernel keeps the locks itself, and those of fcntl belong to a process,
	// so the second lock of one process is granted, as on any other file system.
	"FcntlFlockLocksFile": "two handles of one process conflict",
}

// TestPosix runs go-fuse's own conformance tests on a mount.
func TestPosix(t *testing.T) {
	c := start(t, job{Base: filesuite.Base(t)})
	for name, test := range posixtest.All {
		if notPosix[name] != "" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := c.path(name)
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			test(t, dir)
		})
	}
}
