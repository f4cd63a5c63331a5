package node

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/node/cache"
	"github.com/spare-compute/spare/node/device"
	"github.com/spare-compute/spare/node/link"
	"github.com/spare-compute/spare/node/local"
	"github.com/spare-compute/spare/node/policy"
	"github.com/spare-compute/spare/node/work"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/publisher"
)

// Status is all that "spare-node status" shows. Of a node that is not running, what
// lies on disk and what the device tells.
type Status struct {
	Running bool            `json:"running"`
	Node    spare.NodeID    `json:"node"`
	Data    string          `json:"data"`
	Since   *time.Time      `json:"since,omitempty"`
	State   spare.NodeState `json:"state"`
	Reason  spare.Reason    `json:"reason"`
	Device  spare.Device    `json:"device"`
	Prefs   policy.Prefs    `json:"prefs"`
	Hubs    []HubStatus     `json:"hubs"`
	Work    []work.Item     `json:"work"`
	Cache   *cache.Stats    `json:"cache,omitempty"`
}

// HubStatus is one hub's part of a Status.
type HubStatus struct {
	Key     spare.NodeID `json:"key"`
	Name    string       `json:"name"`
	Pool    string       `json:"pool"`
	Link    link.Status  `json:"link"`
	Pending int          `json:"pending_results"` // finished and not accepted yet

	RequireSignature bool           `json:"require_publisher_signature"`
	Publishers       []publisher.ID `json:"publishers"` // whose Apps may run
}

// Status is the running node's.
func (n *Node) Status() Status {
	state, reason := n.State()
	stats := n.cache.Stats()
	n.mu.Lock()
	s := Status{
		Running: true, Node: n.id.ID(), Data: n.home.dir, Since: &n.began, State: state, Reason: reason,
		Device: n.device, Prefs: n.prefs, Cache: &stats, Work: []work.Item{},
	}
	n.mu.Unlock()
	for _, h := range n.links {
		hub := HubStatus{Key: h.hub.Key, Name: h.hub.Name, Pool: h.hub.Pool, Link: h.link.Status(), Pending: len(h.desk.Reports())}
		hub.RequireSignature, hub.Publishers = h.guard.signers()
		s.Hubs = append(s.Hubs, hub)
	}
	s.Work = append(s.Work, n.work.Items()...)
	return s
}

// Ask returns the status of the node whose data folder is dir: from the node itself if
// it runs, else from what lies on disk.
func Ask(ctx context.Context, dir string) (Status, error) {
	var s Status
	err := local.Ask(ctx, dir, local.DoStatus, &s)
	if err == nil || !errors.Is(err, local.ErrNotRunning) {
		return s, err
	}
	if err := exists(dir); err != nil {
		return s, err
	}
	home := &Home{dir: dir}
	if err := home.checkFormat(false); err != nil {
		return s, err
	}
	id, err := protocol.LoadIdentity(home.path("identity.key"))
	if err != nil {
		return s, err
	}
	hubs, err := Hubs(dir)
	if err != nil {
		return s, err
	}
	s = Status{
		Node: id.ID(), Data: dir, State: spare.NodeOffline, Work: []work.Item{},
		Reason: spare.Reason{Code: spare.ReasonNodeUnreachable, Detail: "the node is not running; start it with \"spare-node run\" or \"spare-node start\""},
	}
	if s.Prefs, err = policy.Load(home.path("prefs.json")); err != nil {
		return s, err
	}
	s.Device = Survey(ctx, dir, s.Prefs)
	for _, hub := range hubs {
		g, err := home.guard(hub, s.Prefs.Signature.Required)
		if err != nil {
			return s, err
		}
		known := HubStatus{Key: hub.Key, Name: hub.Name, Pool: hub.Pool, Pending: work.Pending(home.resultsDir(hub.Key))}
		known.RequireSignature, known.Publishers = g.signers()
		s.Hubs = append(s.Hubs, known)
	}
	return s, nil
}

// Survey reads the device without a running node: its runtimes are probed, its tools
// are those that an earlier run proved.
func Survey(ctx context.Context, dir string, prefs policy.Prefs) spare.Device {
	d := device.NewReader(device.Config{Volume: dir}).Read(ctx)
	runtimes, found := device.Runtimes(ctx)
	d.Runtimes = found
	for i, c := range found {
		if c.OK {
			d.Tools = device.KnownTools(runtimes[i], c.Version, (&Home{dir: dir}).path("probes.json"))
			break
		}
	}
	if prefs.Name != "" {
		d.Name = prefs.Name
	}
	d.Offer = policy.Decide(d, prefs, time.Now()).Limits.Offer()
	return d
}

// transfers lets a desk use a link that is made after it.
type transfers struct{ h *hubLink }

func (t transfers) Get(ctx context.Context, d spare.Digest, offset int64, w io.Writer) error {
	return t.h.link.Get(ctx, d, offset, w)
}

func (t transfers) Put(ctx context.Context, d spare.Digest, size int64, open func(int64) (io.ReadCloser, error)) error {
	return t.h.link.Put(ctx, d, size, open)
}
