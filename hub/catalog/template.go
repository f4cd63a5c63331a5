package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/store"
)

// DefaultPool serves templates that name none.
const DefaultPool = "trusted"

// ParseTemplate reads a template in either era's form. What it does not understand comes
// back as warnings; what it understands and nothing enforces is refused.
func ParseTemplate(raw []byte) (spare.Template, []string, error) {
	if len(raw) > maxJSON {
		return spare.Template{}, nil, refuse("the template has %d bytes; at most %d are read", len(raw), maxJSON)
	}
	o := readObject("", raw)
	t := spare.Template{
		ID:            o.text("id", "name"),
		Description:   o.text("description"),
		App:           o.text("app"),
		Partitioner:   o.text("partitioner", "partitioning_strategy"),
		PartitionCfg:  o.settings("partitioning_strategy_config"),
		Assembler:     o.text("assembler", "merge_strategy"),
		AssembleCfg:   o.settings("merge_strategy_config"),
		ScheduleCfg:   o.settings("scheduling_strategy_config"),
		SchemaID:      o.text("schema_id"),
		SchemaVersion: o.label("schema_version"),
		Streamable:    o.flag("streamable"),
		Public:        o.flag("public", "is_public"),
	}
	_, _ = o.take("owner", "created_at", "updated_at", "user_name") // the hub's to say
	var err error
	if t.Source, err = readPoint(o, "dataSource"); err != nil {
		return t, nil, err
	}
	if t.Destination, err = readPoint(o, "dataDestination"); err != nil {
		return t, nil, err
	}
	if t.Params, err = parseParams(o.object("params")); err != nil {
		return t, nil, err
	}
	if t.Config, err = parseConfig(o.object("config")); err != nil {
		return t, nil, err
	}
	if o.err != nil {
		return t, nil, o.err
	}
	if err := checkUnenforced(o, unenforcedJob); err != nil {
		return t, nil, err
	}
	if err := checkTemplate(t); err != nil {
		return t, nil, err
	}
	var warnings []string
	for _, key := range o.unknown() {
		if _, known := unenforcedJob[canonical(key)]; !known {
			warnings = append(warnings, fmt.Sprintf("template %s: %q is not known and has no effect", t.ID, key))
		}
	}
	return t, warnings, nil
}

func readPoint(o *object, key string) (*spare.DataPoint, error) {
	sub := o.object(key)
	dp, err := parseDataPoint(sub)
	if err != nil || dp.Descriptor == "" {
		return nil, err
	}
	return &dp, nil
}

// checkTemplate looks at what a template says by itself.
func checkTemplate(t spare.Template) error {
	if err := checkID("id", t.ID); err != nil {
		return err
	}
	if t.Streamable {
		return &FieldError{Path: "streamable", Message: "true is refused: tasks start only when the input is cut; leave it out"}
	}
	_, err := pool(t)
	return err
}

// pool reads the one setting of scheduling_strategy_config that is enforced.
func pool(t spare.Template) (string, error) {
	o := readObject("scheduling_strategy_config", t.ScheduleCfg)
	name := o.text("pool")
	if o.err != nil {
		return "", o.err
	}
	if name != "" && spare.CheckName(name) != nil {
		return "", &FieldError{Path: o.at("pool"), Message: fmt.Sprintf("%.60q is no name of a pool; use letters, digits, '_' and '-'", name)}
	}
	for _, key := range o.unknown() {
		if f := o.fields[canonical(key)]; !unset(canonical(key), f.value) {
			return "", &FieldError{
				Path: o.at(key), Allowed: []string{"pool"},
				Message: shorten(f.value) + " is refused: nothing enforces this field yet; pool is the one that is",
			}
		}
	}
	if name == "" {
		name = DefaultPool
	}
	return name, nil
}

// checkID looks at the id of a template, schema or preset.
func checkID(path, id string) error {
	if id == "" {
		return &FieldError{Path: path, Message: missing}
	}
	ok := len(id) <= 128 && id[0] != '.' && id[0] != '-'
	for _, b := range []byte(id) {
		ok = ok && (b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b == '_' || b == '-' || b == '.' || b == '@')
	}
	if !ok {
		return &FieldError{Path: path, Message: fmt.Sprintf("%.80q cannot be a name here; use up to 128 letters, digits, '_', '-', '.' and '@'", id)}
	}
	return nil
}

// strategy finds a built-in strategy and its settings' schema. Pushed engines have tags of
// their own; nothing runs them yet, and a job must not find that out half-way.
func (c *Catalog) strategy(ctx context.Context, kind spare.Kind, name string) (string, []byte, error) {
	names := slices.Sorted(slices.Values(c.strategies.Names(kind)))
	if name == "" {
		return "", nil, fieldError(string(kind), "missing", names...)
	}
	if schema, known := c.strategies.ConfigSchema(kind, name); known {
		return name, schema, nil
	}
	tag, err := spare.ParseTag(name)
	if err == nil {
		if schema, known := c.strategies.ConfigSchema(kind, tag.Name); known { // built-in ones have one version
			return tag.Name, schema, nil
		}
		switch _, err := c.Resolve(ctx, kind, name); {
		case err == nil:
			return "", nil, fieldError(string(kind), fmt.Sprintf("%q is a custom %s, and custom %ss are not run yet", name, kind, kind), names...)
		case !errors.Is(err, store.ErrNotFound):
			return "", nil, err
		}
	}
	message := fmt.Sprintf("there is no %s %.80q", kind, name)
	if near := nearest(name, names); near != "" {
		message += fmt.Sprintf("; did you mean %q?", near)
	} else {
		message += fmt.Sprintf(", and custom %ss are not run yet", kind)
	}
	return "", nil, fieldError(string(kind), message, names...)
}

// PutTemplate checks and stores a template written in either era's form.
func (c *Catalog) PutTemplate(ctx context.Context, raw []byte, owner string) (spare.Template, []string, error) {
	t, warnings, err := ParseTemplate(raw)
	if err != nil {
		return t, nil, err
	}
	if err := c.own(ctx, t.ID, owner); err != nil {
		return t, nil, err
	}
	if t.App == "" {
		return t, nil, &FieldError{Path: "app", Message: "missing; name the App that the template runs"}
	}
	app, err := c.Resolve(ctx, spare.KindApp, t.App)
	if err != nil {
		return t, nil, err
	}
	schema, err := c.schemaOf(ctx, t, app)
	if err != nil {
		return t, nil, err
	}
	t.Owner = owner
	if t, err = c.settle(ctx, t, schema); err != nil {
		return t, nil, err
	}
	t.CreatedAt = time.Now().UTC() // the store keeps that of the first
	t.UpdatedAt = t.CreatedAt
	t, err = c.store.PutTemplate(ctx, t)
	return t, warnings, err
}

// own refuses to replace somebody else's template.
func (c *Catalog) own(ctx context.Context, id, owner string) error {
	switch have, err := c.store.Template(ctx, id); {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	case have.Owner != owner:
		return forbid("template", id, have.Owner)
	}
	return nil
}

// settle checks what a template says against what it names.
func (c *Catalog) settle(ctx context.Context, t spare.Template, schema spare.Schema) (spare.Template, error) {
	partitioner, partitionRules, err := c.strategy(ctx, spare.KindPartitioner, t.Partitioner)
	if err != nil {
		return t, err
	}
	assembler, assembleRules, err := c.strategy(ctx, spare.KindAssembler, t.Assembler)
	if err != nil {
		return t, err
	}
	t.Partitioner, t.Assembler = partitioner, assembler
	// A job may add what is missing here, so only what is there is checked.
	for _, part := range []struct {
		path   string
		rules  []byte
		values []json.RawMessage
	}{
		{"params.partitioner", partitionRules, []json.RawMessage{t.PartitionCfg, t.Params.Partitioner}},
		{"params.assembler", assembleRules, []json.RawMessage{t.AssembleCfg, t.Params.Assembler}},
		{"params.app", schema.Body, []json.RawMessage{t.Params.Data, t.Params.App}},
	} {
		value, err := layer(part.path, part.values...)
		if err != nil {
			return t, err
		}
		rules, err := compileIf(part.rules)
		if err != nil {
			return t, err
		}
		if rules == nil {
			continue
		}
		if err := rules.checkPart(part.path, value); err != nil {
			return t, err
		}
	}
	return t, nil
}

// compileIf compiles a schema, or none.
func compileIf(raw []byte) (*ruleset, error) {
	if isNull(raw) {
		return nil, nil
	}
	return compile(raw)
}

// Template finds a template by its id, with the nearest name if there is none.
func (c *Catalog) Template(ctx context.Context, id string) (spare.Template, error) {
	t, err := c.store.Template(ctx, id)
	if !errors.Is(err, store.ErrNotFound) {
		return t, err
	}
	all, err := c.store.Templates(ctx)
	if err != nil {
		return spare.Template{}, err
	}
	var known []string
	for _, other := range all {
		known = append(known, other.ID)
	}
	return spare.Template{}, &UnknownError{What: "template", Name: id, Nearest: nearest(id, known), Hint: "list the templates to see which there are"}
}

// Templates lists all templates.
func (c *Catalog) Templates(ctx context.Context) ([]spare.Template, error) {
	return c.store.Templates(ctx)
}
