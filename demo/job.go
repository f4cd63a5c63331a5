package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/client"
	"github.com/spare-compute/spare/demo/clip"
	"github.com/spare-compute/spare/demo/grid"
)

// jobTime is how long a job may take before the demo gives it up: a video of the person's
// own may be long.
const jobTime = 2 * time.Hour

// ranJob is what became of the job.
type ranJob struct {
	result   string // the output file
	wall     time.Duration
	chunks   int
	attempts []spare.Attempt
	victim   string            // the killed node
	held     []spare.AttemptID // what it was working on then
	killedAt time.Time
	began    time.Time
	names    map[spare.NodeID]string
	params   json.RawMessage // as the App got them
}

// runJob runs `spare run` as anybody would, kills a working node on the way, and collects
// from the hub who did what.
func runJob(ctx context.Context, s settings, g *grid.Grid, source string) (ranJob, error) {
	j := ranJob{names: map[spare.NodeID]string{}}
	for _, n := range g.Nodes {
		j.names[n.ID] = n.Name
	}
	out := filepath.Join(s.out, "result")
	say("spare run %s --template %s --preset %s -o %s", source, s.template, s.preset, out)
	ctx, cancel := context.WithTimeout(ctx, jobTime)
	defer cancel()

	type ending struct {
		err error
		at  time.Time
	}
	ended := make(chan ending, 1)
	j.began = time.Now()
	go func() {
		_, err := g.Spare(ctx, "run", source, "--template", s.template, "--preset", s.preset, "-o", out)
		ended <- ending{err, time.Now()}
	}()
	id, killErr := killOne(ctx, g, &j)
	if killErr != nil {
		cancel()
	}
	end := <-ended
	j.wall = end.at.Sub(j.began)
	if err := errors.Join(killErr, end.err); err != nil {
		return j, err
	}
	tasks, err := g.Client.Tasks(ctx, id)
	if err != nil {
		return j, err
	}
	j.chunks = len(tasks)
	if j.attempts, err = g.Client.Attempts(ctx, id); err != nil {
		return j, err
	}
	j.result, err = clip.Only(out)
	say("job complete after %s", seconds(j.wall))
	return j, err
}

// killOne waits until a node has worked on a chunk of the job for a moment while another
// chunk is done, and kills that node.
func killOne(ctx context.Context, g *grid.Grid, j *ranJob) (id string, err error) {
	err = g.Until(ctx, jobTime, "the job to be under way", func() (bool, error) {
		jobs, _, err := g.Client.Jobs(ctx, client.ListOptions{})
		if err != nil || len(jobs) == 0 {
			return false, err
		}
		id = jobs[0].ID
		if client.Final(jobs[0].State) {
			return false, fmt.Errorf("the job is %s before a node could be killed: %s", jobs[0].State, jobs[0].Error)
		}
		p, err := g.Client.Progress(ctx, id)
		if err != nil {
			return false, err
		}
		victim := pick(p, time.Now())
		if victim == "" {
			return false, nil
		}
		return true, kill(g, victim, p, j)
	})
	return id, err
}

// pick chooses a node to kill: one that has worked for a second on a chunk, once a chunk is
// done, or at once when the last chunks run.
func pick(p client.Progress, now time.Time) spare.NodeID {
	late := p.Total > 0 && p.Ready == 0
	if p.Done == 0 && !late {
		return ""
	}
	for _, a := range p.Attempts {
		if now.Sub(a.Since) > time.Second || late {
			return a.Node
		}
	}
	return ""
}

func kill(g *grid.Grid, victim spare.NodeID, p client.Progress, j *ranJob) error {
	i := slices.IndexFunc(g.Nodes, func(n *grid.Node) bool { return n.ID == victim })
	if i < 0 {
		return fmt.Errorf("node %s holds a chunk, but is none of the demo's", victim.Short())
	}
	var chunks []string
	for _, a := range p.Attempts {
		if a.Node == victim {
			j.held = append(j.held, a.Attempt)
			chunks = append(chunks, fmt.Sprint(a.Chunk))
		}
	}
	j.victim, j.killedAt = g.Nodes[i].Name, time.Now()
	say("kill -9 of node %s, which holds chunk %s (%d of %d done)", j.victim, strings.Join(chunks, ", "), p.Done, p.Total)
	return g.Kill(g.Nodes[i].Proc)
}

// presetParams are the job's parameters as the App gets them, for the encode done whole.
func presetParams(ctx context.Context, g *grid.Grid, s settings) (json.RawMessage, error) {
	presets, err := g.Client.Presets(ctx, s.template)
	if err != nil {
		return nil, err
	}
	for _, p := range presets {
		if p.ID == s.preset {
			return p.Data, nil
		}
	}
	return nil, fmt.Errorf("template %s has no preset %s", s.template, s.preset)
}
