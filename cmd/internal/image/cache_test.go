package image_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0/cmd/internal/image"
	"github.com/fukanchik/pg0/relmap"
)

// finish puts an image with one file of blocks into the cache.
func finish(t *testing.T, cache image.Cache, key string, parents ...string) {
	t.Helper()
	tmp, err := cache.Tmp(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image.Blocks(tmp), make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := cache.Finish(tmp, &image.Meta{Key: key, Parents: parents}, &relmap.Definitions{}); err != nil {
		t.Fatal(err)
	}
}

func TestCache(t *testing.T) {
	cache := image.Cache(t.TempDir())
	finish(t, cache, "aa")
	finish(t, cache, "bb", "aa")
	if _, err := cache.Tmp("cc"); err != nil {
		t.Fatal(err)
	}
	if !cache.Has("aa") || cache.Has("cc") {
		t.Error("finished images exist, others do not")
	}
	entries, err := cache.List(map[string][]string{"bb": {"/mnt/x"}})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]image.Entry{}
	for _, entry := range entries {
		if !entry.Unfinished && (entry.Bytes != 1000 || entry.Format != image.Format || entry.LastUse.IsZero()) {
			t.Errorf("entry %+v", entry)
		}
		got[entry.Key] = entry
	}
	if len(got) != 3 || !got["cc"].Unfinished || got["cc"].InUse {
		t.Errorf("list: %+v", got)
	}
	if diff := cmp.Diff([]string{"/mnt/x"}, got["bb"].Users); diff != "" {
		t.Error(diff)
	}
	if err := cache.Remove("bb"); err != nil {
		t.Error(err)
	}
	if err := cache.Remove("bb"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed twice: %v", err)
	}
}

func TestLock(t *testing.T) {
	cache := image.Cache(t.TempDir())
	ctx := context.Background()
	never := func() { t.Error("waits for nobody") }
	first, err := cache.Lock(ctx, "aa", never)
	if err != nil {
		t.Fatal(err)
	}
	other, err := cache.Lock(ctx, "bb", never)
	if err != nil {
		t.Fatal(err)
	}
	// What is about to be made anew is not removed under its maker.
	finish(t, cache, "aa")
	if err := cache.Remove("aa"); !errors.Is(err, image.ErrBusy) || !cache.Has("aa") {
		t.Errorf("removed while its key is locked: %v", err)
	}
	waiting, got := make(chan struct{}), make(chan error)
	go func() {
		second, err := cache.Lock(ctx, "aa", func() { close(waiting) })
		if err == nil {
			err = image.Unlock(second)
		}
		got <- err
	}()
	<-waiting
	if err := image.Unlock(first); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	if _, err := cache.Lock(cancelled, "bb", cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("with a cancelled context: %v", err)
	}
	if err := image.Unlock(other); err != nil {
		t.Error(err)
	}
	if err := cache.Remove("aa"); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(string(cache))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
