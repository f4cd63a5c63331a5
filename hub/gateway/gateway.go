// Package gateway is the hub's side of the wire: it admits nodes, turns their messages
// into scheduler events and the scheduler's decisions into messages, and serves blobs to
// whom they were leased. It decides nothing about work. What a node sends is hostile
// until checked: names are parsed, sizes bounded, blobs verified before they count.
package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/blob"
	"github.com/spare-compute/spare/hub/dispatch"
	"github.com/spare-compute/spare/hub/events"
	"github.com/spare-compute/spare/hub/scheduler"
	"github.com/spare-compute/spare/hub/store"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/protocol/pb"
)

// Config is what a Gateway needs.
type Config struct {
	Store    store.Store
	Blobs    *blob.Disk
	Dispatch *dispatch.Dispatcher
	Events   *events.Bus
	HubName  string
	Log      *slog.Logger

	Lease         time.Duration
	HeartbeatBusy time.Duration
	HeartbeatIdle time.Duration
	MaxResult     int64        // bytes of one result blob
	Runtimes      []spare.File // interpreters that every node may fetch, by name
	Images        Images
}

// A Gateway holds the sessions of all connected nodes.
type Gateway struct {
	cfg Config

	mu       sync.Mutex
	sessions map[spare.NodeID]*session
	states   map[spare.NodeID]*liveness // survives a session, for the list of nodes
	grants   *grants
}

// liveness is what a node last said of itself.
type liveness struct {
	seen     time.Time
	state    spare.NodeState
	reason   spare.Reason
	progress map[spare.AttemptID]float64
}

// New returns a gateway without sessions.
func New(cfg Config) *Gateway {
	return &Gateway{
		cfg: cfg, sessions: map[spare.NodeID]*session{},
		states: map[spare.NodeID]*liveness{}, grants: newGrants(cfg.Store, cfg.Images),
	}
}

// Serve admits sessions until ctx ends, then says goodbye to all and waits for them.
func (g *Gateway) Serve(ctx context.Context, l protocol.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := l.Accept(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept nodes: %w", err)
		}
		wg.Go(func() { g.serve(ctx, conn) })
	}
}

// Decided takes the scheduler's decisions about nodes. It never blocks: what a node
// does not read in time costs it its session.
func (g *Gateway) Decided(dec scheduler.Decision) {
	switch dec := dec.(type) {
	case scheduler.Grant:
		g.grant(dec)
	case scheduler.Cancel:
		ids := make([]string, len(dec.Attempts))
		for i, a := range dec.Attempts {
			ids[i] = string(a)
			g.grants.drop(dec.Node, a)
		}
		g.send(dec.Node, &pb.Frame{Body: &pb.Frame_Cancel{Cancel: &pb.Cancel{Attempts: ids, Reason: dec.Reason}}})
	case scheduler.Silent:
		if s := g.session(dec.Node); s != nil {
			go s.silent()
		}
	case scheduler.JobDone:
		g.grants.forget(dec.Job)
	case scheduler.JobFailed:
		g.grants.forget(dec.Job)
	case scheduler.Ack:
		g.grants.drop(dec.Node, dec.Attempt)
		if s := g.session(dec.Node); s != nil {
			s.verdict(&pb.Verdict{Attempt: string(dec.Attempt), Taken: dec.Taken, Reason: dec.Reason})
		}
	}
}

// Flush sends what Decided gathered in one turn: many verdicts in one message.
func (g *Gateway) Flush() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.sessions {
		s.flush()
	}
}

func (g *Gateway) session(id spare.NodeID) *session {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sessions[id]
}

func (g *Gateway) send(id spare.NodeID, f *pb.Frame) {
	if s := g.session(id); s != nil {
		s.send(f)
	}
}

// List returns every node the hub admitted, with what it does now.
func (g *Gateway) List(ctx context.Context) ([]spare.Node, error) {
	nodes, err := g.cfg.Store.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	reasons := make(map[spare.NodeID]spare.Reason, len(nodes))
	err = g.cfg.Dispatch.Ask(ctx, func(core *scheduler.Core, now time.Time) {
		for _, n := range nodes {
			reasons[n.ID] = core.NodeReason(n.ID, now)
		}
	})
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range nodes {
		n := &nodes[i]
		n.State, n.Reason = spare.NodeOffline, spare.Reason{Code: spare.ReasonNodeUnreachable, Detail: "not connected"}
		live, up := g.states[n.ID], g.sessions[n.ID] != nil
		if live != nil && live.seen.After(n.LastSeen) {
			n.LastSeen = live.seen
		}
		if !up || live == nil {
			continue
		}
		n.State, n.Reason = live.state, live.reason
		// Why it has nothing to do is for the scheduler to say, not for the node.
		if n.State == spare.NodeIdle || n.State == "" {
			n.State, n.Reason = spare.NodeIdle, reasons[n.ID]
		}
	}
	return nodes, nil
}

// Fraction is how far a running attempt is, as its node last said; nil if it did not.
func (g *Gateway) Fraction(node spare.NodeID, attempt spare.AttemptID) *float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if live := g.states[node]; live != nil {
		if f, ok := live.progress[attempt]; ok {
			return &f
		}
	}
	return nil
}

// Watch forgets, every minute, what is known of nodes that are gone, and writes when
// the connected ones were last seen. It returns when ctx ends.
func (g *Gateway) Watch(ctx context.Context) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for id, seen := range g.seen() {
			n, err := g.cfg.Store.Node(ctx, id)
			if err == nil {
				n.LastSeen = seen
				err = g.cfg.Store.PutNode(ctx, n)
			}
			if err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrNotFound) {
				g.cfg.Log.Error("cannot note when a node was last seen", "node", id.Short(), "error", err)
			}
		}
	}
}

func (g *Gateway) seen() map[spare.NodeID]time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	seen := make(map[spare.NodeID]time.Time, len(g.states))
	for id, live := range g.states {
		seen[id] = live.seen
		if g.sessions[id] == nil {
			delete(g.states, id)
		}
	}
	return seen
}

func parseDevice(raw []byte) (spare.Device, error) {
	var d spare.Device
	if err := json.Unmarshal(raw, &d); err != nil {
		return d, fmt.Errorf("device report cannot be read: %w", err)
	}
	if d.OS == "" || d.Arch == "" || d.CPU.Cores < 1 {
		return d, errors.New("device report lacks os, arch or cpu cores")
	}
	d.Name = printable(d.Name, 64)
	return d, nil
}

// printable keeps what a node calls itself fit for a terminal and a page.
func printable(s string, most int) string {
	out := make([]rune, 0, most)
	for _, r := range s {
		if len(out) == most {
			break
		}
		if r < ' ' || r == 0x7f || r == 0xfffd || (r >= 0x80 && r < 0xa0) || (r >= 0x202a && r <= 0x202e) {
			r = '?'
		}
		out = append(out, r)
	}
	return string(out)
}
