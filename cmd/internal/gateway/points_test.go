package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fukanchik/pg0/cmd/internal/exit"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/proxy"
)

// A fakeStage records what is mounted.
type fakeStage struct {
	mu      sync.Mutex
	mounted []string
	log     []string
	most    int
	fail    error
	hold    chan struct{} // a mount waits for it
}

func (f *fakeStage) mount(_ context.Context, name, _ string, say func(string)) error {
	say("mounting " + name)
	if f.hold != nil {
		<-f.hold
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return f.fail
	}
	f.mounted = append(f.mounted, name)
	f.most = max(f.most, len(f.mounted))
	f.log = append(f.log, "+"+name)
	return nil
}

func (f *fakeStage) umount(_ context.Context, mountpoint string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := filepath.Base(mountpoint)
	f.mounted = slices.DeleteFunc(f.mounted, func(m string) bool { return m == name })
	f.log = append(f.log, "-"+name)
	return nil
}

func newPoints(t *testing.T, stage *fakeStage, most int, idle time.Duration) *Points {
	t.Helper()
	dir, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p := &Points{
		Names: []string{"a", "b", "c"}, Base: "a", Most: most, Idle: idle, State: dir, Dir: t.TempDir(),
		Mount: stage.mount, Umount: stage.umount, Logger: slog.New(slog.DiscardHandler),
	}
	p.Start()
	return p
}

func nobody(string) {}

func acquire(t *testing.T, p *Points, name string) *point {
	t.Helper()
	one, err := p.acquire(context.Background(), name, nobody)
	if err != nil {
		t.Fatal(err)
	}
	return one
}

func TestPointsMakeRoom(t *testing.T) {
	stage := &fakeStage{}
	p := newPoints(t, stage, 2, time.Hour)
	a, b := acquire(t, p, "a"), acquire(t, p, "b")
	var full *proxy.Error
	if _, err := p.acquire(context.Background(), "c", nobody); !errors.As(err, &full) || full.Code != proxy.CodeTooManyConnections {
		t.Errorf("a third one: %v", err)
	}
	p.release(b)
	p.release(acquire(t, p, "b")) // again in use for a moment
	acquire(t, p, "c")
	p.release(a)
	if err := p.close(context.Background()); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"+a", "+b", "-b", "+c"}, stage.log[:4]); diff != "" {
		t.Error(diff)
	}
	if len(stage.mounted) != 0 || stage.most != 2 {
		t.Errorf("left mounted: %q; at most %d", stage.mounted, stage.most)
	}
}

func TestPointsAreMadeOnceForAll(t *testing.T) {
	stage := &fakeStage{hold: make(chan struct{})}
	p := newPoints(t, stage, 1, time.Hour)
	var group sync.WaitGroup
	said := make(chan string, 100)
	for range 20 {
		group.Go(func() {
			one, err := p.acquire(context.Background(), "a", func(text string) { said <- text })
			if err != nil {
				t.Error(err)
				return
			}
			p.release(one)
		})
	}
	for range 20 { // everybody hears of it, also who came later
		for text := range said {
			if text == "mounting a" {
				break
			}
		}
	}
	close(stage.hold)
	group.Wait()
	if diff := cmp.Diff([]string{"+a"}, stage.log); diff != "" {
		t.Error(diff)
	}
	if err := p.close(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestPointsFail(t *testing.T) {
	stage := &fakeStage{fail: errors.New("the backup is gone")}
	p := newPoints(t, stage, 1, time.Hour)
	var failed *proxy.Error
	for range 2 {
		_, err := p.acquire(context.Background(), "a", nobody)
		if !errors.As(err, &failed) || failed.Code != proxy.CodeConnectionFailure || failed.Message != "point a cannot be made ready: the backup is gone" {
			t.Fatalf("%v", err)
		}
	}
	stage.fail = nil
	p.release(acquire(t, p, "a"))
	// Whoever is not patient may come again.
	stage.hold = make(chan struct{})
	hasty, stop := context.WithCancel(context.Background())
	stop()
	if _, err := p.acquire(hasty, "b", nobody); !errors.As(err, &failed) || failed.Code != proxy.CodeCannotConnectNow {
		t.Errorf("%v", err)
	}
	close(stage.hold)
	p.release(acquire(t, p, "b"))
	if err := p.close(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestIdlePointsStop(t *testing.T) {
	stage := &fakeStage{}
	p := newPoints(t, stage, 2, time.Hour)
	used, idle := acquire(t, p, "a"), acquire(t, p, "b")
	p.release(idle)
	p.mu.Lock()
	idle.since = time.Now().Add(-2 * time.Hour)
	p.mu.Unlock()
	p.stopIdle(context.Background())
	if diff := cmp.Diff([]string{"a"}, stage.mounted); diff != "" {
		t.Error(diff)
	}
	p.release(used)
	if err := p.close(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestPointsUnderLoad has many users of more points than can be ready.
func TestPointsUnderLoad(t *testing.T) {
	stage := &fakeStage{}
	p := newPoints(t, stage, 2, 200*time.Millisecond)
	var group sync.WaitGroup
	for i := range 30 {
		group.Go(func() {
			for j := range 20 {
				one, err := p.acquire(context.Background(), p.Names[(i+j)%3], nobody)
				if err == nil {
					p.release(one)
				}
			}
		})
	}
	group.Wait()
	if err := p.close(context.Background()); err != nil {
		t.Error(err)
	}
	if len(stage.mounted) != 0 || stage.most > 2 {
		t.Errorf("left mounted: %q; at most %d", stage.mounted, stage.most)
	}
}

func TestListen(t *testing.T) {
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := Listen(dir + ":7000")
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, ".s.PGSQL.7000")
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := Listen(dir + ":7000"); exit.Code(err) != exit.Busy {
		t.Errorf("a second one: %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	again, err := Listen(dir + ":7000") // over what a killed one has left
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	for _, wrong := range []string{dir + ":x", dir + ":0"} {
		if _, err := Listen(wrong); exit.Code(err) != exit.Usage {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}

func TestShown(t *testing.T) {
	base, monday := proxy.Origin{Point: "base"}, proxy.Origin{Point: "monday"}
	s := &shower{
		base: base, origins: map[uint32]proxy.Origin{1: monday},
		parts:  map[uint32][]uint32{10: {1, 2}, 11: {10}, 12: {1}, 13: {2}, 14: {14, 1}, 15: {1}},
		owners: map[uint32]bool{15: true},
	}
	for oid, want := range map[uint32][]proxy.Origin{
		1: {monday}, 2: {base}, 10: {monday, base}, 11: {monday, base}, 12: {monday}, 13: {base}, 14: {monday}, 15: {base, monday},
	} {
		if diff := cmp.Diff(want, s.shown(oid, map[uint32]bool{})); diff != "" {
			t.Errorf("%d: %s", oid, diff)
		}
	}
}

func TestProgressInWords(t *testing.T) {
	for line, want := range map[string]string{
		`{"progress":{"stage":"replay","backup":"X","percent":41.6}}`: "point a, backup X: replaying WAL, 42%",
		`{"progress":{"stage":"mount","backup":"X"}}`:                 "point a, backup X: mounting the backup",
		`{"else":1}`: "making point a ready",
	} {
		if got := progress("a", line); got != want {
			t.Errorf("%s: %s", line, got)
		}
	}
}
