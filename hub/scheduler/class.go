package scheduler

import (
	"encoding/json"

	"github.com/spare-compute/spare"
)

// A class is a set of requirements that tasks share: matching asks once per class and
// node, however many tasks there are.
type class struct {
	id     int // index into Core.classes and node.fit
	key    string
	app    string
	around spare.Environment
	pool   string
	needs  spare.Requirements

	jobs     int // that refer to it
	ready    int // tasks that could be leased now
	eligible int // connected, unpaused nodes that fit
	slots    int // how much these nodes run at once
	queues   heap[*queue]
	byOwner  map[*owner]*queue
}

// A share is the virtual time of an owner, or of a job among its owner's: the CPU-seconds
// granted to it. Who has the least of it is next (start-time fair queueing).
type share struct {
	vtime  float64 // never decreases
	credit float64 // charged too much: taken off the next charges
}

// charge books seconds before they are used. floor is the virtual time of the one served
// last: who was away, or could not be served, starts from there and does not catch up.
// It returns the new floor.
func (s *share) charge(floor, seconds float64) float64 {
	floor = max(floor, s.vtime)
	paid := min(s.credit, seconds)
	s.credit -= paid
	s.vtime = floor + seconds - paid
	return floor
}

// settle corrects a charge once it is known what was really used.
func (s *share) settle(charged, used float64) {
	if used > charged {
		s.vtime += used - charged
	} else {
		s.credit += charged - used
	}
}

// An owner is one of those among whom the grid is shared out.
type owner struct {
	share
	name  string
	seq   int // first come
	jobs  int
	floor float64 // virtual time of the owner's job served last
}

// A queue holds one owner's jobs of one class that have ready tasks.
type queue struct {
	class *class
	owner *owner
	key   float64 // owner.vtime when it was last placed; never above it
	index int
	jobs  heap[*job]
}

// classOf finds or makes the class of a job's requirements.
func (c *Core) classOf(ev JobOpened) *class {
	needs, err := json.Marshal(ev.Needs)
	if err != nil { // a NaN in MinMemory: nothing satisfies it
		needs = []byte(err.Error())
	}
	around, _ := json.Marshal(ev.Around) // words and flags only: it cannot fail
	key := ev.App + "\x00" + string(around) + "\x00" + ev.Pool + "\x00" + string(needs)
	if cl := c.classByKey[key]; cl != nil {
		return cl
	}
	cl := &class{
		key: key, app: ev.App, around: ev.Around, pool: ev.Pool, needs: ev.Needs,
		byOwner: map[*owner]*queue{},
		queues: heap[*queue]{
			less: func(a, b *queue) bool {
				if a.key != b.key {
					return a.key < b.key
				}
				return a.owner.seq < b.owner.seq
			},
			place: func(q *queue, i int) { q.index = i },
		},
	}
	cl.id = len(c.classes)
	for i, old := range c.classes {
		if old == nil {
			cl.id = i
			break
		}
	}
	if cl.id == len(c.classes) {
		c.classes = append(c.classes, nil)
	}
	c.classes[cl.id] = cl
	c.classByKey[key] = cl
	for _, n := range c.nodes {
		c.fitClass(n, cl)
	}
	return cl
}

// dropClass forgets a class no job refers to.
func (c *Core) dropClass(cl *class) {
	delete(c.classByKey, cl.key)
	c.classes[cl.id] = nil
}

// fitClass sees how far a node satisfies a class and counts it in where it does.
func (c *Core) fitClass(n *node, cl *class) {
	for len(n.fit) <= cl.id {
		n.fit = append(n.fit, fitPool)
	}
	n.fit[cl.id] = fitOf(&n.info, cl)
	if n.open && n.fit[cl.id] == fitOK {
		cl.eligible++
		cl.slots += n.slots
	}
}

// uncount takes a node out of the classes' counts; count puts it in again.
func (c *Core) uncount(n *node) {
	if !n.open {
		return
	}
	for _, cl := range c.classes {
		if cl != nil && n.fit[cl.id] == fitOK {
			cl.eligible--
			cl.slots -= n.slots
		}
	}
}

func (c *Core) count(n *node) {
	for _, cl := range c.classes {
		if cl != nil {
			c.fitClass(n, cl)
		}
	}
	c.dirty = true
}

// addReady and subReady keep the counts of leasable tasks and the queues that hold jobs
// with such tasks.
func (c *Core) addReady(j *job) {
	c.dirty = true
	c.ready++
	j.class.ready++
	j.ready++
	if j.ready > 1 {
		return
	}
	q := j.class.byOwner[j.owner]
	if q == nil {
		q = &queue{class: j.class, owner: j.owner, index: -1, jobs: heap[*job]{
			less: func(a, b *job) bool {
				if a.vtime != b.vtime {
					return a.vtime < b.vtime
				}
				return a.seq < b.seq
			},
			place: func(j *job, i int) { j.index = i },
		}}
		j.class.byOwner[j.owner] = q
	}
	q.jobs.push(j)
	if q.index < 0 {
		q.key = j.owner.vtime
		j.class.queues.push(q)
	}
}

func (c *Core) subReady(j *job) {
	c.ready--
	j.class.ready--
	j.ready--
	if j.ready > 0 {
		return
	}
	q := j.class.byOwner[j.owner]
	q.jobs.remove(j.index)
	if q.jobs.len() == 0 {
		j.class.queues.remove(q.index)
	}
}

// charge books CPU-seconds on a job and its owner, before they are used.
func (c *Core) charge(j *job, seconds float64) {
	c.floor = j.owner.charge(c.floor, seconds)
	j.owner.floor = j.share.charge(j.owner.floor, seconds)
	j.moved()
}

// settle corrects a charge on a job and its owner.
func (j *job) settle(charged, used float64) {
	j.owner.settle(charged, used)
	j.share.settle(charged, used)
	j.moved()
}

// moved puts a job in its place among its owner's after its share changed.
func (j *job) moved() {
	if j.index >= 0 {
		j.class.byOwner[j.owner].jobs.fix(j.index)
	}
}

// next is the queue of the owner who is next in this class, or nil.
func (cl *class) next() *queue {
	for cl.queues.len() > 0 {
		q := cl.queues.items[0]
		if q.key == q.owner.vtime {
			return q
		}
		q.key = q.owner.vtime // it was charged meanwhile, here or in another class
		cl.queues.fix(0)
	}
	return nil
}
