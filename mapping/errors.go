package mapping

import (
	"fmt"
	"strings"
)

// A FileError is a mistake in the mapping file: the caller's exit code is that
// of wrong usage. Line is 0 where no line is to blame.
type FileError struct {
	File string
	Line int
	What string
}

// Error gives file:line: what.
func (e *FileError) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.What
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.What)
}

// FileErrors are all mistakes found in one pass over a mapping file, in the
// order of their lines. errors.As finds the first as *FileError.
type FileErrors []*FileError

// Error gives one line for each mistake.
func (e FileErrors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the single mistakes.
func (e FileErrors) Unwrap() []error {
	all := make([]error, len(e))
	for i, one := range e {
		all[i] = one
	}
	return all
}

// A Refusal is one reason why a mix cannot be exact.
type Refusal struct {
	Relation string `json:"relation"`         // target, as SQL writes it; "" for a whole image
	Reason   string `json:"reason"`           // what differs, with both values
	Remedy   string `json:"remedy,omitempty"` // what to write or do instead
}

// String is one line: relation: reason; remedy.
func (r Refusal) String() string {
	s := r.Reason
	if r.Relation != "" {
		s = r.Relation + ": " + s
	}
	if r.Remedy != "" {
		s += "; " + r.Remedy
	}
	return s
}

// Refused is the error of a preflight that found reasons not to go on. Nothing
// has been changed.
type Refused struct{ Refusals []Refusal }

// Error gives one line for each refusal.
func (e *Refused) Error() string {
	lines := make([]string, len(e.Refusals))
	for i, r := range e.Refusals {
		lines[i] = r.String()
	}
	return strings.Join(lines, "\n")
}
