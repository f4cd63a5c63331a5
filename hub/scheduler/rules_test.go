package scheduler

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
)

func TestTask_EveryMoveIsInTheTable(t *testing.T) {
	states := []spare.TaskState{
		spare.TaskReady, spare.TaskRunning, spare.TaskVerifying, spare.TaskDone, spare.TaskFailed, spare.TaskCancelled,
	}
	allowed := map[spare.TaskState]string{
		spare.TaskReady:     "running done failed cancelled",
		spare.TaskRunning:   "ready verifying done failed cancelled",
		spare.TaskVerifying: "ready done failed cancelled",
	}
	for _, from := range states {
		for _, to := range states {
			want := slices.Contains(strings.Fields(allowed[from]), string(to))
			if got := canMove(from, to); got != want {
				t.Errorf("%s → %s: allowed %v, want %v", from, to, got, want)
			}
			if from.Final() && canMove(from, to) {
				t.Errorf("%s is final and moves to %s", from, to)
			}
			moved := func() (ok bool) {
				defer func() { ok = recover() == nil }()
				New(Config{}, 1).move(&task{row: spare.Task{State: from}}, to)
				return
			}()
			if moved != want {
				t.Errorf("%s → %s happened: %v", from, to, moved)
			}
		}
	}
}

func TestScheduler_TaskKeepsAwayFromEveryNodeThatJustFailedIt(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 1)
	g.up("a", "b", "c")
	g.report("a", g.one("a").Attempt.ID, spare.FetchFailed)
	g.pass(3 * time.Second)
	g.report("b", g.one("b").Attempt.ID, spare.FetchFailed)
	g.pass(5 * time.Second)
	if len(g.want("a", 1, 0))+len(g.want("b", 1, 0)) != 0 {
		t.Fatal("it returned to a node that failed it while c is connected")
	}
	if len(g.want("c", 1, 0)) != 1 {
		t.Fatal("c did not get it")
	}
}

func TestScheduler_PrefetchDoesNotHoardAtTheTail(t *testing.T) {
	g := newGrid(t, Config{})
	g.up("a", "b")
	g.want("b", 1, 0)
	g.open("j", "ann", 9)
	if n := len(g.core.nodes[nodeID("b")].live); n != 1 {
		t.Fatalf("b holds %d leases, want the one it waited for", n)
	}
	// Of seven that are left once a runs one, half of its share is one, not two.
	if got := g.want("a", 1, 20); len(got) != 2 {
		t.Fatalf("a got %d leases of eight, want one to run and one ahead", len(got))
	}
	for range 3 {
		for id := range g.core.nodes[nodeID("b")].live {
			g.report("b", id, spare.Succeeded)
		}
		g.one("b")
	}
	if got := g.want("b", 0, 20); len(got) != 0 {
		t.Fatalf("three are left for two nodes and b fetches %d ahead", len(got))
	}
}

func TestScheduler_NodeAloneMayFetchAllAhead(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 3)
	g.up("a")
	if got := g.want("a", 1, 5); len(got) != 3 {
		t.Fatalf("got %d leases", len(got))
	}
}

func TestScheduler_NodesTakeTurns(t *testing.T) {
	g := newGrid(t, Config{})
	g.up("a", "b")
	g.want("a", 8, 0)
	g.want("b", 8, 0)
	g.open("j", "ann", 4)
	if a, b := len(g.core.nodes[nodeID("a")].live), len(g.core.nodes[nodeID("b")].live); a != 2 || b != 2 {
		t.Fatalf("a got %d and b %d of four", a, b)
	}
}

func TestScheduler_OwnerWhoWasAwayDoesNotCatchUp(t *testing.T) {
	g := newGrid(t, Config{Window: 16})
	run := func() spare.JobID {
		l := g.one("a")
		g.reportAs(Reported{Node: nodeID("a"), Attempt: l.Attempt.ID, Outcome: spare.Succeeded, Usage: spare.Usage{CPU: time.Second}})
		return l.Task.Job
	}
	g.up("a")
	g.open("b0", "bob", 1)
	g.open("a0", "ann", 400)
	g.open("keeps bob known", "bob", 0)
	g.openWith(JobOpened{Job: "b-never", App: "app", Owner: "bob", Pool: "nowhere", Total: 1}, 1)
	for range 300 {
		run()
	}
	for _, owner := range []string{"bob", "ann"} { // of another owner, of the same
		g.open(spare.JobID("new of "+owner), owner, 200)
		mine := 0
		for range 20 {
			if run() == spare.JobID("new of "+owner) {
				mine++
			}
		}
		if mine > 13 {
			t.Errorf("the new job of %s took %d of 20 leases", owner, mine)
		}
		g.ended[spare.JobID("new of "+owner)] = "closed"
		g.core.Apply(g.now, JobClosed{Job: spare.JobID("new of " + owner), Reason: "aborted"})
		g.turn()
	}
}

func TestScheduler_HubThatSleptBlamesNobody(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 1)
	g.up("a")
	l := g.one("a")
	g.now = g.now.Add(time.Hour) // the lid was closed: no turn was made
	g.turn()
	if o := g.attempts[l.Attempt.ID].Outcome; o != "" {
		t.Fatalf("after the hub's own sleep the attempt is %s", o)
	}
	g.pass(5 * time.Second)
	if o := g.attempts[l.Attempt.ID].Outcome; o != spare.Lost {
		t.Fatalf("a node that stays silent keeps its lease: %q", o)
	}
}

func TestScheduler_SilentNodesWorkIsQueuedWithinTenSeconds(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 1)
	g.up("a", "b")
	l := g.one("a")
	for range 10 {
		g.pass(2 * time.Second)
		g.core.Apply(g.now, Heartbeat{Node: nodeID("a"), Attempts: []spare.AttemptID{l.Attempt.ID}})
		g.turn()
	}
	g.want("b", 1, 0)
	if got := g.grants(g.pass(10*time.Second), "b"); len(got) != 1 {
		t.Fatal("ten seconds after its last beat the chunk is not with the other node")
	}
}

func TestScheduler_NodeThatForgotItsWorkLosesItSoon(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 1)
	g.up("a", "b")
	l := g.one("a")
	g.want("b", 1, 0)
	g.core.Apply(g.now, NodeUp{Node: aNode("a")}) // killed, and started again with nothing
	g.turn()
	if got := g.grants(g.pass(time.Second), "b"); len(got) != 1 || got[0].Task.ID != l.Task.ID {
		t.Fatalf("b got %v", got)
	}
}

func TestScheduler_LostWorkIsTakenUpWhereItStillRuns(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 1)
	g.up("a")
	l := g.one("a")
	g.core.Apply(g.now, NodeDown{Node: nodeID("a")})
	g.pass(10 * time.Second)
	g.core.Apply(g.now, NodeUp{Node: aNode("a"), Held: []spare.AttemptID{l.Attempt.ID, "gone.0.1"}})
	ds := g.turn()
	if c := find[Cancel](ds); len(c) != 1 || !slices.Equal(c[0].Attempts, []spare.AttemptID{"gone.0.1"}) {
		t.Fatalf("decisions %v, want only the unknown attempt cancelled", ds)
	}
	if row := g.attempts[l.Attempt.ID]; row.Outcome != "" || row.Ended != nil || g.tasks[l.Task.ID].State != spare.TaskRunning {
		t.Fatalf("attempt %+v", row)
	}
	if got := g.want("a", 1, 0); len(got) != 0 {
		t.Fatal("the task was leased a second time")
	}
}

func TestScheduler_AbortCancelsWhatRuns(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 3)
	g.up("a")
	l := g.one("a")
	g.ended["j"] = "closed"
	g.core.Apply(g.now, JobClosed{Job: "j", Reason: "aborted by ann"})
	c := find[Cancel](g.turn())
	if len(c) != 1 || c[0].Reason != "aborted by ann" || g.attempts[l.Attempt.ID].Outcome != spare.Cancelled {
		t.Fatalf("cancels %v, attempt %+v", c, g.attempts[l.Attempt.ID])
	}
	for id, row := range g.tasks {
		if row.State != spare.TaskCancelled {
			t.Errorf("task %s is %s", id, row.State)
		}
	}
	if ack, _ := g.report("a", l.Attempt.ID, spare.Succeeded); ack.Taken {
		t.Error("a result was taken after the job had ended")
	}
}

func TestScheduler_WindowBoundsMemory(t *testing.T) {
	g := newGrid(t, Config{Window: 50})
	g.up("a")
	g.open("j", "ann", 500)
	most := 0
	for g.ended["j"] == "" {
		for _, l := range g.want("a", 50, 0) {
			g.core.Apply(g.now, Reported{Node: nodeID("a"), Attempt: l.Attempt.ID, Outcome: spare.Succeeded, Result: &spare.Result{}})
		}
		if j := g.core.jobs["j"]; j != nil {
			most = max(most, len(j.tasks))
		}
		g.turn()
	}
	if most > 101 || len(g.doneBy) != 500 {
		t.Errorf("%d of 500 tasks were held at once, %d done", most, len(g.doneBy))
	}
}

func TestScheduler_SameSeedSameDecisions(t *testing.T) {
	play := func() (all []Decision) {
		g := newGrid(t, Config{})
		g.up("a", "b", "c")
		g.open("j", "ann", 30)
		for i := range 60 {
			name := []string{"a", "b", "c"}[i%3]
			for _, l := range g.want(name, 2, 1) {
				o := spare.Outcomes[(i+l.Task.Chunk)%3]
				_, ds := g.report(name, l.Attempt.ID, o)
				all = append(all, ds...)
			}
			all = append(all, g.pass(time.Second)...)
		}
		return all
	}
	one, two := play(), play()
	if len(one) != len(two) {
		t.Fatalf("%d decisions, then %d", len(one), len(two))
	}
	for i := range one {
		a, okA := one[i].(Retried)
		b, okB := two[i].(Retried)
		if okA != okB || a != b {
			t.Fatalf("decision %d: %+v, then %+v", i, one[i], two[i])
		}
	}
}

// Law 6.
func TestScheduler_EveryWaitHasItsReason(t *testing.T) {
	ffmpeg := spare.Tool{Name: "ffmpeg", Features: []string{"libx264"}}
	with := func(change func(*spare.Node)) []spare.Node {
		n := aNode("a")
		n.Device.Tools = []spare.Tool{ffmpeg}
		change(&n)
		return []spare.Node{n}
	}
	plain := with(func(*spare.Node) {})
	for name, c := range map[string]struct {
		nodes        []spare.Node
		needs        spare.Requirements
		pool         string
		code, detail string
	}{
		"no node":         {nil, spare.Requirements{}, "", spare.ReasonNoNodes, "no node is connected"},
		"pool":            {plain, spare.Requirements{}, "farm", spare.ReasonNoNodeInPool, `no connected node is in pool "farm"`},
		"tool":            {plain, spare.Requirements{Tools: []string{"ffmpeg:libx265"}}, "", spare.ReasonNeedsTool, "no connected node offers ffmpeg with libx265"},
		"tool, said once": {plain, spare.Requirements{Tools: []string{"ffmpeg", "ffmpeg:libx265"}}, "", spare.ReasonNeedsTool, "no connected node offers ffmpeg with libx265"},
		"other tool":      {plain, spare.Requirements{Tools: []string{"ffmpeg:libx264", "blender"}}, "", spare.ReasonNeedsTool, "no connected node offers blender"},
		"memory":          {plain, spare.Requirements{MinMemory: 16}, "", spare.ReasonNeedsMemory, "16 GiB > 8 GiB, the most a connected node offers"},
		"offered":         {with(func(n *spare.Node) { n.Device.Offer.Memory = 4 << 30 }), spare.Requirements{MinMemory: 8}, "", spare.ReasonNeedsMemory, "8 GiB > 4 GiB, the most a connected node offers"},
		"unknown":         {with(func(n *spare.Node) { n.Device.Memory = nil }), spare.Requirements{MinMemory: 1}, "", spare.ReasonNeedsMemory, "1 GiB > 0 GiB, the most a connected node offers"},
		"disk":            {plain, spare.Requirements{MinDisk: 60}, "", spare.ReasonNeedsDisk, "60 GiB > 50 GiB, the most a connected node has free for work"},
		"cores":           {plain, spare.Requirements{MinCPU: 8}, "", spare.ReasonNeedsCPU, "8 cores > 4, the most a connected node offers"},
		"gpu":             {plain, spare.Requirements{GPU: []string{"RTX 4090"}}, "", spare.ReasonNeedsGPU, "no connected node has a GPU of RTX 4090"},
		"os":              {plain, spare.Requirements{OS: []string{"darwin"}}, "", spare.ReasonNeedsOS, "no connected node runs darwin"},
		"arch":            {plain, spare.Requirements{Arch: []string{"arm64"}}, "", spare.ReasonNeedsArch, "no connected node has a processor of arm64"},
		"not a number":    {plain, spare.Requirements{MinMemory: math.NaN()}, "", spare.ReasonNeedsMemory, "NaN GiB > 8 GiB, the most a connected node offers"},
		"platform": {
			with(func(n *spare.Node) {
				n.Device.Runtimes = []spare.Capability{{Runtime: "linux", Reason: "user namespaces are off"}}
			}),
			spare.Requirements{},
			"", spare.ReasonNoPlatform, "no connected node runs platform python (a: linux: user namespaces are off)",
		},
		"paused": {
			with(func(n *spare.Node) {
				n.State, n.Reason = spare.NodePaused, spare.Reason{Code: "on_battery", Detail: "62 %"}
			}),
			spare.Requirements{},
			"", spare.ReasonNodePaused, "the node that can run it is paused (on_battery: 62 %)",
		},
		"busy": {plain, spare.Requirements{Tools: []string{"ffmpeg:libx264"}}, "", spare.ReasonAllBusy, "1 node that can run it has other work or wants none now"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGrid(t, Config{})
			for _, n := range c.nodes {
				g.core.Apply(g.now, NodeUp{Node: n})
				g.core.Apply(g.now, Wanted{Node: n.ID, Run: 1})
				if c.code == spare.ReasonAllBusy {
					g.core.Apply(g.now, Wanted{Node: n.ID})
				}
			}
			g.openWith(JobOpened{Job: "j", App: "app", Around: spare.Environment{Platform: spare.PlatformPython}, Owner: "ann", Pool: c.pool, Needs: c.needs, Total: 3}, 3)
			why := g.core.Why("j", g.now)
			if len(why) != 1 || why[0].Tasks != 3 || why[0].Reason != (spare.Reason{Code: c.code, Detail: c.detail}) {
				t.Errorf("why %+v, want 3 tasks with %s: %s", why, c.code, c.detail)
			}
			if r, ok := g.core.WhyTask("j.1", g.now); !ok || r.Code != c.code {
				t.Errorf("the task's reason is %v", r)
			}
			for _, n := range c.nodes {
				r := g.core.NodeReason(n.ID, g.now)
				if want := c.code; c.code != spare.ReasonAllBusy && c.code != spare.ReasonNodePaused && r.Code != want {
					t.Errorf("the node's reason is %v, want %s", r, want)
				}
				if r.Detail == "" {
					t.Errorf("the node's reason %v has no words", r)
				}
			}
		})
	}
}

func TestScheduler_ReasonIsOfTheNodeThatLacksLeast(t *testing.T) {
	g := newGrid(t, Config{})
	far, near := aNode("far"), aNode("near")
	far.Pool = "other"
	near.Device.Tools = []spare.Tool{{Name: "ffmpeg"}}
	g.core.Apply(g.now, NodeUp{Node: far})
	g.core.Apply(g.now, NodeUp{Node: near})
	g.openWith(JobOpened{Job: "j", App: "app", Owner: "ann", Pool: "trusted", Needs: spare.Requirements{Tools: []string{"ffmpeg:libx265"}}, Total: 1}, 1)
	if why := g.core.Why("j", g.now); why[0].Reason.Code != spare.ReasonNeedsTool {
		t.Errorf("why %v", why)
	}
}

func TestScheduler_ProgressTellsWhenItEnds(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 10)
	g.up("a", "b")
	for range 2 {
		l := g.one("a")
		g.pass(4 * time.Second)
		g.reportAs(Reported{Node: nodeID("a"), Attempt: l.Attempt.ID, Outcome: spare.Succeeded, Usage: spare.Usage{Wall: 4 * time.Second}})
	}
	g.one("a")
	g.one("b")
	p, ok := g.core.JobProgress("j", g.now)
	if !ok || p.Done != 2 || p.Running != 2 || p.Ready != 6 || p.Nodes != 2 || p.Eligible != 2 || len(p.Attempts) != 2 {
		t.Fatalf("progress %+v", p)
	}
	if p.ETA == nil || *p.ETA != 16*time.Second { // eight tasks of 4 s, two at a time
		t.Errorf("ETA %v", p.ETA)
	}
	if _, ok := g.core.JobProgress("none", g.now); ok {
		t.Error("progress of a job that is not there")
	}
}

func TestScore_IsTheLowerEndOfTheInterval(t *testing.T) {
	for _, c := range []struct{ a, b, want float64 }{ // quantiles in closed form
		{1, 1, 0.025},
		{5, 1, math.Pow(0.025, 1.0/5)},
		{1, 9, 1 - math.Pow(0.975, 1.0/9)},
		{100, 1, math.Pow(0.025, 1.0/100)},
	} {
		if got := betaLower(c.a, c.b); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("Beta(%g, %g): %.10f, want %.10f", c.a, c.b, got, c.want)
		}
	}
	for _, x := range []float64{0.1, 0.5, 0.9} { // the CDF of Beta(2, 2) is 3x²−2x³
		if got, want := betaCDF(x, 2, 2), 3*x*x-2*x*x*x; math.Abs(got-want) > 1e-12 {
			t.Errorf("CDF of Beta(2, 2) at %g: %g, want %g", x, got, want)
		}
	}
	fresh, proven := spare.Record{}, spare.Record{Finished: 80, Abandoned: 1, Right: 80}
	if Completion(fresh) >= Completion(proven) || Validity(fresh) >= Validity(proven) || Completion(proven) >= Validity(proven) {
		t.Error("more evidence should score higher, and blemishes lower")
	}
}

func TestRecord_ForgetsExponentially(t *testing.T) {
	g := newGrid(t, Config{Window: 16})
	g.open("j", "ann", 600)
	g.up("a")
	g.report("a", g.one("a").Attempt.ID, spare.Preempted)
	if r := g.core.Record(nodeID("a"), "app"); r.Abandoned != 1 {
		t.Fatalf("record %+v", r)
	}
	for range 500 {
		g.core.Apply(g.now, Reported{Node: nodeID("a"), Attempt: g.one("a").Attempt.ID, Outcome: spare.Succeeded, Result: &spare.Result{}})
	}
	g.turn()
	r := g.core.Record(nodeID("a"), "app")
	if r.Abandoned > 0.01 || r.Finished < 95 || r.Finished > 100 {
		t.Errorf("record %+v, want the old failure gone and about a hundred weighing", r)
	}
	if g.records[string(nodeID("a"))+"app"] != r {
		t.Errorf("the ledger has %+v", g.records)
	}
}

func TestScheduler_LateFailureLeavesTheTaskWhereItRunsNow(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 1)
	g.up("a", "b")
	old := g.one("a")
	g.pass(9 * time.Second)
	now := g.one("b")
	if ack, ds := g.report("a", old.Attempt.ID, spare.AppFailed); !ack.Taken || len(find[Retried](ds)) != 0 {
		t.Fatalf("decisions %v", ds)
	}
	// a is told nothing while its expired attempt could still win.
	g.core.Apply(g.now, Heartbeat{Node: nodeID("b"), Attempts: []spare.AttemptID{now.Attempt.ID}})
	g.turn()
	if row := g.attempts[now.Attempt.ID]; row.Outcome != "" || g.tasks["j.0"].State != spare.TaskRunning {
		t.Fatalf("b's attempt is %q", row.Outcome)
	}
}

func TestScheduler_ExpiredAttemptMayWinTheRace(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 1)
	g.up("a", "b")
	old := g.one("a")
	g.pass(9 * time.Second)
	g.one("b")
	g.core.Apply(g.now, Heartbeat{Node: nodeID("a"), Attempts: []spare.AttemptID{old.Attempt.ID}})
	if c := find[Cancel](g.turn()); len(c) != 0 {
		t.Fatalf("a, which may finish first, is told %v", c)
	}
	if ack, _ := g.report("a", old.Attempt.ID, spare.Succeeded); !ack.Taken {
		t.Fatal("a's result was not taken")
	}
}

func TestScheduler_SlowStoreBringsNoTaskBack(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 2)
	g.up("a")
	l := g.one("a")
	g.slow = true
	g.restart() // its refill reads the task as running
	g.core.Apply(g.now, NodeUp{Node: aNode("a"), Held: []spare.AttemptID{l.Attempt.ID}})
	if ack, _ := g.report("a", l.Attempt.ID, spare.Succeeded); !ack.Taken {
		t.Fatal(ack.Reason)
	}
	g.flush()
	if got := g.want("a", 5, 0); len(got) != 1 || got[0].Task.Chunk != 1 {
		t.Fatalf("a got %v, want only the other chunk", got)
	}
}

func TestScheduler_LateReportOfATaskBeyondTheWindowIsTaken(t *testing.T) {
	g := newGrid(t, Config{Window: 8})
	g.open("j", "ann", 30)
	g.up("a")
	held := g.want("a", 20, 0)
	if len(held) != 20 {
		t.Fatalf("got %d leases: the window must not limit what runs", len(held))
	}
	g.core.Apply(g.now, NodeDown{Node: nodeID("a")})
	g.pass(10 * time.Second) // all are lost
	g.restart()              // and only the first few are read again
	last := held[len(held)-1]
	if g.core.jobs["j"].tasks[last.Task.Chunk] != nil {
		t.Fatalf("chunk %d is held: the window does not test this", last.Task.Chunk)
	}
	g.report("a", last.Attempt.ID, spare.Succeeded)
	if g.tasks[last.Task.ID].State != spare.TaskDone {
		t.Fatalf("task %+v", g.tasks[last.Task.ID])
	}
	if ack, _ := g.report("a", last.Attempt.ID, spare.Succeeded); ack.Taken || ack.Reason == "" {
		t.Fatalf("the same again got %+v", ack)
	}
}

func TestScheduler_OnlyAHandedBackTaskKeepsACheckpoint(t *testing.T) {
	for outcome, want := range map[spare.Outcome]bool{spare.Preempted: true, spare.AppFailed: false, spare.SandboxFailed: false} {
		g := newGrid(t, Config{})
		g.open("j", "ann", 1)
		g.up("a", "b")
		left := &spare.File{Name: "checkpoint", Digest: spare.Sum([]byte("state")), Size: 5}
		g.reportAs(Reported{Node: nodeID("a"), Attempt: g.one("a").Attempt.ID, Outcome: outcome, Checkpoint: left})
		g.pass(time.Minute)
		file, number := g.one("b").Task.Checkpoint()
		if (file != nil) != want || want && number != 1 {
			t.Errorf("after %s the task has the checkpoint %v of attempt %d", outcome, file, number)
		}
	}
}

// A node that hands over a result runs nothing of it any more, and asks for the next.
func TestScheduler_ResultUnderWayIsNoSlot(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 4)
	g.up("a")
	for range 4 {
		g.want("a", 2, 0)
	}
	if n := g.core.nodes[nodeID("a")]; len(n.live) != 4 || n.slots != 4 {
		t.Fatalf("%d leases, %d slots", len(n.live), n.slots)
	}
	g.want("a", 2, 0)
	if n := g.core.nodes[nodeID("a")]; n.slots != 4 {
		t.Fatalf("a machine of four cores counts as %d slots", n.slots)
	}
}

func TestScheduler_LargestInputBeginsFirst(t *testing.T) {
	g := newGrid(t, Config{})
	g.up("a")
	sizes := []int64{3, 1, 7, 3, 7}
	for i, size := range sizes {
		id := spare.NewTaskID("j", i)
		g.tasks[id] = spare.Task{ID: id, Job: "j", Chunk: i, State: spare.TaskReady, Input: spare.File{Size: size}}
	}
	g.core.Apply(g.now, JobOpened{Job: "j", App: "app", Around: spare.Environment{Platform: spare.PlatformPython}, Pool: "trusted", Owner: "ann", Total: len(sizes), Chunks: len(sizes)})
	g.turn()
	var order []int
	if got := g.want("a", 0, 1); len(got) != 1 || got[0].Attempt.Chunk != 1 {
		t.Fatalf("ahead it fetches %v, want the smallest", got)
	}
	for range sizes[1:] {
		l := g.one("a")
		order = append(order, l.Attempt.Chunk)
		g.report("a", l.Attempt.ID, spare.Succeeded)
	}
	if want := []int{2, 4, 0, 3}; !slices.Equal(order, want) {
		t.Fatalf("chunks of %v bytes ran in the order %v, want %v", sizes, order, want)
	}
}
