package hub

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/api"
	"github.com/spare-compute/spare/hub/assemble"
	"github.com/spare-compute/spare/hub/datasource"
	"github.com/spare-compute/spare/hub/dispatch"
	"github.com/spare-compute/spare/hub/gateway"
	"github.com/spare-compute/spare/hub/media"
	"github.com/spare-compute/spare/hub/partition"
	"github.com/spare-compute/spare/hub/pipeline"
	"github.com/spare-compute/spare/hub/scheduler"
)

// stages is how many partition and assemble stages run at once.
const stages = 2

// wire makes the rooms that call each other and gives the scheduler its past.
func (h *Hub) wire(ctx context.Context) error {
	opt := h.opt
	seed := uint64(time.Now().UnixNano()) // spreads back-off; nothing else depends on it
	h.dispatch = dispatch.New(dispatch.Config{
		Core:   scheduler.New(scheduler.Config{Lease: opt.Lease, HeartbeatBusy: opt.HeartbeatBusy}, seed),
		Ledger: h.store, Effect: h.effect, EndTurn: func() { h.gateway.Flush() }, Log: opt.Log,
	})
	fetcher := datasource.New(datasource.Options{Allow: opt.AllowFetch})
	runtimes, err := h.shelveRuntimes(ctx)
	if err != nil {
		return err
	}
	h.pipeline = pipeline.New(pipeline.Config{
		Store: h.store, Blobs: h.blobs, Catalog: h.catalog, Dispatch: h.dispatch, Events: h.events,
		Media: media.New(), Fetch: fetcher, Work: h.folder("work"), Stages: stages, Keep: digests(runtimes), Log: opt.Log,
	})
	h.gateway = gateway.New(gateway.Config{
		Runtimes: runtimes, Images: h.images,
		Store: h.store, Blobs: h.blobs, Dispatch: h.dispatch, Events: h.events, HubName: opt.Name, Log: opt.Log,
		Lease: opt.Lease, HeartbeatBusy: opt.HeartbeatBusy, HeartbeatIdle: opt.HeartbeatIdle, MaxResult: maxResult,
	})
	secret, err := h.secret(ctx, "api.signing")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(h.folder("uploads"), 0o700); err != nil {
		return fmt.Errorf("make the folder for uploads: %w", err)
	}
	if err := api.SweepUploads(ctx, h.store, h.folder("uploads")); err != nil {
		return err
	}
	h.handler, err = api.New(api.Config{
		Store: h.store, Blobs: h.blobs, Catalog: h.catalog, Images: h.images, Jobs: jobs{h}, Nodes: h.gateway, Sources: fetcher,
		Events: h.events, Secret: secret, Uploads: h.folder("uploads"), Log: opt.Log, HubName: opt.Name,
		Ready: func() error { return nil }, Room: h.blobs.Room,
	})
	if err != nil {
		return err
	}
	return h.restore(ctx)
}

func digests(files []spare.File) []spare.Digest {
	var all []spare.Digest
	for _, f := range files {
		all = append(all, f.Digest)
	}
	return all
}

// effect carries out one decision of a turn that is on disk.
func (h *Hub) effect(dec scheduler.Decision) {
	h.gateway.Decided(dec)
	h.pipeline.Decided(dec)
}

// strategies tells the catalogue what is built in.
type strategies struct{}

func (strategies) ConfigSchema(kind spare.Kind, name string) ([]byte, bool) {
	switch kind {
	case spare.KindPartitioner:
		if s, ok := partition.Lookup(name); ok {
			return s.ConfigSchema(), true
		}
	case spare.KindAssembler:
		if s, ok := assemble.Lookup(name); ok {
			return s.ConfigSchema(), true
		}
	}
	return nil, false
}

func (strategies) Names(kind spare.Kind) []string {
	if kind == spare.KindPartitioner {
		return partition.Names()
	}
	return assemble.Names()
}

// jobs is the pipeline as the API sees it, with what the scheduler knows of a job.
type jobs struct{ h *Hub }

func (j jobs) Run(ctx context.Context, id spare.JobID) error   { return j.h.pipeline.Run(ctx, id) }
func (j jobs) Abort(ctx context.Context, id spare.JobID) error { return j.h.pipeline.Abort(ctx, id) }

func (j jobs) Delete(ctx context.Context, id spare.JobID) error { return j.h.pipeline.Delete(ctx, id) }

func (j jobs) Progress(ctx context.Context, id spare.JobID) (api.Progress, error) {
	job, err := j.h.store.Job(ctx, id)
	if err != nil {
		return api.Progress{}, err
	}
	out := api.Progress{Total: job.Chunks, Done: job.Done}
	if job.State == spare.JobPartitioning {
		out.Total = -1
	}
	var live scheduler.Progress
	var known bool
	err = j.h.dispatch.Ask(ctx, func(core *scheduler.Core, now time.Time) {
		if live, known = core.JobProgress(id, now); !known {
			return
		}
		for _, w := range core.Why(id, now) {
			out.Waiting = append(out.Waiting, api.Waiting{Reason: w.Reason, Tasks: w.Tasks})
		}
	})
	if err != nil {
		return out, err
	}
	tries, err := j.h.store.CountAttempts(ctx, id)
	if err != nil {
		return out, err
	}
	for outcome, n := range tries {
		if outcome != "" && outcome != spare.Succeeded {
			out.Retried += n
		}
	}
	if known {
		out.Total, out.Done, out.Running = live.Total, live.Done, live.Running
		out.Ready = live.Ready + live.Backing + live.Stored
		out.Nodes, out.ETA = live.Nodes, live.ETA
		names, err := j.nodeNames(ctx)
		if err != nil {
			return out, err
		}
		for _, a := range live.Attempts {
			out.Attempts = append(out.Attempts, api.RunningAttempt{
				Attempt: a.ID, Chunk: a.Chunk, Node: a.Node, NodeName: names[a.Node],
				Fraction: j.h.gateway.Fraction(a.Node, a.ID), Since: a.Granted,
			})
		}
		return out, nil
	}
	counts, err := j.h.store.CountTasks(ctx, id)
	if err != nil {
		return out, err
	}
	out.Done, out.Failed = counts[spare.TaskDone], counts[spare.TaskFailed]
	return out, nil
}

func (j jobs) nodeNames(ctx context.Context) (map[spare.NodeID]string, error) {
	nodes, err := j.h.store.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	names := make(map[spare.NodeID]string, len(nodes))
	for _, n := range nodes {
		names[n.ID] = n.Device.Name
	}
	return names, nil
}

// Addresses is where a running hub can be reached, kept in its data folder for the
// commands that work on it.
type Addresses struct {
	HTTP  string `json:"http"`
	Nodes string `json:"nodes"`
	Name  string `json:"name"`
	Key   string `json:"key"` // the hub's node id, pinned by tickets
}

func (h *Hub) writeAddresses() error {
	raw, err := json.MarshalIndent(Addresses{
		HTTP: h.HTTPAddr(), Nodes: h.NodesAddr(), Name: h.opt.Name, Key: string(h.identity.ID()),
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(h.folder(addressFile), append(raw, '\n'), 0o600)
}
