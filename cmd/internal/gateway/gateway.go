// Package gateway tells the proxy which servers there are: those on mounts, and
// those on points of a mapping file that are made ready when somebody asks.
package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/fukanchik/pg0/cmd/internal/provenance"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/mapping"
	"github.com/fukanchik/pg0/proxy"
)

// A Named mount point.
type Named struct {
	Name       string
	Mountpoint string // resolved
}

// A Gateway is the proxy's Router.
type Gateway struct {
	mounts []*mount
	points *Points // nil without a mapping file
	logger *slog.Logger
}

// New makes a gateway to mounts, the first of which is for database names
// without a point, and to the points of a mapping file.
func New(dir state.Dir, mounts []Named, points *Points, logger *slog.Logger) *Gateway {
	g := &Gateway{points: points, logger: logger}
	for _, m := range mounts {
		g.mounts = append(g.mounts, newMount(dir, m))
	}
	return g
}

// Close ends the connections that the gateway keeps, and the points that it
// has made ready.
func (g *Gateway) Close(ctx context.Context) error {
	for _, m := range g.mounts {
		m.close()
	}
	if g.points == nil {
		return nil
	}
	return g.points.close(ctx)
}

// Route finds a server: shop is on the first mount, shop@monday on the mount or
// point of that name.
func (g *Gateway) Route(_ context.Context, database string) (proxy.Route, error) {
	at := strings.LastIndexByte(database, '@')
	if at < 0 {
		return g.home(database)
	}
	name := database[at+1:]
	if m := g.mount(name); m != nil {
		return &mountRoute{mount: m, database: database[:at]}, nil
	}
	if point, ok := g.points.find(name); ok {
		return &pointRoute{gateway: g, point: point, database: database[:at]}, nil
	}
	return &unknownRoute{gateway: g, database: database, name: name}, nil
}

// home is where names without a point lead.
func (g *Gateway) home(database string) (proxy.Route, error) {
	if len(g.mounts) > 0 {
		return &mountRoute{mount: g.mounts[0], database: database}, nil
	}
	return &pointRoute{gateway: g, point: g.points.Base, database: database}, nil
}

// mount finds a mount by its name, or by the point or backup that it shows.
func (g *Gateway) mount(name string) *mount {
	for _, m := range g.mounts {
		if strings.EqualFold(m.Name, name) {
			return m
		}
	}
	for _, m := range g.mounts {
		record, err := m.record()
		if err != nil || record.Kind != state.Point {
			continue
		}
		o := provenance.BaseOf(record)
		if strings.EqualFold(o.Point, name) || strings.EqualFold(o.Backup, name) {
			return m
		}
	}
	return nil
}

// names are those that can stand behind an @.
func (g *Gateway) names() []string {
	var names []string
	for _, m := range g.mounts {
		names = append(names, m.Name)
	}
	if g.points != nil {
		names = append(names, g.points.Names...)
	}
	return names
}

// A mountRoute leads to the server on a mount.
type mountRoute struct {
	mount    *mount
	database string
}

func (r *mountRoute) Secret(ctx context.Context, role string) (proxy.Secret, error) {
	return r.mount.secret(ctx, role)
}

func (r *mountRoute) Open(ctx context.Context, role string, _ func(string)) (*proxy.Backend, error) {
	return r.mount.open(ctx, role, r.database)
}

// A pointRoute leads to a point that may have to be made ready.
type pointRoute struct {
	gateway  *Gateway
	point    string
	database string
}

// Secret asks the cluster of today: who may come in is not decided by a past
// in which somebody had another password.
func (r *pointRoute) Secret(ctx context.Context, role string) (proxy.Secret, error) {
	g := r.gateway
	if len(g.mounts) > 0 {
		return g.mounts[0].secret(ctx, role)
	}
	base, err := g.points.acquire(ctx, g.points.Base, func(string) {})
	if err != nil {
		return proxy.Secret{}, err
	}
	defer g.points.release(base)
	return base.mount.secret(ctx, role)
}

func (r *pointRoute) Open(ctx context.Context, role string, say func(string)) (*proxy.Backend, error) {
	points := r.gateway.points
	point, err := points.acquire(ctx, r.point, say)
	if err != nil {
		return nil, err
	}
	backend, err := point.mount.open(ctx, role, r.database)
	if err != nil {
		points.release(point)
		return nil, err
	}
	backend.Close = func() { points.release(point) }
	return backend, nil
}

// An unknownRoute is for names that nothing is known of. A database may have
// an @ in its own name.
type unknownRoute struct {
	gateway  *Gateway
	database string
	name     string
}

func (r *unknownRoute) Secret(ctx context.Context, role string) (proxy.Secret, error) {
	home, err := r.gateway.home(r.database)
	if err != nil {
		return proxy.Secret{}, err
	}
	return home.Secret(ctx, role)
}

func (r *unknownRoute) Open(ctx context.Context, role string, say func(string)) (*proxy.Backend, error) {
	if mounts := r.gateway.mounts; len(mounts) > 0 {
		has, err := mounts[0].has(ctx, r.database)
		if err != nil {
			return nil, err
		}
		if has {
			return mounts[0].open(ctx, role, r.database)
		}
	}
	names := r.gateway.names()
	err := &proxy.Error{
		Code:    proxy.CodeUnknownDatabase,
		Message: fmt.Sprintf("there is no point or mix %q here", r.name),
		Hint:    "Known are " + strings.Join(names, ", ") + ".",
	}
	if near := mapping.Nearest(r.name, names); near != "" {
		err.Hint = fmt.Sprintf("Did you mean %q? %s", near, err.Hint)
	}
	return nil, err
}
