// Package apitest starts a hub's HTTP interface on loopback for tests of those who call
// it. Store, blobs, catalogue and handlers are the real ones; only the work is not: a
// job's result is its input, as soon as the test lets it be. It is called by tests
// alone.
package apitest

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/api"
	"github.com/spare-compute/spare/hub/blob"
	"github.com/spare-compute/spare/hub/catalog"
	"github.com/spare-compute/spare/hub/datasource"
	"github.com/spare-compute/spare/hub/events"
	"github.com/spare-compute/spare/hub/store"
	"github.com/spare-compute/spare/hub/store/sqlite"
	"github.com/spare-compute/spare/image"
)

// The template that a started hub has, for an App that takes {"case": "upper"|"lower"}.
const (
	Template = "echo@v0.1"
	App      = "echo@0.1"
	Preset   = "loud"
)

// A Hub serves until its test ends.
type Hub struct {
	URL     string
	Admin   string // a key
	Store   store.Store
	Blobs   *blob.Disk
	Catalog *catalog.Catalog
	Events  *events.Bus
	Jobs    *Jobs
	Config  api.Config

	tb   testing.TB
	addr string
	mu   sync.Mutex
	stop func()
}

// Start starts a hub.
func Start(tb testing.TB) *Hub {
	tb.Helper()
	dir := tb.TempDir()
	h := &Hub{tb: tb, addr: "127.0.0.1:0", Events: events.New(time.Now())}
	var err error
	h.Store, err = sqlite.Open(tb.Context(), filepath.Join(dir, "hub.db"), sqlite.Options{})
	must(tb, err)
	h.Blobs, err = blob.OpenDisk(filepath.Join(dir, "blobs"), 0)
	must(tb, err)
	h.Catalog = catalog.New(catalog.Config{Store: h.Store, Blobs: h.Blobs, Strategies: strategies{}, Work: tb.TempDir()})
	uploads := filepath.Join(dir, "uploads")
	must(tb, os.Mkdir(uploads, 0o700))
	h.Jobs = &Jobs{hub: h}
	h.Config = api.Config{
		Store: h.Store, Blobs: h.Blobs, Catalog: h.Catalog, Jobs: h.Jobs, Nodes: nodes{h.Store}, Events: h.Events,
		Images:  catalog.NewShelf(catalog.ShelfConfig{Store: h.Store, Apps: h.Store, Blobs: h.Blobs, Registries: image.NewRegistries(image.RegistryOptions{})}),
		Sources: datasource.New(datasource.Options{}), Secret: []byte(strings.Repeat("k", 32)), Uploads: uploads,
		Log: slog.New(slog.DiscardHandler), HubName: "test hub",
	}
	h.Admin = h.Key("admin", store.RoleAdmin)
	h.fill()
	h.Resume()
	tb.Cleanup(func() {
		h.Stop()
		h.Jobs.Release()
		h.Jobs.ended.Wait()
		if err := h.Store.Close(); err != nil {
			tb.Errorf("close the store: %v", err)
		}
	})
	return h
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// Key makes an API key.
func (h *Hub) Key(owner string, role store.Role) string {
	h.tb.Helper()
	text, k := api.NewKey("key of "+owner, owner, role, time.Now(), 0)
	must(h.tb, h.Store.PutKey(context.Background(), k))
	return text
}

// fill pushes the App and stores its template.
func (h *Hub) fill() {
	h.tb.Helper()
	ctx := context.Background()
	_, err := h.Catalog.Push(ctx, spare.KindApp, bytes.NewReader(Archive(h.tb, "echo", "0.1")), catalog.Official)
	must(h.tb, err)
	_, err = h.Catalog.Activate(ctx, spare.KindApp, App)
	must(h.tb, err)
	_, err = h.Catalog.PutSchema(ctx, []byte(`{"id": "echo", "version": "1", "schema": {
		"type": "object", "additionalProperties": false,
		"properties": {"case": {"enum": ["upper", "lower"]}, "times": {"type": "integer", "minimum": 1}}
	}}`))
	must(h.tb, err)
	_, _, err = h.Catalog.PutTemplate(ctx, []byte(`{
		"id": "`+Template+`", "description": "says it again", "app": "echo@0.1",
		"partitioning_strategy": "passthrough", "merge_strategy": "passthrough",
		"schema_id": "echo", "schema_version": "1", "public": true
	}`), catalog.Official)
	must(h.tb, err)
	_, err = h.Catalog.PutPreset(ctx, Template, []byte(`{"id": "`+Preset+`", "description": "all capitals", "data": {"case": "upper"}}`))
	must(h.tb, err)
}

// Folder is an App's folder: file names and their content.
func Folder(name, version string) map[string]string {
	return map[string]string{
		"manifest.json": fmt.Sprintf(`{"name": %q, "version": %q, "platform": "python", "entrypoint": "main.py", "description": "an App"}`, name, version),
		"app/main.py":   "print('hello')\n",
	}
}

// Archive is an App's folder as a tar.
func Archive(tb testing.TB, name, version string) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for file, content := range Folder(name, version) {
		must(tb, w.WriteHeader(&tar.Header{Name: file, Mode: 0o644, Size: int64(len(content))}))
		_, err := w.Write([]byte(content))
		must(tb, err)
	}
	must(tb, w.Close())
	return b.Bytes()
}

// Stop cuts all connections and listens no more, as a killed hub does.
func (h *Hub) Stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stop != nil {
		h.stop()
		h.stop = nil
	}
}

// Resume serves again at the same address, with nothing but what is on disk.
func (h *Hub) Resume() {
	h.tb.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	handler, err := api.New(h.Config)
	if err != nil {
		h.tb.Error(err)
		return
	}
	l, err := net.Listen("tcp", h.addr)
	if err != nil {
		h.tb.Error(err)
		return
	}
	h.addr = l.Addr().String()
	h.URL = "http://" + h.addr
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends by Close
	}()
	h.stop = func() {
		_ = srv.Close()
		<-done
	}
}

// nodes lists what the store has.
type nodes struct{ store store.Store }

func (n nodes) List(ctx context.Context) ([]spare.Node, error) { return n.store.Nodes(ctx) }

func (n nodes) Remove(ctx context.Context, id spare.NodeID) error { return n.store.DeleteNode(ctx, id) }

// strategies are the built-in ones that the test's template names.
type strategies struct{}

func (strategies) ConfigSchema(_ spare.Kind, name string) ([]byte, bool) {
	return nil, name == "passthrough"
}

func (strategies) Names(spare.Kind) []string { return []string{"passthrough"} }

// Jobs takes jobs along: a job's one chunk is its input and so is its result.
type Jobs struct {
	hub   *Hub
	ended sync.WaitGroup

	mu      sync.Mutex
	hold    chan struct{} // not nil: jobs stay running until it is closed
	failure string
	waiting []api.Waiting
}

// Hold keeps jobs that are run from now on running until Release.
func (j *Jobs) Hold() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.hold = make(chan struct{})
}

// Release lets held jobs end.
func (j *Jobs) Release() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.hold != nil {
		close(j.hold)
		j.hold = nil
	}
}

// Fail makes jobs that are run from now on fail for this reason; "" lets them succeed.
func (j *Jobs) Fail(why string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.failure = why
}

// Wait sets what running jobs wait for.
func (j *Jobs) Wait(w ...api.Waiting) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.waiting = w
}

// Run starts a draft.
func (j *Jobs) Run(ctx context.Context, id spare.JobID) error {
	job, err := j.hub.Store.Job(ctx, id)
	if err != nil {
		return err
	}
	if job.State != spare.JobDraft {
		return fmt.Errorf("%w: job %s is %s: cannot run it", store.ErrConflict, id, job.State)
	}
	if job.Input == nil && job.Source.Descriptor == "file" {
		return &catalog.FieldError{Path: "dataSource", Message: "this job has no input yet"}
	}
	plan, err := j.hub.Catalog.Plan(ctx, job)
	if err != nil {
		return err
	}
	j.mu.Lock()
	hold, failure := j.hold, j.failure
	j.mu.Unlock()
	if err := j.move(ctx, id, spare.JobPartitioning, func(job *spare.Job) { job.Plan = &plan }); err != nil {
		return err
	}
	if err := j.move(ctx, id, spare.JobRunning, func(job *spare.Job) { job.Chunks = 1 }); err != nil {
		return err
	}
	j.ended.Go(func() {
		if hold != nil {
			<-hold
		}
		j.end(context.WithoutCancel(ctx), id, failure)
	})
	return nil
}

func (j *Jobs) end(ctx context.Context, id spare.JobID, failure string) {
	if failure != "" {
		_ = j.move(ctx, id, spare.JobFailed, func(job *spare.Job) { job.Error = failure }) // or it was aborted
		return
	}
	if j.move(ctx, id, spare.JobAssembling, func(job *spare.Job) { job.Done = 1 }) != nil {
		return // aborted meanwhile
	}
	err := j.move(ctx, id, spare.JobComplete, func(job *spare.Job) {
		if job.Input != nil {
			job.Results = []spare.File{{Name: "echo/" + job.Input.Name, Digest: job.Input.Digest, Size: job.Input.Size}}
		}
	})
	if err != nil {
		j.hub.tb.Errorf("complete job %s: %v", id, err)
	}
}

func (j *Jobs) move(ctx context.Context, id spare.JobID, to spare.JobState, change func(*spare.Job)) error {
	_, err := j.hub.Store.UpdateJob(ctx, id, func(job *spare.Job) error {
		if err := job.Move(to, time.Now()); err != nil {
			return fmt.Errorf("%w: %w", store.ErrConflict, err)
		}
		change(job)
		return nil
	})
	if err == nil {
		j.hub.Events.Publish(events.Event{Type: events.JobState, Job: id, Data: map[string]any{"state": to}})
	}
	return err
}

// Abort ends a job; a draft is deleted.
func (j *Jobs) Abort(ctx context.Context, id spare.JobID) error {
	job, err := j.hub.Store.Job(ctx, id)
	if err != nil {
		return err
	}
	if job.State == spare.JobDraft {
		return j.hub.Store.DeleteJob(ctx, id)
	}
	return j.move(ctx, id, spare.JobAborted, func(job *spare.Job) { job.Error = "aborted by its owner" })
}

// Delete removes a job.
func (j *Jobs) Delete(ctx context.Context, id spare.JobID) error {
	return j.hub.Store.DeleteJob(ctx, id)
}

// Progress tells what the store knows.
func (j *Jobs) Progress(ctx context.Context, id spare.JobID) (api.Progress, error) {
	job, err := j.hub.Store.Job(ctx, id)
	j.mu.Lock()
	defer j.mu.Unlock()
	p := api.Progress{Total: job.Chunks, Done: job.Done, Waiting: j.waiting}
	switch {
	case job.State != spare.JobRunning:
	case len(j.waiting) > 0:
		p.Ready = 1
	default:
		p.Running, p.Nodes = 1, 1
	}
	return p, err
}
