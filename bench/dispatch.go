package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spare-compute/spare/client"
	"github.com/spare-compute/spare/demo/grid"
	"github.com/spare-compute/spare/protocol"
)

const (
	spareTasks      = 50_000 // enough for some seconds, for each
	peerTasks       = 5_000
	dispatchWorkers = 8     // sessions, or consumers
	dispatchWindow  = 64    // leases that one session holds at once
	latencyTasks    = 1_000 // one after the other: ten of them are slower than the p99
	warmUps         = 50    // before these
	payloadBytes    = 200
)

// A dispatched is what one system did with tasks that do nothing.
type dispatched struct {
	tasks   float64
	submit  time.Duration // to put all tasks in, durably
	work    time.Duration // to hand out, finish and acknowledge all of them, durably
	latency []time.Duration
}

// dispatchRate compares Spare's hub with two queues whose acknowledgements are durable too.
func dispatchRate(ctx context.Context, p place, rec *recorder) error {
	var rows []row
	var failed []error
	for _, v := range []struct {
		name string
		run  func(ctx context.Context, p place) (dispatched, error)
	}{
		{"Spare", dispatchSpare},
		{"River 0.51 on SQLite", dispatchRiver},
		{"NATS JetStream 2.15, SyncAlways", dispatchNATS},
	} {
		d, err := v.run(ctx, p)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", v.name, err))
			continue
		}
		d.latency = d.latency[warmUps:]
		rows = append(rows, row{v.name, []figure{
			fig(d.tasks/d.work.Seconds(), "tasks/s", "%.0f"),
			fig(d.tasks/(d.submit+d.work).Seconds(), "tasks/s with submission", "%.0f"),
			fig(ms(quantile(d.latency, 0.5)), "ms p50", "%.2f"),
			fig(ms(quantile(d.latency, 0.99)), "ms p99", "%.2f"),
		}})
	}
	head := []string{"tasks/s", "with submission", "p50 ms", "p99 ms"}
	return errors.Join(append(failed, rec.table("dispatch", "Dispatch rate", head, rows))...)
}

func dispatchSpare(ctx context.Context, p place) (d dispatched, err error) {
	d.tasks = spareTasks
	g, err := grid.New(p.bin, filepath.Join(p.out, "logs"))
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	if _, err := g.StartHub(ctx); err != nil {
		return d, g.Explain(err)
	}
	text, err := g.Ticket(ctx, dispatchWorkers+1)
	if err != nil {
		return d, err
	}
	ticket, err := protocol.ParseTicket(text)
	if err != nil {
		return d, err
	}
	result, err := packResult(ctx, g.Work())
	if err != nil {
		return d, err
	}
	if d.latency, err = spareLatency(ctx, g, ticket, result); err != nil {
		return d, g.Explain(err)
	}
	began := time.Now()
	id, err := cutJob(ctx, g, spareTasks)
	if err != nil {
		return d, g.Explain(err)
	}
	d.submit = time.Since(began)
	f, err := newFleet(ctx, ticket, dispatchWorkers, dispatchWindow, result)
	if err != nil {
		return d, g.Explain(err)
	}
	defer f.close()
	if d.work, err = f.drain(ctx, dispatchWindow, spareTasks); err != nil {
		return d, g.Explain(err)
	}
	return d, g.Explain(complete(ctx, g, id))
}

// spareLatency runs a job on one session that takes one lease at a time.
func spareLatency(ctx context.Context, g *grid.Grid, ticket protocol.Ticket, result *packed) ([]time.Duration, error) {
	const n = warmUps + latencyTasks
	id, err := cutJob(ctx, g, n)
	if err != nil {
		return nil, err
	}
	w, err := enrol(ctx, ticket, "single", 1, result)
	if err != nil {
		return nil, err
	}
	defer w.close()
	stop := context.AfterFunc(ctx, w.close)
	defer stop()
	took, err := w.oneByOne(n)
	if err != nil {
		return nil, err
	}
	return took, complete(ctx, g, id)
}

// cutJob submits a job of n chunks and waits until all of them are on disk and ready.
func cutJob(ctx context.Context, g *grid.Grid, n int) (id string, err error) {
	input := filepath.Join(g.Work(), "input.txt")
	if err := os.WriteFile(input, make([]byte, payloadBytes), 0o644); err != nil {
		return "", err
	}
	job, err := g.Client.CreateJob(ctx, client.NewJob{
		Name: "dispatch", Template: "montecarlo", Source: &client.DataPoint{Descriptor: "file", Params: map[string]string{"name": "input.txt"}},
		Params: map[string]any{"partitioner": map[string]any{"num_replicas": n}},
	})
	if err != nil {
		return "", err
	}
	if _, err := g.Client.Upload(ctx, job, input, nil); err != nil {
		return "", err
	}
	if _, err := g.Client.Run(ctx, job.ID); err != nil {
		return "", err
	}
	return job.ID, g.Until(ctx, 5*time.Minute, "the job to be cut", func() (bool, error) {
		j, err := g.Client.Job(ctx, job.ID)
		if err == nil && client.Final(j.State) {
			err = fmt.Errorf("the job is %s: %s", j.State, j.Error)
		}
		return j.State == client.StateRunning && j.Chunks == n, err
	})
}

// complete waits for the job's end, so that what follows has the machine to itself.
func complete(ctx context.Context, g *grid.Grid, id string) error {
	return g.Until(ctx, 5*time.Minute, "the job to be complete", func() (bool, error) {
		j, err := g.Client.Job(ctx, id)
		if err == nil && client.Final(j.State) && j.State != client.StateComplete {
			err = fmt.Errorf("the job is %s: %s", j.State, j.Error)
		}
		return j.State == client.StateComplete, err
	})
}
