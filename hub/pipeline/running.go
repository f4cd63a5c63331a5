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
		var ev scheduler.Event
		if ev, err = p.opening(act.ctx, job); err == nil {
			err = p.cfg.Dispatch.Post(act.ctx, ev)
		}
	}
	if err != nil {
		p.fail(act, id, "run", err)
	}
}

func (p *Pipeline) opening(ctx context.Context, job spare.Job) (scheduler.Event, error) {
	counts, err := p.cfg.Store.CountTasks(ctx, job.ID)
	if err != nil {
		return nil, err
	}
	return scheduler.JobOpened{
		Job: job.ID, Owner: job.Owner, App: job.Plan.App.Name, Around: job.Plan.App.Environment,
		Needs: job.Plan.Needs, Pool: job.Plan.Pool, MaxRetries: job.Plan.MaxRetries,
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
	job, err := p.cfg.Store.UpdateJob(act.ctx, id, func(j *spare.Job) error {
		j.Done = j.Chunks
		return j.Move(spare.JobAssembling, time.Now())
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
	if err := p.finish(act.ctx, dec.Job, spare.JobFailed, "run: "+dec.Sentence); err != nil && !errors.Is(err, context.Canceled) {
		p.cfg.Log.Error("cannot note that a job failed", "job", dec.Job, "error", err)
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
