package pipeline

import (
	"context"
	"errors"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/events"
	"github.com/spare-compute/spare/hub/scheduler"
	"github.com/spare-compute/spare/hub/store"
)

// open gives a running job to the scheduler, which asks for its tasks.
func (p *Pipeline) open(act *activity, id spare.JobID) {
	job, err := p.cfg.Store.Job(act.ctx, id)
	if err == nil {
		var ev scheduler.JobOpened
		if ev, err = p.opening(act.ctx, job); err == nil {
			ev.Fresh = true // it was just cut
			err = p.cfg.Dispatch.Post(act.ctx, ev)
		}
	}
	if err != nil {
		p.fail(act, id, "run", err)
	}
}

func (p *Pipeline) opening(ctx context.Context, job spare.Job) (scheduler.JobOpened, error) {
	counts, err := p.cfg.Store.CountTasks(ctx, job.ID)
	if err != nil {
		return scheduler.JobOpened{}, err
	}
	return scheduler.JobOpened{
		Job: job.ID, Owner: job.Owner, App: job.Plan.App.Name, Around: job.Plan.App.Environment,
		Needs: job.Plan.Needs, Pool: job.Plan.Pool, MaxRetries: job.Plan.MaxRetries, Timeout: job.Plan.TaskTimeout,
		Total: job.Chunks, Chunks: job.Chunks, Done: counts[spare.TaskDone],
	}, nil
}

// Decided takes the scheduler's decisions about jobs. It never blocks.
func (p *Pipeline) Decided(dec scheduler.Decision) {
	switch dec := dec.(type) {
	case scheduler.JobDone:
		p.spawn(func() { p.allDone(dec.Job) })
	case scheduler.JobFailed:
		p.spawn(func() { p.chunkFailed(dec) })
	case scheduler.Refill:
		p.spawn(func() { p.refill(dec) })
	case scheduler.TaskDone:
		p.cfg.Events.Publish(events.Event{Type: events.TaskDone, Job: dec.Job, Node: dec.Node, Data: map[string]any{
			"chunk": dec.Chunk, "node": dec.Node, "done": dec.Done, "total": dec.Total,
		}})
	case scheduler.Retried:
		p.cfg.Events.Publish(events.Event{Type: events.TaskRetried, Job: dec.Job, Node: dec.Node, Data: map[string]any{
			"chunk": dec.Chunk, "attempt": dec.Attempt, "outcome": dec.Outcome, "node": dec.Node,
			"message": dec.Message, "notBefore": dec.NotBefore,
		}})
	}
}

func (p *Pipeline) allDone(id spare.JobID) {
	act := p.activity(id)
	if act == nil {
		return // ended meanwhile
	}
	var job spare.Job
	err := p.insist(act, id, func() (err error) {
		job, err = p.cfg.Store.UpdateJob(act.ctx, id, func(j *spare.Job) error {
			j.Done = j.Chunks
			return j.Move(spare.JobAssembling, time.Now())
		})
		return err
	})
	if err != nil {
		p.fail(act, id, "run", err)
		return
	}
	p.announce(job)
	p.assemble(act, id)
}

func (p *Pipeline) chunkFailed(dec scheduler.JobFailed) {
	act := p.activity(dec.Job)
	if act == nil {
		return
	}
	p.end(act, dec.Job, "run: "+dec.Sentence)
}

// end fails a job for good: the scheduler, or a stage, has given it up already.
func (p *Pipeline) end(act *activity, id spare.JobID, why string) {
	err := p.insist(act, id, func() error { return p.finish(p.life, id, spare.JobFailed, why) })
	if err != nil && act.ctx.Err() == nil {
		p.cfg.Log.Error("cannot note that a job failed", "job", id, "error", err)
	}
}

// How long a change waits that could not be written, the first time and at most.
const (
	insistMin = 100 * time.Millisecond
	insistMax = 5 * time.Second
)

// insist writes what must be written until it is, or the job or the hub ends: while the
// store is full or busy, a job must not stay where nobody takes it on. What the job's
// state forbids is returned at once.
func (p *Pipeline) insist(act *activity, id spare.JobID, write func() error) error {
	for wait := insistMin; ; wait = min(2*wait, insistMax) {
		err := write()
		var bad *StateError
		if err == nil || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict) || errors.As(err, &bad) {
			return err
		}
		select {
		case <-act.ctx.Done():
			return err
		case <-time.After(wait):
		}
		p.cfg.Log.Error("cannot write a job's state; trying again", "job", id, "error", err, "next try", wait)
	}
}

// refill hands the scheduler the next open tasks of a job, from a chunk number on.
func (p *Pipeline) refill(dec scheduler.Refill) {
	act := p.activity(dec.Job)
	if act == nil {
		return
	}
	tasks, err := p.cfg.Store.Tasks(act.ctx, dec.Job, dec.From, dec.Limit, spare.TaskReady, spare.TaskRunning)
	if err != nil {
		if !errors.Is(err, store.ErrNotFound) {
			p.fail(act, dec.Job, "run", err)
		}
		return
	}
	ev := scheduler.Refilled{Job: dec.Job, From: dec.From, Limit: dec.Limit, Tasks: tasks}
	if err := p.cfg.Dispatch.Post(act.ctx, ev); err != nil && act.ctx.Err() == nil {
		p.fail(act, dec.Job, "run", err)
	}
}
