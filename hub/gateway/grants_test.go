package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/scheduler"
	"github.com/spare-compute/spare/hub/store"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/protocol/pb"
)

func (p *peer) beat(sequence uint64, state spare.NodeState, reason spare.Reason) {
	p.t.Helper()
	p.say(&pb.Frame{Body: &pb.Frame_Heartbeat{Heartbeat: &pb.Heartbeat{
		Sequence: sequence, State: string(state), ReasonCode: reason.Code, ReasonDetail: reason.Detail,
	}}})
	hear(p, (*pb.Frame).GetHeartbeatAck, func(a *pb.HeartbeatAck) bool { return a != nil && a.Sequence == sequence })
}

// why is the first reason for which the rig's job waits.
func (r *rig) why() (reason spare.Reason) {
	r.t.Helper()
	err := r.gate.cfg.Dispatch.Ask(r.t.Context(), func(core *scheduler.Core, now time.Time) {
		if all := core.Why("j", now); len(all) > 0 {
			reason = all[0].Reason
		}
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return reason
}

func TestGateway_TheSchedulerHearsOfAPause(t *testing.T) {
	r := newRig(t, nil)
	r.work()
	p := r.dial("worker")
	p.join(hello())
	p.beat(1, spare.NodePaused, spare.Reason{Code: "owner_active", Detail: "somebody types"})
	p.beat(2, spare.NodePaused, spare.Reason{Code: "owner_active", Detail: "somebody types"}) // the first was handled
	if why := r.why(); why.Code != spare.ReasonNodePaused || !strings.Contains(why.Detail, "somebody types") {
		t.Errorf("the job waits for %v", why)
	}
	p.beat(3, spare.NodeIdle, spare.Reason{})
	p.beat(4, spare.NodeIdle, spare.Reason{})
	if why := r.why(); why.Code != spare.ReasonAllBusy {
		t.Errorf("after the pause it waits for %v", why)
	}
}

func TestGateway_ALeaseThatFitsNoMessageCostsTheTaskAndNotTheSession(t *testing.T) {
	r := newRig(t, nil)
	r.work()
	_, err := r.store.UpdateJob(t.Context(), "j", func(j *spare.Job) (err error) {
		j.Plan.AppParams, err = json.Marshal(map[string]string{"long": strings.Repeat("x", protocol.MaxFrame)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	p := r.dial("worker")
	p.join(hello())
	p.say(&pb.Frame{Body: &pb.Frame_Want{Want: &pb.Want{Run: 1}}})
	hear(p, (*pb.Frame).GetAccepted, func(a *pb.Accepted) bool { return a != nil })
	attempts, err := r.store.Attempts(t.Context(), "j")
	if err != nil {
		t.Fatal(err)
	}
	if a := attempts[0]; a.Outcome != spare.AppFailed || !strings.Contains(a.Message, "give the App less in its parameters") {
		t.Errorf("the attempt ended as %q: %s", a.Outcome, a.Message)
	}
	p.beat(1, spare.NodeIdle, spare.Reason{}) // the session lives
}

// lazy counts how often jobs are read.
type lazy struct {
	store.Store
	jobs atomic.Int32
}

func (l *lazy) Job(ctx context.Context, id spare.JobID) (spare.Job, error) {
	l.jobs.Add(1)
	return l.Store.Job(ctx, id)
}

func TestGateway_AJobIsReadOnceForAllItsLeases(t *testing.T) {
	var reads *lazy
	r := newRig(t, func(c *Config) { reads = &lazy{Store: c.Store}; c.Store = reads })
	r.work()
	p := r.dial("worker")
	p.join(hello())
	for range 5 {
		p.say(&pb.Frame{Body: &pb.Frame_Report{Report: &pb.Report{Ended: []*pb.Ended{{
			Attempt: p.lease().Attempt, Outcome: pb.Outcome_OUTCOME_PREEMPTED,
		}}}}})
	}
	p.lease()
	if n := reads.jobs.Load(); n != 1 {
		t.Errorf("the job was read %d times for six leases, one at a time", n)
	}
}

func TestGrants_FewPlansAreKept(t *testing.T) {
	g := newGrants(nil, nil)
	for i := range 2 * maxPlans {
		g.remember(&plan{job: spare.Job{ID: spare.JobID(strings.Repeat("j", i+1))}})
		g.recall("j")
	}
	if len(g.plans) != maxPlans || g.recall("j") == nil || g.recall("jj") != nil {
		t.Errorf("%d plans are kept; the one in use: %v", len(g.plans), g.recall("j") != nil)
	}
}

func TestGrants_ALeaseThatRanOutStillTakesTheResult(t *testing.T) {
	r := newRig(t, nil)
	r.work()
	p := r.dial("worker")
	p.join(hello())
	l := p.lease()
	node := id("worker")
	r.gate.Decided(scheduler.Silent{Node: node})
	<-p.conn.Done()
	p = r.dial("worker")
	back := hello()
	back.Attempts = []string{l.Attempt}
	p.join(back)
	if !r.gate.grants.mayGet(node, spare.Digest(l.Input.Digest)) {
		t.Error("the node works on and may not fetch the input")
	}
	put := func(p *peer, content string) error {
		open := func(at int64) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content[at:])), nil }
		return protocol.PutBlob(t.Context(), p.conn, spare.Sum([]byte(content)), int64(len(content)), open)
	}
	if err := put(p, "late"); err != nil {
		t.Errorf("a late result was not taken: %v", err)
	}
	again := r.dial("worker") // after a restart that lost it
	again.join(hello())
	if r.gate.grants.mayGet(node, spare.Digest(l.Input.Digest)) {
		t.Error("what the node does not hold any more is still held for it")
	}
	if err := put(again, "nothing"); !errors.Is(err, protocol.ErrDenied) {
		t.Errorf("a node without a lease handed over a blob: %v", err)
	}
}

func TestGrants_AReturningNodeHandsOverWhatItLostBeforeTheHubRestarted(t *testing.T) {
	r := newRig(t, nil)
	r.work()
	tasks, err := r.store.Tasks(t.Context(), "j", 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	tasks[0].Tries = []spare.Try{{Number: 1, Node: id("worker"), Outcome: spare.Lost}, {Number: 2, Node: id("other"), Outcome: spare.Lost}}
	if err := r.store.Commit(t.Context(), scheduler.Ledger{Tasks: tasks}); err != nil {
		t.Fatal(err)
	}
	g := newGrants(r.store, nil)
	held := []spare.AttemptID{"j.0.1", "j.0.2", "j.0.3", "j.7.1", "none.0.1", "nonsense", ""}
	if err := g.restore(t.Context(), id("worker"), held); err != nil {
		t.Fatal(err)
	}
	if _, ok := g.held[id("worker")]["j.0.1"]; !ok || len(g.held[id("worker")]) != 1 {
		t.Errorf("held is %v, want the one that is its own", g.held)
	}
	if err := g.mayPut(id("worker"), spare.Sum(nil), 1, 1); err != nil {
		t.Errorf("its result: %v", err)
	}
	tasks[0].State = spare.TaskCancelled
	if err := r.store.Commit(t.Context(), scheduler.Ledger{Tasks: tasks}); err != nil {
		t.Fatal(err)
	}
	g = newGrants(r.store, nil)
	if err := g.restore(t.Context(), id("worker"), held); err != nil || len(g.held) != 0 {
		t.Errorf("after the job's end %v is held, %v", g.held, err)
	}
}

func TestGrants_WhatANodeHandsOverAndDoesNotReportIsBounded(t *testing.T) {
	g := newGrants(nil, nil)
	node, one, two := id("worker"), spare.Sum([]byte("1")), spare.Sum([]byte("2"))
	g.take(node, "j.0.1", spare.Task{})
	g.take(id("other"), "j.1.1", spare.Task{})
	for range 3 { // the same again is a transfer that goes on
		if err := g.mayPut(node, one, 60, 100); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.mayPut(node, two, 60, 100); !errors.Is(err, protocol.ErrFull) {
		t.Errorf("120 bytes of 100: %v; want an error after which a node tries again", err)
	}
	if err := g.mayPut(id("other"), two, 60, 100); err != nil {
		t.Errorf("another node pays for it: %v", err)
	}
	g.claim(node, "j.1.1", one) // not its attempt
	if err := g.mayPut(node, two, 60, 100); err == nil {
		t.Error("naming another's attempt made room")
	}
	g.claim(node, "j.0.1", one)
	if err := g.mayPut(node, two, 60, 100); err != nil {
		t.Errorf("after the report: %v", err)
	}
}

func TestGateway_OnlyALeaseLetsAReportStoreContent(t *testing.T) {
	r := newRig(t, nil)
	p := r.dial("stranger")
	p.join(hello())
	content := bytes.Repeat([]byte("x"), spare.InlineLimit+1)
	digest := spare.Sum(content)
	p.say(&pb.Frame{Body: &pb.Frame_Report{Report: &pb.Report{Ended: []*pb.Ended{{
		Attempt: "j.0.1", Outcome: pb.Outcome_OUTCOME_SUCCEEDED, Content: string(digest),
		Result: &pb.Blob{Digest: string(digest), Size: uint64(len(content)), Inline: content},
	}}}}})
	hear(p, (*pb.Frame).GetAccepted, func(a *pb.Accepted) bool { return a != nil })
	if _, err := r.blobs.Stat(digest); err == nil {
		t.Error("the hub keeps what a node without any lease sent along")
	}
}
