package api_test

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/bundle"
	"github.com/spare-compute/spare/hub/api/apitest"
	"github.com/spare-compute/spare/hub/store"
)

// slateLog is a log that may be read while the hub writes to it.
type slateLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *slateLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *slateLog) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// appArchive is the folder of an App "mine" in base64, as a push has it.
func appArchive(t *testing.T, settings string) map[string]any {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range map[string]string{
		"manifest.json": `{"name": "mine", "version": "1.0", "entrypoint": "main.py", "public": true` + settings + `}`,
		"app/main.py":   "print('hello')\n",
		"template.json": `{"id": "mine", "app": "mine@1.0", "partitioning_strategy": "passthrough", "merge_strategy": "passthrough", "public": true}`,
	} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return map[string]any{"data": base64.StdEncoding.EncodeToString(b.Bytes())}
}

// holdsToken unpacks what a bundle's path answered.
func holdsToken(t *testing.T, packed []byte, token string) bool {
	t.Helper()
	dir := t.TempDir()
	if err := bundle.Unpack(t.Context(), bytes.NewReader(packed), dir, bundle.Limits{}); err != nil {
		t.Fatal(err)
	}
	manifest, err := os.ReadFile(dir + "/manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(manifest), token)
}

// A public App may run in an image of a private registry; what lets in there is its
// owner's alone.
func TestDev_ARegistrysTokenIsToldToNobody(t *testing.T) {
	const token = "open-sesame-7541"
	h, ann := start(t)
	h.Stop()
	log := &slateLog{}
	h.Config.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h.Resume()
	bob, eve, boss := caller{t, h.URL, h.Key("bob", store.RoleSubmitter)}, caller{t, h.URL, h.Key("eve", store.RoleViewer)}, caller{t, h.URL, h.Admin}

	ann.ok("POST", "/v1/dev/apps", appArchive(t, ""))
	const at = "/v1/dev/apps/mine@1.0"
	early := bob.ok("GET", at+"/download", nil)["message"].(string)
	if resp, _ := (caller{t, "", ""}).do("GET", early, nil); resp.StatusCode != http.StatusOK {
		t.Errorf("without a token the bundle is for all who may use the App: %s", resp.Status)
	}

	pushed := ann.ok("POST", "/v1/dev/apps", appArchive(t, `, "platform_config": {"container": "registry.invalid/cv:1", "username": "ann", "Token": "`+token+`"}`))
	if w := fmt.Sprint(pushed["warnings"]); !strings.Contains(w, "registry's token") || strings.Contains(w, token) {
		t.Errorf("who pushes it is warned of %s", w)
	}
	// Its registry is nowhere, so it cannot be activated in the usual way.
	if err := h.Store.SetActive(t.Context(), spare.KindApp, "mine", "1.0", true); err != nil {
		t.Fatal(err)
	}
	made := "/v1/computing/jobs/" + job(bob.ok("POST", "/v1/computing/jobs", map[string]any{"templateId": "mine"}))["id"].(string)
	for who, c := range map[string]caller{"bob": bob, "eve": eve, "boss": boss, "ann": ann} {
		for _, call := range [][2]string{
			{"GET", "/v1/dev/apps"},
			{"GET", at},
			{"GET", at + "/status"},
			{"GET", at + "/download"},
			{"GET", "/v1/dev/templates"},
			{"GET", "/v1/dev/templates/mine"},
			{"GET", "/v1/computing/templates/mine"},
			{"GET", "/v1/computing/templates/mine/schema"},
			{"GET", "/v1/computing/jobs"},
			{"GET", made},
			{"GET", made + "/tasks"},
			{"GET", made + "/why"},
			{"GET", made + "/progress"},
			{"PATCH", made + "/run"},
			{"POST", "/v1/computing/jobs/filter"},
			{"POST", at + "/activate"},
		} {
			body := any(nil)
			if call[0] != "GET" {
				body = map[string]any{}
			}
			if _, b := c.do(call[0], call[1], body); bytes.Contains(b, []byte(token)) {
				t.Errorf("%s %s tells %s the token: %s", call[0], call[1], who, b)
			}
		}
	}
	for who, c := range map[string]caller{"another submitter": bob, "a viewer": eve} {
		for _, path := range []string{at + "/bundle", at + "/download"} {
			c.refused(http.StatusForbidden, "only alice or an admin", "GET", path, nil)
		}
		if link := c.ok("GET", at, nil)["app"].(map[string]any)["link"]; link != "" {
			t.Errorf("%s is given the link %v", who, link)
		}
	}
	(caller{t, "", ""}).refused(http.StatusForbidden, "holds a registry's token", "GET", early, nil)
	for who, c := range map[string]caller{"its owner": ann, "an admin": boss} {
		resp, b := c.do("GET", at+"/bundle", nil)
		if resp.StatusCode != http.StatusOK || !holdsToken(t, b, token) {
			t.Errorf("%s is refused the bundle: %s", who, resp.Status)
		}
		link := c.ok("GET", at+"/download", nil)["message"].(string)
		if resp, _ := (caller{t, "", ""}).do("GET", link, nil); resp.StatusCode != http.StatusOK {
			t.Errorf("the link of %s: %s", who, resp.Status)
		}
	}
	if strings.Contains(log.text(), token) || !strings.Contains(log.text(), "mine@1.0") {
		t.Errorf("the hub's log: %s", log.text())
	}
}

// Who reads all ("viewer") reads all; who runs jobs reads their own, and nobody else's
// private Apps.
func TestAccess_WhatAJobReadAndMadeIsItsOwners(t *testing.T) {
	h, alice := start(t)
	id := alice.fileJob("secret words")
	alice.ok("PATCH", "/v1/computing/jobs/"+id+"/run", map[string]any{})
	alice.await(id, "JOB_STATE_COMPLETE")
	alice.ok("POST", "/v1/dev/apps", map[string]any{"data": base64.StdEncoding.EncodeToString(apitest.Archive(t, "mine", "1.0"))})
	bob, carl := caller{t, h.URL, h.Key("bob", store.RoleSubmitter)}, caller{t, h.URL, h.Key("carl", store.RoleContributor)}
	eve := caller{t, h.URL, h.Key("eve", store.RoleViewer)}
	at := "/v1/computing/jobs/" + id
	for _, path := range []string{
		at, at + "/results", at + "/tasks", at + "/attempts", at + "/why", at + "/progress", at + "/events", at + "/files/echo/in%20put.txt",
		"/v1/dev/apps/mine@1.0", "/v1/dev/apps/mine@1.0/bundle", "/v1/dev/apps/mine@1.0/download", "/v1/dev/apps/mine@1.0/status",
	} {
		bob.refused(http.StatusNotFound, "", "GET", path, nil)
		carl.refused(http.StatusForbidden, "", "GET", path, nil)
		(caller{t, h.URL, ""}).refused(http.StatusUnauthorized, "", "GET", path, nil)
	}
	bob.refused(http.StatusNotFound, "", "POST", "/v1/computing/logs", map[string]any{"jobId": id})
	carl.refused(http.StatusForbidden, "", "POST", "/v1/computing/logs", map[string]any{"jobId": id})
	eve.ok("GET", at+"/results", nil)
	for _, verb := range []string{"run", "abort", "params", "datasource", "uploadcompleted"} {
		eve.refused(http.StatusForbidden, "", "PATCH", at+"/"+verb, map[string]any{})
	}
	for _, call := range [][2]string{{"DELETE", at}, {"POST", "/v1/dev/apps/mine@1.0/activate"}, {"PUT", at + "/upload"}} {
		eve.refused(http.StatusForbidden, "", call[0], call[1], map[string]any{})
	}
}
