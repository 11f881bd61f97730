// Package exit gives errors the exit code that the command ends with. The
// codes are an interface: scripts branch on them.
package exit

import (
	"context"
	"errors"
	"io/fs"

	"github.com/fukanchik/pg0"
)

// Exit codes of pg0.
const (
	Done        = 0
	Failed      = 1
	Usage       = 2
	Refused     = 4 // preflight refused, nothing was changed
	Interrupted = 5
	NotFound    = 6
	Busy        = 7
	Corrupt     = 9 // the backup is damaged
)

type coded struct {
	error
	code int
}

func (c *coded) Unwrap() error { return c.error }

// Error marks err with the code the command is to end with. The text stays
// that of err; nil stays nil.
func Error(code int, err error) error {
	if err == nil {
		return nil
	}
	return &coded{err, code}
}

// Code is the exit code for err: the outermost one given by Error, else the
// one that the kind of the error stands for.
func Code(err error) int {
	var c *coded
	switch {
	case err == nil:
		return Done
	case errors.As(err, &c):
		return c.code
	case errors.Is(err, context.Canceled):
		return Interrupted
	case errors.Is(err, pg0.ErrCorrupt):
		return Corrupt
	case errors.Is(err, pg0.ErrUnusable):
		return Refused
	case errors.Is(err, fs.ErrNotExist):
		return NotFound
	}
	return Failed
}
