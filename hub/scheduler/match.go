package scheduler

import (
	"time"

	"github.com/spare-compute/spare"
)

// shyScan bounds how many tasks that keep away from some nodes are looked at for one
// lease. Those beyond it get their turn when earlier ones are gone or lose their shyness.
const shyScan = 128

// sizeScan bounds among how many of a job's next chunks the one of the right size is looked for.
const sizeScan = 64

// match hands out leases: first what nodes want to run, then what they want to fetch
// ahead. Nodes take turns, so that one with many cores does not empty the queue while
// others stand idle.
func (c *Core) match(now time.Time) {
	if !c.dirty {
		return
	}
	c.dirty = false
	if c.ready > 0 && len(c.hungry) > 0 {
		active := make([]*class, 0, len(c.classes))
		for _, cl := range c.classes {
			if cl != nil && cl.ready > 0 && cl.eligible > 0 {
				active = append(active, cl)
			}
		}
		c.rounds(now, active, false)
		c.rounds(now, active, true)
	}
	rest := c.hungry[:0]
	for _, n := range c.hungry {
		if n.waiting = n.open && n.run+n.prefetch > 0; n.waiting {
			rest = append(rest, n)
		}
	}
	clear(c.hungry[len(rest):])
	c.hungry = rest
	for _, n := range c.granted {
		c.decide(Grant{Node: n.id, Leases: n.granted})
		n.granted = nil
	}
	clear(c.granted)
	c.granted = c.granted[:0]
}

// rounds gives each hungry node one lease at a time until nobody gets any.
func (c *Core) rounds(now time.Time, active []*class, prefetch bool) {
	left := c.left[:0]
	for _, n := range c.hungry {
		if n.open && n.want(prefetch) > 0 {
			left = append(left, n)
		}
	}
	c.left = left // its room serves the next turns
	for len(left) > 0 && c.ready > 0 {
		again := left[:0]
		for _, n := range left {
			t := c.choose(now, n, active, prefetch)
			if t == nil {
				continue
			}
			c.grant(now, n, t, prefetch)
			if n.want(prefetch) > 0 {
				again = append(again, n)
			}
		}
		left = again
	}
}

func (n *node) want(prefetch bool) int {
	if prefetch {
		return n.prefetch
	}
	return n.run
}

// choose is the task a node gets next: of the classes it fits, the one whose owner is
// next in line.
func (c *Core) choose(now time.Time, n *node, active []*class, prefetch bool) *task {
	var best *task
	for _, cl := range active {
		if cl.ready == 0 || n.fit[cl.id] != fitOK {
			continue
		}
		if n.until.After(now) {
			if a := n.apps[cl.app]; a != nil && a.until.After(now) {
				continue
			}
		}
		if prefetch && !cl.plenty(n) {
			continue
		}
		if t := c.pick(now, cl, n, prefetch); t != nil && (best == nil || t.job.before(best.job)) {
			best = t
		}
	}
	return best
}

// plenty reports whether a task may be bound to a node that cannot start it yet: while
// what the node then holds ahead is at most half of its share of what is left. Tasks
// differ in length, and at a job's tail a task that waits behind another could be running
// elsewhere. A node that is alone takes nothing from anybody.
func (cl *class) plenty(n *node) bool {
	ahead := max(0, len(n.live)-n.slots) + 1
	return cl.eligible == 1 || 2*ahead*cl.slots <= cl.ready*n.slots
}

// before is the order of fair shares: the owner with less, then the job with less, then
// first come.
func (j *job) before(k *job) bool {
	switch {
	case j.owner != k.owner && j.owner.vtime != k.owner.vtime:
		return j.owner.vtime < k.owner.vtime
	case j.owner != k.owner:
		return j.owner.seq < k.owner.seq
	case j.vtime != k.vtime:
		return j.vtime < k.vtime
	}
	return j.seq < k.seq
}

// pick is the first task of a class that a node may have. Almost always it is one of the
// first job's; only where that job's tasks keep away from this node are others looked at.
func (c *Core) pick(now time.Time, cl *class, n *node, prefetch bool) *task {
	q := cl.next()
	if q == nil {
		return nil
	}
	if t := c.first(now, q.jobs.items[0], n, prefetch); t != nil {
		return t
	}
	var best *task
	for _, q := range cl.queues.items {
		for _, j := range q.jobs.items {
			if best != nil && !j.before(best.job) {
				continue
			}
			if t := c.first(now, j, n, prefetch); t != nil {
				best = t
			}
		}
	}
	return best
}

// first is the task of a job that a node gets: what is tried again comes before later
// chunks that were never tried.
func (c *Core) first(now time.Time, j *job, n *node, prefetch bool) *task {
	all := j.clean.all()
	for i, t := range j.shy.all() {
		if i == shyScan || (len(all) > 0 && all[0].row.Chunk < t.row.Chunk) {
			break
		}
		if c.welcome(now, t, n) {
			return t
		}
	}
	return bySize(all[:min(len(all), sizeScan)], prefetch)
}

// bySize is the task with the most input, the earliest of equals: what probably takes
// longest, and would be waited for by idle nodes if it began last. What waits behind
// another task is better short, so ahead it is the one with the least.
func bySize(tasks []*task, ahead bool) *task {
	var best *task
	for _, t := range tasks {
		if best == nil || ahead && t.row.Input.Size < best.row.Input.Size || !ahead && t.row.Input.Size > best.row.Input.Size {
			best = t
		}
	}
	return best
}

// avoidUntil is until when a task keeps away from the nodes that failed it.
func (c *Core) avoidUntil(t *task) time.Time {
	if len(t.row.Tries) == 0 {
		return time.Time{}
	}
	return t.row.Tries[len(t.row.Tries)-1].Ended.Add(c.cfg.AvoidFor)
}

// welcome reports whether a task may go to a node despite its failures: not while an
// eligible node is connected that has not just failed it, and never at once to the very
// last one unless it is alone.
func (c *Core) welcome(now time.Time, t *task, n *node) bool {
	recent := func(try spare.Try) bool { return try.Ended.Add(c.cfg.AvoidFor).After(now) }
	mine := false
	for _, try := range t.row.Tries {
		mine = mine || (try.Node == n.id && recent(try))
	}
	if !mine {
		return true
	}
	if c.others(t, recent) > 0 {
		return false
	}
	last := t.row.Tries[len(t.row.Tries)-1]
	return last.Node != n.id || t.job.class.eligible == 1
}

// others counts the eligible connected nodes that are not in the selected tries.
func (c *Core) others(t *task, in func(spare.Try) bool) int {
	cl := t.job.class
	count := cl.eligible
	for i, try := range t.row.Tries {
		if !in(try) || seen(t.row.Tries[:i], try.Node, in) {
			continue
		}
		if n := c.nodes[try.Node]; n != nil && n.open && n.fit[cl.id] == fitOK {
			count--
		}
	}
	return count
}

func seen(tries []spare.Try, node spare.NodeID, in func(spare.Try) bool) bool {
	for _, try := range tries {
		if try.Node == node && in(try) {
			return true
		}
	}
	return false
}
