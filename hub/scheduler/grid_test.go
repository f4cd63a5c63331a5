package scheduler

import (
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/spare-compute/spare"
)

// tb is what the grid needs of *testing.T and *rapid.T.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
}

// A grid drives a core as the hub does: it keeps the ledger's rows, answers refills from
// them, and checks the invariants after every turn.
type grid struct {
	t        tb
	core     *Core
	now      time.Time
	tasks    map[spare.TaskID]spare.Task
	attempts map[spare.AttemptID]spare.Attempt
	records  map[string]spare.Record
	jobs     map[spare.JobID]JobOpened
	ended    map[spare.JobID]string // done, failed or closed
	sentence map[spare.JobID]string
	doneBy   map[spare.TaskID]spare.AttemptID
	log      []Decision // since the last call of turn
	wake     time.Time
	seed     uint64
	slow     bool       // refills are answered by g.flush, with what was read when they were asked
	read     []Refilled // by slow
}

func newGrid(t tb, cfg Config) *grid {
	return &grid{
		t: t, core: New(cfg, 1), now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		tasks: map[spare.TaskID]spare.Task{}, attempts: map[spare.AttemptID]spare.Attempt{},
		records: map[string]spare.Record{}, jobs: map[spare.JobID]JobOpened{},
		ended: map[spare.JobID]string{}, sentence: map[spare.JobID]string{},
		doneBy: map[spare.TaskID]spare.AttemptID{}, seed: 1,
	}
}

func device(name string, tools ...spare.Tool) spare.Device {
	return spare.Device{
		Name: name, OS: "linux", Arch: "amd64", CPU: spare.CPU{Cores: 4},
		Memory: &spare.Amount{Total: 8 << 30}, Disk: &spare.Amount{Total: 100 << 30, Free: 50 << 30},
		Runtimes: []spare.Capability{{Runtime: "linux", OK: true, Platforms: []spare.Platform{spare.PlatformPython}}},
		Tools:    tools,
	}
}

func nodeID(name string) spare.NodeID { return spare.NodeID(spare.Sum([]byte(name))) }

func aNode(name string) spare.Node {
	return spare.Node{ID: nodeID(name), Pool: "trusted", Owner: "ann", Device: device(name), State: spare.NodeIdle}
}

// open starts a job whose input was already cut into n chunks.
func (g *grid) open(job spare.JobID, owner string, n int) {
	g.openWith(JobOpened{Job: job, App: "app", Around: spare.Environment{Platform: spare.PlatformPython}, Pool: "trusted", Owner: owner, Total: n}, n)
}

func (g *grid) openWith(ev JobOpened, n int) {
	ev.Chunks = n
	g.jobs[ev.Job] = ev
	for i := range n {
		id := spare.NewTaskID(ev.Job, i)
		g.tasks[id] = spare.Task{ID: id, Job: ev.Job, Chunk: i, State: spare.TaskReady}
	}
	g.core.Apply(g.now, ev)
	g.turn()
}

func (g *grid) up(names ...string) {
	for _, name := range names {
		g.core.Apply(g.now, NodeUp{Node: aNode(name)})
	}
	g.turn()
}

func (g *grid) want(name string, run, prefetch int) []Leased {
	g.core.Apply(g.now, Wanted{Node: nodeID(name), Run: run, Prefetch: prefetch})
	return g.grants(g.turn(), name)
}

// one asks for one lease and fails the test if there is none.
func (g *grid) one(name string) Leased {
	g.t.Helper()
	got := g.want(name, 1, 0)
	if len(got) != 1 {
		g.t.Fatalf("%s got %d leases, want 1; it is %v", name, len(got), g.core.NodeReason(nodeID(name), g.now))
	}
	return got[0]
}

func (g *grid) grants(ds []Decision, name string) []Leased {
	var all []Leased
	for _, d := range ds {
		if d, ok := d.(Grant); ok && d.Node == nodeID(name) {
			all = append(all, d.Leases...)
		}
	}
	return all
}

func (g *grid) report(name string, a spare.AttemptID, o spare.Outcome) (Ack, []Decision) {
	return g.reportAs(Reported{Node: nodeID(name), Attempt: a, Outcome: o})
}

// reportAs reports, filling in what each outcome brings, and returns the answer.
func (g *grid) reportAs(ev Reported) (Ack, []Decision) {
	g.t.Helper()
	switch ev.Outcome {
	case spare.Succeeded:
		ev.Result = &spare.Result{Content: spare.Sum([]byte(ev.Attempt))}
	case spare.AppFailed:
		ev.ExitCode, ev.Log = 7, "Traceback\nValueError: no good"
	}
	g.core.Apply(g.now, ev)
	ds := g.turn()
	for _, d := range ds {
		if d, ok := d.(Ack); ok && d.Attempt == ev.Attempt && d.Node == ev.Node {
			return d, ds
		}
	}
	return Ack{}, ds
}

// pass lets time go by, with a turn whenever the core asks for one.
func (g *grid) pass(d time.Duration) []Decision {
	end := g.now.Add(d)
	var all []Decision
	for !g.wake.IsZero() && !g.wake.After(end) {
		if g.wake.After(g.now) {
			g.now = g.wake
		}
		all = append(all, g.turn()...)
	}
	g.now = end
	return append(all, g.turn()...)
}

// turn runs a turn, and further ones while the core asks for tasks.
func (g *grid) turn() []Decision {
	g.t.Helper()
	var all []Decision
	for {
		turn := g.core.Turn(g.now)
		g.wake = turn.Wake
		g.commit(turn.Ledger)
		all = append(all, turn.Decisions...)
		for _, d := range turn.Decisions {
			g.note(d)
		}
		g.check()
		refills := find[Refill](turn.Decisions)
		for _, r := range refills {
			if g.slow {
				g.read = append(g.read, g.answer(r))
			} else {
				g.core.Apply(g.now, g.answer(r))
			}
		}
		if len(refills) == 0 || g.slow {
			g.log = all
			return all
		}
	}
}

// flush answers the refills that slow held back.
func (g *grid) flush() []Decision {
	read := g.read
	g.read = nil
	for _, r := range read {
		g.core.Apply(g.now, r)
	}
	return g.turn()
}

func (g *grid) answer(r Refill) Refilled {
	rows := g.jobTasks(r.Job, r.From, func(t spare.Task) bool { return !t.State.Final() })
	return Refilled{Job: r.Job, From: r.From, Limit: r.Limit, Tasks: rows[:min(len(rows), r.Limit)]}
}

func (g *grid) jobTasks(job spare.JobID, from int, keep func(spare.Task) bool) []spare.Task {
	var rows []spare.Task
	for _, t := range g.tasks {
		if t.Job == job && t.Chunk >= from && keep(t) {
			rows = append(rows, t)
		}
	}
	slices.SortFunc(rows, func(a, b spare.Task) int { return a.Chunk - b.Chunk })
	return rows
}

// commit writes a batch as the store does, and refuses what law 1 forbids.
func (g *grid) commit(l Ledger) {
	g.t.Helper()
	for _, t := range l.Tasks {
		old, ok := g.tasks[t.ID]
		if !ok {
			g.t.Fatalf("ledger row of unknown task %s", t.ID)
		}
		if old.State.Final() && (old.State != t.State || old.Result != t.Result) {
			g.t.Fatalf("task %s was %s and is written again as %s", t.ID, old.State, t.State)
		}
		g.tasks[t.ID] = t
	}
	for _, a := range l.Attempts {
		if old, ok := g.attempts[a.ID]; ok && old.Outcome != "" && old.Outcome != spare.Lost && old.Outcome != a.Outcome {
			g.t.Fatalf("attempt %s ended as %s and again as %s", a.ID, old.Outcome, a.Outcome)
		}
		g.attempts[a.ID] = a
	}
	for _, r := range l.Records {
		g.records[string(r.Node)+r.App] = r
	}
	for _, job := range l.Closed {
		for id, t := range g.tasks {
			if t.Job == job && !t.State.Final() {
				t.State = spare.TaskCancelled
				g.tasks[id] = t
			}
		}
	}
}

// note keeps what decisions claim, and checks them against the ledger.
func (g *grid) note(d Decision) {
	g.t.Helper()
	switch d := d.(type) {
	case TaskDone:
		if by, twice := g.doneBy[d.Task]; twice {
			g.t.Fatalf("task %s done by %s and again by %s", d.Task, by, d.Attempt)
		}
		g.doneBy[d.Task] = d.Attempt
		if row := g.tasks[d.Task]; row.State != spare.TaskDone || row.Result == nil || row.Node != d.Node {
			g.t.Fatalf("task %s is announced done, its row says %+v", d.Task, row)
		}
	case JobDone:
		g.end(d.Job, "done")
		if n := len(g.jobTasks(d.Job, 0, func(t spare.Task) bool { return t.State != spare.TaskDone })); n > 0 {
			g.t.Fatalf("job %s is announced done with %d tasks open", d.Job, n)
		}
	case JobFailed:
		g.end(d.Job, "failed")
		g.sentence[d.Job] = d.Sentence
		g.checkBlame(d)
	case Grant:
		for _, l := range d.Leases {
			if row := g.attempts[l.Attempt.ID]; row.Node != d.Node {
				g.t.Fatalf("lease %s leaves without its ledger row", l.Attempt.ID)
			}
		}
	}
}

func (g *grid) end(job spare.JobID, how string) {
	g.t.Helper()
	if was := g.ended[job]; was != "" {
		g.t.Fatalf("job %s is %s and then %s", job, was, how)
	}
	g.ended[job] = how
}

// checkBlame recounts, from the ledger alone, that a job failed for enough reason.
func (g *grid) checkBlame(d JobFailed) {
	g.t.Helper()
	limit := g.jobs[d.Job].MaxRetries
	if limit == 0 {
		limit = g.core.cfg.DefaultRetries
	}
	blamed, lost := 0, map[spare.NodeID]bool{}
	for _, a := range g.attempts {
		if a.Task != d.Task {
			continue
		}
		if a.Outcome.BlamesTask() {
			blamed++
		}
		if a.Outcome == spare.Lost {
			lost[a.Node] = true
		}
	}
	if blamed < limit && len(lost) < g.core.cfg.LostNodes {
		g.t.Fatalf("job %s failed by task %s with %d blaming outcomes and %d nodes lost", d.Job, d.Task, blamed, len(lost))
	}
}

// restart throws the core away and makes one from the ledger's rows alone.
func (g *grid) restart() {
	g.seed++
	g.core = New(g.core.cfg, g.seed)
	g.wake, g.read = time.Time{}, nil
	var records []spare.Record
	for _, k := range slices.Sorted(maps.Keys(g.records)) {
		records = append(records, g.records[k])
	}
	g.core.Apply(g.now, RecordsRestored{records})
	for _, id := range slices.Sorted(maps.Keys(g.jobs)) {
		if g.ended[id] == "" {
			g.core.Apply(g.now, g.reopened(id))
		}
	}
	var ev AttemptsRestored
	for _, id := range slices.Sorted(maps.Keys(g.attempts)) {
		if a := g.attempts[id]; a.Outcome == "" {
			ev.Attempts = append(ev.Attempts, a)
			ev.Tasks = append(ev.Tasks, g.tasks[a.Task])
		}
	}
	g.core.Apply(g.now, ev)
	g.turn()
}

func (g *grid) reopened(id spare.JobID) JobOpened {
	ev := g.jobs[id]
	ev.Chunks = len(g.jobTasks(id, 0, func(spare.Task) bool { return true }))
	ev.Done = len(g.jobTasks(id, 0, func(t spare.Task) bool { return t.State == spare.TaskDone }))
	return ev
}

func find[D Decision](ds []Decision) (found []D) {
	for _, d := range ds {
		if d, ok := d.(D); ok {
			found = append(found, d)
		}
	}
	return found
}

// check compares the core with the ledger and its counts with a recount.
func (g *grid) check() {
	g.t.Helper()
	c := g.core
	ready, live := 0, 0
	timers := 0
	perClass, done := map[*class]int{}, map[spare.JobID]int{}
	for _, t := range g.tasks {
		if t.State == spare.TaskDone {
			done[t.Job]++
		}
	}
	for id, j := range c.jobs {
		if g.ended[id] != "" {
			g.t.Fatalf("job %s is %s and still held", id, g.ended[id])
		}
		n := len(j.clean.all()) + len(j.shy.all())
		running := 0
		for chunk, t := range j.tasks {
			row, ok := g.tasks[t.row.ID]
			if !ok || !reflect.DeepEqual(row, t.row) {
				if !(row.State == spare.TaskRunning && t.live == nil && row.Attempts == t.row.Attempts) { // read after a restart
					g.t.Fatalf("task %s is held as\n%+v, its ledger row is\n%+v", t.row.ID, t.row, row)
				}
			}
			if chunk != t.row.Chunk || t.row.State.Final() {
				g.t.Fatalf("task %s (%s) is held as chunk %d", t.row.ID, t.row.State, chunk)
			}
			if (t.live != nil) != (t.row.State == spare.TaskRunning) || (t.live != nil) != (t.place == nowhere) {
				g.t.Fatalf("task %s is %s, in place %d, with attempt %v", t.row.ID, t.row.State, t.place, t.live)
			}
			if t.live != nil {
				running++
			}
			if t.timer.index >= 0 {
				timers++
			}
		}
		if n != j.ready || running != j.running || (j.ready > 0) != (j.index >= 0) {
			g.t.Fatalf("job %s counts %d ready and %d running, there are %d and %d", id, j.ready, j.running, n, running)
		}
		if j.done != done[id] {
			g.t.Fatalf("job %s counts %d done, the ledger has more or fewer", id, j.done)
		}
		ready += n
		live += running
		perClass[j.class] += n
	}
	if ready != c.ready {
		g.t.Fatalf("core counts %d ready, there are %d", c.ready, ready)
	}
	g.checkNodes(live, timers, perClass)
}

func (g *grid) checkNodes(live, timers int, perClass map[*class]int) {
	g.t.Helper()
	c := g.core
	held := 0
	for _, n := range c.nodes {
		held += len(n.live)
		running := 0
		for _, a := range n.live {
			if !a.prefetch {
				running++
			}
			if row := g.attempts[a.row.ID]; row.Outcome != "" || row.Node != n.id || a.task.live != a {
				g.t.Fatalf("attempt %s lives, its ledger row is %+v", a.row.ID, row)
			}
			if a.timer.index >= 0 {
				timers++
			}
		}
		if running != n.running {
			g.t.Fatalf("node %s counts %d leases to run, it has %d", n.id.Short(), n.running, running)
		}
		for _, a := range n.apps {
			if a.until.After(n.until) {
				g.t.Fatalf("node %s backs off until %v, thinks %v", n.id.Short(), a.until, n.until)
			}
			if a.timer.index >= 0 {
				timers++
			}
		}
	}
	for _, a := range g.attempts {
		if a.Outcome == "" {
			held--
		}
	}
	if held != 0 {
		g.t.Fatalf("the ledger has %d fewer or more live attempts than the core", held)
	}
	if timers != c.timers.len() {
		g.t.Fatalf("%d timers are set, %d belong to something", c.timers.len(), timers)
	}
	for _, cl := range c.classes {
		if cl == nil {
			continue
		}
		eligible, slots := 0, 0
		for _, n := range c.nodes {
			if n.open && fitOf(&n.info, cl) == fitOK {
				eligible++
				slots += n.slots
			}
		}
		if eligible != cl.eligible || slots != cl.slots || perClass[cl] != cl.ready {
			g.t.Fatalf("class counts %d eligible, %d slots, %d ready; there are %d, %d and %d",
				cl.eligible, cl.slots, cl.ready, eligible, slots, perClass[cl])
		}
	}
	g.checkIdle()
}

// checkIdle finds nodes that want work and work that would run on them.
func (g *grid) checkIdle() {
	g.t.Helper()
	for _, n := range g.core.nodes {
		if !n.open || n.run == 0 {
			continue
		}
		for _, j := range g.core.jobs {
			a := n.apps[j.class.app]
			if n.fit[j.class.id] != fitOK || (a != nil && a.until.After(g.now)) {
				continue
			}
			if t := g.core.first(g.now, j, n, false); t != nil {
				g.t.Fatalf("node %s wants work and task %s waits for it", n.id.Short(), t.row.ID)
			}
		}
	}
}

var _ tb = (*testing.T)(nil)
