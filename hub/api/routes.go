package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/spare-compute/spare"
)

// server holds what the handlers share.
type server struct {
	Config
	uploads *uploads
	parts   turns // of images, by owner and digest
	mux     *http.ServeMux
}

// A handler answers a request or says why not.
type handler func(http.ResponseWriter, *http.Request) error

// New returns the hub's HTTP handler. Its server must set ReadHeaderTimeout and
// MaxHeaderBytes; bodies and streams have their own limits here. To end event streams,
// cancel the server's base context.
func New(cfg Config) (http.Handler, error) {
	const secretLeast, uploadMost = 32, 1 << 40
	if len(cfg.Secret) < secretLeast {
		return nil, fmt.Errorf("the secret that signs links has %d bytes: want at least %d", len(cfg.Secret), secretLeast)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxUpload == 0 {
		cfg.MaxUpload = uploadMost
	}
	up, err := openUploads(cfg.Uploads)
	if err != nil {
		return nil, err
	}
	s := &server{Config: cfg, uploads: up, mux: http.NewServeMux()}
	s.routes()
	return s, nil
}

// routes lists every path once; canonical says how its other spellings become it.
func (s *server) routes() {
	s.handle("GET /healthz", public, s.health)
	for _, area := range []string{"auth", "computing", "dev", "wallet"} {
		s.handle("GET /v1/"+area+"/info", public, s.info)
	}
	s.handle("POST /v1/auth/access_token", public, s.accessToken)
	s.handle("GET /v1/auth/user", known, s.user)
	s.handle("GET /v1/auth/api_keys", known, s.listKeys)
	s.handle("POST /v1/auth/api_keys", admin, s.createKey)
	s.handle("POST /v1/auth/api_keys/{id}/revoke", known, s.revokeKey)
	s.jobRoutes()
	s.devRoutes()
	s.imageRoutes()
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { s.fail(w, r, s.nothingHere(w, r)) })
}

func (s *server) jobRoutes() {
	const jobs, job = "/v1/computing/jobs", "/v1/computing/jobs/{id}"
	s.handle("POST "+jobs, submits, s.createJob)
	s.handle("GET "+jobs, viewer, s.listJobs)
	s.handle("POST "+jobs+"/filter", viewer, s.filterJobs)
	s.handle("POST "+jobs+"/runningTasks", viewer, s.runningTasks)
	s.handle("GET "+job, viewer, s.getJob)
	s.handle("DELETE "+job, submits, s.deleteJob)
	for verb, h := range map[string]handler{
		"datasource": s.setSource, "params": s.setParams, "jobname": s.setName, "configs": s.setConfig,
		"run": s.runJob, "abort": s.abortJob, "uploadcompleted": s.uploadCompleted,
	} {
		s.handle("PATCH "+job+"/"+verb, submits, h)
		s.handle("POST "+job+"/"+verb, submits, h)
	}
	s.handle("GET "+job+"/results", viewer, s.results)
	s.handle("GET "+job+"/tasks", viewer, s.tasks)
	s.handle("GET "+job+"/attempts", viewer, s.attempts)
	s.handle("GET "+job+"/why", viewer, s.why)
	s.handle("GET "+job+"/progress", viewer, s.progress)
	s.handle("GET "+job+"/events", viewer, s.jobEvents)
	s.handle("GET /v1/events", viewer, s.allEvents)
	s.handle("POST /v1/computing/logs", viewer, s.logs)
	s.handle("GET /v1/computing/nodes", known, s.listNodes)
	s.handle("DELETE /v1/computing/nodes/{id}", admin, s.removeNode)
	// These take a signed link in place of a key, and see to it themselves.
	s.handle("PUT "+job+"/upload", public, s.upload)
	s.handle("HEAD "+job+"/upload", public, s.uploadState)
	s.handle("GET "+job+"/files/{path...}", public, s.file)
	// The contract has these under /jobs/templates, which canonical moves aside.
	s.handle("GET /v1/computing/templates", viewer, s.listTemplates)
	s.handle("GET /v1/computing/templates/{id}", viewer, s.getTemplate)
	s.handle("GET /v1/computing/templates/{id}/presets", viewer, s.listPresets)
	s.handle("GET /v1/computing/templates/{id}/schema", viewer, s.templateSchema)
}

func (s *server) devRoutes() {
	for _, d := range []dev{
		{server: s, plural: "apps", data: "data"},
		{server: s, plural: "engines", data: "engineData", engines: true},
	} {
		at := "/v1/dev/" + d.plural
		s.handle("POST "+at, submits, d.push)
		s.handle("GET "+at, viewer, d.list)
		s.handle("GET "+at+"/{tag}", viewer, d.get)
		s.handle("GET "+at+"/{tag}/status", viewer, d.status)
		s.handle("GET "+at+"/{tag}/download", viewer, d.download)
		s.handle("GET "+at+"/{tag}/bundle", public, d.bundle)
		s.handle("POST "+at+"/{tag}/signature", submits, d.sign)
		s.handle("POST "+at+"/{tag}/activate", submits, d.setActive(true))
		s.handle("POST "+at+"/{tag}/deactivate", submits, d.setActive(false))
	}
	s.handle("POST /v1/dev/templates", submits, s.pushTemplate)
	s.handle("GET /v1/dev/templates", viewer, s.listTemplates)
	s.handle("GET /v1/dev/templates/{id}", viewer, s.getTemplate)
	s.handle("GET /v1/dev/templates/{id}/presets", viewer, s.listPresets)
	s.handle("POST /v1/dev/templates/{id}/presets", submits, s.pushPreset)
	s.handle("GET /v1/dev/templates/{id}/schema", viewer, s.templateSchema)
	s.handle("POST /v1/dev/presets", submits, s.pushPreset)
	s.handle("POST /v1/dev/schemas", submits, s.pushSchema)
	s.handle("GET /v1/dev/schemas", viewer, s.listSchemas)
	s.handle("GET /v1/dev/schemas/{id}/{version}", viewer, s.getSchema)
}

// handle serves a pattern to those whom need lets in.
func (s *server) handle(pattern string, need access, h handler) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		admitted, err := s.admit(r, need)
		if err == nil {
			err = h(w, admitted)
		}
		if err != nil {
			s.fail(w, r, err)
		}
	})
}

// admit returns the request with its caller, if need lets it in.
func (s *server) admit(r *http.Request, need access) (*http.Request, error) {
	if need == public {
		return r, nil
	}
	k, err := s.authenticate(r)
	if err != nil {
		return r, err
	}
	if !need.allows(k.Role) {
		return r, refuse(http.StatusForbidden, "key %q is a %s key: this needs %s", k.Name, k.Role, need)
	}
	return r.WithContext(context.WithValue(r.Context(), keyPrincipal, k)), nil
}

// ServeHTTP gives the request its id and its canonical path and lets the handlers answer.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := newRequestID()
	r = r.WithContext(context.WithValue(r.Context(), keyRequest, id))
	h := w.Header()
	h.Set("X-Request-Id", id)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Expose-Headers", "X-Request-Id, Upload-Offset, Upload-Length, Content-Disposition, Content-Range, ETag")
	if r.Method == http.MethodOptions {
		h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE")
		h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Content-Disposition, Content-Range, Last-Event-ID, Range, If-Range")
		h.Set("Access-Control-Max-Age", "86400")
		w.WriteHeader(http.StatusNoContent)
		return
	}
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if v == http.ErrAbortHandler {
			panic(v)
		}
		s.Log.Error("a handler panicked", "path", r.URL.Path, "request", id, "panic", v, "stack", string(debug.Stack()))
		s.fail(w, r, refuse(http.StatusInternalServerError, "the hub could not do this; its log says why under request %s", id))
	}()
	if p := canonical(r.URL.Path); p != r.URL.Path {
		u := *r.URL
		u.Path, u.RawPath = p, ""
		r = r.Clone(r.Context())
		r.URL = &u
	}
	s.mux.ServeHTTP(w, r)
}

// canonical gives the one path that a handler is registered for: "customer" is the
// former name of "computing", older clients put the verb before the job's id, and the
// templates that lie under /jobs are no jobs.
func canonical(p string) string {
	if p == "/v1/customer/wallet/balance" {
		return "/v1/wallet/balance"
	}
	rest, ok := strings.CutPrefix(p, "/v1/customer/")
	if !ok {
		if rest, ok = strings.CutPrefix(p, "/v1/computing/"); !ok {
			return p
		}
	}
	if rest == "events" {
		return "/v1/events"
	}
	parts := strings.Split(rest, "/")
	if len(parts) >= 2 && parts[0] == "jobs" && parts[1] == "templates" {
		parts = parts[1:]
	}
	if len(parts) == 3 && parts[0] == "jobs" && isUUID(parts[2]) && !isUUID(parts[1]) {
		parts[1], parts[2] = parts[2], parts[1]
	}
	return "/v1/computing/" + strings.Join(parts, "/")
}

func isUUID(s string) bool {
	_, err := uuid.Parse(s)
	return err == nil && len(s) == 36
}

// nothingHere tells a wrong method from a wrong path.
func (s *server) nothingHere(w http.ResponseWriter, r *http.Request) error {
	var allowed []string
	for _, m := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
		probe := &http.Request{Method: m, URL: r.URL, Host: r.Host}
		if _, pattern := s.mux.Handler(probe); pattern != "/" {
			allowed = append(allowed, m)
		}
	}
	slices.Sort(allowed)
	if len(allowed) > 0 {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		return refuse(http.StatusMethodNotAllowed, "%s takes %s, not %s", r.URL.Path, strings.Join(allowed, " and "), r.Method)
	}
	return refuse(http.StatusNotFound, "nothing is served at %s: the paths begin with /v1/computing, /v1/dev and /v1/auth", r.URL.Path)
}

func (s *server) health(w http.ResponseWriter, r *http.Request) error {
	if s.Ready != nil {
		if err := s.Ready(); err != nil {
			return refuse(http.StatusServiceUnavailable, "not ready: %s", err)
		}
	}
	return writeJSON(w, http.StatusOK, map[string]any{"ok": true, "hub": s.HubName, "version": spare.Version})
}

// info answers GET …/info: the contract's version object, and ours.
func (s *server) info(w http.ResponseWriter, r *http.Request) error {
	var major, minor int
	_, _ = fmt.Sscanf(spare.Version, "%d.%d", &major, &minor) // what is no number stays 0
	return writeJSON(w, http.StatusOK, map[string]any{
		"version":  map[string]any{"major": major, "minor": minor, "tag": spare.Version},
		"messages": []string{},
	})
}
