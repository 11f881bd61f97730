package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

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
		tree, err = openSealed(tree, ref.Images[i], &open)
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

// useFile lies beside the sealed changes of an image of the cache: whoever uses
// the image holds a shared lock on it, so that nobody removes it meanwhile.
const useFile = "use"

func openSealed(below pg0.Tree, dir string, open *closers) (pg0.Tree, error) {
	use, err := os.OpenFile(filepath.Join(filepath.Dir(dir), useFile), os.O_RDWR, 0)
	if err == nil {
		*open = append(*open, use)
		err = unix.Flock(int(use.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("image %s: %w", filepath.Dir(dir), err)
	}
	tree, closer, err := cow.OpenImage(below, dir)
	if err != nil {
		return nil, err
	}
	*open = append(*open, closer)
	return tree, nil
}

func openMix(ctx context.Context, mix *Mix, o Options, open *closers) (pg0.Tree, error) {
	base, err := openImage(ctx, mix.Base, mix.Plan.Base, o, open)
	if err != nil {
		return nil, err
	}
	images := map[string]*mapping.Image{}
	for name, ref := range mix.Images {
		if images[name], err = openImage(ctx, ref, mix.Plan.Origin(name), o, open); err != nil {
			return nil, err
		}
	}
	return mapping.Compose(mix.Plan, images, base, mix.Limit)
}

func openImage(ctx context.Context, ref TreeRef, origin mapping.Origin, o Options, open *closers) (*mapping.Image, error) {
	tree, closer, err := OpenTree(ctx, ref, o)
	if err != nil {
		return nil, fmt.Errorf("image of %s: %w", origin.Point, err)
	}
	*open = append(*open, closer)
	cluster, err := relmap.Open(tree)
	if err != nil {
		return nil, fmt.Errorf("image of %s: %w", origin.Point, err)
	}
	return &mapping.Image{Name: origin.Point, Tree: tree, Info: origin, Cluster: cluster}, nil
}
