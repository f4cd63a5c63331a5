package api_test

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/api"
	"github.com/spare-compute/spare/hub/api/apitest"
	"github.com/spare-compute/spare/hub/store"
)

func TestAccess_EachRoleMayDoItsShare(t *testing.T) {
	h, alice := start(t)
	at := "/v1/computing/jobs/" + alice.fileJob("x")
	as := func(owner string, role store.Role) caller { return caller{t, h.URL, h.Key(owner, role)} }
	who := map[string]caller{
		"nobody": {t, h.URL, ""}, "owner": alice, "stranger": as("bob", store.RoleSubmitter),
		"viewer": as("eve", store.RoleViewer), "contributor": as("carl", store.RoleContributor), "admin": {t, h.URL, h.Admin},
	}
	for _, call := range []struct {
		method, path string
		want         map[string]int
	}{
		{"GET", at, map[string]int{"nobody": 401, "owner": 200, "stranger": 404, "viewer": 200, "contributor": 403, "admin": 200}},
		{"GET", at + "/attempts", map[string]int{"nobody": 401, "owner": 200, "stranger": 404, "viewer": 200, "contributor": 403, "admin": 200}},
		{"PATCH", at + "/configs", map[string]int{"nobody": 401, "owner": 200, "stranger": 404, "viewer": 403, "contributor": 403, "admin": 200}},
		{"GET", "/v1/computing/nodes", map[string]int{"nobody": 401, "owner": 200, "viewer": 200, "contributor": 200, "admin": 200}},
		{"GET", "/v1/dev/apps", map[string]int{"nobody": 401, "owner": 200, "viewer": 200, "contributor": 403, "admin": 200}},
		{"POST", "/v1/dev/apps/echo@0.1/deactivate", map[string]int{"nobody": 401, "owner": 403, "viewer": 403, "admin": 200}},
		{"POST", "/v1/auth/api_keys", map[string]int{"nobody": 401, "owner": 403, "viewer": 403, "admin": 400}},
		{"GET", "/healthz", map[string]int{"nobody": 200}},
		{"GET", "/v1/customer/info", map[string]int{"nobody": 200}},
	} {
		for name, want := range call.want {
			body := any(nil)
			if call.method != "GET" {
				body = map[string]any{}
			}
			if resp, b := who[name].do(call.method, call.path, body); resp.StatusCode != want {
				t.Errorf("%s %s by %s: %s %s, want %d", call.method, call.path, name, resp.Status, b, want)
			}
		}
	}
}

func TestAccess_KeysAndTokensEnd(t *testing.T) {
	h, _ := start(t)
	boss := caller{t, h.URL, h.Admin}
	made := boss.ok("POST", "/v1/auth/api_keys", map[string]any{"name": "dave", "role": "viewer", "expiresIn": "3600"})
	secret, shown := made["token"].(string), made["apiKey"].(map[string]any)
	if shown["role"] != "viewer" || shown["revoked"] != false || shown["expiresAt"] == nil || shown["fingerprint"] == "" || strings.Contains(secret, shown["fingerprint"].(string)) {
		t.Fatalf("key: %v", made)
	}
	dave := caller{t, h.URL, secret}
	token := dave.ok("POST", "/v1/auth/access_token", map[string]any{"apiKey": secret})["token"].(string)
	for _, header := range []string{secret, "Bearer " + secret, "bearer " + secret, token, "Bearer " + token} {
		if user := (caller{t, h.URL, header}).ok("GET", "/v1/auth/user", nil)["user"].(map[string]any); user["role"] != "ROLE_VIEWER" || user["id"] != "dave" {
			t.Errorf("user by %q: %v", header[:10], user)
		}
	}
	if keys := dave.ok("GET", "/v1/auth/api_keys", nil)["apiKeys"].([]any); len(keys) != 1 {
		t.Errorf("dave sees %d keys, want his own", len(keys))
	}
	boss.ok("POST", "/v1/auth/api_keys/"+shown["id"].(string)+"/revoke", nil)
	dave.refused(401, "was revoked", "GET", "/v1/auth/user", nil)
	caller{t, h.URL, token}.refused(401, "was revoked", "GET", "/v1/auth/user", nil)
	caller{t, h.URL, "spare_wrong"}.refused(401, "does not know", "GET", "/v1/auth/user", nil)
	caller{t, h.URL, "x.y.z"}.refused(401, "access token", "GET", "/v1/auth/user", nil)

	text, old := api.NewKey("old", "old", store.RoleAdmin, time.Now().Add(-2*time.Hour), time.Hour)
	if err := h.Store.PutKey(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	caller{t, h.URL, text}.refused(401, "expired on", "GET", "/v1/auth/user", nil)

	for _, k := range boss.ok("GET", "/v1/auth/api_keys", nil)["apiKeys"].([]any) {
		if k := k.(map[string]any); k["userId"] == "admin" {
			boss.refused(409, "last admin key", "POST", "/v1/auth/api_keys/"+k["id"].(string)+"/revoke", nil)
		}
	}
	boss.refused(400, "the roles are", "POST", "/v1/auth/api_keys", map[string]any{"name": "x", "role": "king"})
	boss.refused(404, "no API key", "POST", "/v1/auth/api_keys/nonsense/revoke", nil)
}

func TestAccess_BrowsersOfAnyOriginMayCall(t *testing.T) {
	_, c := start(t)
	resp, _ := caller{t, c.base, ""}.do("OPTIONS", "/v1/customer/jobs", nil, "Origin", "https://example.org", "Access-Control-Request-Method", "POST")
	if resp.StatusCode != http.StatusNoContent || resp.Header.Get("Access-Control-Allow-Origin") != "*" ||
		!strings.Contains(resp.Header.Get("Access-Control-Allow-Headers"), "Authorization") {
		t.Fatalf("%s %v", resp.Status, resp.Header)
	}
}

func TestPaths_SayWhatIsWrongWithThem(t *testing.T) {
	_, c := start(t)
	c.refused(404, "nothing is served", "GET", "/v1/nonsense", nil)
	resp, _ := c.do("DELETE", "/v1/customer/jobs", nil)
	if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "GET, POST" {
		t.Errorf("%s, Allow %q", resp.Status, resp.Header.Get("Allow"))
	}
	c.refused(400, "no job id", "GET", "/v1/customer/jobs/not-a-uuid", nil)
	resp, _ = c.do("GET", "/v1/customer/jobs/0f0e9d3c-6a3b-4c1d-9e2f-1b2c3d4e5f60", nil)
	if resp.StatusCode != 404 || resp.Header.Get("X-Request-Id") == "" {
		t.Errorf("%s without a request's id", resp.Status)
	}
	c.refused(413, "larger than", "POST", "/v1/customer/jobs", strings.Repeat(" ", 5<<20))
}

func TestDev_AppsArePushedSwitchedAndFetched(t *testing.T) {
	h, c := start(t)
	pushed := c.ok("POST", "/v1/dev/apps", map[string]any{"data": base64.StdEncoding.EncodeToString(apitest.Archive(t, "mine", "1.0"))})
	for field, want := range map[string]any{"name": "mine", "version": "1.0", "status": "inactive", "revision": "1", "platform": "python", "owner": "alice", "entrypoint": "main.py", "isPublic": false} {
		if pushed[field] != want {
			t.Errorf("%s is %#v, want %#v", field, pushed[field], want)
		}
	}
	bob := caller{t, h.URL, h.Key("bob", store.RoleSubmitter)}
	bob.refused(404, "mine", "GET", "/v1/dev/apps/mine@1.0", nil)
	if status := c.ok("GET", "/v1/dev/apps/mine/status", nil); status["message"] != "inactive" {
		t.Errorf("status: %v", status)
	}
	c.ok("POST", "/v1/dev/apps/mine@1/activate", nil)
	if a := c.ok("GET", "/v1/dev/apps/mine@1.0", nil)["app"].(map[string]any); a["status"] != "active" {
		t.Errorf("app: %v", a)
	}
	c.refused(404, `did you mean "mine`, "GET", "/v1/dev/apps/mime@1.0", nil)
	c.refused(400, "not base64", "POST", "/v1/dev/apps", map[string]any{"data": "%%%"})
	c.refused(400, "missing", "POST", "/v1/dev/apps", map[string]any{})
	c.refused(403, "", "POST", "/v1/dev/apps", map[string]any{"data": base64.StdEncoding.EncodeToString(apitest.Archive(t, "echo", "0.1"))})
	bob.refused(403, "", "POST", "/v1/dev/apps", map[string]any{"data": base64.StdEncoding.EncodeToString(apitest.Archive(t, "mine", "1.0"))})
	link := c.ok("GET", "/v1/dev/apps/mine/download", nil)["message"].(string)
	resp, b := caller{t, "", ""}.do("GET", link, nil)
	a, err := h.Store.App(t.Context(), spare.KindApp, "mine", "1.0")
	if err != nil || resp.StatusCode != 200 || spare.Sum(b) != a.Bundle {
		t.Errorf("download: %s, %d bytes, %v", resp.Status, len(b), err)
	}
	all := c.ok("GET", "/v1/dev/apps", nil)["apps"].([]any)
	if len(all) != 2 {
		t.Errorf("%d Apps are listed, want the official one and the pushed one", len(all))
	}
	c.ok("GET", "/v1/dev/engines", nil)
}

func TestDev_TemplatesPresetsAndSchemas(t *testing.T) {
	h, c := start(t)
	c.ok("POST", "/v1/dev/schemas", map[string]any{"id": "own", "version": 2, "schema": map[string]any{"type": "object", "properties": map[string]any{"n": map[string]any{"type": "integer"}}}})
	c.ok("POST", "/v1/dev/templates", map[string]any{"id": "own", "app": "echo@0.1", "partitioner": "passthrough", "assembler": "passthrough", "schema_id": "own", "schema_version": "2"})
	found := c.ok("GET", "/v1/dev/templates/own", nil)
	if found["app"] != "echo@0.1" || found["owner"] != "alice" || found["partitioning_strategy"] != "passthrough" {
		t.Errorf("template: %v", found)
	}
	c.ok("POST", "/v1/dev/presets", map[string]any{"template": "own", "id": "three", "data": map[string]any{"n": 3}})
	c.refused(400, "n", "POST", "/v1/dev/presets", map[string]any{"template": "own", "id": "bad", "data": map[string]any{"n": "x"}})
	c.refused(403, "belongs to", "POST", "/v1/dev/presets", map[string]any{"template": apitest.Template, "id": "mine", "data": map[string]any{}})
	presets := c.ok("GET", "/v1/customer/jobs/templates/own/presets", nil)["presets"].([]any)
	if len(presets) != 1 || presets[0].(map[string]any)["id"] != "three" {
		t.Errorf("presets: %v", presets)
	}
	if schema := c.ok("GET", "/v1/customer/jobs/templates/own/schema", nil); schema["id"] != "own" || schema["schema"] == nil {
		t.Errorf("schema: %v", schema)
	}
	if schema := c.ok("GET", "/v1/dev/schemas/own/2", nil); schema["version"] != "2" {
		t.Errorf("schema: %v", schema)
	}
	c.refused(404, "own/2", "GET", "/v1/dev/schemas/own/3", nil)
	list := c.ok("GET", "/v1/customer/jobs/templates", nil)
	if data := list["data"].([]any); len(data) != 2 || data[0].(map[string]any)["name"] == nil {
		t.Errorf("templates: %v", data)
	}
	bob := caller{t, h.URL, h.Key("bob", store.RoleSubmitter)}
	bob.refused(404, "own", "GET", "/v1/dev/templates/own", nil)
	bob.refused(404, "own", "POST", "/v1/customer/jobs", map[string]any{"templateId": "own"})
	c.refused(404, "schema", "GET", "/v1/dev/schemas/none/1", nil)
}
