package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/live"
)

// terminal puts a terminal in the place of standard input, on which a user has
// typed something.
func terminal(t *testing.T, typed string) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = user.Close() })
	if err := unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := user.WriteString(typed); err != nil {
		t.Fatal(err)
	}
	stdin(t, program)
}

// stdin puts a file in the place of standard input.
func stdin(t *testing.T, file *os.File) {
	t.Helper()
	before := os.Stdin
	os.Stdin = file
	t.Cleanup(func() { os.Stdin = before; _ = file.Close() })
}

// TestConfirm announces what would be read, and asks for more than 1 GB.
func TestConfirm(t *testing.T) {
	const endOfFile = "\x04"
	big := live.Estimate{Bytes: confirmFrom + 1, Files: 3, Time: 21 * time.Second}
	for _, c := range []struct {
		name  string
		typed string // "": standard input is no terminal
		yes   bool
		live.Estimate
		code int
	}{
		{"small", "", false, live.Estimate{Bytes: confirmFrom, Files: 3, Time: 21 * time.Second}, exit.Done},
		{"--yes", "", true, big, exit.Done},
		{"no terminal", "", false, big, exit.Refused},
		{"yes", "y\n", false, big, exit.Done},
		{"no", "n\n", false, big, exit.Interrupted},
		{"nothing", "\n", false, big, exit.Interrupted},
		{"end", endOfFile, false, big, exit.Interrupted},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.typed != "" {
				terminal(t, c.typed)
			} else {
				null, err := os.Open(os.DevNull)
				if err != nil {
					t.Fatal(err)
				}
				stdin(t, null)
			}
			var said bytes.Buffer
			l := &liveTaker{global: &global{stderr: &said}, yes: c.yes}
			p := &live.Production{Source: live.Source{Rate: 50 << 20}, Facts: live.Facts{Where: "db1:5432"}}
			if err := l.confirm(context.Background(), p, "prod", c.Estimate); exit.Code(err) != c.code {
				t.Errorf("%v", err)
			}
			if !strings.HasPrefix(said.String(), "pg0: point prod: reads 1024 MB in 3 files of db1:5432, 21s at 50 MB/s, ") {
				t.Errorf("said %q", said.String())
			}
			if asked := strings.Contains(said.String(), "[y/N]"); asked != (c.typed != "") {
				t.Errorf("asked %v: %q", asked, said.String())
			}
		})
	}
}
