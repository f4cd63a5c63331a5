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

func TestScheduler_TellsWhenANodeIsSilentAndGivesALostLeaseBack(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 1)
	g.up("a")
	id := g.one("a").Attempt.ID
	if got := find[Silent](g.pass(9 * time.Second)); len(got) != 1 || got[0].Node != nodeID("a") {
		t.Fatalf("silent: %v", got)
	}
	if r := g.core.NodeReason(nodeID("a"), g.now); r.Code != spare.ReasonNodeUnreachable {
		t.Errorf("a silent node is %v", r)
	}
	g.core.Apply(g.now, Heartbeat{Node: nodeID("a"), Attempts: []spare.AttemptID{id}})
	g.turn()
	if row := g.attempts[id]; row.Outcome != "" {
		t.Fatalf("the node works on and its attempt is %q", row.Outcome)
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

// What a node asked for before it fell silent must not bring it work one lease after the
// other.
func TestScheduler_SilentNodeIsGivenNothingMore(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 1)
	g.up("a", "b")
	g.want("a", 20, 0) // its last words
	silent := g.now
	g.pass(6 * time.Second)
	g.open("k", "ann", 2) // nobody can know yet
	g.pass(6 * time.Second)
	g.open("l", "ann", 3)
	g.pass(20 * time.Second)
	for _, a := range g.attempts {
		if a.Job == "l" || a.Outcome != spare.Lost || a.Ended.Sub(silent) > 10*time.Second {
			t.Errorf("attempt %s, granted %v after the node was last heard, is %q, ended %v", a.ID, a.Granted.Sub(silent), a.Outcome, a.Ended)
		}
	}
	if len(g.attempts) != 3 {
		t.Errorf("there are %d attempts, want the three of before it was known", len(g.attempts))
	}
	g.core.Apply(g.now, Heartbeat{Node: nodeID("a")})
	if got := g.grants(g.turn(), "a"); len(got) != 3 {
		t.Errorf("heard again, it was given %d chunks, want the three it did not just lose", len(got))
	}
	if got := g.want("b", 8, 0); len(got) != 3 {
		t.Errorf("the other node got %d chunks, want those that were lost", len(got))
	}
}

// A node that is heard and does not name an attempt has lost that one only.
func TestScheduler_NodeThatIsHeardKeepsWhatItNames(t *testing.T) {
	g := newGrid(t, Config{})
	g.open("j", "ann", 2)
	g.up("a")
	got := g.want("a", 2, 0)
	for range 6 {
		g.pass(2 * time.Second)
		g.core.Apply(g.now, Heartbeat{Node: nodeID("a"), Attempts: []spare.AttemptID{got[0].Attempt.ID}})
		if ds := find[Silent](g.turn()); len(ds) != 0 {
			t.Fatal("a node that is heard is called silent")
		}
	}
	if kept, gone := g.attempts[got[0].Attempt.ID], g.attempts[got[1].Attempt.ID]; kept.Outcome != "" || gone.Outcome != spare.Lost || strings.Contains(gone.Message, "silent") {
		t.Errorf("kept %q; the other %q: %s", kept.Outcome, gone.Outcome, gone.Message)
	}
}
