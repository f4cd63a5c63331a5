package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/scheduler"
	"github.com/spare-compute/spare/hub/store"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/protocol/pb"
)

// grants remembers what each node holds a lease on, and so may fetch. It outlives
// sessions, and is filled again from the store when a node returns after a restart.
type grants struct {
	store  store.Store
	images Images // nil: the hub holds none

	mu    sync.Mutex
	held  map[spare.NodeID]map[spare.AttemptID]grant
	plans map[spare.JobID]*plan // of jobs with a lease
}

// grant is what one lease lets a node fetch.
type grant struct {
	at      time.Time
	digests [2]spare.Digest // input and checkpoint
}

// plan is what a lease needs to know of its job.
type plan struct {
	job   spare.Job
	app   *pb.App
	users int // leases that refer to it

	content []spare.Digest // the App's bundle, and its image's blobs if the hub holds them
}

// Images tells what the images on this hub are made of; catalog.Shelf does.
type Images interface {
	Parts(ctx context.Context, pinned string) ([]spare.Digest, error)
}

func newGrants(st store.Store, images Images) *grants {
	return &grants{
		store: st, images: images, held: map[spare.NodeID]map[spare.AttemptID]grant{}, plans: map[spare.JobID]*plan{},
	}
}

// take notes that a node holds an attempt of task and returns the job's plan.
func (g *grants) take(ctx context.Context, node spare.NodeID, attempt spare.AttemptID, task spare.Task) (*plan, error) {
	p, err := g.plan(ctx, task.Job)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held[node] == nil {
		g.held[node] = map[spare.AttemptID]grant{}
	}
	if _, again := g.held[node][attempt]; !again {
		p.users++
		g.plans[task.Job] = p
	}
	held := grant{at: time.Now(), digests: [2]spare.Digest{task.Input.Digest}}
	if left, _ := task.Checkpoint(); left != nil {
		held.digests[1] = left.Digest
	}
	g.held[node][attempt] = held
	return p, nil
}

func (g *grants) plan(ctx context.Context, id spare.JobID) (*plan, error) {
	g.mu.Lock()
	p := g.plans[id]
	g.mu.Unlock()
	if p != nil {
		return p, nil
	}
	job, err := g.store.Job(ctx, id)
	if err != nil {
		return nil, err
	}
	if job.Plan == nil {
		return nil, fmt.Errorf("job %s has no plan", id)
	}
	a := job.Plan.App
	around := a.Environment
	if around.Platform == "" { // planned by an earlier release
		around.Platform = a.Platform
	}
	environment, err := json.Marshal(around)
	if err != nil {
		return nil, err
	}
	content := []spare.Digest{a.Bundle}
	if a.ImageOnHub && g.images != nil {
		parts, err := g.images.Parts(ctx, around.Image)
		if err != nil && !errors.Is(err, store.ErrNotFound) { // removed meanwhile: the node says so
			return nil, err
		}
		content = append(content, parts...)
	}
	return &plan{job: job, content: content, app: &pb.App{
		Name: a.Name, Version: a.Version, Revision: uint32(a.Revision), Entrypoint: a.Entrypoint,
		Platform: string(a.Platform), PlatformConfig: a.Config, Root: a.Root,
		Bundle:      &pb.Blob{Digest: string(a.Bundle), Size: uint64(a.BundleSize)},
		Environment: environment, ImageOnHub: a.ImageOnHub, Gpus: a.Needs.GPU, Signed: a.Signed,
	}}, nil
}

// drop forgets an attempt.
func (g *grants) drop(node spare.NodeID, attempt spare.AttemptID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.held[node][attempt]; !ok {
		return
	}
	delete(g.held[node], attempt)
	if len(g.held[node]) == 0 {
		delete(g.held, node)
	}
	if p := g.plans[jobOf(attempt)]; p != nil {
		if p.users--; p.users == 0 {
			delete(g.plans, p.job.ID)
		}
	}
}

// latest is when a node was last granted a lease that it still holds; false if it holds
// none.
func (g *grants) latest(node spare.NodeID) (time.Time, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var last time.Time
	for _, held := range g.held[node] {
		if held.at.After(last) {
			last = held.at
		}
	}
	return last, len(g.held[node]) > 0
}

// mayGet reports whether a lease of the node names this content.
func (g *grants) mayGet(node spare.NodeID, d spare.Digest) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for attempt, held := range g.held[node] {
		if slices.Contains(held.digests[:], d) {
			return true
		}
		if p := g.plans[jobOf(attempt)]; p != nil && slices.Contains(p.content, d) {
			return true
		}
	}
	return false
}

// restore takes up the attempts that a returning node says it holds, as far as the
// store knows them as its own.
func (g *grants) restore(ctx context.Context, node spare.NodeID, attempts []spare.AttemptID) error {
	if len(attempts) == 0 {
		return nil
	}
	live, err := g.store.LiveAttempts(ctx)
	if err != nil {
		return err
	}
	own := map[spare.AttemptID]spare.Attempt{}
	for _, a := range live {
		if a.Node == node {
			own[a.ID] = a
		}
	}
	for _, id := range attempts {
		a, ok := own[id]
		if !ok {
			continue
		}
		tasks, err := g.store.Tasks(ctx, a.Job, a.Chunk, 1)
		if err != nil {
			return err
		}
		if len(tasks) == 1 && tasks[0].ID == a.Task {
			if _, err := g.take(ctx, node, id, tasks[0]); err != nil {
				return err
			}
		}
	}
	return nil
}

func jobOf(a spare.AttemptID) spare.JobID {
	task := string(a.Task())
	for i := range len(task) {
		if task[i] == '.' {
			return spare.JobID(task[:i])
		}
	}
	return ""
}

// grant sends leases to a node, small inputs inside them.
func (g *Gateway) grant(dec scheduler.Grant) {
	s := g.session(dec.Node)
	if s == nil {
		return // gone meanwhile; the leases expire
	}
	leases := make([]*pb.Lease, 0, len(dec.Leases))
	for _, l := range dec.Leases {
		lease, err := g.lease(dec.Node, l)
		if err != nil {
			g.cfg.Log.Error("cannot hand out a lease; it will expire", "attempt", l.Attempt.ID, "error", err)
			continue
		}
		leases = append(leases, lease)
	}
	for len(leases) > 0 {
		n := fit(leases)
		s.send(&pb.Frame{Body: &pb.Frame_Grant{Grant: &pb.Grant{Leases: leases[:n]}}})
		leases = leases[n:]
	}
}

// fit is how many leases go into one message.
func fit(leases []*pb.Lease) int {
	size := 0
	for i, l := range leases {
		size += len(l.Params) + len(l.Input.Inline) + len(l.App.PlatformConfig) + len(l.App.Environment) + len(l.App.Signed) + 1024
		if i > 0 && size > protocol.MaxFrame/2 {
			return i
		}
	}
	return len(leases)
}

func (g *Gateway) lease(node spare.NodeID, l scheduler.Leased) (*pb.Lease, error) {
	ctx := context.Background() // a look-up that is nearly always in memory
	p, err := g.grants.take(ctx, node, l.Attempt.ID, l.Task)
	if err != nil {
		return nil, err
	}
	params, err := overlay(p.job.Plan.AppParams, l.Task.Params)
	if err != nil {
		return nil, err
	}
	input := &pb.Blob{
		Digest: string(l.Task.Input.Digest), Size: uint64(l.Task.Input.Size),
		Name: l.Task.Input.Name, Inline: l.Task.Input.Inline,
	}
	if len(input.Inline) == 0 && l.Task.Input.Size > 0 && l.Task.Input.Size <= protocol.InlineLimit {
		if input.Inline, err = g.read(l.Task.Input.Digest); err != nil {
			return nil, err
		}
	}
	checkpoint, err := g.checkpoint(l.Task)
	if err != nil {
		return nil, err
	}
	return &pb.Lease{
		Checkpoint: checkpoint,
		Attempt:    string(l.Attempt.ID), Chunk: uint32(l.Task.Chunk),
		ExpiresMs: uint32(g.cfg.Lease.Milliseconds()), App: p.app, Params: params, Input: input,
		TimeoutS: uint32(p.job.Plan.TaskTimeout.Seconds()), JobName: p.job.Name, Owner: p.job.Owner,
		MemoryBytes: uint64(p.job.Plan.Needs.MinMemory * (1 << 30)), Cores: uint32(max(p.job.Plan.Needs.MinCPU, 1)),
	}, nil
}

// checkpoint is what an earlier attempt left of itself, named after its number.
func (g *Gateway) checkpoint(t spare.Task) (*pb.Blob, error) {
	left, number := t.Checkpoint()
	if left == nil {
		return nil, nil
	}
	b := &pb.Blob{Digest: string(left.Digest), Size: uint64(left.Size), Inline: left.Inline, Name: strconv.Itoa(number)}
	if len(b.Inline) > 0 {
		return b, nil
	}
	_, err := g.cfg.Blobs.Stat(left.Digest)
	if err != nil {
		return nil, nil // it begins anew rather than not at all
	}
	return b, nil
}

func (g *Gateway) read(d spare.Digest) ([]byte, error) {
	r, _, err := g.cfg.Blobs.Open(d, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// overlay lays a chunk's own parameters over the job's.
func overlay(base, over json.RawMessage) (json.RawMessage, error) {
	if len(over) == 0 {
		return base, nil
	}
	var merged, own map[string]json.RawMessage
	if err := json.Unmarshal(base, &merged); err != nil {
		return nil, fmt.Errorf("the App's parameters: %w", err)
	}
	if err := json.Unmarshal(over, &own); err != nil {
		return nil, fmt.Errorf("the chunk's parameters: %w", err)
	}
	if merged == nil {
		merged = map[string]json.RawMessage{}
	}
	for k, v := range own {
		merged[k] = v
	}
	return json.Marshal(merged)
}
