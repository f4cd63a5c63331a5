package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spare-compute/spare"
)

// maxTries bounds what a task remembers; the oldest that count for nothing go first.
const maxTries = 64

// reported takes in how an attempt ended, also of a lease that has expired.
func (c *Core) reported(now time.Time, ev Reported) {
	refuse := func(why string) {
		c.decide(Ack{Node: ev.Node, Attempt: ev.Attempt, Reason: why})
	}
	jobID, chunk, number, ok := split(ev.Attempt)
	j := c.jobs[jobID]
	if !ok || j == nil {
		refuse("its job has ended or is not known here")
		return
	}
	t := j.tasks[chunk]
	if t == nil {
		switch {
		case chunk >= j.stored, j.fresh && chunk >= j.next && !j.ahead[chunk]:
			refuse("not known here")
		case c.unread(j, chunk):
			c.park(j, chunk, ev) // answered once its task is read
		default:
			refuse("another result was accepted")
		}
		return
	}
	n := c.known(ev.Node)
	if a := n.live[ev.Attempt]; a != nil && a.task == t {
		c.ended(now, t, a, &a.row, ev)
		return
	}
	i := tryIndex(t, number)
	switch {
	case i >= 0 && t.row.Tries[i].Node == ev.Node && t.row.Tries[i].Outcome == spare.Lost:
		c.late(now, t, i, ev)
	case i >= 0 && t.row.Tries[i].Node == ev.Node:
		refuse("reported before")
	case i >= 0 || (t.live != nil && t.live.row.Number == number):
		refuse("the lease is another node's")
	default:
		refuse("not known here")
	}
}

// late takes the report of an attempt whose lease had expired: its task is still open.
func (c *Core) late(now time.Time, t *task, i int, ev Reported) {
	try := t.row.Tries[i]
	c.undoLost(t, i)
	row := spare.Attempt{
		ID: ev.Attempt, Task: t.row.ID, Job: t.job.id, Chunk: t.row.Chunk, Node: ev.Node,
		Number: try.Number, Granted: try.Granted, Expires: try.Ended,
	}
	c.ended(now, t, nil, &row, ev)
	// The row goes out of the core's hands here: the attempt is no longer held.
	c.loose = append(c.loose, row)
}

// ended writes a report into its attempt's row and moves the task on. live is the
// attempt if its lease still ran.
func (c *Core) ended(now time.Time, t *task, live *attempt, row *spare.Attempt, ev Reported) {
	outcome := ev.Outcome
	switch {
	case outcome == spare.Succeeded && ev.Result == nil:
		outcome, ev.Message = spare.Rejected, "reported as succeeded, without a result"
	case outcome == spare.Cancelled: // the hub did not ask for it: it would be ended already
		outcome = spare.Preempted
	case !slices.Contains(spare.Outcomes, outcome):
		outcome = spare.Rejected
	}
	row.Ended, row.Outcome = &now, outcome
	row.ExitCode, row.Message, row.Log, row.Usage = ev.ExitCode, ev.Message, ev.Log, ev.Usage
	if outcome != spare.Preempted {
		ev.Checkpoint = nil // an App that failed may have failed for what it wrote there
	}
	if live != nil {
		c.end(now, live, outcome)
		t.job.settle(live.charged, cpuSeconds(ev.Usage, live.charged))
	}
	n := c.known(ev.Node)
	c.decide(Ack{Node: ev.Node, Attempt: ev.Attempt, Taken: true})
	if outcome == spare.Succeeded {
		row.Result = ev.Result
		c.accept(now, t, n, row)
		return
	}
	c.failed(now, t, n, row, ev.Checkpoint)
}

// cpuSeconds is what an attempt used, or as much as was charged if it does not say.
func cpuSeconds(u spare.Usage, charged float64) float64 {
	switch {
	case u.CPU > 0:
		return u.CPU.Seconds()
	case u.Wall > 0:
		return u.Wall.Seconds()
	}
	return charged
}

// accept makes a task done by this result, for good.
func (c *Core) accept(now time.Time, t *task, n *node, row *spare.Attempt) {
	const reason = "another result was accepted"
	j := t.job
	if t.live != nil {
		c.cancel(now, t.live, reason)
	}
	c.cancelLost(t, row.ID, reason)
	t.row.Result, t.row.Node, t.row.NotBefore = row.Result, n.id, time.Time{}
	c.move(t, spare.TaskDone)
	c.release(t)
	j.done++
	c.succeeded(t, n, row.Usage)
	c.decide(TaskDone{
		Job: j.id, Task: t.row.ID, Chunk: t.row.Chunk, Attempt: row.ID, Node: n.id,
		Done: j.done, Total: j.total,
	})
	c.refillOrEnd(j)
}

// failed places the blame for an attempt that brought no result, and queues its task
// again or ends the job. checkpoint is what a preempted one left of itself.
func (c *Core) failed(now time.Time, t *task, n *node, row *spare.Attempt, checkpoint *spare.File) {
	counts := row.Outcome.BlamesTask() && c.counts(t, n)
	tries := trim(t.row.Tries)
	t.row.Tries = append(tries[:len(tries):len(tries)], spare.Try{
		Number: row.Number, Node: n.id, Outcome: row.Outcome, Granted: row.Granted, Ended: now, Counts: counts,
		Checkpoint: checkpoint,
	})
	c.touch(t)
	c.blameNode(now, t, n, row.Outcome)
	if why := c.poison(t, row); why != "" {
		c.fail(now, t, why)
		return
	}
	if t.live != nil {
		return // a late report, and the task is being tried elsewhere
	}
	t.row.NotBefore = time.Time{}
	if wait := c.taskBackoff(t); wait > 0 {
		t.row.NotBefore = now.Add(wait)
	}
	if t.row.State != spare.TaskReady {
		c.move(t, spare.TaskReady)
	} else {
		c.dequeue(t)
	}
	c.enqueue(now, t)
	c.decide(Retried{
		Job: t.job.id, Task: t.row.ID, Chunk: t.row.Chunk, Attempt: row.ID, Node: n.id,
		Outcome: row.Outcome, ExitCode: row.ExitCode, Message: row.Message, NotBefore: t.row.NotBefore,
	})
}

func trim(tries []spare.Try) []spare.Try {
	if len(tries) < maxTries {
		return tries
	}
	i := max(0, slices.IndexFunc(tries, func(t spare.Try) bool { return !t.Counts && t.Outcome != spare.Lost }))
	return slices.Concat(tries[:i:i], tries[i+1:])
}

// counts reports whether a node's failure counts against the task: the first on this
// node, and any while every eligible node that is connected has failed it already.
func (c *Core) counts(t *task, n *node) bool {
	counted := func(try spare.Try) bool { return try.Counts }
	if !seen(t.row.Tries, n.id, counted) {
		return true
	}
	return c.others(t, counted) == 0
}

// taskBackoff draws how long a task waits after its latest failure. Being lost or
// preempted once says nothing about it, so that costs no time.
func (c *Core) taskBackoff(t *task) time.Duration {
	n := len(t.row.Tries)
	if o := t.row.Tries[n-1].Outcome; o == spare.Lost || o == spare.Preempted {
		n--
	}
	return c.backoff(n)
}

// backoff draws the n-th wait in a row, evenly from nothing to all of it.
func (c *Core) backoff(n int) time.Duration {
	if n <= 0 {
		return 0
	}
	most := c.cfg.BackoffMax
	if n <= 30 {
		most = min(most, c.cfg.BackoffBase<<(n-1))
	}
	return time.Duration(c.rng.Int64N(int64(most) + 1))
}

// poison says why a task is judged to fail wherever it runs, or nothing.
func (c *Core) poison(t *task, row *spare.Attempt) string {
	var counted, lost int
	var on, lostOn []string
	for _, try := range t.row.Tries {
		name := c.nodeName(try.Node)
		if try.Counts {
			counted++
			if !slices.Contains(on, name) {
				on = append(on, name)
			}
		}
		if try.Outcome == spare.Lost && !slices.Contains(lostOn, name) {
			lost++
			lostOn = append(lostOn, name)
		}
	}
	switch {
	case counted >= t.job.max:
		return fmt.Sprintf("chunk %d failed %s on %s; the last time it %s%s",
			t.row.Chunk, times(counted), nodeList(on), inWords(row), lastWords(row.Log))
	case lost >= c.cfg.LostNodes:
		return fmt.Sprintf("chunk %d was lost with %s, one after another: it may take machines down", t.row.Chunk, nodeList(lostOn))
	}
	return ""
}

// fail ends a job by a poisoned task. What the task did to the nodes' record is wiped.
func (c *Core) fail(now time.Time, t *task, sentence string) {
	j := t.job
	for _, try := range t.row.Tries {
		c.pardon(c.known(try.Node), j.class.app, try.Outcome)
	}
	reason := "its job failed: " + sentence
	if i := strings.IndexByte(reason, '\n'); i >= 0 {
		reason = reason[:i]
	}
	if t.live != nil {
		c.cancel(now, t.live, reason)
	}
	c.cancelLost(t, "", reason)
	t.row.Error, t.row.NotBefore = sentence, time.Time{}
	c.move(t, spare.TaskFailed)
	c.release(t)
	c.decide(JobFailed{Job: j.id, Task: t.row.ID, Chunk: t.row.Chunk, Sentence: sentence})
	c.closeJob(now, j.id, reason)
}

func (c *Core) nodeName(id spare.NodeID) string {
	if n := c.nodes[id]; n != nil && n.info.Device.Name != "" {
		return n.info.Device.Name + " (" + id.Short() + ")"
	}
	return id.Short()
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

func nodeList(names []string) string {
	if len(names) == 1 {
		return "node " + names[0]
	}
	return fmt.Sprintf("%d nodes: %s", len(names), strings.Join(names, ", "))
}

func inWords(row *spare.Attempt) string {
	var s string
	switch row.Outcome {
	case spare.AppFailed:
		s = "ended as app_failed"
		if row.ExitCode != 0 { // else it was refused, or its results were
			s += fmt.Sprintf(" with exit code %d", row.ExitCode)
		}
	case spare.TimedOut:
		s = "ran longer than the job allows (timed_out)"
	case spare.OutOfMemory:
		s = "needed more memory than it may have (out_of_memory)"
	default:
		s = "ended as " + string(row.Outcome)
	}
	if row.Message != "" {
		s += ": " + row.Message
	}
	return s
}

// lastWords are the last lines of a log, at most ten and 2 KiB.
func lastWords(log string) string {
	log = strings.TrimSpace(log)
	if len(log) > 2048 {
		log = strings.ToValidUTF8(log[len(log)-2048:], "")
	}
	if log == "" {
		return "; the App wrote nothing"
	}
	lines := strings.Split(log, "\n")
	lines = lines[max(0, len(lines)-10):]
	return "; the App's last lines:\n" + strings.Join(lines, "\n")
}
