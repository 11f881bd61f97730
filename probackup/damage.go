package probackup

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/fukanchik/pg0"
)

// damageError is damage with its place. Block is -1 when it concerns the file
// as a whole. It wraps pg0.ErrCorrupt, and the cause.
type damageError struct {
	backup string
	path   string
	block  int64
	cause  error
}

func (e *damageError) Error() string {
	if e.block >= 0 {
		return fmt.Sprintf("backup %s is corrupt: %s, block %d: %v", e.backup, e.path, e.block, e.cause)
	}
	return fmt.Sprintf("backup %s is corrupt: %s: %v", e.backup, e.path, e.cause)
}

func (e *damageError) Unwrap() []error { return []error{pg0.ErrCorrupt, e.cause} }

// damaged reports damage in a file of the member; block is -1 for the whole
// file. Where the backup is no longer the one that was opened, because it was
// deleted or merged meanwhile, it says that instead.
func (m *member) damaged(path string, block int64, cause error) error {
	if err := m.meanwhile(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return &damageError{backup: m.id, path: path, block: block, cause: cause}
}

// fault turns an error of the operating system into damage where it means that
// a part of the backup is missing or shorter than it should be.
func (m *member) fault(path string, err error) error {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		err = pathError.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return m.damaged(path, -1, errors.New("file is missing"))
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return m.damaged(path, -1, errors.New("file is too short"))
	case errors.Is(err, fs.ErrInvalid):
		return m.damaged(path, -1, err)
	}
	return fmt.Errorf("read %s of backup %s: %w", path, m.id, err)
}

// meanwhile tells whether the backup was deleted, is being deleted, or was
// rewritten by a merge since it was opened.
func (m *member) meanwhile() error {
	text, err := fs.ReadFile(m.root.FS(), controlName)
	if err == nil {
		var now *control
		if now, err = parseControl(text); err == nil && m.same(now) {
			return nil
		}
	}
	return fmt.Errorf("backup %s was deleted or merged meanwhile: %w", m.id, pg0.ErrUnusable)
}

// same tells whether the control file still speaks of the backup that was
// opened. Validation may change the status and nothing else.
func (m *member) same(now *control) bool {
	was := m.control
	sound := now.status == was.status || now.status == statusOK || now.status == statusDone ||
		now.status == "CORRUPT" || now.status == "ORPHAN"
	return sound && now.contentCRC == was.contentCRC && now.program == was.program
}
