package catalog

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/spare-compute/spare"
)

// What a job gets that sets no limits of its own and whose template sets none.
const (
	DefaultTaskTimeout = time.Hour
	DefaultJobTimeout  = 24 * time.Hour
	DefaultRetries     = 3 // distinct nodes that may fail a chunk
)

// maxAppParams is the size in bytes of an App's merged parameters. With a chunk's input of
// up to 64 KiB and the App's manifest they must fit into a message (protocol.MaxFrame).
const maxAppParams = 256 << 10

// Plan makes every choice of a job and pins it: the App's revision, the strategies with
// their settings, the parameters merged from template, preset and job, what a node must
// offer, and the limits. A later push changes none of it.
func (c *Catalog) Plan(ctx context.Context, job spare.Job) (spare.Plan, error) {
	t, err := c.Template(ctx, job.Template)
	if err != nil {
		return spare.Plan{}, err
	}
	app, err := c.ResolveActive(ctx, spare.KindApp, t.App)
	if err != nil {
		return spare.Plan{}, err
	}
	if err := runnable(app); err != nil {
		return spare.Plan{}, err
	}
	if err := checkTemplate(t); err != nil { // stored by an earlier release, perhaps
		return spare.Plan{}, err
	}
	s, err := c.settings(ctx, t, app, job.Params)
	if err != nil {
		return spare.Plan{}, err
	}
	plan := spare.Plan{
		App: app, Needs: app.Needs,
		Partitioner: s.partitioner, PartitionCfg: s.partition,
		Assembler: s.assembler, AssembleCfg: s.assemble,
		AppParams:   s.app,
		TaskTimeout: limit(job.Config.TaskTimeout, t.Config.TaskTimeout, DefaultTaskTimeout),
		JobTimeout:  limit(job.Config.JobTimeout, t.Config.JobTimeout, DefaultJobTimeout),
		MaxRetries:  cmp.Or(job.Config.MaxTaskRetries, t.Config.MaxTaskRetries, DefaultRetries),
	}
	if plan.Pool, err = pool(t); err != nil {
		return spare.Plan{}, err
	}
	if app.Environment.Image != "" {
		plan.Needs.Tools = nil // the image brings them
		return plan, nil
	}
	tools := slices.Sorted(slices.Values(slices.Concat(app.Needs.Tools, s.tools)))
	plan.Needs.Tools = slices.Compact(tools)
	plan.App.Environment.Native = plan.App.Environment.Native || len(tools) > 0
	return plan, nil
}

func limit(job, template int, otherwise time.Duration) time.Duration {
	if seconds := cmp.Or(job, template); seconds > 0 {
		return time.Duration(seconds) * time.Second
	}
	return otherwise
}

// ValidateParams checks a job's parameters as Plan will, as soon as they are given. It
// says nothing of a job that has none yet.
func (c *Catalog) ValidateParams(ctx context.Context, template string, params spare.Params) error {
	t, err := c.Template(ctx, template)
	if err != nil {
		return err
	}
	if params.Preset == "" && !filled(params.Data) && !filled(params.App) && !filled(params.Partitioner) && !filled(params.Assembler) {
		return nil
	}
	app, err := c.Resolve(ctx, spare.KindApp, t.App)
	if err != nil {
		return err
	}
	_, err = c.settings(ctx, t, app, params)
	return err
}

// settled is what each stage of a job is told.
type settled struct {
	partitioner, assembler   string
	partition, assemble, app json.RawMessage
	tools                    []string
}

// settings merges and checks the parameters of all stages.
func (c *Catalog) settings(ctx context.Context, t spare.Template, app spare.App, params spare.Params) (settled, error) {
	var s settled
	var err error
	s.partitioner, s.partition, err = c.stage(ctx, spare.KindPartitioner, t.Partitioner, t.PartitionCfg, t.Params.Partitioner, params.Partitioner)
	if err != nil {
		return s, err
	}
	s.assembler, s.assemble, err = c.stage(ctx, spare.KindAssembler, t.Assembler, t.AssembleCfg, t.Params.Assembler, params.Assembler)
	if err != nil {
		return s, err
	}
	preset, err := c.preset(ctx, t.ID, cmp.Or(params.Preset, t.Params.Preset))
	if err != nil {
		return s, err
	}
	path := "params.app"
	if filled(params.Data) {
		path = "params.data" // as the client wrote it
		if filled(params.App) {
			return s, &FieldError{Path: path, Message: "data and app mean the same; give one of them"}
		}
	}
	value, err := layer(path, t.Params.Data, t.Params.App, preset.Data, params.Data, params.App)
	if err != nil {
		return s, err
	}
	schema, err := c.schemaOf(ctx, t, app)
	if err != nil {
		return s, err
	}
	rules, err := compileIf(schema.Body)
	if err != nil {
		return s, err
	}
	if rules != nil {
		if err := rules.check(path, value); err != nil {
			return s, err
		}
		s.tools = rules.tools(value)
	}
	if s.app, err = encode(value); err == nil && len(s.app) > maxAppParams {
		err = &FieldError{Path: path, Message: fmt.Sprintf(
			"the App's parameters have %d bytes with those of template and preset, and may have %d: they go to a node with every chunk; put what is long into the input", len(s.app), maxAppParams)}
	}
	return s, err
}

// stage merges and checks the settings of a partition or merge strategy.
func (c *Catalog) stage(ctx context.Context, kind spare.Kind, name string, layers ...json.RawMessage) (string, json.RawMessage, error) {
	name, schema, err := c.strategy(ctx, kind, name)
	if err != nil {
		return "", nil, err
	}
	path := "params." + string(kind)
	value, err := layer(path, layers...)
	if err != nil {
		return "", nil, err
	}
	rules, err := compileIf(schema)
	if err != nil {
		return "", nil, err
	}
	if rules != nil {
		if err := rules.check(path, value); err != nil {
			return "", nil, err
		}
	}
	merged, err := encode(value)
	return name, merged, err
}
