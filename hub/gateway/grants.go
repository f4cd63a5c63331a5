package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/scheduler"
	"github.com/spare-compute/spare/hub/store"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/protocol/pb"
)

// grants remembers what each node was leased, and so may fetch and hand over. It outlives
// sessions, and is filled again from the store when a node returns after a restart.
type grants struct {
	store  store.Store
	images Images // nil: the hub holds none

	mu      sync.Mutex
	held    map[spare.NodeID]map[spare.AttemptID]grant
	uploads map[spare.NodeID]map[spare.Digest]upload // that no report has named yet
	plans   map[spare.JobID]*plan                    // the last maxPlans that were used
	clock   int                                      // of their use
}

// grant is what one lease lets a node do. One that has run out still lets it: its result
// is taken while the task is open.
type grant struct {
	digests [2]spare.Digest // input and checkpoint
	plan    *plan           // nil until the lease is made
}

// upload is a blob that a node began to hand over.
type upload struct {
	size int64
	at   time.Time
}

// plan is what a lease needs to know of its job.
type plan struct {
	job  spare.Job
	app  *pb.App
	used int // when, by grants.clock

	content []spare.Digest // the App's bundle, and its image's blobs if the hub holds them
}

const (
	maxPlans = 256 // jobs whose plan is kept in memory
	// uploadAge is how long an upload counts that is never reported: blobs that nothing
	// names are swept after that time.
	uploadAge = time.Hour
	// maxLease is the size in bytes of the largest lease; the rest is the message's frame.
	maxLease = protocol.MaxFrame - 1<<10
)

// Images tells what the images on this hub are made of; catalog.Shelf does.
type Images interface {
	Parts(ctx context.Context, pinned string) ([]spare.Digest, error)
}

func newGrants(st store.Store, images Images) *grants {
	return &grants{
		store: st, images: images, held: map[spare.NodeID]map[spare.AttemptID]grant{},
		uploads: map[spare.NodeID]map[spare.Digest]upload{}, plans: map[spare.JobID]*plan{},
	}
}

// take notes that a node has an attempt of task.
func (g *grants) take(node spare.NodeID, attempt spare.AttemptID, task spare.Task) {
	taken := grant{digests: [2]spare.Digest{task.Input.Digest}}
	if left, _ := task.Checkpoint(); left != nil {
		taken.digests[1] = left.Digest
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held[node] == nil {
		g.held[node] = map[spare.AttemptID]grant{}
	}
	g.held[node][attempt] = taken
}

// change alters what is held of an attempt; false if it is not held any more.
func (g *grants) change(node spare.NodeID, attempt spare.AttemptID, change func(*grant)) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	held, ok := g.held[node][attempt]
	if ok {
		change(&held)
		g.held[node][attempt] = held
	}
	return ok
}

// planned adds to what is held of an attempt what its job lets the node fetch.
func (g *grants) planned(ctx context.Context, node spare.NodeID, attempt spare.AttemptID) (p *plan, held bool, err error) {
	if p, err = g.plan(ctx, jobOf(attempt)); err != nil {
		return nil, false, err
	}
	return p, g.change(node, attempt, func(held *grant) { held.plan = p }), nil
}

// recall is a plan that is in memory, or nil.
func (g *grants) recall(id spare.JobID) *plan {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.plans[id]
	if p != nil {
		g.clock++
		p.used = g.clock
	}
	return p
}

// remember keeps a plan, in place of the one that was not used for longest.
func (g *grants) remember(p *plan) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.plans) >= maxPlans {
		var oldest *plan
		for _, q := range g.plans {
			if oldest == nil || q.used < oldest.used {
				oldest = q
			}
		}
		delete(g.plans, oldest.job.ID)
	}
	g.clock++
	p.used = g.clock
	g.plans[p.job.ID] = p
}

// forget drops the plan of a job that has ended.
func (g *grants) forget(id spare.JobID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.plans, id)
}

func (g *grants) plan(ctx context.Context, id spare.JobID) (*plan, error) {
	if p := g.recall(id); p != nil {
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
	needs, err := json.Marshal(a.Needs)
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
	p := &plan{job: job, content: content, app: &pb.App{
		Name: a.Name, Version: a.Version, Revision: uint32(a.Revision), Entrypoint: a.Entrypoint,
		Platform: string(a.Platform), PlatformConfig: a.Config, Root: a.Root,
		Bundle:      &pb.Blob{Digest: string(a.Bundle), Size: uint64(a.BundleSize)},
		Environment: environment, ImageOnHub: a.ImageOnHub, Gpus: a.Needs.GPU, Needs: needs, Signed: a.Signed,
	}}
	g.remember(p)
	return p, nil
}

// drop forgets an attempt.
func (g *grants) drop(node spare.NodeID, attempt spare.AttemptID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.held[node], attempt)
	if len(g.held[node]) == 0 {
		delete(g.held, node)
	}
}

// mayGet reports whether a lease of the node names this content.
func (g *grants) mayGet(node spare.NodeID, d spare.Digest) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, held := range g.held[node] {
		if slices.Contains(held.digests[:], d) || (held.plan != nil && slices.Contains(held.plan.content, d)) {
			return true
		}
	}
	return false
}

// mayPut lets a node hand over a blob that can be of one of its leases. All that it hands
// over and does not report may have no more bytes than the largest result.
func (g *grants) mayPut(node spare.NodeID, d spare.Digest, size, most int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.held[node]) == 0 {
		return errors.New("this node has no lease that this could be of")
	}
	now, own := time.Now(), g.uploads[node]
	sum := size
	for digest, u := range own {
		switch {
		case now.Sub(u.at) > uploadAge:
			delete(own, digest)
		case digest != d:
			sum += u.size
		}
	}
	if sum > most || len(own) >= maxHeld {
		// The node tries again, as with a full disk: once it has reported, there is room.
		return fmt.Errorf("%w for this node: it handed over %d bytes that it has not reported", protocol.ErrFull, sum-size)
	}
	if own == nil {
		own = map[spare.Digest]upload{}
		g.uploads[node] = own
	}
	own[d] = upload{size: size, at: now}
	return nil
}

// claim notes that a report of one of a node's attempts names an upload.
func (g *grants) claim(node spare.NodeID, attempt spare.AttemptID, d spare.Digest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.held[node][attempt]; !ok {
		return
	}
	delete(g.uploads[node], d)
	if len(g.uploads[node]) == 0 {
		delete(g.uploads, node)
	}
}

// restore makes what is held of a returning node those of the attempts it names that are
// its own, as far as the store knows, and open.
func (g *grants) restore(ctx context.Context, node spare.NodeID, attempts []spare.AttemptID) error {
	fresh := g.keep(node, attempts)
	if len(fresh) == 0 {
		return nil
	}
	live, err := g.store.LiveAttempts(ctx)
	if err != nil {
		return err
	}
	own := map[spare.AttemptID]bool{}
	for _, a := range live {
		own[a.ID] = a.Node == node
	}
	for _, id := range fresh {
		task, err := g.task(ctx, id.Task())
		switch {
		case errors.Is(err, store.ErrNotFound):
			continue
		case err != nil:
			return err
		}
		if !own[id] && !lost(task, node, id) {
			continue
		}
		g.take(node, id, task)
		if _, _, err := g.planned(ctx, node, id); err != nil {
			return err
		}
	}
	return nil
}

// keep drops all attempts of a node but these, and returns those that it does not hold.
func (g *grants) keep(node spare.NodeID, attempts []spare.AttemptID) (fresh []spare.AttemptID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	kept := map[spare.AttemptID]grant{}
	for _, id := range attempts {
		if held, ok := g.held[node][id]; ok {
			kept[id] = held
		} else {
			fresh = append(fresh, id)
		}
	}
	delete(g.held, node)
	if len(kept) > 0 {
		g.held[node] = kept
	}
	return fresh
}

// task reads the open task of that name; store.ErrNotFound if there is none.
func (g *grants) task(ctx context.Context, id spare.TaskID) (spare.Task, error) {
	job, number, _ := strings.Cut(string(id), ".")
	chunk, err := strconv.Atoi(number)
	if err != nil || chunk < 0 {
		return spare.Task{}, store.ErrNotFound
	}
	tasks, err := g.store.Tasks(ctx, spare.JobID(job), chunk, 1)
	if err != nil {
		return spare.Task{}, err
	}
	if len(tasks) == 0 || tasks[0].ID != id || tasks[0].State.Final() {
		return spare.Task{}, store.ErrNotFound
	}
	return tasks[0], nil
}

// lost reports whether the attempt is one of the task's that the node lost.
func lost(task spare.Task, node spare.NodeID, id spare.AttemptID) bool {
	return slices.ContainsFunc(task.Tries, func(try spare.Try) bool {
		return try.Node == node && try.Outcome == spare.Lost && spare.NewAttemptID(task.ID, try.Number) == id
	})
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

// grant queues leases for a node. The session makes them, since that may need to read.
func (g *Gateway) grant(dec scheduler.Grant) {
	s := g.session(dec.Node)
	if s == nil {
		return // gone meanwhile; the leases expire
	}
	for _, l := range dec.Leases {
		g.grants.take(dec.Node, l.Attempt.ID, l.Task)
	}
	s.queue(outgoing{leases: dec.Leases})
}

// hand makes leases and sends them, small inputs inside them, many in one message.
func (s *session) hand(ctx context.Context, leased []scheduler.Leased) error {
	var batch []*pb.Lease
	size := 0
	send := func() error {
		if len(batch) == 0 {
			return nil
		}
		f := &pb.Frame{Body: &pb.Frame_Grant{Grant: &pb.Grant{Leases: batch}}}
		batch, size = nil, 0
		return s.ctl.Send(f)
	}
	for _, l := range leased {
		lease, err := s.g.lease(ctx, s.node.ID, l)
		if err != nil {
			s.log.Error("cannot hand out a lease; it will expire", "attempt", l.Attempt.ID, "error", err)
			continue
		}
		if lease == nil {
			continue // cancelled meanwhile
		}
		n := proto.Size(lease)
		if n > maxLease {
			if err := s.tooLarge(ctx, l, n); err != nil {
				return err
			}
			continue
		}
		if size+n > protocol.MaxFrame/2 {
			if err := send(); err != nil {
				return err
			}
		}
		batch, size = append(batch, lease), size+n
	}
	return send()
}

// tooLarge ends an attempt whose lease no message can hold. It is the same with every
// node, so it counts against the task.
func (s *session) tooLarge(ctx context.Context, l scheduler.Leased, size int) error {
	return s.g.cfg.Dispatch.Post(ctx, scheduler.Reported{
		Node: s.node.ID, Attempt: l.Attempt.ID, Outcome: spare.AppFailed,
		Message: fmt.Sprintf("what a node must be told of this chunk has %d bytes and may have %d; give the App less in its parameters, and put what is long into the input", size, maxLease),
	})
}

// lease makes one lease, or none if it was cancelled meanwhile.
func (g *Gateway) lease(ctx context.Context, node spare.NodeID, l scheduler.Leased) (*pb.Lease, error) {
	p, held, err := g.grants.planned(ctx, node, l.Attempt.ID)
	if err != nil || !held {
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
