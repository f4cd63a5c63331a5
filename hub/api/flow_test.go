package api_test

import (
	"bytes"
	"encoding/json"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare/hub/api/apitest"
	"github.com/spare-compute/spare/hub/store"
)

// caller is an HTTP client as any program would write it.
type caller struct {
	t    *testing.T
	base string
	auth string
}

// fresh keeps no connection: the hub is stopped and started under some tests.
var fresh = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func (c caller) do(method, path string, body any, header ...string) (*http.Response, []byte) {
	c.t.Helper()
	if !strings.HasPrefix(path, "http") {
		path = c.base + path
	}
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	case []byte:
		r = bytes.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			c.t.Fatal(err)
		}
		r = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(c.t.Context(), method, path, r)
	if err != nil {
		c.t.Fatal(err)
	}
	if c.auth != "" {
		req.Header.Set("Authorization", c.auth)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := fresh.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp, b
}

// ok wants status 200 and returns the answer's object.
func (c caller) ok(method, path string, body any, header ...string) map[string]any {
	c.t.Helper()
	resp, b := c.do(method, path, body, header...)
	if resp.StatusCode != http.StatusOK {
		c.t.Fatalf("%s %s: %s: %s", method, path, resp.Status, b)
	}
	var out map[string]any
	if err := json.Unmarshal(b, &out); err != nil {
		c.t.Fatalf("%s %s: %v in %s", method, path, err, b)
	}
	return out
}

// refused wants a status and words of the sentence, and returns the answer.
func (c caller) refused(status int, words, method, path string, body any, header ...string) map[string]any {
	c.t.Helper()
	resp, b := c.do(method, path, body, header...)
	var out struct {
		OK      *bool
		Message string
		Code    int
		Details []any
		Error   struct {
			Code                 int
			Message, Description string
		}
	}
	var all map[string]any
	if json.Unmarshal(b, &out) != nil || json.Unmarshal(b, &all) != nil {
		c.t.Fatalf("%s %s: %s: no JSON: %s", method, path, resp.Status, b)
	}
	if resp.StatusCode != status || !strings.Contains(out.Message, words) {
		c.t.Fatalf("%s %s: %s: %s; want %d with %q", method, path, resp.Status, b, status, words)
	}
	if out.OK == nil || *out.OK || out.Details == nil || out.Code == 0 || out.Error.Code != status || out.Error.Message != out.Message || out.Error.Description == "" {
		c.t.Errorf("%s %s: not the body that every client reads: %s", method, path, b)
	}
	return all
}

func job(answer map[string]any) map[string]any { return answer["job"].(map[string]any) }

func start(t *testing.T) (*apitest.Hub, caller) {
	h := apitest.Start(t)
	return h, caller{t, h.URL, h.Key("alice", store.RoleSubmitter)}
}

// fileJob makes a job with an uploaded input, ready to run.
func (c caller) fileJob(content string) string {
	c.t.Helper()
	j := job(c.ok("POST", "/v1/customer/jobs", map[string]any{
		"templateId": apitest.Template, "name": "a job", "dataSource": map[string]any{"dataSourceDescriptor": "file"},
	}))
	url := j["dataSource"].(map[string]any)["params"].(map[string]any)["tempUrl"].(string)
	caller{c.t, "", ""}.ok("PUT", url, content, "Content-Disposition", `attachment; filename="in put.txt"`)
	id := j["id"].(string)
	c.ok("PATCH", "/v1/customer/jobs/"+id+"/uploadcompleted", nil)
	return id
}

func (c caller) await(id, state string) map[string]any {
	c.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		j := job(c.ok("GET", "/v1/customer/jobs/"+id, nil))
		if j["state"] == state {
			return j
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("job is %v, want %s", j["state"], state)
		}
		time.Sleep(2 * time.Millisecond) // between two looks
	}
}

func TestJob_IsShownAsTheContractHasIt(t *testing.T) {
	_, c := start(t)
	answer := c.ok("POST", "/v1/customer/jobs", map[string]any{"templateId": apitest.Template, "name": "Example job"})
	j := job(answer)
	for field, want := range map[string]any{
		"templateId": apitest.Template, "name": "Example job", "description": "", "state": "JOB_STATE_NEW",
		"priority": "EXECUTION_PRIORITY_UNDEFINED", "startAt": nil, "deadline": nil, "submittedAt": nil, "startedAt": nil,
		"completedAt": nil, "endedAt": nil, "regions": nil, "dataSource": nil, "params": nil, "dataDestination": nil,
		"duration": nil, "deletedAt": nil, "paymentAmount": 0.0, "numUnitsEstimation": "0", "numChunks": 0.0,
		"errorMessage": "", "appId": "",
	} {
		if got, present := j[field]; !present || got != want {
			t.Errorf("%s is %#v (present: %v), want %#v", field, got, present, want)
		}
	}
	config := j["config"].(map[string]any)
	for field, want := range map[string]any{"minChunkSize": "0", "maxChunkSize": "0", "replicationFactor": 0.0, "taskTimeout": 0.0} {
		if config[field] != want {
			t.Errorf("config.%s is %#v, want %#v", field, config[field], want)
		}
	}
	if _, err := time.Parse("2006-01-02T15:04:05.000000Z", j["createdAt"].(string)); err != nil {
		t.Errorf("createdAt: %v", err)
	}
	info := answer["templateInfo"].(map[string]any)
	if info["id"] != apitest.Template || info["app"] != "echo@0.1" || info["partitioner"] != "passthrough" {
		t.Errorf("templateInfo: %v", info)
	}
	if stamps := j["stateTimestamps"].(map[string]any); stamps["JOB_STATE_NEW"] != j["createdAt"] {
		t.Errorf("stateTimestamps: %v", stamps)
	}
}

func TestFlow_NewerEra(t *testing.T) {
	h, c := start(t)
	h.Jobs.Hold()
	id := c.fileJob("some content")
	at := "/v1/computing/jobs/" + id
	j := job(c.ok("PATCH", at+"/params", map[string]any{"partitioner": map[string]any{}, "app": map[string]any{"case": "upper"}, "assembler": nil}))
	if got := j["params"].(map[string]any)["app"].(map[string]any)["case"]; got != "upper" {
		t.Fatalf("params.app.case is %v", got)
	}
	c.ok("PATCH", at+"/jobname", `"renamed"`)
	j = job(c.ok("PATCH", at+"/configs", map[string]any{"taskTimeout": "120", "isTestJob": true}))
	if config := j["config"].(map[string]any); j["name"] != "renamed" || config["taskTimeout"] != 120.0 || config["isTestJob"] != true {
		t.Fatalf("name and config: %v", j)
	}
	if run := c.ok("POST", at+"/run", map[string]any{"config": map[string]any{"jobTimeout": 300}}); run["ok"] != true || run["error"] != nil {
		t.Fatalf("run: %v", run)
	}
	c.refused(400, "job has not yet been completed", "GET", at+"/results", nil)
	c.refused(409, "", "PATCH", at+"/jobname", `"too late"`)
	h.Jobs.Release()
	j = c.await(id, "JOB_STATE_COMPLETE")
	if j["config"].(map[string]any)["taskTimeout"] != 120.0 || j["config"].(map[string]any)["jobTimeout"] != 300.0 {
		t.Errorf("run's config replaced more than it named: %v", j["config"])
	}
	if j["completedAt"] == nil || j["endedAt"] == nil || j["startedAt"] == nil || j["duration"] == nil || j["appId"] == "" {
		t.Errorf("a complete job without its times: %v", j)
	}
	results := c.ok("GET", at+"/results", nil)["results"].([]any)
	first := results[0].(map[string]any)
	if len(results) != 1 || first["name"] != "echo/in put.txt" {
		t.Fatalf("results: %v", results)
	}
	anyone := caller{t, "", ""}
	resp, b := anyone.do("GET", first["link"].(string), nil)
	if string(b) != "some content" || !strings.Contains(resp.Header.Get("Content-Disposition"), `filename="in put.txt"`) {
		t.Fatalf("download: %s %q %v", resp.Status, b, resp.Header)
	}
	resp, b = anyone.do("GET", first["link"].(string), nil, "Range", "bytes=5-")
	if resp.StatusCode != http.StatusPartialContent || string(b) != "content" {
		t.Fatalf("range: %s %q", resp.Status, b)
	}
	c.ok("DELETE", at, nil)
	c.refused(404, "no job", "GET", at, nil)
}

func TestFlow_OlderEra(t *testing.T) {
	h, c := start(t)
	c.auth = "Bearer " + c.auth
	token := caller{t, h.URL, ""}.ok("POST", "/v1/auth/access_token", map[string]any{"apiKey": strings.TrimPrefix(c.auth, "Bearer ")})
	if token["expiresIn"] != "3600" {
		t.Fatalf("access token: %v", token)
	}
	c.auth = token["token"].(string)
	id := job(c.ok("POST", "/v1/customer/jobs", map[string]any{"templateId": apitest.Template, "name": "older"}))["id"].(string)
	j := job(c.ok("POST", "/v1/customer/jobs/datasource/"+id, map[string]any{
		"dataSource":      map[string]any{"dataSourceDescriptor": "local", "params": map[string]any{"@type": "type.googleapis.com/bytenite.data_source.LocalFileDataSource", "name": "x.txt"}},
		"dataDestination": map[string]any{"dataSourceDescriptor": "bucket", "params": map[string]any{}},
	}))
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	part, _ := w.CreateFormFile("file", "x.txt")
	_, _ = part.Write([]byte("form content"))
	_ = w.Close()
	url := j["dataSource"].(map[string]any)["params"].(map[string]any)["tempUrl"].(string)
	caller{t, "", ""}.ok("PUT", url, form.Bytes(), "Content-Type", w.FormDataContentType())
	c.ok("POST", "/v1/customer/jobs/uploadcompleted/"+id, nil)
	j = job(c.ok("POST", "/v1/customer/jobs/params/"+id, map[string]any{"data": map[string]any{"case": "lower"}, "preset": "unpackaged"}))
	params := j["params"].(map[string]any)
	if params["preset"] != "unpackaged" || params["schema"] != "" || params["data"].(map[string]any)["case"] != "lower" || params["selectedOutputs"] == nil {
		t.Fatalf("params: %v", params)
	}
	c.ok("POST", "/v1/customer/jobs/run/"+id, nil)
	c.await(id, "JOB_STATE_COMPLETE")
	results := c.ok("GET", "/v1/customer/jobs/"+id+"/results", nil)["results"].([]any)
	if _, b := c.do("GET", results[0].(map[string]any)["link"].(string), nil); string(b) != "form content" {
		t.Fatalf("result: %q", b)
	}
}

func TestRun_TakesEveryFormOfItsBody(t *testing.T) {
	_, c := start(t)
	for name, body := range map[string]any{
		"wrapped": map[string]any{"config": map[string]any{"taskTimeout": 60, "isTestJob": true}},
		"flat":    map[string]any{"taskTimeout": "60", "jobTimeout": 90},
		"empty":   map[string]any{},
		"none":    nil,
	} {
		id := c.fileJob(name)
		c.ok("POST", "/v1/customer/jobs/"+id+"/run", body)
		c.await(id, "JOB_STATE_COMPLETE")
	}
}

func TestCreate_WithAnIdIsTheSameTwice(t *testing.T) {
	_, c := start(t)
	const id = "0f0e9d3c-6a3b-4c1d-9e2f-1b2c3d4e5f60"
	body := map[string]any{"jobId": id, "templateId": apitest.Template, "name": "once"}
	c.ok("POST", "/v1/customer/jobs", body)
	body["name"] = "twice"
	if j := job(c.ok("POST", "/v1/customer/jobs", body)); j["id"] != id || j["name"] != "twice" {
		t.Fatalf("job: %v", j)
	}
	if total := c.ok("GET", "/v1/customer/jobs", nil)["pagination"].(map[string]any)["total"]; total != 1.0 {
		t.Fatalf("%v jobs", total)
	}
}

func TestCreate_RefusesWithTheFieldAndWhatIsAllowed(t *testing.T) {
	_, c := start(t)
	create := func(status int, words string, body any) map[string]any {
		t.Helper()
		return c.refused(status, words, "POST", "/v1/customer/jobs", body)
	}
	with := func(field string, value any) map[string]any {
		return map[string]any{"templateId": apitest.Template, field: value}
	}
	create(404, `did you mean "echo@v0.1"?`, map[string]any{"templateId": "ecko@v0.1"})
	create(400, "templateId", map[string]any{})
	create(400, "not valid JSON", `{"templateId": `)
	create(400, "nothing enforces", with("priority", "EXECUTION_PRIORITY_HIGH"))
	create(400, "nothing enforces", with("deadline", "2030-01-01T00:00:00Z"))
	create(400, "nothing enforces", with("config", map[string]any{"replicationFactor": 3}))
	create(400, "templateId", with("templteId", "x"))
	create(400, "jobId", with("jobId", "../../etc"))
	create(400, "name", with("name", "two\nlines"))
	create(400, "dataSource", with("dataSource", map[string]any{"dataSourceDescriptor": "floppy"}))
	create(400, "dataDestination", with("dataDestination", map[string]any{"dataSourceDescriptor": "floppy"}))
	out := create(400, "case", with("params", map[string]any{"app": map[string]any{"case": "sideways"}}))
	if out["field"] != "params.app.case" {
		t.Errorf("the field is %v", out["field"])
	}
	create(400, `did you mean "loud"?`, with("params", map[string]any{"preset": "lout"}))
	// What a job that was got holds in its unset fields is no request.
	c.ok("POST", "/v1/customer/jobs", map[string]any{
		"templateId": apitest.Template, "priority": "EXECUTION_PRIORITY_UNDEFINED", "startAt": nil, "regions": nil,
		"state": "JOB_STATE_NEW", "numChunks": "0", "config": map[string]any{"minChunkSize": "0", "replicationFactor": 0, "partitioningSettings": map[string]any{}},
	})
}

func TestList_PagesFiltersAndOrders(t *testing.T) {
	h, c := start(t)
	for _, name := range []string{"b", "c", "a"} {
		c.ok("POST", "/v1/customer/jobs", map[string]any{"templateId": apitest.Template, "name": name})
	}
	names := func(answer map[string]any) (all string) {
		for _, j := range answer["data"].([]any) {
			all += j.(map[string]any)["name"].(string)
		}
		return all
	}
	if got := names(c.ok("GET", "/v1/customer/jobs", nil)); got != "acb" {
		t.Errorf("newest first: %q", got)
	}
	for _, query := range []string{"pagination.limit=1&pagination.offset=1", "limit=1&offset=1"} {
		answer := c.ok("GET", "/v1/customer/jobs?"+query, nil)
		p := answer["pagination"].(map[string]any)
		if names(answer) != "c" || p["total"] != 3.0 || p["offset"] != 1.0 || p["hasNext"] != true || p["hasPrevious"] != true {
			t.Errorf("%s: %q %v", query, names(answer), p)
		}
	}
	if got := names(c.ok("GET", "/v1/customer/jobs?orderBy=name%20desc", nil)); got != "cba" {
		t.Errorf("by name: %q", got)
	}
	filter := func(field string, value any) map[string]any {
		return map[string]any{"filters": []any{map[string]any{"field": field, "condition": "FILTER_CONDITION_EQ", "value": value}}}
	}
	if got := names(c.ok("POST", "/v1/customer/jobs/filter", filter("name", "b"))); got != "b" {
		t.Errorf("filtered by name: %q", got)
	}
	wrapped := map[string]any{"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "JOB_STATE_NEW"}
	if got := names(c.ok("POST", "/v1/customer/jobs/filter", filter("state", wrapped))); got != "acb" {
		t.Errorf("filtered by state: %q", got)
	}
	c.refused(400, "the fields are", "POST", "/v1/customer/jobs/filter", filter("colour", "b"))
	c.refused(400, "orderBy", "GET", "/v1/customer/jobs?orderBy=colour", nil)
	c.refused(400, "whole number", "GET", "/v1/customer/jobs?limit=many", nil)
	if got := names(caller{t, h.URL, h.Key("bob", store.RoleSubmitter)}.ok("GET", "/v1/customer/jobs", nil)); got != "" {
		t.Errorf("another submitter sees %q", got)
	}
	if got := names(caller{t, h.URL, h.Admin}.ok("GET", "/v1/customer/jobs", nil)); got != "acb" {
		t.Errorf("the admin sees %q", got)
	}
}
