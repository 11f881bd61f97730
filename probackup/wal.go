package probackup

import (
	"context"

	"github.com/fukanchik/pg0"
)

func (c *Catalog) WAL(ctx context.Context, name string) (pg0.File, error) { return nil, nil }
func (c *Catalog) WALNames(ctx context.Context) ([]string, error)         { return nil, nil }
