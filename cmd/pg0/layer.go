package main

import (
	"context"

	"github.com/fukanchik/pg0/cmd/internal/layer"
	"github.com/fukanchik/pg0/cmd/internal/serve"
	"github.com/fukanchik/pg0/cmd/internal/state"
	"github.com/fukanchik/pg0/cmd/internal/supervise"
	"github.com/fukanchik/pg0/mapping"
)

// takeLayer readies the directory of --layer for what the job shows. A plan
// that joins a layer gets its limits there. A new layer keeps WAL beside the
// changes, unless they have a limit, which WAL counts against.
func (f *mountFlags) takeLayer(ctx context.Context, g *global, job *supervise.Job, attach mapping.Record, plan *mapping.Plan) error {
	if f.layer == "" {
		return nil
	}
	record := &layer.Record{
		Kind: job.Mount.Kind, Attach: attach, Tree: job.Recipe.Tree, Provenance: job.Mount.Provenance,
		WAL: job.Mount.Kind != state.Raw && f.layerLimit == 0,
	}
	record, err := layer.Take(ctx, f.layer, record, plan, g.logger)
	if err != nil {
		return err
	}
	if mix := job.Recipe.Tree.Mix; mix != nil {
		mix.Limit = record.Attach.Limit
	}
	job.Attached = record.Configured
	job.Recipe.Layer = serve.Layer{Dir: layer.Store(f.layer), Limit: int64(f.layerLimit)}
	if record.WAL {
		job.Recipe.Layer.WAL = layer.WAL(f.layer)
	}
	return layer.Write(f.layer, record)
}
