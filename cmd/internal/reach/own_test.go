package reach_test

import (
	"context"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/reach"
	"github.com/fukanchik/pg0/tests/fixture"
	"github.com/fukanchik/pg0/tests/walfiles"
)

// choose makes a moment definite and reads the way there.
func choose(t *testing.T, c reach.Catalog, at string) (*reach.Choice, error) {
	t.Helper()
	target, err := parse(at)
	if err != nil {
		t.Fatal(err)
	}
	choice, err := reach.Choose(context.Background(), c, target)
	if err != nil {
		return nil, err
	}
	return choice, reach.Examine(context.Background(), c, choice, nil)
}

// TestOwnWAL has no archive: stream backups have their own WAL, and the newest
// moment is the end of that of the newest of them.
func TestOwnWAL(t *testing.T) {
	c := catalog{open(t, fixture.Shop(t)).backups, walfiles.Archive{}}
	for at, want := range map[string]string{
		"TEI900":        "TEI900 timeline 1 immediate",
		"TEK3O0":        "TEK3O0 timeline 1 immediate",
		"immediate":     "TEK3O0 timeline 1 immediate",
		"latest":        "TEK3O0 timeline 1 after 0/2200028", // by pg_waldump of its pg_wal
		"lsn:0/1B00170": "TEI900 timeline 1 after 0/1B00170",
	} {
		choice, err := choose(t, c, at)
		if err != nil {
			t.Errorf("%s: %v", at, err)
			continue
		}
		if got := choice.Backup.ID + " " + choice.Key(); got != want {
			t.Errorf("%s: %s, want %s", at, got, want)
		}
		passed := 0
		if at == "latest" || at == "immediate" {
			passed = 2
		}
		if len(choice.Notes) != passed {
			t.Errorf("%s: notes %q", at, choice.Notes)
		}
	}
	_, err := choose(t, c, "TENT00")
	if exit.Code(err) != exit.Refused || !strings.Contains(err.Error(), "backup TEK3O0 reaches from 0/2100170") {
		t.Errorf("TENT00: %v", err)
	}
}

// leaky is an archive whose files are listed and then removed.
type leaky struct {
	catalog
	gone string
}

func (l leaky) WAL(ctx context.Context, name string) (pg0.File, error) {
	if name == l.gone {
		return nil, fs.ErrNotExist
	}
	return l.catalog.WAL(ctx, name)
}

// TestRemovedMeanwhile calls WAL that retention takes away what it is: missing.
func TestRemovedMeanwhile(t *testing.T) {
	c := leaky{open(t, fixture.Shop(t)), "00000001000000000000002B"}
	_, err := choose(t, c, "name:after_delete")
	if exit.Code(err) != exit.Refused || !strings.Contains(err.Error(), "WAL 00000001000000000000002B is missing (and the archive goes on with 00000001000000000000002C)") {
		t.Errorf("%d: %v", exit.Code(err), err)
	}
}

// TestOldXID ends after backups that call themselves too new for it: 852 was
// prepared before Tuesday's backup of this fixture, and committed after it.
func TestOldXID(t *testing.T) {
	c := open(t, fixture.PG15(t))
	for at, want := range map[string]string{
		"xid:852": "TEK3OL after 0/39000A0",
		"xid:873": "TENT0R after 0/5D00028",
		"xid:854": "TEK3OL after 0/38000C0", // a subtransaction of 853, which aborted
	} {
		choice, err := choose(t, c, at)
		if err != nil {
			t.Errorf("%s: %v", at, err)
			continue
		}
		got := choice.Backup.ID + strings.TrimPrefix(choice.Key(), "timeline 1")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s, want %s", at, got, want)
		}
	}
}
