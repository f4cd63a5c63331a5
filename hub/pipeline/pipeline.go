// Package pipeline takes a job from run to result: it fetches the input, has the
// partition strategy cut it, opens the job to the scheduler, and when every chunk has
// its accepted result has the assembler put the output together. It owns the job's
// state; the scheduler owns its tasks. The API calls it, the hub tells it what the
// scheduler decided.
//
// Every step can be interrupted at any moment: a stage that did not end is done again
// from its beginning after a restart, and what it left is replaced.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/blob"
	"github.com/spare-compute/spare/hub/catalog"
	"github.com/spare-compute/spare/hub/datasource"
	"github.com/spare-compute/spare/hub/dispatch"
	"github.com/spare-compute/spare/hub/events"
	"github.com/spare-compute/spare/hub/media"
	"github.com/spare-compute/spare/hub/scheduler"
	"github.com/spare-compute/spare/hub/store"
)

// Config is what a Pipeline needs.
type Config struct {
	Store    store.Store
	Blobs    *blob.Disk
	Catalog  *catalog.Catalog
	Dispatch *dispatch.Dispatcher
	Events   *events.Bus
	Media    *media.Tools
	Fetch    *datasource.Fetcher
	Work     string         // scratch folder, emptied at start
	Stages   int            // partition and assemble stages that run at once
	Keep     []spare.Digest // content that stays though no job names it
	Log      *slog.Logger
}

// A Pipeline drives all jobs of a hub.
type Pipeline struct {
	cfg     Config
	slots   chan struct{}
	fetches chan struct{}
	life    context.Context // of the whole pipeline: stages live as long as it
	stop    context.CancelFunc
	stages  sync.WaitGroup

	mu   sync.Mutex
	live map[spare.JobID]*activity
}

// fetchers is how many inputs are fetched at once. They take no stage's place: a source
// may be slow for as long as it likes.
const fetchers = 8

// activity is a job between run and its end.
type activity struct {
	ctx      context.Context
	cancel   context.CancelCauseFunc
	deadline time.Time // zero = none
}

var errAborted = errors.New("aborted")

// New returns a pipeline that does nothing until Start.
func New(cfg Config) *Pipeline {
	life, stop := context.WithCancel(context.Background())
	return &Pipeline{
		cfg: cfg, slots: make(chan struct{}, max(cfg.Stages, 1)), fetches: make(chan struct{}, fetchers), life: life, stop: stop,
		live: map[spare.JobID]*activity{},
	}
}

// Start empties the scratch folder and takes up every job where the last run of the
// hub left it. It returns what the scheduler must be told of the running ones.
func (p *Pipeline) Start(ctx context.Context) ([]scheduler.Event, error) {
	if err := os.RemoveAll(p.cfg.Work); err != nil {
		return nil, fmt.Errorf("empty the scratch folder: %w", err)
	}
	if err := os.MkdirAll(p.cfg.Work, 0o711); err != nil {
		return nil, fmt.Errorf("make the scratch folder: %w", err)
	}
	jobs, _, err := p.cfg.Store.ListJobs(ctx, store.JobQuery{
		States: []spare.JobState{spare.JobPartitioning, spare.JobRunning, spare.JobAssembling},
	})
	if err != nil {
		return nil, err
	}
	var opened []scheduler.Event
	for _, job := range slices.Backward(jobs) { // oldest first
		p.cfg.Log.Info("taking up job", "job", job.ID, "state", job.State)
		if ended, err := p.failedBefore(ctx, job); ended || err != nil {
			if err != nil {
				return nil, err
			}
			continue
		}
		act := p.begin(job)
		switch job.State {
		case spare.JobPartitioning:
			p.spawn(func() { p.partition(act, job.ID) })
		case spare.JobRunning:
			ev, err := p.opening(ctx, job)
			if err != nil {
				return nil, err
			}
			opened = append(opened, ev)
		case spare.JobAssembling:
			p.spawn(func() { p.assemble(act, job.ID) })
		}
	}
	return opened, nil
}

// failedBefore ends a running job that has a failed task: the hub stopped after the
// scheduler had judged the task and before the job's own row said so. A job that has all
// its results needs nothing of this: the scheduler says so again.
func (p *Pipeline) failedBefore(ctx context.Context, job spare.Job) (ended bool, err error) {
	if job.State != spare.JobRunning {
		return false, nil
	}
	failed, err := p.cfg.Store.Tasks(ctx, job.ID, 0, 1, spare.TaskFailed)
	if err != nil || len(failed) == 0 {
		return false, err
	}
	job, err = p.cfg.Store.UpdateJob(ctx, job.ID, func(j *spare.Job) error {
		j.Error = "run: " + failed[0].Error
		return j.Move(spare.JobFailed, time.Now())
	})
	if err != nil {
		return false, err
	}
	p.announce(job)
	return true, nil
}

// Serve enforces the jobs' time limits and sweeps blobs nobody names until ctx ends,
// then stops the stages under way and waits for them.
func (p *Pipeline) Serve(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	sweep := time.NewTicker(time.Hour)
	defer sweep.Stop()
	p.sweep(ctx)
	for {
		select {
		case <-ctx.Done():
			p.stop()
			p.stages.Wait()
			return nil
		case now := <-tick.C:
			p.enforceTimeouts(now)
		case <-sweep.C:
			p.sweep(ctx)
		}
	}
}

// Run takes a draft to partitioning, with every choice pinned.
func (p *Pipeline) Run(ctx context.Context, id spare.JobID) error {
	job, err := p.cfg.Store.Job(ctx, id)
	if err != nil {
		return err
	}
	if job.State != spare.JobDraft {
		return &StateError{Job: id, State: job.State, Wanted: "run"}
	}
	if needsUpload(job) {
		return &catalog.FieldError{
			Path:    "dataSource",
			Message: "this job has no input yet: upload the file and report uploadcompleted, or name a url, then run it again",
		}
	}
	plan, err := p.cfg.Catalog.Plan(ctx, job)
	if err != nil {
		return err
	}
	job, err = p.cfg.Store.UpdateJob(ctx, id, func(j *spare.Job) error {
		if j.State != spare.JobDraft {
			return &StateError{Job: id, State: j.State, Wanted: "run"}
		}
		j.Plan = &plan
		return j.Move(spare.JobPartitioning, time.Now())
	})
	if err != nil {
		return err
	}
	p.announce(job)
	act := p.begin(job)
	p.spawn(func() { p.partition(act, id) })
	return nil
}

func needsUpload(job spare.Job) bool {
	switch job.Source.Descriptor {
	case "file", "local", "":
		return job.Input == nil
	}
	return false
}

// Abort ends a job that runs; one that never ran is deleted, as the contract has it.
func (p *Pipeline) Abort(ctx context.Context, id spare.JobID) error {
	job, err := p.cfg.Store.Job(ctx, id)
	if err != nil {
		return err
	}
	if job.State == spare.JobDraft {
		return p.cfg.Store.DeleteJob(ctx, id)
	}
	return p.finish(ctx, id, spare.JobAborted, "aborted by its owner")
}

// Delete removes a job that has ended, or never ran, with all it made.
func (p *Pipeline) Delete(ctx context.Context, id spare.JobID) error {
	job, err := p.cfg.Store.Job(ctx, id)
	if err != nil {
		return err
	}
	if !job.State.Final() && job.State != spare.JobDraft {
		return &StateError{Job: id, State: job.State, Wanted: "delete", Hint: "abort it first"}
	}
	return p.cfg.Store.DeleteJob(ctx, id)
}

// A StateError says that a job's state does not allow what was asked.
type StateError struct {
	Job    spare.JobID
	State  spare.JobState
	Wanted string
	Hint   string
}

func (e *StateError) Error() string {
	s := fmt.Sprintf("job %s is %s: cannot %s it", e.Job, e.State, e.Wanted)
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// Is makes a StateError match store.ErrConflict.
func (e *StateError) Is(target error) bool { return target == store.ErrConflict }

// begin notes that a job is between run and its end.
func (p *Pipeline) begin(job spare.Job) *activity {
	ctx, cancel := context.WithCancelCause(p.life)
	act := &activity{ctx: ctx, cancel: cancel}
	if job.Plan != nil && job.Plan.JobTimeout > 0 {
		act.deadline = job.Times[spare.JobPartitioning].Add(job.Plan.JobTimeout)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.live[job.ID] = act
	return act
}

func (p *Pipeline) activity(id spare.JobID) *activity {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.live[id]
}

func (p *Pipeline) spawn(f func()) { p.stages.Go(f) }

// slot waits for a free one; false means the job or the hub ended meanwhile.
func (act *activity) slot(slots chan struct{}) (release func(), ok bool) {
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, true
	case <-act.ctx.Done():
		return nil, false
	}
}

// finish takes a job to a final state that is not complete, and tells the scheduler.
func (p *Pipeline) finish(ctx context.Context, id spare.JobID, state spare.JobState, why string) error {
	job, err := p.cfg.Store.UpdateJob(ctx, id, func(j *spare.Job) error {
		if !j.State.CanMove(state) {
			return &StateError{Job: id, State: j.State, Wanted: map[spare.JobState]string{
				spare.JobAborted: "abort", spare.JobFailed: "fail",
			}[state]}
		}
		j.Error = why
		return j.Move(state, time.Now())
	})
	if err != nil {
		return err
	}
	p.forget(id, errAborted)
	p.announce(job)
	return p.cfg.Dispatch.Post(ctx, scheduler.JobClosed{Job: id, Reason: why})
}

// fail ends a job because of err, unless the job or the hub ended first.
func (p *Pipeline) fail(act *activity, id spare.JobID, stage string, err error) {
	if act.ctx.Err() != nil {
		return
	}
	why := fmt.Sprintf("%s: %v", stage, err)
	p.cfg.Log.Warn("job failed", "job", id, "stage", stage, "error", err)
	p.end(act, id, why)
}

func (p *Pipeline) forget(id spare.JobID, cause error) {
	p.mu.Lock()
	act := p.live[id]
	delete(p.live, id)
	p.mu.Unlock()
	if act != nil {
		act.cancel(cause)
	}
}

func (p *Pipeline) enforceTimeouts(now time.Time) {
	p.mu.Lock()
	var late []spare.JobID
	for id, act := range p.live {
		if !act.deadline.IsZero() && now.After(act.deadline) {
			late = append(late, id)
		}
	}
	p.mu.Unlock()
	for _, id := range late {
		err := p.finish(p.life, id, spare.JobFailed, "the job ran longer than its jobTimeout; raise config.jobTimeout (seconds) and run it again")
		if err != nil {
			p.cfg.Log.Error("cannot end a job that ran too long", "job", id, "error", err)
		}
	}
}

func (p *Pipeline) announce(job spare.Job) {
	p.cfg.Events.Publish(events.Event{
		Type: events.JobState, Job: job.ID,
		Data: map[string]any{"state": job.State, "error": job.Error, "chunks": job.Chunks},
	})
}

// sweep removes blobs that nothing names any more. An hour's grace keeps what was put
// by a node or a stage and is not named yet.
func (p *Pipeline) sweep(ctx context.Context) {
	keep, err := p.cfg.Store.References(ctx)
	if err != nil {
		p.cfg.Log.Error("cannot list the blobs in use; keeping all", "error", err)
		return
	}
	for _, d := range p.cfg.Keep {
		keep[d] = struct{}{}
	}
	n, size, err := p.cfg.Blobs.Sweep(ctx, keep, time.Hour)
	if err != nil && ctx.Err() == nil {
		p.cfg.Log.Error("cannot remove unused blobs", "error", err)
	}
	if n > 0 {
		p.cfg.Log.Info("removed unused blobs", "blobs", n, "bytes", size)
	}
}

// scratch makes an empty folder for one stage of a job; remove takes it away.
func (p *Pipeline) scratch(id spare.JobID, stage string) (dir string, remove func(), err error) {
	dir = filepath.Join(p.cfg.Work, string(id)+"."+stage)
	if err := os.RemoveAll(dir); err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	return dir, func() {
		if err := os.RemoveAll(dir); err != nil {
			p.cfg.Log.Error("cannot remove a scratch folder", "dir", dir, "error", err)
		}
	}, nil
}
