package scheduler

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spare-compute/spare"
)

// An attempt lives while its lease does. What came of ended ones is in task.row.Tries.
type attempt struct {
	row      spare.Attempt
	task     *task
	node     *node
	expires  time.Time
	timer    timer // rings at expires or earlier
	prefetch bool
	charged  float64 // CPU-seconds
	dirty    bool
}

// split takes an attempt's name apart: "<job>.<chunk>.<number>".
func split(id spare.AttemptID) (job spare.JobID, chunk, number int, ok bool) {
	s := string(id)
	last := strings.LastIndexByte(s, '.')
	if last < 0 {
		return "", 0, 0, false
	}
	mid := strings.LastIndexByte(s[:last], '.')
	if mid < 0 {
		return "", 0, 0, false
	}
	chunk, err1 := strconv.Atoi(s[mid+1 : last])
	number, err2 := strconv.Atoi(s[last+1:])
	return spare.JobID(s[:mid]), chunk, number, err1 == nil && err2 == nil && chunk >= 0 && number > 0
}

// grant leases a task to a node.
func (c *Core) grant(now time.Time, n *node, t *task, prefetch bool) {
	c.dequeue(t)
	number := t.row.Attempts + 1
	a := c.begin(n, t, spare.Attempt{
		ID: spare.NewAttemptID(t.row.ID, number), Task: t.row.ID, Job: t.job.id, Chunk: t.row.Chunk,
		Node: n.id, Number: number, Granted: now, Expires: now.Add(c.cfg.Lease),
	})
	if a.prefetch = prefetch; prefetch {
		n.prefetch--
		n.running--
	} else {
		n.run--
	}
	t.row.Attempts = number
	a.charged = t.job.cpu
	if a.charged == 0 {
		a.charged = 1
	}
	c.charge(t.job, a.charged)
	if len(n.granted) == 0 {
		c.granted = append(c.granted, n)
	}
	n.granted = append(n.granted, Leased{Attempt: a.row, Task: t.row})
	c.refillOrEnd(t.job)
}

// begin makes an attempt live, until row.Expires.
func (c *Core) begin(n *node, t *task, row spare.Attempt) *attempt {
	a := &attempt{row: row, task: t, node: n, expires: row.Expires}
	a.timer = timer{index: -1, attempt: a}
	t.live = a
	t.job.running++
	n.running++
	n.live[row.ID] = a
	t.row.NotBefore = time.Time{}
	c.move(t, spare.TaskRunning)
	c.set(&a.timer, a.expires)
	c.touchAttempt(a)
	return a
}

func (c *Core) touchAttempt(a *attempt) {
	if !a.dirty {
		a.dirty = true
		c.attempts = append(c.attempts, a)
	}
}

// end takes a live attempt off its node and task. The caller moves the task on.
func (c *Core) end(now time.Time, a *attempt, outcome spare.Outcome) {
	c.unset(&a.timer)
	delete(a.node.live, a.row.ID)
	a.task.live = nil
	a.task.job.running--
	if !a.prefetch {
		a.node.running--
	}
	a.row.Ended, a.row.Outcome = &now, outcome
	c.touchAttempt(a)
}

// cancel ends a live attempt nobody wants any more, and tells its node.
func (c *Core) cancel(now time.Time, a *attempt, reason string) {
	a.row.Message = reason
	c.end(now, a, spare.Cancelled)
	a.task.job.settle(a.charged, 0)
	if a.node.up {
		c.decide(Cancel{Node: a.node.id, Attempts: []spare.AttemptID{a.row.ID}, Reason: reason})
	}
}

// cancelLost tells nodes that may still work on expired attempts of a task to stop, but
// for the attempt that won.
func (c *Core) cancelLost(t *task, won spare.AttemptID, reason string) {
	for _, try := range t.row.Tries {
		id := spare.NewAttemptID(t.row.ID, try.Number)
		if try.Outcome == spare.Lost && id != won { // also where it is away: then there is more to forget than to send
			c.decide(Cancel{Node: try.Node, Attempts: []spare.AttemptID{id}, Reason: reason})
		}
	}
}

// latest is until when a lease may be renewed at most, or the zero time if nothing
// limits it. A node ends what runs too long by itself; this is for nodes that hang. What
// was fetched ahead may have to wait for one other task first.
func (c *Core) latest(j *job, granted time.Time, prefetch bool) time.Time {
	if j.timeout <= 0 {
		return time.Time{}
	}
	limit := j.timeout + c.cfg.Overtime
	if prefetch {
		limit += j.timeout
	}
	return granted.Add(limit)
}

// expire ends an attempt whose lease ran out. What else a silent node holds is lost with
// it: what it was granted since it was last heard would otherwise wait longer still.
func (c *Core) expire(now time.Time, a *attempt) {
	n := a.node
	last := c.latest(a.task.job, a.row.Granted, a.prefetch)
	switch {
	case !last.IsZero() && !last.After(now):
		c.lose(now, a, "the node kept it for longer than the task's time limit allows")
	case now.Sub(n.heard) < c.cfg.Lease:
		c.lose(now, a, "the node does not hold it any more")
	default:
		c.hush(n)
		for _, id := range slices.Sorted(maps.Keys(n.live)) {
			if a := n.live[id]; a != nil { // else its job failed with one before
				c.lose(now, a, "the node was silent for longer than its lease")
			}
		}
	}
}

func (c *Core) lose(now time.Time, a *attempt, why string) {
	a.row.Message = why
	c.end(now, a, spare.Lost)
	c.failed(now, a.task, a.node, &a.row, nil)
}

// revive gives the lease back to a node that turns out to work on a lost attempt, if the
// task waits. False says that the node works for nothing.
func (c *Core) revive(now time.Time, n *node, id spare.AttemptID) bool {
	job, chunk, number, ok := split(id)
	if !ok {
		return false
	}
	j := c.jobs[job]
	if j == nil {
		return false
	}
	t := j.tasks[chunk]
	if t == nil {
		return c.unread(j, chunk)
	}
	i := tryIndex(t, number)
	if i < 0 || t.row.Tries[i].Node != n.id || t.row.Tries[i].Outcome != spare.Lost {
		return false
	}
	if t.live != nil {
		return true // leased elsewhere meanwhile: the first result wins
	}
	try := t.row.Tries[i]
	if last := c.latest(j, try.Granted, false); !last.IsZero() && !last.After(now) {
		return true // it may finish, but others need not wait for it
	}
	c.undoLost(t, i)
	c.dequeue(t)
	c.begin(n, t, spare.Attempt{
		ID: id, Task: t.row.ID, Job: j.id, Chunk: chunk, Node: n.id, Number: number,
		Granted: try.Granted, Expires: now.Add(c.cfg.Lease),
	})
	return true
}

func tryIndex(t *task, number int) int {
	return slices.IndexFunc(t.row.Tries, func(try spare.Try) bool { return try.Number == number })
}

// undoLost takes back that an attempt was lost. Ledger rows already given out share the
// old slice, so it is not changed in place.
func (c *Core) undoLost(t *task, i int) {
	r := c.touchRecord(c.known(t.row.Tries[i].Node).app(t.job.class.app))
	r.Abandoned = max(0, r.Abandoned-1)
	t.row.Tries = slices.Concat(t.row.Tries[:i:i], t.row.Tries[i+1:])
	c.touch(t)
}

// restore brings back the attempts that lived when the hub stopped.
func (c *Core) restore(now time.Time, ev AttemptsRestored) {
	for _, row := range ev.Tasks {
		if j := c.jobs[row.Job]; j != nil && j.tasks[row.Chunk] == nil && !row.State.Final() {
			c.hold(now, j, row)
		}
	}
	for _, row := range ev.Attempts {
		j := c.jobs[row.Job]
		var t *task
		if j != nil {
			t = j.tasks[row.Chunk]
		}
		if t == nil || t.live != nil {
			row.Ended, row.Outcome, row.Message = &now, spare.Cancelled, "its job had ended when the hub started again"
			c.loose = append(c.loose, row)
			if j == nil {
				c.closeJob(now, row.Job, row.Message)
			}
			continue
		}
		c.dequeue(t)
		row.Expires = now.Add(c.cfg.RestoreGrace)
		c.begin(c.known(row.Node), t, row)
	}
}
