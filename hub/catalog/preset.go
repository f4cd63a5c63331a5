package catalog

import (
	"context"
	"fmt"

	"github.com/spare-compute/spare"
)

// noPreset is the contract's name for no preset at all.
const noPreset = "unpackaged"

// readPreset reads {"id", "description", "data"}, or bare data that goes by the given id.
func readPreset(raw []byte, template, id string) (spare.Preset, error) {
	o := readObject("preset", raw)
	if o.err != nil {
		return spare.Preset{}, o.err
	}
	p := spare.Preset{Template: template, ID: id}
	if _, wrapped := o.fields["data"]; wrapped {
		p.Description = o.text("description")
		p.Data = o.settings("data")
		if v := o.text("id", "name"); v != "" {
			p.ID = v
		}
		if v := o.text("template"); v != "" && template == "" {
			p.Template = v
		}
		if keys := o.unknown(); len(keys) > 0 && o.err == nil {
			return p, unknownField(o.at(keys[0]), keys[0], []string{"id", "description", "template", "data"})
		}
	} else {
		p.Data = compact(raw)
	}
	if o.err != nil {
		return p, o.err
	}
	if err := checkID("preset.id", p.ID); err != nil {
		return p, err
	}
	if p.ID == noPreset {
		return p, &FieldError{Path: "preset.id", Message: fmt.Sprintf("%q means no preset; choose another name", noPreset)}
	}
	if isNull(p.Data) {
		return p, &FieldError{Path: "preset.data", Message: missing}
	}
	return p, nil
}

// PutPreset checks a preset against the schema of its template's App and stores it.
func (c *Catalog) PutPreset(ctx context.Context, template string, raw []byte) (spare.Preset, error) {
	p, err := readPreset(raw, template, "")
	if err != nil {
		return p, err
	}
	schema, err := c.Schema(ctx, p.Template)
	if err != nil {
		return p, err
	}
	if err := checkPreset(p, schema); err != nil {
		return p, err
	}
	return p, c.store.PutPreset(ctx, p)
}

// checkPreset validates what a preset says. What it leaves to the job may be missing.
func checkPreset(p spare.Preset, schema spare.Schema) error {
	rules, err := compileIf(schema.Body)
	if err != nil || rules == nil {
		return err
	}
	value, err := layer("preset.data", p.Data)
	if err != nil {
		return err
	}
	return rules.checkPart("preset.data", value)
}

// Presets lists a template's presets.
func (c *Catalog) Presets(ctx context.Context, template string) ([]spare.Preset, error) {
	if _, err := c.Template(ctx, template); err != nil {
		return nil, err
	}
	return c.store.Presets(ctx, template)
}

// preset finds a preset that a job names; the empty name and "unpackaged" are none.
func (c *Catalog) preset(ctx context.Context, template, id string) (spare.Preset, error) {
	if id == "" || id == noPreset {
		return spare.Preset{}, nil
	}
	all, err := c.store.Presets(ctx, template)
	if err != nil {
		return spare.Preset{}, err
	}
	var known []string
	for _, p := range all {
		if p.ID == id {
			return p, nil
		}
		known = append(known, p.ID)
	}
	message := fmt.Sprintf("template %s has no preset %.80q", template, id)
	if near := nearest(id, known); near != "" {
		return spare.Preset{}, &FieldError{Path: "params.preset", Message: message + fmt.Sprintf("; did you mean %q?", near), Allowed: known}
	}
	if len(known) == 0 {
		return spare.Preset{}, &FieldError{Path: "params.preset", Message: message + ", and no other; leave it out"}
	}
	return spare.Preset{}, fieldError("params.preset", message, known...)
}
