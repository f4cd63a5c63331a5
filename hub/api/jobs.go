package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/catalog"
	"github.com/spare-compute/spare/hub/datasource"
	"github.com/spare-compute/spare/hub/store"
)

// jobOf returns the job that the path names, if the caller may read it; write asks that
// the caller may change it. A job that the caller may not see is not there at all.
func (s *server) jobOf(r *http.Request, write bool) (spare.Job, error) {
	id, err := parseJobID("job id", r.PathValue("id"))
	if err != nil {
		return spare.Job{}, err
	}
	missing := refuse(http.StatusNotFound, "no job %s: GET /v1/customer/jobs lists yours", id)
	j, err := s.Store.Job(r.Context(), id)
	switch k := caller(r.Context()); {
	case errors.Is(err, store.ErrNotFound):
		return j, missing
	case err != nil:
		return j, err
	case !sees(k, j.Owner):
		return j, missing
	case write && !changes(k, j.Owner):
		return j, refuse(http.StatusForbidden, "job %s belongs to %s: this key may only read it", id, j.Owner)
	}
	return j, nil
}

func parseJobID(path, given string) (spare.JobID, error) {
	u, err := uuid.Parse(given)
	if err != nil || len(given) != 36 {
		return "", refuseField(path, "%.60q is no job id; it looks like 0f0e9d3c-6a3b-4c1d-9e2f-1b2c3d4e5f60", given)
	}
	return spare.JobID(u.String()), nil
}

// checkName refuses what cannot be shown in a line or a file name.
func checkName(path, name string) error {
	const longest = 200
	if !utf8.ValidString(name) || len(name) > longest || strings.ContainsFunc(name, unicode.IsControl) {
		return refuseField(path, "want a line of at most %d bytes of plain text", longest)
	}
	return nil
}

// serverSet are the fields of a job, as plain spells them, that clients send back with a
// job they got.
var serverSet = []string{
	"id", "state", "submittedat", "startedat", "completedat", "endedat", "duration", "deletedat", "createdat",
	"paymentamount", "numunitsestimation", "numchunks", "numchunksdone", "errormessage", "statetimestamps",
	"appid", "templateinfo", "owner", "summary",
}

// plain makes one spelling of jobTimeout, job_timeout and JobTimeout, as clients write them.
func plain(field string) string { return strings.ToLower(strings.ReplaceAll(field, "_", "")) }

// change is what a body asks of a draft; nil leaves a part as it is.
type change struct {
	template, name, description *string
	source, destination         *spare.DataPoint
	params                      *spare.Params
	config                      map[string]json.RawMessage
}

// parseChange reads the fields of a job from a body.
func (s *server) parseChange(obj map[string]json.RawMessage) (change, error) {
	var c change
	if err := checkEnforced(obj); err != nil {
		return c, err
	}
	texts := map[string]**string{"templateid": &c.template, "name": &c.name, "description": &c.description}
	for _, field := range slices.Sorted(maps.Keys(obj)) {
		raw := obj[field]
		if isNull(raw) {
			continue
		}
		var err error
		switch name := plain(field); name {
		case "templateid", "name", "description":
			var v string
			if v, err = text(field, raw); err == nil && name != "description" {
				err = checkName(field, v)
			}
			*texts[name] = &v
		case "datasource":
			c.source, err = s.parseSource(raw)
		case "datadestination":
			c.destination, err = parseDestination(raw)
		case "params":
			var p spare.Params
			p, err = catalog.ParseParams(raw)
			c.params = &p
		case "config":
			c.config, err = parseObject("config", raw)
		case "jobid", "priority", "startat", "deadline", "regions": // unset, or checkEnforced had refused them
		default:
			if !slices.Contains(serverSet, name) {
				err = refuseField(field, "a job has no such field; it has templateId, name, description, dataSource, dataDestination, params and config")
			}
		}
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

// checkEnforced refuses job fields that nothing here enforces yet.
func checkEnforced(obj map[string]json.RawMessage) error {
	raw, err := json.Marshal(obj)
	if err != nil {
		return fmt.Errorf("read the job again: %w", err)
	}
	return catalog.CheckJob(raw)
}

// apply lays the change over a draft.
func (c change) apply(j *spare.Job) error {
	if j.State != spare.JobDraft {
		return refuse(http.StatusConflict, "job %s is %s and can no longer be changed: create a new one", j.ID, j.State)
	}
	for to, v := range map[*string]*string{&j.Template: c.template, &j.Name: c.name, &j.Description: c.description} {
		if v != nil {
			*to = *v
		}
	}
	if c.source != nil {
		if !isUpload(*c.source) {
			j.Input = nil // an upload before it counts no more
		}
		j.Source = *c.source
	}
	if c.destination != nil {
		j.Destination = *c.destination
	}
	if c.params != nil {
		j.Params = *c.params
	}
	if c.config != nil {
		merged, err := mergeConfig(j.Config, c.config)
		if err != nil {
			return err
		}
		j.Config = merged
	}
	return nil
}

// mergeConfig lays the fields that a client named over the config there is.
func mergeConfig(c spare.JobConfig, given map[string]json.RawMessage) (spare.JobConfig, error) {
	raw, err := json.Marshal(given)
	if err != nil {
		return c, fmt.Errorf("read config again: %w", err)
	}
	parsed, err := catalog.ParseConfig(raw)
	if err != nil {
		return c, err
	}
	for field, v := range given {
		if isNull(v) {
			continue
		}
		switch plain(field) {
		case "tasktimeout":
			c.TaskTimeout = parsed.TaskTimeout
		case "jobtimeout":
			c.JobTimeout = parsed.JobTimeout
		case "maxtaskretries":
			c.MaxTaskRetries = parsed.MaxTaskRetries
		case "istestjob":
			c.IsTestJob = parsed.IsTestJob
		}
	}
	return c, nil
}

func (s *server) parseSource(raw json.RawMessage) (*spare.DataPoint, error) {
	dp, err := catalog.ParseDataPoint(raw)
	if err != nil {
		return nil, err
	}
	delete(dp.Params, "tempUrl") // ours to fill
	delete(dp.Params, "temp_url")
	if !isUpload(dp) {
		if err := s.Sources.Check(dp); err != nil {
			return nil, asField("dataSource", err)
		}
	}
	return &dp, nil
}

func parseDestination(raw json.RawMessage) (*spare.DataPoint, error) {
	dp, err := catalog.ParseDataPoint(raw)
	if err != nil {
		return nil, err
	}
	if err := datasource.CheckDestination(dp); err != nil {
		return nil, asField("dataDestination", err)
	}
	return &dp, nil
}

// asField makes an error that is not one yet about a field.
func asField(path string, err error) error {
	var field *catalog.FieldError
	if errors.As(err, &field) {
		return err
	}
	return refuseField(path, "%s", err)
}

// settle checks what a changed draft now says against the catalogue, and adds to the
// change what the template gives where the job says nothing.
func (s *server) settle(ctx context.Context, j spare.Job, c *change) error {
	if j.Template == "" {
		return refuseField("templateId", "missing: GET /v1/customer/jobs/templates lists what there is")
	}
	if c.template != nil {
		t, err := s.template(ctx, j.Template)
		if err != nil {
			return err
		}
		if j.Source.Descriptor == "" {
			c.source = t.Source
		}
		if j.Destination.Descriptor == "" {
			c.destination = t.Destination
		}
		if j.Name == "" {
			c.name = &t.ID
		}
	}
	if c.params != nil || c.template != nil {
		return s.Catalog.ValidateParams(ctx, j.Template, j.Params)
	}
	return nil
}

// template returns a template that the caller may use.
func (s *server) template(ctx context.Context, id string) (spare.Template, error) {
	t, err := s.Catalog.Template(ctx, id)
	if err != nil {
		return t, err
	}
	if !usable(caller(ctx), t.Owner, t.Public) {
		return t, &catalog.UnknownError{What: "template", Name: id, Hint: "GET /v1/customer/jobs/templates lists what there is"}
	}
	return t, nil
}

// usable reports whether the caller may use and read pushed code or a template.
func usable(k store.Key, owner string, isPublic bool) bool {
	return isPublic || owner == catalog.Official || sees(k, owner)
}

func (s *server) createJob(w http.ResponseWriter, r *http.Request) error {
	obj, err := readObject(w, r, maxBody)
	if err != nil {
		return err
	}
	given, err := text("jobId", obj["jobId"])
	if err != nil {
		return err
	}
	c, err := s.parseChange(obj)
	if err != nil {
		return err
	}
	id := spare.JobID(uuid.NewString())
	if given != "" {
		if id, err = parseJobID("jobId", given); err != nil {
			return err
		}
		_, err := s.Store.Job(r.Context(), id)
		if err == nil {
			r.SetPathValue("id", string(id))
			return s.changeJob(w, r, c, true)
		}
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	j := spare.Job{
		ID: id, Owner: caller(r.Context()).Owner, State: spare.JobDraft, CreatedAt: s.Now().UTC(),
	}
	if err := c.apply(&j); err != nil {
		return err
	}
	if err := s.settle(r.Context(), j, &c); err != nil {
		return err
	}
	if err := c.apply(&j); err != nil {
		return err
	}
	if err := s.Store.CreateJob(r.Context(), j); err != nil {
		return err
	}
	return s.answerJob(w, r, j, true)
}

// answerJob sends {job} or, with info, {job, templateInfo}.
func (s *server) answerJob(w http.ResponseWriter, r *http.Request, j spare.Job, withInfo bool) error {
	info, err := s.infoFor(r.Context(), j.Template)
	if err != nil {
		return err
	}
	out := map[string]any{"job": s.showJob(r, j, info)}
	if withInfo {
		out["templateInfo"] = info
	}
	return writeJSON(w, http.StatusOK, out)
}

func (s *server) infoFor(ctx context.Context, template string) (*templateInfo, error) {
	t, err := s.Store.Template(ctx, template)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil // deleted since
	}
	if err != nil {
		return nil, err
	}
	return infoOf(t), nil
}

func (s *server) getJob(w http.ResponseWriter, r *http.Request) error {
	j, err := s.jobOf(r, false)
	if err != nil {
		return err
	}
	return s.answerJob(w, r, j, true)
}

// changeJob lays c over the draft that the path names and answers with it.
func (s *server) changeJob(w http.ResponseWriter, r *http.Request, c change, withInfo bool) error {
	j, err := s.update(r, c)
	if err != nil {
		return err
	}
	return s.answerJob(w, r, j, withInfo)
}

func (s *server) update(r *http.Request, c change) (spare.Job, error) {
	j, err := s.jobOf(r, true)
	if err != nil {
		return j, err
	}
	if err := c.apply(&j); err != nil {
		return j, err
	}
	if err := s.settle(r.Context(), j, &c); err != nil {
		return j, err
	}
	return s.Store.UpdateJob(r.Context(), j.ID, c.apply)
}
