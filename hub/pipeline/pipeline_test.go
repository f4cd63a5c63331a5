package pipeline

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/blob"
	"github.com/spare-compute/spare/hub/datasource"
	"github.com/spare-compute/spare/hub/dispatch"
	"github.com/spare-compute/spare/hub/events"
	"github.com/spare-compute/spare/hub/scheduler"
	"github.com/spare-compute/spare/hub/store"
	"github.com/spare-compute/spare/hub/store/sqlite"
)

// moody is a store that refuses the next changes of jobs.
type moody struct {
	store.Store
	refuse atomic.Int32
}

func (m *moody) UpdateJob(ctx context.Context, id spare.JobID, change func(*spare.Job) error) (spare.Job, error) {
	if m.refuse.Add(-1) >= 0 {
		return spare.Job{}, errors.New("disk full")
	}
	return m.Store.UpdateJob(ctx, id, change)
}

// rig is a pipeline over a real store, with a scheduler that nobody works for.
type rig struct {
	t        *testing.T
	store    *moody
	dispatch *dispatch.Dispatcher
	pipe     *Pipeline
}

func newRig(t *testing.T) *rig {
	t.Helper()
	st, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "hub.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	disk, err := blob.OpenDisk(filepath.Join(t.TempDir(), "blobs"), 0)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, store: &moody{Store: st}}
	log := slog.New(slog.DiscardHandler)
	r.dispatch = dispatch.New(dispatch.Config{
		Core: scheduler.New(scheduler.Config{}, 1), Ledger: st, Log: log,
		Effect: func(dec scheduler.Decision) { r.pipe.Decided(dec) }, EndTurn: func() {},
	})
	r.pipe = New(Config{
		Store: r.store, Blobs: disk, Dispatch: r.dispatch, Events: events.New(time.Now()), Log: log, Stages: 1,
		Fetch: datasource.New(datasource.Options{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}),
		Work:  filepath.Join(t.TempDir(), "work"),
	})
	t.Cleanup(func() {
		r.pipe.stop()
		r.pipe.stages.Wait()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// run starts the pipeline as the hub does, then the scheduler.
func (r *rig) run() {
	r.t.Helper()
	opened, err := r.pipe.Start(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	r.dispatch.Prime(opened...)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.dispatch.Run(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Error(err)
		}
	})
}

// job stores a job with one task for each state.
func (r *rig) job(id spare.JobID, state spare.JobState, tasks ...spare.TaskState) spare.Job {
	r.t.Helper()
	job := spare.Job{
		ID: id, State: state, Chunks: len(tasks), Times: map[spare.JobState]time.Time{},
		Plan: &spare.Plan{App: spare.App{Name: "app"}, Partitioner: "passthrough", Assembler: "passthrough"},
	}
	if state != spare.JobPartitioning {
		job.Input = r.input()
	}
	if err := r.store.CreateJob(r.t.Context(), job); err != nil {
		r.t.Fatal(err)
	}
	var rows []spare.Task
	for i, s := range tasks {
		row := spare.Task{ID: spare.NewTaskID(id, i), Job: id, Chunk: i, State: s}
		if s == spare.TaskFailed {
			row.Error = "chunk 1 failed on three nodes"
		}
		rows = append(rows, row)
	}
	if len(rows) > 0 {
		if err := r.store.AddTasks(r.t.Context(), rows); err != nil {
			r.t.Fatal(err)
		}
		if err := r.store.Commit(r.t.Context(), scheduler.Ledger{Tasks: rows}); err != nil {
			r.t.Fatal(err)
		}
	}
	return job
}

func (r *rig) input() *spare.File {
	r.t.Helper()
	digest, size, err := r.pipe.cfg.Blobs.Put(r.t.Context(), strings.NewReader("input"))
	if err != nil {
		r.t.Fatal(err)
	}
	return &spare.File{Name: "input.txt", Digest: digest, Size: size}
}

// until waits for a job to be in a state.
func (r *rig) until(id spare.JobID, done func(spare.Job) bool) spare.Job {
	r.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		job, err := r.store.Job(r.t.Context(), id)
		if err != nil {
			r.t.Fatal(err)
		}
		if done(job) {
			return job
		}
		if time.Now().After(end) {
			r.t.Fatalf("job %s stays %s: %s", id, job.State, job.Error)
		}
	}
}

func final(j spare.Job) bool { return j.State.Final() }

func TestPipeline_StartEndsWhatTheLedgerHasEnded(t *testing.T) {
	r := newRig(t)
	r.job("failed", spare.JobRunning, spare.TaskDone, spare.TaskFailed, spare.TaskCancelled)
	r.job("done", spare.JobRunning, spare.TaskDone, spare.TaskDone)
	r.job("open", spare.JobRunning, spare.TaskDone, spare.TaskReady)
	r.run()
	if j := r.until("failed", final); j.State != spare.JobFailed || j.Error != "run: chunk 1 failed on three nodes" {
		t.Errorf("a job with a failed task is %s: %s", j.State, j.Error)
	}
	r.until("done", func(j spare.Job) bool { return j.State != spare.JobRunning })
	if j, err := r.store.Job(t.Context(), "open"); err != nil || j.State != spare.JobRunning {
		t.Errorf("a job with an open task is %s, %v", j.State, err)
	}
}

func TestPipeline_AJobsEndIsWrittenOnceItCanBe(t *testing.T) {
	r := newRig(t)
	job := r.job("j", spare.JobRunning, spare.TaskReady)
	r.run()
	r.store.refuse.Store(2)
	r.pipe.Decided(scheduler.JobFailed{Job: "j", Sentence: "no node can do it"})
	if j := r.until("j", final); j.State != spare.JobFailed || j.Error != "run: no node can do it" {
		t.Errorf("job %s: %s", j.State, j.Error)
	}
	if r.pipe.activity(job.ID) != nil {
		t.Error("it is still thought to run")
	}
}

func TestPipeline_AllChunksDoneIsNoFailureWhereTheDiskIsFull(t *testing.T) {
	r := newRig(t)
	r.job("j", spare.JobRunning, spare.TaskReady)
	r.run()
	r.store.refuse.Store(2)
	r.pipe.Decided(scheduler.JobDone{Job: "j"})
	if j := r.until("j", func(j spare.Job) bool { return j.State != spare.JobRunning }); j.Times[spare.JobAssembling].IsZero() {
		t.Errorf("job %s: %s", j.State, j.Error)
	}
}

func TestPipeline_ASlowSourceKeepsNoStageBusy(t *testing.T) {
	r := newRig(t)
	r.run()
	slow := make(chan struct{})
	asked := make(chan struct{}, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		select {
		case asked <- struct{}{}:
		default:
		}
		select {
		case <-slow:
		case <-q.Context().Done():
		}
	}))
	defer srv.Close()
	defer close(slow)
	r.job("slow", spare.JobPartitioning)
	r.job("quick", spare.JobPartitioning)
	set := func(id spare.JobID, change func(*spare.Job)) {
		if _, err := r.store.UpdateJob(t.Context(), id, func(j *spare.Job) error { change(j); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	set("slow", func(j *spare.Job) {
		j.Source = spare.DataPoint{Descriptor: "url", Params: map[string]string{"url": srv.URL + "/film.mp4"}}
	})
	set("quick", func(j *spare.Job) { j.Input = r.input() })
	start := func(id spare.JobID) {
		act := r.pipe.begin(spare.Job{ID: id})
		r.pipe.spawn(func() { r.pipe.partition(act, id) })
	}
	start("slow")
	<-asked
	start("quick") // there is one stage at a time
	if j := r.until("quick", func(j spare.Job) bool { return j.State != spare.JobPartitioning }); j.State != spare.JobRunning {
		t.Errorf("the quick job is %s: %s", j.State, j.Error)
	}
}
