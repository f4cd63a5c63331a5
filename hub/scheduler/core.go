package scheduler

import (
	"math/rand/v2"
	"time"

	"github.com/spare-compute/spare"
)

// A Core is the scheduler's state. It is not safe for concurrent use.
type Core struct {
	cfg Config
	rng *rand.Rand

	jobs       map[spare.JobID]*job
	nodes      map[spare.NodeID]*node
	owners     map[string]*owner
	classes    []*class // by class.id, with holes
	classByKey map[string]*class
	timers     heap[*timer]
	seq        int     // of owners and jobs, in the order they came
	floor      float64 // virtual time of the owner served last
	ready      int     // leasable tasks
	hungry     []*node // that want leases, in the order they asked
	left       []*node // room for rounds
	dirty      bool    // something changed that could let a lease be granted
	wake       time.Time

	// What changed since the last turn.
	tasks     []*task
	attempts  []*attempt
	loose     []spare.Attempt // rows of attempts that are not held
	records   []*nodeApp
	closed    []spare.JobID
	decisions []Decision
	granted   []*node
}

// New makes an empty core. The same seed and events give the same decisions.
func New(cfg Config, seed uint64) *Core {
	return &Core{
		cfg:        cfg.withDefaults(),
		rng:        rand.New(rand.NewPCG(seed, 0)),
		jobs:       map[spare.JobID]*job{},
		nodes:      map[spare.NodeID]*node{},
		owners:     map[string]*owner{},
		classByKey: map[string]*class{},
		timers:     newTimers(),
	}
}

// Config returns the core's numbers with defaults filled in.
func (c *Core) Config() Config { return c.cfg }

// Apply takes in one event. What follows from it comes with the next Turn.
func (c *Core) Apply(now time.Time, ev Event) {
	switch ev := ev.(type) {
	case JobOpened:
		c.openJob(ev)
	case TasksAdded:
		c.addTasks(now, ev)
	case Refilled:
		c.refilled(now, ev)
	case JobSealed:
		c.sealJob(ev)
	case JobClosed:
		c.closeJob(now, ev.Job, ev.Reason)
	case AttemptsRestored:
		c.restore(now, ev)
	case RecordsRestored:
		for _, r := range ev.Records {
			c.known(r.Node).app(r.App).record = r
		}
	case NodeUp:
		c.nodeUp(now, ev)
	case NodeDown:
		c.nodeDown(ev.Node)
	case NodeChanged:
		c.nodeChanged(ev)
	case Heartbeat:
		if n := c.hear(ev.Node); n != nil {
			c.beat(now, n, ev.Attempts)
		}
	case Wanted:
		c.wanted(ev)
	case Reported:
		c.hear(ev.Node)
		c.reported(now, ev)
	}
}

// Turn ends what is due, hands out work and returns all that changed since the last.
func (c *Core) Turn(now time.Time) Turn {
	c.ring(now)
	c.match(now)
	turn := Turn{Decisions: c.decisions, Ledger: c.ledger()}
	c.decisions = nil
	c.wake = time.Time{}
	if c.timers.len() > 0 {
		c.wake = c.timers.items[0].at
	}
	turn.Wake = c.wake
	return turn
}

// ring handles the timers that are due. When the hub itself slept past them (a laptop's
// lid, a stopped process), silence is not the nodes' fault: leases get time for the
// heartbeats that wait in the hub's own queue.
func (c *Core) ring(now time.Time) {
	slept := !c.wake.IsZero() && now.Sub(c.wake) > c.cfg.Lease/2
	for c.timers.len() > 0 && !c.timers.items[0].at.After(now) {
		t := c.timers.remove(0)
		switch {
		case t.attempt != nil:
			a := t.attempt
			if slept && !a.expires.After(now) {
				a.expires = now.Add(2 * c.cfg.HeartbeatBusy)
			}
			if a.expires.After(now) {
				c.set(t, a.expires)
			} else {
				c.expire(now, a)
			}
		case t.task != nil:
			c.dequeue(t.task)
			c.enqueue(now, t.task)
		default:
			c.dirty = true // a node's back-off from an App is over
		}
	}
}

// ledger takes the rows that changed. A task or record that changed often is in it once;
// of two rows of one attempt (lost, then reported late) the later one counts.
func (c *Core) ledger() Ledger {
	l := Ledger{Closed: c.closed}
	if n := len(c.tasks); n > 0 {
		l.Tasks = make([]spare.Task, n)
		for i, t := range c.tasks {
			l.Tasks[i], t.dirty = t.row, false
		}
	}
	if n := len(c.attempts) + len(c.loose); n > 0 {
		l.Attempts = make([]spare.Attempt, 0, n)
		for _, a := range c.attempts {
			l.Attempts = append(l.Attempts, a.row)
			a.dirty = false
		}
		l.Attempts = append(l.Attempts, c.loose...)
	}
	if n := len(c.records); n > 0 {
		l.Records = make([]spare.Record, n)
		for i, r := range c.records {
			l.Records[i], r.dirty = r.record, false
		}
	}
	clear(c.tasks)
	clear(c.attempts)
	clear(c.records)
	c.tasks, c.attempts, c.records = c.tasks[:0], c.attempts[:0], c.records[:0]
	c.loose, c.closed = nil, nil
	return l
}

func (c *Core) decide(d Decision) { c.decisions = append(c.decisions, d) }
