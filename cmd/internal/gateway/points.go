package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/proxy"
)

// Points are those of a mapping file that are mounted, each with a server, when
// somebody asks for them.
type Points struct {
	Names []string
	Base  string // the point for database names without one
	Most  int    // points that are ready at the same time
	Idle  time.Duration
	State state.Dir
	Dir   string // mount points are made here

	// Mount mounts a point and starts its server; what it does meanwhile goes to
	// say. Umount takes it away.
	Mount  func(ctx context.Context, name, mountpoint string, say func(string)) error
	Umount func(ctx context.Context, mountpoint string) error
	Logger *slog.Logger

	mu    sync.Mutex
	known map[string]*point
	stop  chan struct{}
	tasks sync.WaitGroup
}

// A point that is ready, or is being made so. The lock of Points guards it.
type point struct {
	name     string
	mount    *mount
	users    int
	since    time.Time // that nobody uses it
	ready    chan struct{}
	err      error // valid once ready is closed
	waiting  map[*func(string)]bool
	last     string // of what was said
	stopping chan struct{}
}

// Start begins to look for points that nobody uses.
func (p *Points) Start() {
	p.known, p.stop = map[string]*point{}, make(chan struct{})
	p.tasks.Add(1)
	go func() {
		defer p.tasks.Done()
		t := time.NewTicker(max(p.Idle/4, 100*time.Millisecond))
		defer t.Stop()
		for {
			select {
			case <-p.stop:
				return
			case <-t.C:
				p.stopIdle(context.Background())
			}
		}
	}()
}

// find gives the spelling of a point's name in the mapping file.
func (p *Points) find(name string) (string, bool) {
	if p == nil {
		return "", false
	}
	i := slices.IndexFunc(p.Names, func(known string) bool { return strings.EqualFold(known, name) })
	if i < 0 {
		return "", false
	}
	return p.Names[i], true
}

// acquire makes a point ready, unless it is, and counts a user of it.
func (p *Points) acquire(ctx context.Context, name string, say func(string)) (*point, error) {
	one, fresh, victim, err := p.join(name, &say)
	if err != nil {
		return nil, err
	}
	if victim != nil {
		say(fmt.Sprintf("stopping point %s, which nobody uses", victim.name))
		p.end(ctx, victim)
	}
	if fresh {
		p.make(one)
	}
	defer p.leave(one, &say)
	select {
	case <-one.ready:
		err = one.err
	case <-ctx.Done():
		err = &proxy.Error{
			Code: proxy.CodeCannotConnectNow, Message: fmt.Sprintf("point %s is still being made ready", name), Hint: "It goes on; try again later.",
		}
	}
	if err != nil {
		p.release(one)
		return nil, err
	}
	return one, nil
}

// join counts a user. A fresh point is the caller's to make; for it, victim may
// have to be ended first.
func (p *Points) join(name string, say *func(string)) (one *point, fresh bool, victim *point, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		one = p.known[name]
		if one == nil || one.stopping == nil {
			break
		}
		stopping := one.stopping
		p.mu.Unlock()
		<-stopping
		p.mu.Lock()
	}
	if one != nil {
		one.users++
		one.waiting[say] = true
		if one.last != "" {
			(*say)(one.last)
		}
		return one, false, nil, nil
	}
	if len(p.known) >= p.Most {
		if victim = p.idlest(); victim == nil {
			return nil, false, nil, &proxy.Error{
				Code: proxy.CodeTooManyConnections, Message: fmt.Sprintf("%d points are in use, so %s cannot be made ready", len(p.known), name),
				Hint: "End sessions on other points, or give pg0 proxy a higher --max-points.",
			}
		}
		victim.stopping = make(chan struct{})
	}
	one = &point{
		name: name, users: 1, ready: make(chan struct{}), waiting: map[*func(string)]bool{say: true},
		mount: newMount(p.State, Named{Name: name, Mountpoint: filepath.Join(p.Dir, name)}),
	}
	p.known[name] = one
	return one, true, victim, nil
}

// idlest is the point that nobody has used for the longest time.
func (p *Points) idlest() (found *point) {
	for _, one := range p.known {
		if one.users == 0 && one.stopping == nil && (found == nil || one.since.Before(found.since)) {
			found = one
		}
	}
	return found
}

// make mounts a point. It goes on when the client that asked first has left:
// others may wait, and the next one will ask again.
func (p *Points) make(one *point) {
	p.tasks.Add(1)
	go func() {
		defer p.tasks.Done()
		err := p.mountPoint(one)
		if err != nil {
			err = &proxy.Error{Code: proxy.CodeConnectionFailure, Message: fmt.Sprintf("point %s cannot be made ready: %v", one.name, err)}
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		one.err, one.last = err, ""
		if err != nil {
			delete(p.known, one.name)
		}
		close(one.ready)
	}()
}

func (p *Points) mountPoint(one *point) error {
	ctx := context.Background()
	p.tell(one, "making point "+one.name+" ready")
	_, _, err := one.mount.server()
	if err == nil {
		return nil // left by a proxy that was killed
	}
	if _, err := p.State.Load(one.mount.id); err == nil {
		if err := p.Umount(ctx, one.mount.Mountpoint); err != nil {
			return err
		}
	}
	return p.Mount(ctx, one.name, one.mount.Mountpoint, func(text string) { p.tell(one, text) })
}

// tell lets everybody who waits know what is done.
func (p *Points) tell(one *point, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if text == one.last {
		return
	}
	one.last = text
	for say := range one.waiting {
		(*say)(text)
	}
}

func (p *Points) leave(one *point, say *func(string)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(one.waiting, say)
}

// release counts a user less.
func (p *Points) release(one *point) {
	p.mu.Lock()
	defer p.mu.Unlock()
	one.users--
	one.since = time.Now()
}

func (p *Points) stopIdle(ctx context.Context) {
	p.mu.Lock()
	var idle []*point
	for _, one := range p.known {
		if one.users == 0 && one.stopping == nil && time.Since(one.since) >= p.Idle {
			one.stopping = make(chan struct{})
			idle = append(idle, one)
		}
	}
	p.mu.Unlock()
	for _, one := range idle {
		p.Logger.Info("stop a point that nobody uses", "point", one.name)
		p.end(ctx, one)
	}
}

// end takes a point away that is marked as stopping.
func (p *Points) end(ctx context.Context, one *point) {
	<-one.ready
	one.mount.close()
	err := p.Umount(ctx, one.mount.Mountpoint)
	if err != nil {
		p.Logger.Error("take a point away", "point", one.name, "error", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known[one.name] == one {
		delete(p.known, one.name)
	}
	close(one.stopping)
}

// close takes all points away.
func (p *Points) close(ctx context.Context) error {
	close(p.stop)
	p.tasks.Wait()
	p.mu.Lock()
	all := p.known
	p.known = map[string]*point{}
	p.mu.Unlock()
	var errs []error
	for _, one := range all {
		one.mount.close()
		errs = append(errs, p.Umount(ctx, one.mount.Mountpoint))
	}
	return errors.Join(errs...)
}
