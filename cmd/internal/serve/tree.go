package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"

	"github.com/fukanchik/pg0"
	"github.com/fukanchik/pg0/fusefs/cow"
	"github.com/fukanchik/pg0/mapping"
	"github.com/fukanchik/pg0/relmap"
)

// Options are those of opening a tree.
type Options struct {
	Logger *slog.Logger
}

// closers closes in reverse order.
type closers []io.Closer

func (c closers) Close() error {
	var errs []error
	for _, one := range slices.Backward(c) {
		errs = append(errs, one.Close())
	}
	return errors.Join(errs...)
}

type closeFunc func() error

func (f closeFunc) Close() error { return f() }

// OpenTree opens what a reference describes. The tree is valid until the closer
// is closed.
func OpenTree(ctx context.Context, ref TreeRef, o Options) (pg0.Tree, io.Closer, error) {
	var open closers
	tree, err := openBottom(ctx, ref, o, &open)
	for i := 0; err == nil && i < len(ref.Images); i++ {
		var closer io.Closer
		below := tree
		if tree, closer, err = cow.OpenImage(below, ref.Images[i]); err == nil {
			open = append(open, closer)
		}
	}
	if err != nil {
		return nil, nil, errors.Join(err, open.Close())
	}
	return tree, open, nil
}

func openBottom(ctx context.Context, ref TreeRef, o Options, open *closers) (pg0.Tree, error) {
	if ref.Mix != nil {
		return openMix(ctx, ref.Mix, o, open)
	}
	catalog, err := ref.Source.Open(o.Logger)
	if err != nil {
		return nil, err
	}
	point, err := catalog.Open(ctx, ref.Point)
	if err != nil {
		return nil, err
	}
	*open = append(*open, closeFunc(point.Close))
	return point.Tree, nil
}

func openMix(ctx context.Context, mix *Mix, o Options, open *closers) (pg0.Tree, error) {
	spec, err := mapping.Parse(mix.MapName, []byte(mix.MapText))
	if err != nil {
		return nil, err
	}
	images := map[string]*mapping.Image{}
	for name, ref := range mix.Images {
		image, closer, err := OpenImage(ctx, name, ref, o)
		if err != nil {
			return nil, fmt.Errorf("image of %s: %w", name, err)
		}
		*open = append(*open, closer)
		images[name] = image
	}
	base := images[mix.Base]
	plan, err := mapping.Resolve(spec, images, base)
	if err != nil {
		return nil, err
	}
	return mapping.Compose(plan, images, base, mix.Limit)
}

// OpenImage opens one image of a mix.
func OpenImage(ctx context.Context, name string, ref MixImage, o Options) (*mapping.Image, io.Closer, error) {
	tree, closer, err := OpenTree(ctx, ref.Tree, o)
	if err != nil {
		return nil, nil, err
	}
	image := &mapping.Image{Name: name, Tree: tree, Info: ref.Info}
	if image.Cluster, err = relmap.Open(tree); err == nil {
		image.Defs, err = readDefinitions(ref.Defs)
	}
	if err != nil {
		return nil, nil, errors.Join(err, closer.Close())
	}
	return image, closer, nil
}

func readDefinitions(name string) (*relmap.Definitions, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	defs := new(relmap.Definitions)
	if err := json.Unmarshal(text, defs); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return defs, nil
}
