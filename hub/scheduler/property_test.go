package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/spare-compute/spare"
)

// A player is a simulated node: what it really holds, whatever the core believes.
type player struct {
	name     string
	up       bool
	paused   bool
	tool     bool
	holds    []spare.AttemptID
	finished map[spare.AttemptID]spare.Outcome // reported, perhaps not acknowledged
}

// A world is a grid and its players, driven by drawn actions.
type world struct {
	*grid
	players []*player
	njobs   int
	started map[spare.AttemptID]string // who was really given each attempt
	done    map[spare.TaskID]bool      // tasks whose result was acknowledged as taken
}

func newWorld(t tb) *world {
	w := &world{
		grid:    newGrid(t, Config{Window: 16, BackoffBase: time.Second, Overtime: 10 * time.Second}),
		started: map[spare.AttemptID]string{}, done: map[spare.TaskID]bool{},
	}
	for i := range 4 {
		w.players = append(w.players, &player{name: fmt.Sprint("n", i), tool: i > 0, finished: map[spare.AttemptID]spare.Outcome{}})
	}
	return w
}

func (w *world) node(p *player) spare.Node {
	n := aNode(p.name)
	if p.tool {
		n.Device.Tools = []spare.Tool{{Name: "ffmpeg", Features: []string{"libx265"}}}
	}
	if p.paused {
		n.State = spare.NodePaused
	}
	return n
}

// settle carries decisions out: connected players get their leases and cancellations.
func (w *world) settle(ds []Decision) {
	for _, d := range ds {
		switch d := d.(type) {
		case Grant:
			for _, l := range d.Leases {
				if who, twice := w.started[l.Attempt.ID]; twice {
					w.t.Fatalf("attempt %s was granted to %s before", l.Attempt.ID, who)
				}
				p := w.player(d.Node)
				w.started[l.Attempt.ID] = p.name
				if !p.up || p.paused {
					w.t.Fatalf("%s got a lease while it is away", p.name)
				}
				p.holds = append(p.holds, l.Attempt.ID)
			}
		case Cancel:
			p := w.player(d.Node)
			if !p.up {
				continue // it does not hear it
			}
			p.holds = slices.DeleteFunc(p.holds, func(a spare.AttemptID) bool { return slices.Contains(d.Attempts, a) })
		}
	}
}

func (w *world) player(id spare.NodeID) *player {
	i := slices.IndexFunc(w.players, func(p *player) bool { return nodeID(p.name) == id })
	return w.players[i]
}

func (w *world) apply(ev Event) {
	w.core.Apply(w.now, ev)
	w.settle(w.turn())
}

// tell reports and checks laws 1 and 2 on the answer: a result is taken exactly if its
// task is open and its job lives.
func (w *world) tell(p *player, id spare.AttemptID, o spare.Outcome) {
	task := id.Task()
	row := w.tasks[task]
	open := !row.State.Final() && w.ended[row.Job] == ""
	mine := w.started[id] == p.name
	before := w.attempts[id].Outcome
	ack, ds := w.report(p.name, id, o)
	w.settle(ds)
	for w.slow && ack.Attempt != id && len(w.read) > 0 { // its task is not read yet
		ds = w.flush()
		w.settle(ds)
		for _, a := range find[Ack](ds) {
			if a.Attempt == id && a.Node == nodeID(p.name) {
				ack = a
			}
		}
	}
	if ack.Attempt != id {
		w.t.Fatalf("report of %s was not answered", id)
	}
	fresh := before == "" || before == spare.Lost
	if want := open && mine && fresh; ack.Taken != want {
		w.t.Fatalf("%s reports %s as %s: taken %v, want %v (open %v, its own %v, before %q): %s",
			p.name, id, o, ack.Taken, want, open, mine, before, ack.Reason)
	}
	if !ack.Taken && ack.Reason == "" {
		w.t.Fatalf("report of %s refused without a reason", id)
	}
	if ack.Taken && o == spare.Succeeded {
		if w.done[task] {
			w.t.Fatalf("a second result of %s was taken", task)
		}
		w.done[task] = true
		if w.doneBy[task] != id {
			w.t.Fatalf("%s was taken, %s is announced", id, w.doneBy[task])
		}
	}
	if got := w.attempts[id]; ack.Taken && (got.Outcome == "" || got.Ended == nil) {
		w.t.Fatalf("acknowledged, but the ledger has %+v", got)
	}
}

func (w *world) actions() map[string]func(*rapid.T) {
	who := func(t *rapid.T) *player { return rapid.SampledFrom(w.players).Draw(t, "node") }
	some := func(t *rapid.T, p *player) spare.AttemptID {
		if len(p.holds) == 0 {
			t.Skip("holds nothing")
		}
		return rapid.SampledFrom(p.holds).Draw(t, "attempt")
	}
	return map[string]func(*rapid.T){
		"open job": func(t *rapid.T) { w.addJob(t) },
		"connect": func(t *rapid.T) {
			p := who(t)
			p.up = true
			if rapid.Bool().Draw(t, "killed") {
				p.holds = nil
			}
			w.apply(NodeUp{Node: w.node(p), Held: slices.Clone(p.holds)})
		},
		"disconnect": func(t *rapid.T) {
			p := who(t)
			p.up = false
			w.apply(NodeDown{Node: nodeID(p.name)})
		},
		"pause": func(t *rapid.T) {
			p := who(t)
			p.paused = !p.paused
			w.apply(NodeChanged{Node: w.node(p)})
		},
		"want": func(t *rapid.T) {
			p := who(t)
			w.apply(Wanted{Node: nodeID(p.name), Run: rapid.IntRange(0, 3).Draw(t, "run"), Prefetch: rapid.IntRange(0, 2).Draw(t, "prefetch")})
		},
		"heartbeat": func(t *rapid.T) {
			if p := who(t); p.up {
				w.apply(Heartbeat{Node: nodeID(p.name), Attempts: slices.Clone(p.holds)})
			}
		},
		"succeed": func(t *rapid.T) {
			p := who(t)
			w.finish(p, some(t, p), spare.Succeeded)
		},
		"fail": func(t *rapid.T) {
			p := who(t)
			w.finish(p, some(t, p), rapid.SampledFrom(spare.Outcomes).Draw(t, "outcome"))
		},
		"repeat a report": func(t *rapid.T) {
			p := who(t)
			if len(p.finished) == 0 {
				t.Skip("reported nothing")
			}
			id := rapid.SampledFrom(slices.Sorted(maps.Keys(p.finished))).Draw(t, "attempt")
			w.tell(p, id, p.finished[id])
		},
		"report another's": func(t *rapid.T) {
			p, other := who(t), who(t)
			w.tell(p, some(t, other), spare.Succeeded)
		},
		"report nonsense": func(t *rapid.T) {
			id := rapid.SampledFrom([]spare.AttemptID{"", "x", "x.1", "j0.0.99", "j0.9999.1", "j0.-1.1", "none.0.1"}).Draw(t, "attempt")
			w.tell(who(t), id, spare.Succeeded)
		},
		"pass": func(t *rapid.T) {
			w.settle(w.pass(time.Duration(rapid.IntRange(1, 15000).Draw(t, "ms")) * time.Millisecond))
		},
		"close job": func(t *rapid.T) {
			id := spare.JobID(fmt.Sprint("j", rapid.IntRange(0, 5).Draw(t, "job")))
			if w.ended[id] == "" && w.jobs[id].Job != "" && rapid.IntRange(0, 3).Draw(t, "really") == 0 {
				w.ended[id] = "closed"
				w.apply(JobClosed{Job: id, Reason: "aborted"})
			}
		},
		"store is slow":  func(*rapid.T) { w.slow = true },
		"store is quick": func(*rapid.T) { w.slow = false; w.settle(w.flush()) },
		"store answers":  func(*rapid.T) { w.settle(w.flush()) },
		"restart":        func(*rapid.T) { w.restartAll() },
	}
}

func (w *world) addJob(t *rapid.T) {
	if w.njobs > 5 {
		t.Skip("enough jobs")
	}
	ev := JobOpened{
		Job: spare.JobID(fmt.Sprint("j", w.njobs)), App: rapid.SampledFrom([]string{"app", "other"}).Draw(t, "app"),
		Around: spare.Environment{Platform: spare.PlatformPython}, Owner: rapid.SampledFrom([]string{"ann", "bob"}).Draw(t, "owner"),
		MaxRetries: rapid.IntRange(0, 4).Draw(t, "retries"),
	}
	if rapid.Bool().Draw(t, "limited") {
		ev.Timeout = 20 * time.Second
	}
	if rapid.Bool().Draw(t, "needs tool") {
		ev.Needs.Tools = []string{"ffmpeg:libx265"}
	}
	w.njobs++
	ev.Total = rapid.SampledFrom([]int{0, 1, 2, 5, 20, 60}).Draw(t, "chunks")
	if rapid.Bool().Draw(t, "stored") {
		w.openWith(ev, ev.Total)
		w.settle(w.log)
		return
	}
	w.stream(t, ev)
}

// stream opens a job whose input is still being cut, and brings its chunks in pieces.
func (w *world) stream(t *rapid.T, ev JobOpened) {
	total := ev.Total
	ev.Total = -1
	w.openWith(ev, 0)
	for at := 0; at < total && w.ended[ev.Job] == ""; {
		var piece []spare.Task
		for range rapid.IntRange(1, 30).Draw(t, "piece") {
			if at == total {
				break
			}
			id := spare.NewTaskID(ev.Job, at)
			piece = append(piece, spare.Task{ID: id, Job: ev.Job, Chunk: at, State: spare.TaskReady})
			at++
		}
		for _, row := range piece {
			w.tasks[row.ID] = row
		}
		w.apply(TasksAdded{Job: ev.Job, Tasks: piece})
	}
	ev.Total = total
	w.jobs[ev.Job] = ev
	w.apply(JobSealed{Job: ev.Job, Total: total})
}

func (w *world) finish(p *player, id spare.AttemptID, o spare.Outcome) {
	p.holds = slices.DeleteFunc(p.holds, func(a spare.AttemptID) bool { return a == id })
	if rapidLost := o == spare.Cancelled && w.attempts[id].Outcome == spare.Lost; rapidLost {
		o = spare.Preempted
	}
	p.finished[id] = o
	w.tell(p, id, o)
}

// restartAll kills the hub; the players that were connected dial again.
func (w *world) restartAll() {
	w.restart()
	w.settle(w.log)
	for _, p := range w.players {
		if p.up {
			w.apply(NodeUp{Node: w.node(p), Held: slices.Clone(p.holds)})
		}
	}
}

// finishAll lets good nodes do what is left: every job must end, and in bounded time.
func (w *world) finishAll() {
	w.slow = false
	w.settle(w.flush())
	for _, p := range w.players {
		p.up, p.paused, p.tool = true, false, true
		w.apply(NodeUp{Node: w.node(p), Held: slices.Clone(p.holds)})
	}
	for round := 0; ; round++ {
		left := 0
		for id := range w.jobs {
			if w.ended[id] == "" {
				left++
			}
		}
		if left == 0 {
			break
		}
		if round > 3000 {
			w.t.Fatalf("%d jobs never end", left)
		}
		for _, p := range w.players {
			w.apply(Heartbeat{Node: nodeID(p.name), Attempts: slices.Clone(p.holds)})
			w.apply(Wanted{Node: nodeID(p.name), Run: 4, Prefetch: 1})
		}
		for _, p := range w.players {
			for len(p.holds) > 0 {
				w.finish(p, p.holds[0], spare.Succeeded)
			}
		}
		w.settle(w.pass(time.Second))
	}
	for id, how := range w.ended {
		if n := len(w.jobTasks(id, 0, func(t spare.Task) bool { return !t.State.Final() })); n > 0 {
			w.t.Fatalf("job %s is %s with %d tasks open", id, how, n)
		}
	}
	if c := w.core; len(c.jobs)+len(c.owners)+len(c.classByKey) != 0 {
		w.t.Fatalf("all jobs have ended and the core holds %d, %d owners, %d classes", len(c.jobs), len(c.owners), len(c.classByKey))
	}
}

func TestScheduler_LawsHoldWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		t.Repeat(w.actions())
		w.finishAll()
	})
}
