package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/catalog"
	"github.com/spare-compute/spare/hub/store"
)

// templateJSON is a template in the newer era's form, with the older era's fields beside.
type templateJSON struct {
	ID              string     `json:"id"`
	Name            string     `json:"name"` // the id: clients list by it
	Description     string     `json:"description"`
	App             string     `json:"app"`
	Partitioner     string     `json:"partitioner"`
	Assembler       string     `json:"assembler"`
	DataSource      any        `json:"dataSource"`
	DataDestination any        `json:"dataDestination"`
	Params          paramsJSON `json:"params"`
	Config          configJSON `json:"config"`
	CreatedAt       *string    `json:"createdAt"`
	UpdatedAt       *string    `json:"updatedAt"`
	IsPublic        bool       `json:"isPublic"`
	Owner           string     `json:"owner"`
	UserName        string     `json:"userName"`

	SchemaID      string          `json:"schema_id"`
	SchemaVersion string          `json:"schema_version"`
	Partitioning  string          `json:"partitioning_strategy"`
	PartitionCfg  json.RawMessage `json:"partitioning_strategy_config"`
	Merge         string          `json:"merge_strategy"`
	AssembleCfg   json.RawMessage `json:"merge_strategy_config"`
	ScheduleCfg   json.RawMessage `json:"scheduling_strategy_config"`
	Streamable    bool            `json:"streamable"`
	Public        bool            `json:"public"`
}

func showTemplate(t spare.Template) templateJSON {
	out := templateJSON{
		ID: t.ID, Name: t.ID, Description: t.Description, App: t.App, Partitioner: t.Partitioner, Assembler: t.Assembler,
		Params: paramsJSON{SelectedOutputs: []string{}}, Config: showConfig(t.Config),
		CreatedAt: stamp(t.CreatedAt), UpdatedAt: stamp(t.UpdatedAt), IsPublic: t.Public, Owner: t.Owner, UserName: t.Owner,
		SchemaID: t.SchemaID, SchemaVersion: t.SchemaVersion, Partitioning: t.Partitioner, PartitionCfg: t.PartitionCfg,
		Merge: t.Assembler, AssembleCfg: t.AssembleCfg, ScheduleCfg: t.ScheduleCfg, Streamable: t.Streamable, Public: t.Public,
	}
	if p := showParams(t.Params); p != nil {
		out.Params = *p
	}
	if t.Source != nil {
		out.DataSource = showPoint(*t.Source)
	}
	if t.Destination != nil {
		out.DataDestination = showPoint(*t.Destination)
	}
	return out
}

func (s *server) listTemplates(w http.ResponseWriter, r *http.Request) error {
	p, err := pageOf(r)
	if err != nil {
		return err
	}
	all, err := s.Catalog.Templates(r.Context())
	if err != nil {
		return err
	}
	shown := []templateJSON{}
	for _, t := range all {
		if usable(caller(r.Context()), t.Owner, t.Public) {
			shown = append(shown, showTemplate(t))
		}
	}
	return writeJSON(w, http.StatusOK, map[string]any{
		"data": cut(p, shown), "templates": cut(p, shown), "pagination": p.answer(len(shown)),
	})
}

func (s *server) getTemplate(w http.ResponseWriter, r *http.Request) error {
	t, err := s.template(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, showTemplate(t))
}

func (s *server) pushTemplate(w http.ResponseWriter, r *http.Request) error {
	b, err := readBody(w, r, maxBody)
	if err != nil {
		return err
	}
	t, warnings, err := s.Catalog.PutTemplate(r.Context(), b, caller(r.Context()).Owner)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, generic{
		OK: true, RequestID: requestID(r.Context()), Message: "template " + t.ID + " is stored", Warnings: warnings,
	})
}

// ownTemplate returns a template that the caller may change.
func (s *server) ownTemplate(r *http.Request, id string) (spare.Template, error) {
	t, err := s.template(r.Context(), id)
	if err == nil && !changes(caller(r.Context()), t.Owner) {
		err = refuse(http.StatusForbidden, "template %s belongs to %s: only they or an admin may change it", t.ID, t.Owner)
	}
	return t, err
}

func (s *server) listPresets(w http.ResponseWriter, r *http.Request) error {
	t, err := s.template(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	all, err := s.Catalog.Presets(r.Context(), t.ID)
	if err != nil {
		return err
	}
	all = append([]spare.Preset{}, all...)
	return writeJSON(w, http.StatusOK, map[string]any{"presets": all, "data": all})
}

// pushPreset stores {template, id, description, data}; the path may name the template.
func (s *server) pushPreset(w http.ResponseWriter, r *http.Request) error {
	b, err := readBody(w, r, maxBody)
	if err != nil {
		return err
	}
	obj, err := parseObject("body", b)
	if err != nil {
		return err
	}
	id := r.PathValue("id")
	if id == "" {
		if id, err = text("template", obj["template"]); err != nil {
			return err
		}
	}
	if id == "" {
		return refuseField("template", "missing: say which template the preset is for")
	}
	t, err := s.ownTemplate(r, id)
	if err != nil {
		return err
	}
	p, err := s.Catalog.PutPreset(r.Context(), t.ID, b)
	if err != nil {
		return err
	}
	return s.ok(w, r, "preset "+p.ID+" of template "+t.ID+" is stored")
}

// templateSchema sends the schema of a template's App parameters.
func (s *server) templateSchema(w http.ResponseWriter, r *http.Request) error {
	t, err := s.template(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	found, err := s.Catalog.Schema(r.Context(), t.ID)
	if err != nil {
		return err
	}
	if len(found.Body) == 0 {
		return refuse(http.StatusNotFound, "template %s has no schema: its App takes any parameters", t.ID)
	}
	return writeJSON(w, http.StatusOK, found)
}

func (s *server) listSchemas(w http.ResponseWriter, r *http.Request) error {
	all, err := s.Catalog.Schemas(r.Context())
	if err != nil {
		return err
	}
	type entry struct {
		ID      string `json:"id"`
		Version string `json:"version"`
	}
	out := []entry{}
	for _, sc := range all {
		out = append(out, entry{sc.ID, sc.Version})
	}
	return writeJSON(w, http.StatusOK, map[string]any{"schemas": out, "data": out})
}

// getSchema sends a schema by id and version.
func (s *server) getSchema(w http.ResponseWriter, r *http.Request) error {
	id, version := r.PathValue("id"), r.PathValue("version")
	found, err := s.Store.Schema(r.Context(), id, version)
	if errors.Is(err, store.ErrNotFound) {
		unknown := &catalog.UnknownError{What: "schema", Name: id + "/" + version, Hint: "GET /v1/dev/schemas lists what there is"}
		all, listErr := s.Catalog.Schemas(r.Context())
		for _, sc := range all {
			if listErr == nil && strings.EqualFold(sc.ID, id) {
				unknown.Nearest = sc.ID + "/" + sc.Version
			}
		}
		return unknown
	}
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, found)
}

func (s *server) pushSchema(w http.ResponseWriter, r *http.Request) error {
	b, err := readBody(w, r, maxBody)
	if err != nil {
		return err
	}
	sc, err := s.Catalog.PutSchema(r.Context(), b)
	if err != nil {
		return err
	}
	return s.ok(w, r, "schema "+sc.ID+" version "+sc.Version+" is stored")
}
