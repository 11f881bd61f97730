package layer_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/layer"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/mapping"
)

func record(kind state.Kind, base string) *layer.Record {
	return &layer.Record{Kind: kind, Attach: mapping.Record{Base: base}, Provenance: []state.Origin{{Relation: "*", Point: base}}}
}

func TestTake(t *testing.T) {
	ctx := context.Background()
	dir := filepath.Join(t.TempDir(), "layer")
	taken, err := layer.Take(ctx, dir, record(state.Point, "monday"), nil, nil)
	if err != nil || taken.Configured {
		t.Fatalf("a new layer: %+v, %v", taken, err)
	}
	if err := layer.Write(dir, taken); err != nil {
		t.Fatal(err)
	}
	if err := layer.Configured(dir); err != nil {
		t.Fatal(err)
	}
	taken, err = layer.Take(ctx, dir, record(state.Point, "monday"), nil, nil)
	if err != nil || !taken.Configured {
		t.Errorf("the same point: %+v, %v", taken, err)
	}
	for _, test := range []struct {
		want *layer.Record
		text string
	}{
		{record(state.Point, "tuesday"), "another point (monday"},
		{record(state.Raw, "monday"), "one point"},
		{record(state.Mix, "monday"), "one point"},
	} {
		_, err := layer.Take(ctx, dir, test.want, nil, nil)
		if exit.Code(err) != exit.Refused || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%v over %s: %v", test.want.Kind, test.want.Attach.Base, err)
		}
	}
}

// TestTakeWithoutWAL takes WAL away from a layer that was in use.
func TestTakeWithoutWAL(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layer")
	kept := record(state.Point, "monday")
	kept.WAL = true
	if err := layer.Write(dir, kept); err != nil {
		t.Fatal(err)
	}
	take := func() error {
		_, err := layer.Take(context.Background(), dir, record(state.Point, "monday"), nil, nil)
		return err
	}
	if err := take(); err != nil {
		t.Errorf("a layer that was not in use yet: %v", err)
	}
	if err := layer.Configured(dir); err != nil {
		t.Fatal(err)
	}
	if err := take(); exit.Code(err) != exit.Refused || !strings.Contains(err.Error(), layer.WAL(dir)) {
		t.Errorf("without WAL: %v", err)
	}
	if err := os.Mkdir(layer.WAL(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := take(); err != nil {
		t.Errorf("with WAL: %v", err)
	}
}

func TestTakeForeignDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := layer.Take(context.Background(), dir, record(state.Raw, "monday"), nil, nil)
	if exit.Code(err) != exit.Refused {
		t.Errorf("a directory with files: %v", err)
	}
}
