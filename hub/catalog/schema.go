package catalog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/store"
)

// schemaURL is the base of a schema that names none itself. Nothing is fetched from it.
const schemaURL = "spare:///schema.json"

// A ruleset is a compiled schema of parameters.
type ruleset struct {
	compiler *jsonschema.Compiler
	root     *jsonschema.Schema
}

// noLoader refuses to fetch what a schema refers to: a schema is whole, or not taken.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("it refers to %.120q, and schemas are not fetched: put it into $defs and refer to it with #", url)
}

// compile reads a JSON Schema (2020-12 unless it says draft-07).
func compile(raw []byte) (*ruleset, error) {
	if len(raw) > maxJSON {
		return nil, refuse("the schema has %d bytes; at most %d are read", len(raw), maxJSON)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return nil, refuse("the schema is no valid JSON: %v", err)
	}
	switch doc.(type) {
	case map[string]any, bool:
	default:
		return nil, refuse("the schema must be a JSON object")
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(noLoader{})
	c.AssertFormat()
	c.RegisterVocabulary(toolVocabulary())
	c.AssertVocabs()
	if err := c.AddResource(schemaURL, doc); err != nil {
		return nil, refuse("the schema cannot be used: %v", err)
	}
	root, err := c.Compile(schemaURL)
	if err != nil {
		return nil, refuse("the schema cannot be used: %s", schemaFault(err))
	}
	return &ruleset{compiler: c, root: root}, nil
}

// schemaFault says in one line what is wrong with a schema.
func schemaFault(err error) string {
	var load *jsonschema.LoadURLError
	if errors.As(err, &load) {
		return load.Err.Error()
	}
	var invalid *jsonschema.SchemaValidationError
	if errors.As(err, &invalid) {
		var v *jsonschema.ValidationError
		if errors.As(invalid.Err, &v) {
			if faults := explain(v, &ruleset{}, "schema"); len(faults) > 0 {
				return faults[0].Error()
			}
		}
	}
	return err.Error()
}

// check validates parameters and says of every wrong one where it is and what is allowed.
func (r *ruleset) check(path string, value any) error {
	if err := join(r.faults(path, value)); err != nil {
		return err
	}
	return nil
}

// checkPart validates parameters to which others will be added: nothing is missing yet.
func (r *ruleset) checkPart(path string, value any) error {
	var faults []*FieldError
	for _, f := range r.faults(path, value) {
		if f.Message != missing {
			faults = append(faults, f)
		}
	}
	if err := join(faults); err != nil {
		return err
	}
	return nil
}

func (r *ruleset) faults(path string, value any) []*FieldError {
	err := r.root.Validate(value)
	if err == nil {
		return nil
	}
	var v *jsonschema.ValidationError
	if !errors.As(err, &v) {
		return []*FieldError{{Path: path, Message: err.Error()}}
	}
	return explain(v, r, path)
}

// join makes one error of many, nil of none. It shows the first few.
func join(faults []*FieldError) *FieldError {
	const most = 5
	if len(faults) == 0 {
		return nil
	}
	first := *faults[0]
	first.Also = faults[1:min(len(faults), most)]
	return &first
}

// readSchema reads {"id", "version", "schema"}, or a bare schema that goes by the given
// id and version.
func readSchema(raw []byte, id, version string) (spare.Schema, error) {
	var wrapped map[string]json.RawMessage
	if err := json.Unmarshal(raw, &wrapped); err != nil {
		return spare.Schema{}, &FieldError{Path: "schema", Message: notThis(raw, err, "an object")}
	}
	s := spare.Schema{ID: id, Version: version, Body: compact(raw)}
	if body, ok := wrapped["schema"]; ok && wrapped["properties"] == nil && wrapped["$ref"] == nil {
		o := readObject("", raw)
		s.Body = o.raw("schema")
		if v := o.text("id", "schema_id"); v != "" {
			s.ID = v
		}
		if v := o.label("version", "schema_version"); v != "" {
			s.Version = v
		}
		if o.err != nil {
			return spare.Schema{}, o.err
		}
		if isNull(body) {
			return spare.Schema{}, &FieldError{Path: "schema", Message: "missing; put the JSON Schema here"}
		}
	}
	if err := checkID("id", s.ID); err != nil {
		return spare.Schema{}, err
	}
	if err := checkID("version", s.Version); err != nil {
		return spare.Schema{}, err
	}
	if _, err := compile(s.Body); err != nil {
		return spare.Schema{}, err
	}
	return s, nil
}

// PutSchema checks and stores a schema: {"id", "version", "schema": {…}}.
func (c *Catalog) PutSchema(ctx context.Context, raw []byte) (spare.Schema, error) {
	s, err := readSchema(raw, "", "")
	if err != nil {
		return spare.Schema{}, err
	}
	return s, c.store.PutSchema(ctx, s)
}

// Schemas lists all schemas.
func (c *Catalog) Schemas(ctx context.Context) ([]spare.Schema, error) { return c.store.Schemas(ctx) }

// Schema is the schema of a template's App parameters; its Body is empty if the App has
// none and takes anything.
func (c *Catalog) Schema(ctx context.Context, template string) (spare.Schema, error) {
	t, err := c.Template(ctx, template)
	if err != nil {
		return spare.Schema{}, err
	}
	app, err := c.Resolve(ctx, spare.KindApp, t.App)
	if err != nil {
		return spare.Schema{}, err
	}
	return c.schemaOf(ctx, t, app)
}

// schemaOf finds the schema that a template names, or else the one pushed with its App.
func (c *Catalog) schemaOf(ctx context.Context, t spare.Template, app spare.App) (spare.Schema, error) {
	id, version := t.SchemaID, t.SchemaVersion
	if id == "" {
		id, version = app.Name, app.Version
	}
	if version != "" {
		s, err := c.store.Schema(ctx, id, version)
		if err == nil || !errors.Is(err, store.ErrNotFound) {
			return s, err
		}
		if t.SchemaID == "" {
			return spare.Schema{}, nil
		}
	}
	return c.newestSchema(ctx, id, version)
}

// newestSchema finds the highest version of a schema when a template names none.
func (c *Catalog) newestSchema(ctx context.Context, id, version string) (spare.Schema, error) {
	all, err := c.store.Schemas(ctx)
	if err != nil {
		return spare.Schema{}, err
	}
	var best spare.Schema
	var known []string
	for _, s := range all {
		known = append(known, s.ID)
		if s.ID == id && version == "" && (best.ID == "" || higherSchema(s.Version, best.Version)) {
			best = s
		}
	}
	if best.ID == "" {
		name := id
		if version != "" {
			name += " version " + version
		}
		near := nearest(id, known)
		if near == id {
			near = "" // the version is what is wrong
		}
		return best, &UnknownError{What: "schema", Name: name, Nearest: near, Hint: "push the schema first"}
	}
	return best, nil
}

// higherSchema orders schema versions: whole numbers, or versions like an App's.
func higherSchema(a, b string) bool {
	if !bytes.ContainsAny([]byte(a+b), ".rev") && len(a) != len(b) {
		return len(a) > len(b)
	}
	if order := spare.CompareVersions(a, b); order != 0 {
		return order > 0
	}
	return a > b
}
