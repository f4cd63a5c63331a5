package scheduler

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
)

func TestScheduler_TaskReturnsOnceTheOnlyOtherNodeIsPaused(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 1)
	g.up("a", "b")
	g.report("a", g.one("a").Attempt.ID, spare.FetchFailed)
	g.pass(10 * time.Second)
	if got := g.want("a", 1, 0); len(got) != 0 {
		t.Fatal("it returned to a while b is connected")
	}
	paused := aNode("b")
	paused.State = spare.NodePaused
	g.core.Apply(g.now, NodeChanged{Node: paused})
	if got := g.grants(g.turn(), "a"); len(got) != 1 {
		t.Error("b is paused, and a was not given the task")
	}
}

func TestScheduler_TellsWhenALeaseIsLostAndGivenBack(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 1)
	g.up("a")
	id := g.one("a").Attempt.ID
	if got := find[Lapsed](g.pass(9 * time.Second)); len(got) != 1 || got[0].Attempt != id || got[0].Node != nodeID("a") {
		t.Fatalf("lapsed: %v", got)
	}
	g.core.Apply(g.now, Heartbeat{Node: nodeID("a"), Attempts: []spare.AttemptID{id}})
	if got := find[Resumed](g.turn()); len(got) != 1 || got[0].Attempt != id {
		t.Fatalf("resumed: %v", got)
	}
	g.pass(9 * time.Second)
	g.core.Apply(g.now, NodeDown{Node: nodeID("a")})
	g.up("b")
	_, ds := g.report("b", g.one("b").Attempt.ID, spare.Succeeded)
	if got := find[Cancel](ds); len(got) != 1 || got[0].Node != nodeID("a") || got[0].Attempts[0] != id {
		t.Errorf("cancelled %v: whoever keeps what a may do must hear that it is over", got)
	}
}

func TestScheduler_LeaseIsNotRenewedForEver(t *testing.T) {
	g := newGrid(t, Config{})
	g.openWith(JobOpened{Job: "j", App: "app", Owner: "ann", Total: 1, Timeout: time.Hour}, 1)
	g.up("a", "b")
	id := g.one("a").Attempt.ID
	start := g.now
	beat := func() {
		g.core.Apply(g.now, Heartbeat{Node: nodeID("a"), Attempts: []spare.AttemptID{id}})
		g.turn()
		g.pass(5 * time.Second)
	}
	for g.attempts[id].Outcome == "" && g.now.Sub(start) < 3*time.Hour {
		beat()
	}
	held := g.now.Sub(start)
	if a := g.attempts[id]; a.Outcome != spare.Lost || held < 90*time.Minute || held > 91*time.Minute {
		t.Fatalf("after %v it ended as %q; want lost, half an hour after its time limit", held, a.Outcome)
	}
	if m := g.attempts[id].Message; !strings.Contains(m, "time limit") {
		t.Errorf("message %q", m)
	}
	beat() // it is not given back, and not told to stop either
	if o := g.attempts[id].Outcome; o != spare.Lost {
		t.Fatalf("the lease was given back: %q", o)
	}
	if len(g.want("b", 1, 0)) != 1 {
		t.Error("b did not get the task")
	}
	if ack, _ := g.report("a", id, spare.Succeeded); !ack.Taken {
		t.Errorf("the result that came after all was not taken: %s", ack.Reason)
	}
}

func TestScheduler_ResultsThatCannotBeTakenEndTheJob(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 1)
	for _, name := range []string{"a", "b", "c"} {
		g.up(name)
		g.report(name, g.one(name).Attempt.ID, spare.Rejected)
		g.pass(5 * time.Minute)
	}
	if g.ended["j"] != "failed" {
		t.Fatalf("three nodes' results were rejected: job %q", g.ended["j"])
	}
	for _, name := range []string{"a", "b", "c"} {
		if r := g.core.Record(nodeID(name), "app"); r.Wrong != 0 || r.Finished != 0 {
			t.Errorf("%s keeps the poison in its record: %+v", name, r)
		}
	}
}

// reopenedUnread is a core after a restart that has not read any of a job's tasks.
func reopenedUnread(t *testing.T, fresh bool) *Core {
	t.Helper()
	c := New(Config{}, 1)
	c.Apply(time.Time{}, JobOpened{Job: "j", App: "app", Owner: "ann", Total: 1000, Chunks: 1000, Fresh: fresh})
	if got := find[Refill](c.Turn(time.Time{}).Decisions); len(got) != 1 {
		t.Fatalf("refills %v", got)
	}
	return c
}

func TestScheduler_ReportsThatWaitForTheirTasksAreFew(t *testing.T) {
	c := reopenedUnread(t, false)
	say := func(node string, chunk int) {
		id := spare.AttemptID(fmt.Sprintf("j.%d.1", chunk))
		c.Apply(time.Time{}, Reported{Node: nodeID(node), Attempt: id, Outcome: spare.AppFailed})
	}
	waiting := func() (n int) {
		for _, rs := range c.jobs["j"].parked {
			n += len(rs)
		}
		return n
	}
	for range 1000 {
		say("a", 7)
	}
	if n := waiting(); n != 1 {
		t.Errorf("the same report waits %d times", n)
	}
	for chunk := range 1000 {
		say("a", chunk)
	}
	if n := waiting(); n != maxParked {
		t.Errorf("%d reports of one node wait, want at most %d", n, maxParked)
	}
	say("b", 7) // another's reports are not shut out by that
	if n := waiting(); n != maxParked+1 {
		t.Errorf("%d reports wait after another node's, want %d", n, maxParked+1)
	}
	c.Apply(time.Time{}, JobClosed{Job: "j", Reason: "aborted"})
	if got := find[Ack](c.Turn(time.Time{}).Decisions); len(got) != maxParked+1 {
		t.Errorf("%d of them were answered when the job ended", len(got))
	}
	if n := len(c.nodes[nodeID("a")].parked); n != 0 {
		t.Errorf("%d still count against the node", n)
	}
}

func TestScheduler_NoReportWaitsForWhatWasNeverGranted(t *testing.T) {
	c := reopenedUnread(t, true)
	c.Apply(time.Time{}, Reported{Node: nodeID("a"), Attempt: "j.7.1", Outcome: spare.AppFailed})
	if got := find[Ack](c.Turn(time.Time{}).Decisions); len(got) != 1 || got[0].Taken {
		t.Errorf("a report on a job of which nothing was granted got %v", got)
	}
}

func TestScheduler_EveryReportThatWaitedIsAnswered(t *testing.T) {
	g := newGrid(t, Config{Window: 8})
	g.open("j", "ann", 40)
	g.up("a", "b")
	var held []spare.AttemptID
	for range 20 {
		for _, name := range []string{"a", "b"} {
			held = append(held, g.one(name).Attempt.ID)
		}
	}
	g.pass(9 * time.Second) // all are lost
	g.slow = true
	g.restart()
	for i, id := range held {
		g.reportAs(Reported{Node: nodeID([]string{"a", "b"}[i%2]), Attempt: id, Outcome: spare.Succeeded})
	}
	for range 100 {
		g.flush()
	}
	if g.ended["j"] != "done" {
		t.Errorf("job %q with %d of 40 tasks done", g.ended["j"], len(g.doneBy))
	}
}
