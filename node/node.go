// Package node wires a node: the device's reader, the policy, the cache, the executor
// and one link for each hub it has joined. It owns the data folder and the few
// goroutines that watch device and preferences. It decides nothing (package policy
// does) and runs nothing (package work does). cmd/spare-node calls it.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/image"
	"github.com/spare-compute/spare/node/cache"
	"github.com/spare-compute/spare/node/device"
	"github.com/spare-compute/spare/node/guestbook"
	"github.com/spare-compute/spare/node/link"
	"github.com/spare-compute/spare/node/local"
	"github.com/spare-compute/spare/node/policy"
	"github.com/spare-compute/spare/node/work"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/protocol/pb"
)

const (
	lookIdle   = 20 * time.Second // between looks at power and preferences
	lookBusy   = 5 * time.Second
	readDevice = time.Minute // between looks at the rest of the device
	probeAgain = 2 * time.Minute
)

// A Node is one running node.
type Node struct {
	home   *Home
	log    *slog.Logger
	id     *protocol.Identity
	reader *device.Reader
	cache  *cache.Cache
	work   *work.Executor
	links  []*hubLink
	images *image.Store
	gone   *gone

	offered chan offer // an interpreter that a hub has
	book    *guestbook.Book
	reload  chan struct{}
	disk    chan int64 // bytes to lend from now on; the last word is what counts

	mu       sync.Mutex
	device   spare.Device
	proved   []work.Runtime // what the probes found
	prefs    policy.Prefs
	decision policy.Decision
	told     spare.Device // what the hubs were last told
	began    time.Time
}

type hubLink struct {
	hub   Hub
	link  *link.Link
	desk  *work.Desk
	guard *guard
}

// New makes a node of a data folder that has joined a hub. It probes the runtimes, so
// that what it will offer is proved.
func New(ctx context.Context, home *Home, log *slog.Logger) (*Node, error) {
	hubs, err := Hubs(home.dir)
	if err != nil {
		return nil, err
	}
	if len(hubs) == 0 {
		return nil, &HomeError{home.dir, "this node has joined no hub; join one first (spare-node join TICKET)"}
	}
	id, err := home.Identity()
	if err != nil {
		return nil, err
	}
	n := &Node{
		home: home, log: log, id: id, reload: make(chan struct{}, 1), offered: make(chan offer, 1), disk: make(chan int64, 1), gone: newGone(), began: time.Now(),
		reader: device.NewReader(device.Config{Volume: home.dir}),
	}
	if n.prefs, err = policy.Load(home.path("prefs.json")); err != nil {
		return nil, err
	}
	n.device = n.reader.Read(ctx)
	if n.cache, err = cache.Open(home.path("cache"), 0); err != nil {
		return nil, err
	}
	if n.images, err = image.Open(home.path("images"), image.Options{Hint: "raise it with spare-node prefs set disk=…", Gone: n.gone.add}); err != nil {
		return nil, err
	}
	n.work, err = work.New(work.Config{
		Scratch: home.path("work"), Cache: n.cache, Log: log,
		Images: n.images, Registries: image.NewRegistries(image.RegistryOptions{
			Mirrors: n.prefs.Mirrors.ByHost(), Named: n.prefs.Registries.List(),
			Hint: "its owner can allow it, from the node's next start on, with spare-node prefs set allow_registries",
		}),
	})
	if err != nil {
		return nil, err
	}
	if n.book, err = guestbook.Open(home.path(bookFolder), id); err != nil {
		return nil, err
	}
	for _, hub := range hubs {
		if err := n.join(hub); err != nil {
			return nil, errors.Join(err, n.book.Close())
		}
	}
	return n, nil
}

// join adds a hub's desk and link.
func (n *Node) join(hub Hub) error {
	h := &hubLink{hub: hub}
	// Desk and link need each other: the desk's blobs travel over the link.
	var err error
	h.desk, err = n.work.Desk(hub.Name, n.home.resultsDir(hub.Key), transfers{h})
	if err != nil {
		return err
	}
	h.guard, err = n.home.guard(hub, func(byPool bool) bool { return n.preferences().Signature.Required(byPool) })
	if err != nil {
		return err
	}
	h.desk.Watch(hub.Key, h.guard, n.book)
	h.link = link.New(link.Config{
		Hub: hub.Key, Addresses: hub.Addresses, Identity: n.id, Device: n.Device, State: n.State,
		Work: h.desk, Log: n.log.With("hub", hub.Name), Offered: func(b []*pb.Blob) { n.offer(h, b) },
	})
	n.links = append(n.links, h)
	return nil
}

// Run works until ctx ends, or until no hub wants this node any more.
func (n *Node) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, n.book.Close()) }()
	n.probeNative(ctx)
	n.look(ctx)
	select {
	case disk := <-n.disk: // before anything is fetched
		n.setQuotas(ctx, disk)
	default:
	}
	control, err := local.Listen(n.home.dir, n.answer)
	if err != nil {
		return err
	}
	group, gctx := errgroup.WithContext(ctx)
	// The links outlive the work, to tell the hubs how it ended.
	lctx, endLinks := context.WithCancel(context.WithoutCancel(ctx))
	defer endLinks()
	group.Go(func() error {
		defer endLinks()
		return n.work.Run(gctx)
	})
	group.Go(func() error { return control.Run(gctx) })
	group.Go(func() error { return n.watch(gctx) })
	group.Go(func() error { return n.keepQuotas(gctx) })
	group.Go(func() error {
		n.probeTools(gctx)
		n.probeMore(gctx)
		return nil
	})
	group.Go(func() error { return n.runLinks(lctx) })
	return group.Wait()
}

// runLinks runs all links. A refused one ends alone, and the last one ends the node.
func (n *Node) runLinks(ctx context.Context) error {
	select {
	case <-n.work.Ready(): // so that the first Hello names what is held
	case <-ctx.Done():
		return nil
	}
	errs := make([]error, len(n.links))
	var wg sync.WaitGroup
	for i, h := range n.links {
		wg.Go(func() {
			if errs[i] = h.link.Run(ctx); errs[i] != nil {
				n.log.Error("hub lost for good", "hub", h.hub.Name, "error", errs[i])
				h.desk.Close()
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return errors.Join(errs...)
}

// probeTools finds out which tools work, without keeping anyone waiting, and again a
// while later if the machine was too busy to find out. After that the memory it took
// is given back.
func (n *Node) probeTools(ctx context.Context) {
	rt := n.native()
	if rt == nil {
		return
	}
	for {
		tools, err := device.Tools(ctx, rt.Runtime, rt.Capability.Version, n.home.path("probes.json"))
		if ctx.Err() != nil {
			return
		}
		n.mu.Lock()
		n.device.Tools = tools
		n.mu.Unlock()
		n.report(true)
		debug.FreeOSMemory()
		if err == nil {
			return
		}
		n.log.Warn("not all tools could be probed; trying again later", "error", err, "in", probeAgain)
		select {
		case <-time.After(probeAgain):
		case <-ctx.Done():
			return
		}
	}
}

// watch looks at the device and the preferences again and again.
func (n *Node) watch(ctx context.Context) error {
	timer := time.NewTimer(lookIdle)
	defer timer.Stop()
	read, busy := time.Now(), false
	for {
		select {
		case <-timer.C:
		case <-n.reload:
		case <-ctx.Done():
			return nil
		}
		if time.Since(read) >= readDevice {
			read = time.Now()
			n.refresh(ctx)
		}
		n.look(ctx)
		idle := n.work.Idle()
		if busy && idle {
			debug.FreeOSMemory() // what the work took is not needed while there is none
		}
		busy = !idle
		timer.Reset(map[bool]time.Duration{true: lookIdle, false: lookBusy}[idle])
	}
}

// refresh reads what changes by itself.
func (n *Node) refresh(ctx context.Context) {
	d := n.reader.Refresh(ctx, n.Device())
	n.mu.Lock()
	n.device.Memory, n.device.Disk, n.device.Load1 = d.Memory, d.Disk, d.Load1
	n.device.Temperature, n.device.Battery = d.Temperature, d.Battery
	n.mu.Unlock()
}

// look reads power and preferences, decides, and puts the decision into effect.
func (n *Node) look(ctx context.Context) {
	battery := n.reader.Battery(ctx)
	prefs, err := policy.Load(n.home.path("prefs.json"))
	n.mu.Lock()
	if err != nil {
		n.log.Error("preferences not taken; the earlier ones hold", "error", err)
		prefs = n.prefs
	}
	if prefs != n.prefs {
		n.prefs = prefs
		n.lend()
	}
	n.device.Battery = battery
	if prefs.Name != "" {
		n.device.Name = prefs.Name
	} else if name, err := os.Hostname(); err == nil {
		n.device.Name = name
	}
	dec := policy.Decide(n.device, prefs, time.Now())
	changed := !reflect.DeepEqual(dec, n.decision)
	flipped := dec.Run != n.decision.Run
	n.decision = dec
	n.device.Offer = dec.Limits.Offer()
	n.mu.Unlock()
	if changed {
		paused := ""
		if !dec.Run {
			paused = dec.Reason.Detail
		}
		n.work.SetLimits(work.Limits{Cores: dec.Limits.Cores, Memory: dec.Limits.Memory, Disk: dec.Limits.Disk}, paused)
		select {
		case <-n.disk: // nobody got to it, and it is out of date
		default:
		}
		n.disk <- int64(dec.Limits.Disk)
	}
	if flipped {
		n.log.Info("policy", "run", dec.Run, "reason", dec.Reason.String())
		for _, h := range n.links {
			h.link.StateChanged()
		}
	}
	n.report(false)
}

// keepQuotas makes what is fetched keep to what is lent of the disk. Removing what is too
// much may take long, and the owner who wants the machine back is not to wait for it.
func (n *Node) keepQuotas(ctx context.Context) error {
	for {
		select {
		case disk := <-n.disk:
			n.setQuotas(ctx, disk)
		case <-ctx.Done():
			return nil
		}
	}
}

// setQuotas shares what the owner lends of the disk: up to a half holds images, the rest
// what else is fetched.
func (n *Node) setQuotas(ctx context.Context, disk int64) {
	n.cache.SetQuota(disk - disk/2)
	if err := n.images.SetQuota(ctx, disk/2); err != nil && ctx.Err() == nil {
		n.log.Warn("cannot make the images keep to their share of the disk", "error", err)
	}
}

// report tells the hubs of the device if it changed enough to matter.
func (n *Node) report(always bool) {
	n.mu.Lock()
	changed := always || device.Changed(n.told, n.device)
	if changed {
		n.told = n.device
	}
	n.mu.Unlock()
	if changed {
		for _, h := range n.links {
			h.link.DeviceChanged()
		}
	}
}

// Device is the node's report of its machine, as it stands.
func (n *Node) Device() spare.Device {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.device
}

// State is what the node does, and why.
func (n *Node) State() (spare.NodeState, spare.Reason) {
	n.mu.Lock()
	dec := n.decision
	n.mu.Unlock()
	work := n.work.Count()
	switch {
	case !dec.Run:
		return spare.NodePaused, dec.Reason
	case work > 0:
		return spare.NodeWorking, spare.Reason{Code: spare.ReasonWorking, Detail: fmt.Sprintf("attempts here: %d", work)}
	default:
		return spare.NodeIdle, spare.Reason{Code: spare.ReasonNoWork, Detail: "no hub has work for this node now"}
	}
}

// answer answers local commands.
func (n *Node) answer(_ context.Context, do string) (any, error) {
	switch do {
	case local.DoStatus:
		return n.Status(), nil
	case local.DoReload:
		if _, err := policy.Load(n.home.path("prefs.json")); err != nil {
			return nil, err
		}
		select {
		case n.reload <- struct{}{}:
		default:
		}
		return struct{}{}, nil
	}
	return nil, fmt.Errorf("this node does not know the question %q; the command may be newer than the node", do)
}
