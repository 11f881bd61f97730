package exit_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/exit"
)

func TestCode(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want int
	}{
		{"nil", nil, exit.Done},
		{"nil with a code", exit.Error(exit.Busy, nil), exit.Done},
		{"plain", errors.New("x"), exit.Failed},
		{"wrapped code", fmt.Errorf("a: %w", exit.Error(exit.Busy, errors.New("x"))), exit.Busy},
		{"outermost code", exit.Error(exit.Refused, exit.Error(exit.Busy, errors.New("x"))), exit.Refused},
		{"code before kind", exit.Error(exit.Refused, fs.ErrNotExist), exit.Refused},
		{"missing", fmt.Errorf("a: %w", fs.ErrNotExist), exit.NotFound},
		{"damaged", fmt.Errorf("a: %w", pg0.ErrCorrupt), exit.Corrupt},
		{"unusable", fmt.Errorf("a: %w", pg0.ErrUnusable), exit.Refused},
		{"interrupted", fmt.Errorf("a: %w", context.Canceled), exit.Interrupted},
	} {
		if got := exit.Code(c.err); got != c.want {
			t.Errorf("%s: code %d, want %d", c.name, got, c.want)
		}
	}
}
