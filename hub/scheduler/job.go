package scheduler

import (
	"fmt"
	"slices"
	"time"

	"github.com/spare-compute/spare"
)

// moves is the state machine of a task: from each state, where it may go. A ready task
// becomes done or failed by the late report of an expired lease.
//
//	ready ⇄ running → verifying → done | failed | cancelled
//	  └───────┴─────────┴──────────↗
var moves = map[spare.TaskState][]spare.TaskState{
	spare.TaskReady:     {spare.TaskRunning, spare.TaskDone, spare.TaskFailed, spare.TaskCancelled},
	spare.TaskRunning:   {spare.TaskReady, spare.TaskVerifying, spare.TaskDone, spare.TaskFailed, spare.TaskCancelled},
	spare.TaskVerifying: {spare.TaskReady, spare.TaskDone, spare.TaskFailed, spare.TaskCancelled},
}

func canMove(from, to spare.TaskState) bool { return slices.Contains(moves[from], to) }

// A place is where a held task is queued.
type place uint8

const (
	nowhere place = iota // under a lease
	clean                // leasable to any node that fits
	shy                  // leasable, but keeps away from nodes that just failed it
	backing              // its back-off runs
)

type task struct {
	row   spare.Task
	job   *job
	place place
	live  *attempt
	timer timer // end of the back-off, or of keeping away
	dirty bool
}

// A line is tasks in chunk order. Nearly always they join at its end and leave from its
// front, which costs nothing; what is tried again cuts in at the cost of a copy of at
// most a window of pointers.
type line struct {
	tasks []*task
	gone  int // so many at the front have left
}

func (l *line) all() []*task { return l.tasks[l.gone:] }

func (l *line) find(chunk int) (i int, found bool) {
	return slices.BinarySearchFunc(l.all(), chunk, func(t *task, chunk int) int { return t.row.Chunk - chunk })
}

func (l *line) insert(t *task) {
	if n := len(l.tasks); n == l.gone || l.tasks[n-1].row.Chunk < t.row.Chunk {
		l.tasks = append(l.tasks, t)
		return
	}
	i, _ := l.find(t.row.Chunk)
	l.tasks = slices.Insert(l.tasks, l.gone+i, t)
}

func (l *line) remove(t *task) {
	i := 0
	if l.tasks[l.gone] != t {
		i, _ = l.find(t.row.Chunk)
	}
	if i > 0 {
		l.tasks = slices.Delete(l.tasks, l.gone+i, l.gone+i+1)
		return
	}
	l.tasks[l.gone] = nil
	l.gone++
	if l.gone == len(l.tasks) || l.gone > 2*(len(l.tasks)-l.gone)+64 {
		left := copy(l.tasks, l.all())
		clear(l.tasks[left:])
		l.tasks, l.gone = l.tasks[:left], 0
	}
}

type job struct {
	id     spare.JobID
	class  *class
	owner  *owner
	seq    int // first come
	max    int // failures that end it
	total  int // -1 while the input is being cut
	stored int // chunks below it are in the store
	next   int // chunks below it are held here, or done
	done   int

	tasks   map[int]*task // open and held, by chunk
	ahead   map[int]bool  // done or failed although not below next: restored after a restart
	clean   line
	shy     line
	ready   int // clean and shy
	running int
	refill  *Refill            // asked and not answered
	asked   int                // stored, when it was asked
	fresh   bool               // no attempt is older than this core
	timeout time.Duration      // of one task, 0 = unknown
	parked  map[int][]Reported // that wait for their task, by chunk
	asking  []int              // the chunks of parked, in the order they came

	share
	index int     // in its queue
	wall  float64 // running mean of a task's seconds, 0 = unknown
	cpu   float64 // running mean of a task's CPU-seconds, 0 = unknown
}

// move changes a task's state. A move that the table does not have is a mistake in this
// package, and going on would write it into the ledger.
func (c *Core) move(t *task, to spare.TaskState) {
	if !canMove(t.row.State, to) {
		panic(fmt.Sprintf("scheduler: task %s cannot go from %s to %s", t.row.ID, t.row.State, to))
	}
	t.row.State = to
	c.touch(t)
}

func (c *Core) touch(t *task) {
	if !t.dirty {
		t.dirty = true
		c.tasks = append(c.tasks, t)
	}
}

func (c *Core) openJob(ev JobOpened) {
	if c.jobs[ev.Job] != nil {
		return
	}
	o := c.owners[ev.Owner]
	if o == nil {
		c.seq++
		o = &owner{name: ev.Owner, seq: c.seq}
		c.owners[ev.Owner] = o
	}
	o.jobs++
	c.seq++
	j := &job{
		id: ev.Job, class: c.classOf(ev), owner: o, seq: c.seq, max: ev.MaxRetries, index: -1,
		total: ev.Total, stored: max(ev.Chunks, ev.Total), done: ev.Done,
		tasks: map[int]*task{}, ahead: map[int]bool{}, fresh: ev.Fresh, timeout: ev.Timeout, parked: map[int][]Reported{},
	}
	if j.max <= 0 {
		j.max = c.cfg.DefaultRetries
	}
	j.class.jobs++
	c.jobs[j.id] = j
	c.refillOrEnd(j)
}

// hold takes a stored task into memory.
func (c *Core) hold(now time.Time, j *job, row spare.Task) *task {
	t := &task{row: row, job: j}
	t.timer = timer{index: -1, task: t}
	if row.State != spare.TaskReady { // its attempt, if any lives, comes by AttemptsRestored
		t.row.State = spare.TaskReady
	}
	j.tasks[row.Chunk] = t
	c.enqueue(now, t)
	return t
}

// release forgets a task that is final.
func (c *Core) release(t *task) {
	c.dequeue(t)
	delete(t.job.tasks, t.row.Chunk)
	if t.row.Chunk >= t.job.next {
		t.job.ahead[t.row.Chunk] = true
	}
}

// enqueue puts a ready task where it belongs at this time.
func (c *Core) enqueue(now time.Time, t *task) {
	j := t.job
	avoid := c.avoidUntil(t)
	switch {
	case t.row.NotBefore.After(now):
		t.place = backing
		c.set(&t.timer, t.row.NotBefore)
		return
	case avoid.After(now):
		t.place = shy
		j.shy.insert(t)
		c.set(&t.timer, avoid)
	default:
		t.place = clean
		j.clean.insert(t)
	}
	c.addReady(j)
}

// dequeue takes a task out of wherever it waits.
func (c *Core) dequeue(t *task) {
	j := t.job
	c.unset(&t.timer)
	switch t.place {
	case shy:
		j.shy.remove(t)
		c.subReady(j)
	case clean:
		j.clean.remove(t)
		c.subReady(j)
	}
	t.place = nowhere
}

// window is how many waiting tasks of one job are held.
func (c *Core) window() int {
	return min(c.cfg.Window, max(256, maxWindows/max(1, len(c.jobs))))
}

// addTasks takes tasks fresh from the partition, while they fit. One that is left out
// leaves out all after it: next stays below them, until a refill brings them.
func (c *Core) addTasks(now time.Time, ev TasksAdded) {
	j := c.jobs[ev.Job]
	if j == nil {
		return
	}
	room := c.window() - (len(j.tasks) - j.running)
	for i := range ev.Tasks {
		row := &ev.Tasks[i]
		if row.Chunk == j.next && room > 0 {
			c.hold(now, j, *row)
			j.next++
			room--
		}
		j.stored = max(j.stored, row.Chunk+1)
	}
	c.refillOrEnd(j)
}

func (c *Core) refilled(now time.Time, ev Refilled) {
	j := c.jobs[ev.Job]
	if j == nil || j.refill == nil || j.refill.From != ev.From {
		return
	}
	spot := ev.From != j.next // only this chunk was asked for
	j.refill = nil
	if spot && (len(ev.Tasks) == 0 || ev.Tasks[0].Chunk != ev.From) {
		j.ahead[ev.From] = true
	}
	for _, row := range ev.Tasks {
		if row.Chunk < j.next || row.State.Final() || (spot && row.Chunk != ev.From) {
			continue
		}
		if j.tasks[row.Chunk] == nil && !j.ahead[row.Chunk] {
			c.hold(now, j, row)
		}
		if !spot {
			j.next = row.Chunk + 1
		}
	}
	if !spot && len(ev.Tasks) < ev.Limit {
		j.next = max(j.next, j.asked)
	}
	for chunk := range j.ahead {
		if chunk < j.next {
			delete(j.ahead, chunk)
		}
	}
	c.unpark(now, j, spot)
	if c.jobs[j.id] == j {
		c.refillOrEnd(j)
	}
	if c.jobs[j.id] == j {
		c.askParked(j)
	}
}

func (c *Core) sealJob(ev JobSealed) {
	if j := c.jobs[ev.Job]; j != nil {
		j.total = ev.Total
		j.stored = max(j.stored, ev.Total)
		c.refillOrEnd(j)
	}
}

// unread reports whether a task that is not held may have attempts: it lies in the store
// and is open, and the job is older than this core.
func (c *Core) unread(j *job, chunk int) bool {
	return !j.fresh && chunk >= j.next && chunk < j.stored && !j.ahead[chunk]
}

// maxParked is how many reports of one node wait for their tasks. Further ones are not
// answered: the node reports them again.
const maxParked = 64

// park keeps a report whose task is not read yet, and asks for that task. Whether the
// attempt is the node's shows only then, so that nobody may have many of them wait.
func (c *Core) park(j *job, chunk int, ev Reported) {
	n := c.known(ev.Node)
	if _, again := n.parked[ev.Attempt]; again || len(n.parked) >= maxParked {
		return
	}
	n.parked[ev.Attempt] = struct{}{}
	if len(j.parked[chunk]) == 0 {
		j.asking = append(j.asking, chunk)
	}
	j.parked[chunk] = append(j.parked[chunk], ev)
	c.askParked(j)
}

// askParked asks for the task of the report that waits longest.
func (c *Core) askParked(j *job) {
	if j.refill == nil && len(j.asking) > 0 {
		j.refill, j.asked = &Refill{Job: j.id, From: j.asking[0], Limit: 1}, j.stored
		c.decide(*j.refill)
	}
}

// unpark takes the reports whose tasks are read now: those of the first chunk that was
// asked for, or of any after a refill of the window.
func (c *Core) unpark(now time.Time, j *job, first bool) {
	var read []Reported
	var wait []int
	for i, chunk := range j.asking {
		if first && i > 0 {
			wait = j.asking[1-len(wait):]
			break
		}
		if c.unread(j, chunk) && j.tasks[chunk] == nil {
			wait = append(wait, chunk)
			continue
		}
		read = append(read, j.parked[chunk]...)
		delete(j.parked, chunk)
	}
	j.asking = wait
	for _, r := range read {
		delete(c.known(r.Node).parked, r.Attempt)
		c.reported(now, r)
	}
}

// refillOrEnd ends a job that has all its results, and asks for more tasks of one whose
// window ran low.
func (c *Core) refillOrEnd(j *job) {
	if j.total >= 0 && j.done >= j.total {
		c.decide(JobDone{Job: j.id})
		c.dropJob(j, "every chunk of the job is done")
		return
	}
	held := len(j.tasks) - j.running
	window := c.window()
	if j.refill != nil || j.next >= j.stored || held > window/2 {
		return
	}
	j.refill = &Refill{Job: j.id, From: j.next, Limit: window - held}
	j.asked = j.stored
	c.decide(*j.refill)
}

// closeJob ends a job early: its attempts are cancelled, and its open tasks by the store.
func (c *Core) closeJob(now time.Time, id spare.JobID, reason string) {
	if !slices.Contains(c.closed, id) {
		c.closed = append(c.closed, id)
	}
	j := c.jobs[id]
	if j == nil {
		return
	}
	for _, t := range inOrder(j.tasks) {
		if a := t.live; a != nil {
			c.cancel(now, a, reason)
		}
		c.cancelLost(t, "", reason)
	}
	c.dropJob(j, reason)
}

// dropJob forgets a job. Reports that waited for its tasks are answered.
func (c *Core) dropJob(j *job, reason string) {
	for _, t := range inOrder(j.tasks) {
		c.dequeue(t)
	}
	for _, chunk := range j.asking {
		for _, r := range j.parked[chunk] {
			delete(c.known(r.Node).parked, r.Attempt)
			c.decide(Ack{Node: r.Node, Attempt: r.Attempt, Reason: reason})
		}
	}
	delete(c.jobs, j.id)
	if j.class.jobs--; j.class.jobs == 0 {
		c.dropClass(j.class)
	}
	if j.owner.jobs--; j.owner.jobs == 0 {
		delete(c.owners, j.owner.name)
		for _, cl := range c.classes {
			if cl != nil {
				delete(cl.byOwner, j.owner)
			}
		}
	}
}

// inOrder lists tasks by chunk, so that a seed gives the same decisions each time.
func inOrder(tasks map[int]*task) []*task {
	all := make([]*task, 0, len(tasks))
	for _, t := range tasks {
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b *task) int { return a.row.Chunk - b.row.Chunk })
	return all
}
