package scheduler

import (
	"maps"
	"slices"
	"time"

	"github.com/spare-compute/spare"
)

type node struct {
	id   spare.NodeID
	info spare.Node
	up   bool // connected
	open bool // connected, not paused and not silent
	live map[spare.AttemptID]*attempt
	fit  []fit // by class.id

	run, prefetch int       // how many more leases it takes
	running       int       // leases it was given to run at once
	until         time.Time // no back-off from any App is later
	slots         int       // how many it was seen to run at once
	waiting       bool      // in Core.hungry
	heard         time.Time // its last heartbeat
	silent        bool      // for longer than a lease, while it held one
	granted       []Leased
	parked        map[spare.AttemptID]struct{} // its reports that wait for their tasks
	apps          map[string]*nodeApp
}

// A nodeApp is what is known of a node with one App.
type nodeApp struct {
	node   *node
	record spare.Record
	streak int // failures in a row, whatever the chunk
	until  time.Time
	timer  timer
	wall   float64 // running mean of a task's seconds, 0 = unknown
	dirty  bool
}

// known finds or makes what is held of a node. It stays when the node disconnects: its
// leases and records outlive sessions.
func (c *Core) known(id spare.NodeID) *node {
	n := c.nodes[id]
	if n == nil {
		n = &node{id: id, info: spare.Node{ID: id}, live: map[spare.AttemptID]*attempt{}, apps: map[string]*nodeApp{}, parked: map[spare.AttemptID]struct{}{}}
		c.nodes[id] = n
		for _, cl := range c.classes {
			if cl != nil {
				c.fitClass(n, cl)
			}
		}
	}
	return n
}

func (n *node) app(name string) *nodeApp {
	a := n.apps[name]
	if a == nil {
		a = &nodeApp{node: n, record: spare.Record{Node: n.id, App: name}}
		a.timer = timer{index: -1, app: a}
		n.apps[name] = a
	}
	return a
}

func (c *Core) nodeUp(now time.Time, ev NodeUp) {
	n := c.known(ev.Node.ID)
	c.uncount(n)
	n.info = ev.Node
	n.up, n.open = true, isOpen(ev.Node)
	n.silent = false
	n.run, n.prefetch, n.slots = 0, 0, 0
	c.count(n)

	held := make(map[spare.AttemptID]bool, len(ev.Held))
	for _, id := range ev.Held {
		held[id] = true
	}
	soon := now.Add(c.cfg.ReportGrace)
	for _, id := range slices.Sorted(maps.Keys(n.live)) {
		if a := n.live[id]; !held[id] && soon.Before(a.expires) {
			a.expires = soon
			c.set(&a.timer, soon)
		}
	}
	c.beat(now, n, ev.Held)
}

func (c *Core) nodeDown(id spare.NodeID) {
	n := c.nodes[id]
	if n == nil || !n.up {
		return
	}
	c.uncount(n)
	n.up, n.open, n.silent = false, false, false
	n.run, n.prefetch = 0, 0
	c.dirty = true // tasks may return to a node that is now the only one
}

// hear notes that a node said something and returns it, or nil if it is not connected.
// One that was silent may be given work again.
func (c *Core) hear(id spare.NodeID) *node {
	n := c.nodes[id]
	if n == nil || !n.up {
		return nil
	}
	if n.silent {
		n.silent, n.open = false, isOpen(n.info)
		c.count(n)
		c.queueHungry(n)
	}
	return n
}

// hush gives a silent node nothing more until it is heard, whatever it last asked for.
func (c *Core) hush(n *node) {
	if !n.up || n.silent {
		return
	}
	c.uncount(n)
	n.silent, n.open = true, false
	c.dirty = true // as in nodeDown
	c.decide(Silent{Node: n.id})
}

func (c *Core) nodeChanged(ev NodeChanged) {
	n := c.hear(ev.Node.ID)
	if n == nil {
		return
	}
	c.uncount(n)
	n.info = ev.Node
	n.open = isOpen(ev.Node)
	c.count(n)
	c.queueHungry(n)
}

// isOpen reports whether a connected node takes work, by its own word.
func isOpen(n spare.Node) bool { return n.State != spare.NodePaused && n.State != spare.NodeOffline }

func (c *Core) wanted(ev Wanted) {
	n := c.hear(ev.Node)
	if n == nil {
		return
	}
	n.run, n.prefetch = max(0, ev.Run), max(0, ev.Prefetch)
	// A node asks for the next while it hands a result over, so it holds more than it runs.
	slots := min(n.run+n.running, max(1, cores(&n.info.Device)))
	if more := slots - n.slots; more > 0 {
		n.slots += more
		for _, cl := range c.classes {
			if cl != nil && n.open && n.fit[cl.id] == fitOK {
				cl.slots += more
			}
		}
	}
	c.queueHungry(n)
}

func (c *Core) queueHungry(n *node) {
	if n.run+n.prefetch == 0 || !n.open {
		return
	}
	c.dirty = true
	if !n.waiting {
		n.waiting = true
		c.hungry = append(c.hungry, n)
	}
}

// beat renews the leases of attempts a node says it holds, takes up lost ones whose
// tasks still wait, and cancels those that are no longer wanted.
func (c *Core) beat(now time.Time, n *node, ids []spare.AttemptID) {
	n.heard = now
	expires := now.Add(c.cfg.Lease)
	var drop []spare.AttemptID
	for _, id := range ids {
		if a := n.live[id]; a != nil {
			until := expires
			if last := c.latest(a.task.job, a.row.Granted, a.prefetch); !last.IsZero() && last.Before(until) {
				until = last
			}
			if a.expires.Before(until) {
				a.expires = until // its timer looks again when it rings
			}
			continue
		}
		if !c.revive(now, n, id) {
			drop = append(drop, id)
		}
	}
	if len(drop) > 0 {
		c.decide(Cancel{Node: n.id, Attempts: drop, Reason: "its task has ended or is not known here"})
	}
}
