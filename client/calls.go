package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spare-compute/spare"
)

const (
	jobsPath = "/v1/computing/jobs"
	get      = http.MethodGet
	post     = http.MethodPost
	patch    = http.MethodPatch
)

func jobPath(id string) string { return jobsPath + "/" + url.PathEscape(id) }

// Info returns the hub's version. It needs no key.
func (c *Client) Info(ctx context.Context) (Info, error) {
	var out Info
	err := c.call(ctx, get, "/v1/computing/info", nil, &out)
	return out, err
}

// Ready returns nil once the hub serves.
func (c *Client) Ready(ctx context.Context) error { return c.call(ctx, get, "/healthz", nil, nil) }

// CreateJob makes a draft.
func (c *Client) CreateJob(ctx context.Context, j NewJob) (Job, error) {
	var out struct{ Job Job }
	err := c.call(ctx, post, jobsPath, j, &out)
	return out.Job, err
}

// Job returns a job.
func (c *Client) Job(ctx context.Context, id string) (Job, error) {
	var out struct{ Job Job }
	err := c.call(ctx, get, jobPath(id), nil, &out)
	return out.Job, err
}

// ListOptions select jobs; zero values select all.
type ListOptions struct {
	State, Template string
	Limit, Offset   int
}

// Jobs returns jobs, newest first, and how many there are in all.
func (c *Client) Jobs(ctx context.Context, opt ListOptions) ([]Job, int, error) {
	type filter struct {
		Field     string `json:"field"`
		Condition string `json:"condition"`
		Value     string `json:"value"`
	}
	filters := []filter{}
	for field, value := range map[string]string{"state": opt.State, "templateId": opt.Template} {
		if value != "" {
			filters = append(filters, filter{field, "FILTER_CONDITION_EQ", value})
		}
	}
	body := map[string]any{"filters": filters, "pagination": map[string]int{"limit": opt.Limit, "offset": opt.Offset}}
	var out struct {
		Data       []Job
		Pagination struct{ Total int }
	}
	err := c.call(ctx, post, jobsPath+"/filter", body, &out)
	return out.Data, out.Pagination.Total, err
}

// Run starts a draft, and returns what the hub warns of. A job that runs already, because
// the answer to an earlier try was lost, is as good as started.
func (c *Client) Run(ctx context.Context, id string) (warning string, err error) {
	warning, err = c.warned(ctx, jobPath(id)+"/run", map[string]any{})
	if IsConflict(err) {
		if j, jobErr := c.Job(ctx, id); jobErr == nil && j.State != StateNew {
			return "", nil
		}
	}
	return warning, err
}

// warned posts, and returns the warning in the answer's message, if there is one.
func (c *Client) warned(ctx context.Context, path string, in any) (warning string, err error) {
	var out struct{ Message string }
	if err := c.call(ctx, post, path, in, &out); err != nil {
		return "", err
	}
	_, warning, _ = strings.Cut(out.Message, "warning: ")
	return warning, nil
}

// Abort ends a job; one that never ran is deleted.
func (c *Client) Abort(ctx context.Context, id string) error {
	return c.call(ctx, post, jobPath(id)+"/abort", nil, nil)
}

// Delete removes a job that has ended or never ran.
func (c *Client) Delete(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, jobPath(id), nil, nil)
}

// Results lists what a complete job made.
func (c *Client) Results(ctx context.Context, id string) ([]Result, error) {
	var out struct{ Results []Result }
	err := c.call(ctx, get, jobPath(id)+"/results", nil, &out)
	return out.Results, err
}

// Progress tells where a job is.
func (c *Client) Progress(ctx context.Context, id string) (Progress, error) {
	var out Progress
	err := c.call(ctx, get, jobPath(id)+"/progress", nil, &out)
	return out, err
}

// Why tells what a job waits for.
func (c *Client) Why(ctx context.Context, id string) (Why, error) {
	var out Why
	err := c.call(ctx, get, jobPath(id)+"/why", nil, &out)
	return out, err
}

// Logs returns what a job printed, of some tasks or of all.
func (c *Client) Logs(ctx context.Context, id string, tasks ...string) (Logs, error) {
	var out Logs
	err := c.call(ctx, post, "/v1/computing/logs", map[string]any{"jobId": id, "taskIds": tasks}, &out)
	return out, err
}

// pages collects a paged list.
func pages[T any](ctx context.Context, c *Client, path string) ([]T, error) {
	const size = 1000
	var all []T
	for {
		var out struct {
			Data       []T
			Pagination struct{ HasNext bool }
		}
		q := url.Values{"limit": {strconv.Itoa(size)}, "offset": {strconv.Itoa(len(all))}}
		if err := c.call(ctx, get, path+"?"+q.Encode(), nil, &out); err != nil {
			return all, err
		}
		all = append(all, out.Data...)
		if !out.Pagination.HasNext || len(out.Data) == 0 {
			return all, nil
		}
	}
}

// Tasks returns a job's tasks in chunk order.
func (c *Client) Tasks(ctx context.Context, id string) ([]spare.Task, error) {
	return pages[spare.Task](ctx, c, jobPath(id)+"/tasks")
}

// Attempts returns a job's attempts in the order they were granted.
func (c *Client) Attempts(ctx context.Context, id string) ([]spare.Attempt, error) {
	return pages[spare.Attempt](ctx, c, jobPath(id)+"/attempts")
}

// Nodes returns the machines the hub knows.
func (c *Client) Nodes(ctx context.Context) ([]spare.Node, error) {
	return pages[spare.Node](ctx, c, "/v1/computing/nodes")
}

// Apps and engines are pushed, listed and switched alike; what names the path.
const (
	Apps    = "apps"
	Engines = "engines"
)

func devPath(what, tag, verb string) string {
	p := "/v1/dev/" + what + "/" + url.PathEscape(tag)
	if verb != "" {
		p += "/" + verb
	}
	return p
}

// Push sends a packed folder (tar, perhaps compressed, or zip).
func (c *Client) Push(ctx context.Context, what string, archive []byte) (App, error) {
	return c.PushSigned(ctx, what, archive, nil)
}

// List returns the newest revision of every version.
func (c *Client) List(ctx context.Context, what string) ([]App, error) {
	return pages[App](ctx, c, "/v1/dev/"+what)
}

// App returns what a tag means, and all that the hub says of it.
func (c *Client) App(ctx context.Context, what, tag string) (App, json.RawMessage, error) {
	var raw json.RawMessage
	if err := c.call(ctx, get, devPath(what, tag, ""), nil, &raw); err != nil {
		return App{}, nil, err
	}
	var wrapped struct{ App json.RawMessage }
	if json.Unmarshal(raw, &wrapped) == nil && wrapped.App != nil {
		raw = wrapped.App
	}
	var out App
	err := json.Unmarshal(raw, &out)
	return out, raw, err
}

// Activate lets jobs use a version; Deactivate stops that.
func (c *Client) Activate(ctx context.Context, what, tag string) error {
	return c.call(ctx, post, devPath(what, tag, "activate"), nil, nil)
}

// Deactivate keeps new jobs from a version.
func (c *Client) Deactivate(ctx context.Context, what, tag string) error {
	return c.call(ctx, post, devPath(what, tag, "deactivate"), nil, nil)
}

// Stored is the hub's word on something it stored.
type Stored struct {
	Message  string   `json:"message"`
	Warnings []string `json:"warnings,omitempty"`
}

// PushTemplate stores a template.
func (c *Client) PushTemplate(ctx context.Context, body json.RawMessage) (Stored, error) {
	var out Stored
	err := c.call(ctx, post, "/v1/dev/templates", body, &out)
	return out, err
}

// Templates lists the templates that may be used.
func (c *Client) Templates(ctx context.Context) ([]Template, error) {
	return pages[Template](ctx, c, "/v1/dev/templates")
}

// Template returns all that the hub says of a template.
func (c *Client) Template(ctx context.Context, id string) (json.RawMessage, error) {
	var out json.RawMessage
	err := c.call(ctx, get, "/v1/dev/templates/"+url.PathEscape(id), nil, &out)
	return out, err
}

// PushPreset stores a preset of a template.
func (c *Client) PushPreset(ctx context.Context, template string, body json.RawMessage) (Stored, error) {
	var out Stored
	err := c.call(ctx, post, "/v1/dev/templates/"+url.PathEscape(template)+"/presets", body, &out)
	return out, err
}

// Presets lists a template's presets.
func (c *Client) Presets(ctx context.Context, template string) ([]spare.Preset, error) {
	var out struct{ Presets []spare.Preset }
	err := c.call(ctx, get, "/v1/dev/templates/"+url.PathEscape(template)+"/presets", nil, &out)
	return out.Presets, err
}

// PushSchema stores {"id", "version", "schema"}.
func (c *Client) PushSchema(ctx context.Context, body json.RawMessage) (Stored, error) {
	var out Stored
	err := c.call(ctx, post, "/v1/dev/schemas", body, &out)
	return out, err
}

// Schema returns one version of a schema.
func (c *Client) Schema(ctx context.Context, id, version string) (spare.Schema, error) {
	var out spare.Schema
	err := c.call(ctx, get, "/v1/dev/schemas/"+url.PathEscape(id)+"/"+url.PathEscape(version), nil, &out)
	return out, err
}

// TemplateSchema returns the schema of a template's App parameters.
func (c *Client) TemplateSchema(ctx context.Context, template string) (spare.Schema, error) {
	var out spare.Schema
	err := c.call(ctx, get, "/v1/dev/templates/"+url.PathEscape(template)+"/schema", nil, &out)
	return out, err
}

// NewKey is a key to make. Owner is whose jobs it sees; empty means the key's own.
type NewKey struct {
	Name      string `json:"name"`
	Role      string `json:"role,omitempty"`
	Owner     string `json:"owner,omitempty"`
	ExpiresIn int    `json:"expiresIn,omitempty"` // seconds
}

// CreateKey makes an API key and returns its text, which the hub shows only now.
func (c *Client) CreateKey(ctx context.Context, k NewKey) (string, Key, error) {
	var out struct {
		Token  string
		APIKey Key
	}
	// Not tried again: a lost answer would leave a key that nobody knows.
	once := c.retrying(callTime)
	once.RetryMax = 0
	err := c.callOn(ctx, once, post, "/v1/auth/api_keys", k, &out)
	return out.Token, out.APIKey, err
}

// Keys lists API keys.
func (c *Client) Keys(ctx context.Context) ([]Key, error) {
	var out struct{ APIKeys []Key }
	err := c.call(ctx, get, "/v1/auth/api_keys", nil, &out)
	return out.APIKeys, err
}

// RevokeKey ends a key.
func (c *Client) RevokeKey(ctx context.Context, id string) error {
	return c.call(ctx, post, "/v1/auth/api_keys/"+url.PathEscape(id)+"/revoke", nil, nil)
}
