package scheduler

import (
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
)

func TestScheduler_RunsAJobToItsEnd(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 3)
	g.up("a", "b")
	for g.ended["j"] == "" {
		l := g.one("a")
		if ack, _ := g.report("a", l.Attempt.ID, spare.Succeeded); !ack.Taken {
			t.Fatalf("result of %s was not taken: %s", l.Attempt.ID, ack.Reason)
		}
	}
	if g.ended["j"] != "done" || len(g.doneBy) != 3 {
		t.Fatalf("job is %s with %d tasks done", g.ended["j"], len(g.doneBy))
	}
	if len(g.core.jobs)+len(g.core.owners)+len(g.core.classByKey)+g.core.timers.len() != 0 {
		t.Error("a finished job leaves something behind")
	}
}

// Law 1.
func TestScheduler_TaskIsDoneOnce(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 2)
	g.up("a", "b")
	first := g.one("a")
	g.pass(9 * time.Second) // the lease expires
	again := g.one("b")
	if again.Task.ID != first.Task.ID {
		t.Fatalf("b got %s, want the lost %s", again.Task.ID, first.Task.ID)
	}
	ack, ds := g.report("a", first.Attempt.ID, spare.Succeeded)
	if !ack.Taken {
		t.Fatalf("late result not taken: %s", ack.Reason)
	}
	if c := find[Cancel](ds); len(c) != 1 || c[0].Node != nodeID("b") || c[0].Attempts[0] != again.Attempt.ID {
		t.Fatalf("decisions %v, want b's attempt cancelled", ds)
	}
	if ack, _ := g.report("b", again.Attempt.ID, spare.Succeeded); ack.Taken || ack.Reason == "" {
		t.Fatalf("second result got %+v", ack)
	}
	if ack, _ := g.report("a", first.Attempt.ID, spare.Succeeded); ack.Taken {
		t.Fatal("the same report was taken twice")
	}
}

// Law 2.
func TestScheduler_LateReportIsTaken(t *testing.T) {
	for name, between := range map[string]func(*grid){
		"task waits":         func(*grid) {},
		"hub restarted":      func(g *grid) { g.restart() },
		"task runs again":    func(g *grid) { g.up("b"); g.one("b") },
		"node has come back": func(g *grid) { g.core.Apply(g.now, NodeUp{Node: aNode("a")}); g.turn() },
	} {
		t.Run(name, func(t *testing.T) {
			g := newGrid(t, Config{})
			g.open("j", "ann", 1)
			g.up("a")
			l := g.one("a")
			g.core.Apply(g.now, NodeDown{Node: nodeID("a")})
			g.pass(10 * time.Second)
			if o := g.attempts[l.Attempt.ID].Outcome; o != spare.Lost {
				t.Fatalf("outcome %q, want lost", o)
			}
			between(g)
			if ack, _ := g.report("a", l.Attempt.ID, spare.Succeeded); !ack.Taken {
				t.Fatalf("not taken: %s", ack.Reason)
			}
			row := g.attempts[l.Attempt.ID]
			if row.Outcome != spare.Succeeded || row.Granted.IsZero() || g.ended["j"] != "done" {
				t.Fatalf("attempt %+v, job %q", row, g.ended["j"])
			}
			if r := g.core.Record(nodeID("a"), "app"); r.Abandoned != 0 || r.Finished != 1 {
				t.Errorf("record %+v still holds the loss against the node", r)
			}
		})
	}
}

func TestScheduler_ReportBeforeItsTaskIsReadWaits(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 1)
	g.up("a")
	l := g.one("a")
	g.core.Apply(g.now, NodeDown{Node: nodeID("a")})
	g.pass(10 * time.Second)

	g.core = New(Config{}, 2) // a restart that has not read any task yet
	g.core.Apply(g.now, g.reopened("j"))
	refill := find[Refill](g.core.Turn(g.now).Decisions)[0]
	g.core.Apply(g.now, Reported{Node: nodeID("a"), Attempt: l.Attempt.ID, Outcome: spare.Succeeded, Result: &spare.Result{}})
	if ds := g.core.Turn(g.now).Decisions; len(ds) != 0 {
		t.Fatalf("answered with %v before the task was read", ds)
	}
	g.core.Apply(g.now, g.answer(refill))
	ds := g.turn()
	if acks := find[Ack](ds); len(acks) != 1 || !acks[0].Taken || g.ended["j"] != "done" {
		t.Fatalf("decisions %v", ds)
	}
}

func TestScheduler_LateFailureIsBlamed(t *testing.T) {
	g := newGrid(t, Config{})
	g.openWith(JobOpened{Job: "j", App: "app", Owner: "ann", Total: 1, MaxRetries: 1}, 1)
	g.up("a")
	l := g.one("a")
	g.pass(9 * time.Second)
	if ack, _ := g.report("a", l.Attempt.ID, spare.AppFailed); !ack.Taken || g.ended["j"] != "failed" {
		t.Fatalf("ack %+v, job %q", ack, g.ended["j"])
	}
}

// Law 3.
func TestScheduler_RestartKeepsWorkingNodesWorking(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 3)
	g.up("a", "b")
	done := g.one("a")
	g.report("a", done.Attempt.ID, spare.Succeeded)
	held, gone := g.one("a"), g.one("b")

	g.restart()
	g.pass(20 * time.Second) // within the grace
	g.core.Apply(g.now, NodeUp{Node: aNode("a"), Held: []spare.AttemptID{held.Attempt.ID}})
	g.turn()
	for range 10 {
		g.pass(2 * time.Second)
		g.core.Apply(g.now, Heartbeat{Node: nodeID("a"), Attempts: []spare.AttemptID{held.Attempt.ID}})
		g.turn()
	}
	if o := g.attempts[held.Attempt.ID].Outcome; o != "" {
		t.Errorf("the working node's attempt ended as %s", o)
	}
	if o := g.attempts[gone.Attempt.ID].Outcome; o != spare.Lost {
		t.Errorf("the silent node's attempt is %q", o)
	}
	if ack, _ := g.report("a", held.Attempt.ID, spare.Succeeded); !ack.Taken {
		t.Error("result not taken after the restart")
	}
	if l := g.one("a"); l.Task.ID != gone.Task.ID || l.Attempt.Number != 2 {
		t.Errorf("then got %s", l.Attempt.ID)
	}
	if ack, _ := g.report("a", done.Attempt.ID, spare.Succeeded); ack.Taken {
		t.Error("a result accepted before the restart was taken again")
	}
}

func TestScheduler_RestartRemembersBlame(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 1)
	for _, name := range []string{"a", "b", "c"} {
		g.up(name)
		l := g.one(name)
		g.report(name, l.Attempt.ID, spare.AppFailed)
		g.restart()
		g.pass(5 * time.Second)
	}
	if g.ended["j"] != "failed" {
		t.Fatalf("job is %q after failures on three nodes", g.ended["j"])
	}
}

// Law 4.
func TestScheduler_BlameIsPlaced(t *testing.T) {
	for _, o := range spare.Outcomes {
		if o == spare.Succeeded || o == spare.Lost {
			continue
		}
		t.Run(string(o), func(t *testing.T) {
			g := newGrid(t, Config{})
			g.open("j", "ann", 1)
			for _, name := range []string{"a", "b", "c"} {
				g.up(name)
				g.report(name, g.one(name).Attempt.ID, o)
				g.core.Apply(g.now, NodeDown{Node: nodeID(name)})
				g.pass(5 * time.Minute)
			}
			if failed := g.ended["j"] == "failed"; failed != o.BlamesTask() {
				t.Fatalf("three nodes ended with %s: job %q", o, g.ended["j"])
			}
		})
	}
}

func TestScheduler_PoisonSentenceTellsAll(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 1)
	g.up("a", "b", "c")
	for _, name := range []string{"a", "b", "c"} {
		g.report(name, g.one(name).Attempt.ID, spare.AppFailed)
		g.core.Apply(g.now, Wanted{Node: nodeID(name)})
		g.pass(5 * time.Second)
	}
	s := g.sentence["j"]
	for _, want := range []string{"chunk 0", "3 times", "3 nodes", "app_failed", "exit code 7", "ValueError: no good", "a (" + nodeID("a").Short()} {
		if !strings.Contains(s, want) {
			t.Errorf("sentence lacks %q:\n%s", want, s)
		}
	}
	for _, name := range []string{"a", "b", "c"} {
		r := g.core.Record(nodeID(name), "app")
		if r.Failed != 0 || r.Abandoned != 0 || r.Finished != 0 {
			t.Errorf("%s keeps the poison in its record: %+v", name, r)
		}
		if a := g.core.nodes[nodeID(name)].apps["app"]; a.until.After(g.now) || a.streak != 0 {
			t.Errorf("%s still backs off from the App", name)
		}
	}
	if row := g.tasks[spare.NewTaskID("j", 0)]; row.State != spare.TaskFailed || row.Error != s {
		t.Errorf("task row %+v", row)
	}
}

func TestScheduler_OneNodeGridEndsAPoisonedJob(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 2)
	g.up("a")
	g.core.Apply(g.now, Wanted{Node: nodeID("a"), Run: 1})
	failures, start := 0, g.now
	for ds := g.turn(); g.ended["j"] == "" && failures < 10; ds = g.pass(time.Second) {
		for _, l := range g.grants(ds, "a") {
			o := spare.Succeeded
			if l.Task.Chunk == 0 {
				o, failures = spare.AppFailed, failures+1
			}
			g.report("a", l.Attempt.ID, o)
			g.core.Apply(g.now, Wanted{Node: nodeID("a"), Run: 1})
		}
	}
	if g.ended["j"] != "failed" || failures != 3 {
		t.Fatalf("job %q after %d failures, want failed after 3", g.ended["j"], failures)
	}
	if took := g.now.Sub(start); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	if !strings.Contains(g.sentence["j"], "3 times on node a") {
		t.Errorf("sentence %q", g.sentence["j"])
	}
}

func TestScheduler_RepeatsOnOneNodeDoNotCountWhileOthersAreConnected(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 1)
	g.up("a", "idle")
	for range 5 { // idle never asks; a may try again once the task is no longer shy
		g.report("a", g.one("a").Attempt.ID, spare.AppFailed)
		g.pass(5 * time.Minute)
	}
	if g.ended["j"] != "" {
		t.Fatalf("job %s by the failures of one node of two", g.ended["j"])
	}
	g.core.Apply(g.now, NodeDown{Node: nodeID("idle")})
	for range 2 {
		g.report("a", g.one("a").Attempt.ID, spare.AppFailed)
		g.pass(5 * time.Minute)
	}
	if g.ended["j"] != "failed" {
		t.Fatal("alone, its failures should count")
	}
}

func TestScheduler_TwoNodeGridEndsAPoisonedJob(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 1)
	g.up("a", "b")
	ds := g.turn()
	for range 3000 {
		for _, name := range []string{"a", "b"} {
			for _, l := range g.grants(ds, name) {
				g.report(name, l.Attempt.ID, spare.OutOfMemory)
			}
			g.core.Apply(g.now, Wanted{Node: nodeID(name), Run: 1})
		}
		if ds = g.pass(time.Second); g.ended["j"] == "failed" {
			return
		}
	}
	t.Fatal("a chunk that fails on both nodes of a grid never ends its job")
}

func TestScheduler_ChunkLostOnFiveNodesIsPoison(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 1)
	for i, name := range []string{"a", "b", "c", "d", "e"} {
		if g.ended["j"] != "" {
			t.Fatalf("job %s after %d losses", g.ended["j"], i)
		}
		g.up(name)
		g.one(name)
		g.core.Apply(g.now, NodeDown{Node: nodeID(name)})
		g.pass(time.Minute)
	}
	if g.ended["j"] != "failed" || !strings.Contains(g.sentence["j"], "lost with 5 nodes") {
		t.Fatalf("job %q: %s", g.ended["j"], g.sentence["j"])
	}
	if r := g.core.Record(nodeID("a"), "app"); r.Abandoned != 0 {
		t.Errorf("the poison stays in a's record: %+v", r)
	}
}

func TestScheduler_FailingWhereOthersFinishCountsAgainstTheNode(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 3)
	g.up("bad", "good")
	for g.ended["j"] == "" {
		for _, l := range g.want("bad", 1, 0) {
			g.report("bad", l.Attempt.ID, spare.AppFailed)
		}
		g.pass(5 * time.Second)
		for _, l := range g.want("good", 1, 0) {
			g.report("good", l.Attempt.ID, spare.Succeeded)
		}
	}
	if g.ended["j"] != "done" {
		t.Fatalf("job %s: %s", g.ended["j"], g.sentence["j"])
	}
	if r := g.core.Record(nodeID("bad"), "app"); r.Failed < 2.9 {
		t.Errorf("bad's record %+v, want its three failures", r)
	}
	if r := g.core.Record(nodeID("good"), "app"); r.Failed != 0 {
		t.Errorf("good's record %+v", r)
	}
}

// Law 5.
func TestScheduler_FailedTaskGoesToAnotherNode(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 1)
	g.up("a", "b")
	g.report("a", g.one("a").Attempt.ID, spare.Preempted)
	if got := g.want("a", 1, 0); len(got) != 0 {
		t.Fatalf("it returned to a at once")
	}
	if r, ok := g.core.WhyTask("j.0", g.now); !ok || r.Code != spare.ReasonAvoidingNode || !strings.Contains(r.Detail, "preempted") {
		t.Errorf("reason %v", r)
	}
	if r := g.core.NodeReason(nodeID("a"), g.now); r.Code != spare.ReasonAvoidingNode {
		t.Errorf("a's reason %v", r)
	}
	if got := g.want("b", 1, 0); len(got) != 1 {
		t.Fatal("b did not get it")
	}
}

func TestScheduler_OneNodeAloneGetsItsTaskBack(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 1)
	g.up("a", "b")
	g.report("a", g.one("a").Attempt.ID, spare.Preempted)
	g.want("a", 1, 0)
	g.core.Apply(g.now, NodeDown{Node: nodeID("b")})
	if got := g.grants(g.turn(), "a"); len(got) != 1 {
		t.Fatal("alone, a must get its task back")
	}
}

func TestScheduler_PausedNodeIsNoOther(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 1)
	g.up("a", "b")
	g.report("a", g.one("a").Attempt.ID, spare.Preempted)
	g.want("a", 1, 0)
	paused := aNode("b")
	paused.State = spare.NodePaused
	g.core.Apply(g.now, NodeChanged{Node: paused})
	if got := g.grants(g.turn(), "a"); len(got) != 1 {
		t.Fatal("a waits for a node whose owner has paused it")
	}
}

// Law 7.
func TestScheduler_BackoffIsJitteredGrowsAndIsCapped(t *testing.T) {
	c := New(Config{BackoffBase: time.Second, BackoffMax: time.Minute}, 3)
	for n, most := range map[int]time.Duration{0: 0, 1: time.Second, 2: 2 * time.Second, 4: 8 * time.Second, 7: time.Minute, 500: time.Minute} {
		var lo, hi time.Duration = time.Hour, 0
		for range 2000 {
			d := c.backoff(n)
			lo, hi = min(lo, d), max(hi, d)
		}
		if hi > most || hi < most*9/10 || lo > most/10 {
			t.Errorf("the %d-th back-off is between %v and %v, want all of 0…%v", n, lo, hi, most)
		}
	}
}

func TestScheduler_BackoffIsOfTheTaskNotOfTheJob(t *testing.T) {
	g := newGrid(t, Config{BackoffBase: time.Hour, BackoffMax: time.Hour})
	g.open("j", "ann", 3)
	g.up("a", "b")
	g.report("a", g.one("a").Attempt.ID, spare.FetchFailed)
	if got := g.want("b", 3, 0); len(got) != 2 {
		t.Fatalf("b got %d leases, want the two other chunks", len(got))
	}
	why := g.core.Why("j", g.now)
	if len(why) != 1 || why[0].Reason.Code != spare.ReasonBackingOff || why[0].Tasks != 1 {
		t.Fatalf("why %v", why)
	}
	if r := g.core.NodeReason(nodeID("a"), g.now); r.Code != spare.ReasonNoWork {
		t.Errorf("a is %v", r)
	}
}

func TestScheduler_NodeBacksOffFromOneAppOnly(t *testing.T) {
	g := newGrid(t, Config{BackoffBase: time.Hour, BackoffMax: time.Hour})
	g.open("j", "ann", 2)
	g.openWith(JobOpened{Job: "k", App: "other", Around: spare.Environment{Platform: spare.PlatformPython}, Owner: "ann", Total: 1}, 1)
	g.up("a")
	l := g.one("a")
	g.report("a", l.Attempt.ID, spare.SandboxFailed)
	got := g.want("a", 2, 0)
	if len(got) != 1 || got[0].Task.Job != "k" {
		t.Fatalf("got %v, want only the other App's task", got)
	}
	g.report("a", got[0].Attempt.ID, spare.Succeeded)
	if r := g.core.NodeReason(nodeID("a"), g.now); r.Code != spare.ReasonBackingOff {
		t.Errorf("a is %v", r)
	}
	if why := g.core.Why("j", g.now); why[0].Reason.Code != spare.ReasonBackingOff {
		t.Errorf("why %v", why)
	}
}

// Law 8.
func TestScheduler_SmallJobIsNotStarved(t *testing.T) {
	for name, owner := range map[string]string{"of another owner": "bob", "of the same owner": "ann"} {
		t.Run(name, func(t *testing.T) {
			g := newGrid(t, Config{Window: 16})
			g.open("big", "ann", 1000)
			g.up("a")
			for range 50 {
				g.reportAs(Reported{Node: nodeID("a"), Attempt: g.one("a").Attempt.ID, Outcome: spare.Succeeded, Usage: spare.Usage{CPU: time.Minute}})
			}
			g.open("small", owner, 10)
			turns := 0
			for ; g.ended["small"] == ""; turns++ {
				g.reportAs(Reported{Node: nodeID("a"), Attempt: g.one("a").Attempt.ID, Outcome: spare.Succeeded, Usage: spare.Usage{CPU: time.Minute}})
			}
			if turns > 22 {
				t.Errorf("ten chunks took %d leases beside a thousand", turns)
			}
		})
	}
}

func TestScheduler_OwnersShareByCPUSeconds(t *testing.T) {
	g := newGrid(t, Config{Window: 16})
	g.open("short", "ann", 400)
	g.open("long", "bob", 400)
	g.up("a")
	used := map[spare.JobID]time.Duration{}
	for range 400 {
		l := g.one("a")
		cpu := time.Second
		if l.Task.Job == "long" {
			cpu = 9 * time.Second
		}
		used[l.Task.Job] += cpu
		g.reportAs(Reported{Node: nodeID("a"), Attempt: l.Attempt.ID, Outcome: spare.Succeeded, Usage: spare.Usage{CPU: cpu}})
	}
	if ratio := float64(used["long"]) / float64(used["short"]); ratio < 0.85 || ratio > 1.15 {
		t.Errorf("owners got %v", used)
	}
}
