package work

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/node/guestbook"
	"github.com/spare-compute/spare/protocol/pb"
	"github.com/spare-compute/spare/publisher"
)

// doorman is a guard that says what a test wants, and remembers whom it was asked about.
type doorman struct {
	mu      sync.Mutex
	err     error
	verdict publisher.Verdict
	asked   []spare.App
}

func (d *doorman) Admit(app spare.App) (publisher.Verdict, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, app)
	return d.verdict, d.err
}

// diary keeps entries in memory.
type diary struct {
	mu      sync.Mutex
	err     error
	entries []guestbook.Entry
}

func (d *diary) Append(e guestbook.Entry) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		d.entries = append(d.entries, e)
	}
	return d.err
}

func (d *diary) all() []guestbook.Entry {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]guestbook.Entry(nil), d.entries...)
}

const hubKey = spare.NodeID("00000000000000000000000000000000000000000000000000000000000000aa")

// letIn watches over a desk and admits everyone.
func letIn(d *Desk) { d.Watch(hubKey, &doorman{}, &diary{}) }

func TestGuests_RefusedAppIsNotEvenFetched(t *testing.T) {
	b := newBench(t)
	guard := &doorman{err: &publisher.Refusal{App: "test@0.1", Err: publisher.ErrUnsigned}}
	book := &diary{}
	b.desk.Watch(hubKey, guard, book)
	l := b.lease(1, echo)
	l.Owner, l.App.Signed, l.App.Environment = "ann", []byte("signed"), []byte(`{"platform":"python","outbound":true}`)
	b.desk.Grant([]*pb.Lease{l})
	ended := b.report(l)
	if ended.Outcome != pb.Outcome_OUTCOME_APP_FAILED || ended.Message != guard.err.Error() {
		t.Errorf("reported as %v: %q", ended.Outcome, ended.Message)
	}
	if b.hub.gets != 0 {
		t.Errorf("%d blobs were fetched", b.hub.gets)
	}
	asked := guard.asked[0]
	want := spare.App{
		Kind: spare.KindApp, Name: "test", Version: "0.1", Entrypoint: "main.py", Root: ".", Platform: "python",
		Bundle: spare.Digest(l.App.Bundle.Digest), BundleSize: int64(l.App.Bundle.Size),
		Environment: spare.Environment{Platform: "python", Outbound: true}, Signed: []byte("signed"),
	}
	if fmt.Sprint(asked) != fmt.Sprint(want) {
		t.Errorf("the guard is asked about\n%+v, want\n%+v", asked, want)
	}
	entries := book.all()
	if len(entries) != 1 || entries[0].Event != guestbook.Refused || entries[0].Owner != "ann" || entries[0].HubKey != hubKey ||
		entries[0].Bundle != want.Bundle || !strings.Contains(entries[0].Message, publisher.ErrUnsigned.Error()) {
		t.Errorf("the guest book says %+v", entries)
	}
}

func TestGuests_UnwatchedDeskRunsNothing(t *testing.T) {
	b := newBench(t)
	b.desk.house = house{}
	l := b.lease(1, echo)
	b.desk.Grant([]*pb.Lease{l})
	if ended := b.report(l); ended.Outcome != pb.Outcome_OUTCOME_SANDBOX_FAILED || b.hub.gets != 0 {
		t.Errorf("reported as %v: %q, %d blobs fetched", ended.Outcome, ended.Message, b.hub.gets)
	}
}

func TestGuests_RunIsWrittenDownBeforeAndAfter(t *testing.T) {
	b := newBench(t)
	book := &diary{}
	b.desk.Watch(hubKey, &doorman{verdict: publisher.Verdict{Signer: "signer", Revision: 9}}, book)
	l := b.lease(1, echo)
	b.desk.Grant([]*pb.Lease{l})
	ended := b.report(l)
	entries := book.all()
	if len(entries) != 2 || entries[0].Event != guestbook.Began || entries[1].Event != guestbook.Ended {
		t.Fatalf("the guest book says %+v", entries)
	}
	for _, e := range entries {
		if e.App != "test@0.1" || e.Attempt != spare.AttemptID(l.Attempt) || e.Publisher != "signer" || e.Signed != 9 ||
			e.Hub != "attic" || e.Runtime == "" || e.Start == nil || e.BytesIn != int64(l.Input.Size) {
			t.Errorf("entry %+v", e)
		}
	}
	last := entries[1]
	if last.Outcome != string(spare.Succeeded) || last.BytesOut != int64(ended.Result.Size) || last.CPU <= 0 || last.Wall <= 0 {
		t.Errorf("entry %+v, reported %v", last, ended)
	}
}

func TestGuests_FailureIsWrittenDown(t *testing.T) {
	b := newBench(t)
	book := &diary{}
	b.desk.Watch(hubKey, &doorman{}, book)
	l := b.lease(1, "raise SystemExit(3)")
	b.desk.Grant([]*pb.Lease{l})
	b.report(l)
	if entries := book.all(); len(entries) != 2 || entries[1].Outcome != string(spare.AppFailed) {
		t.Errorf("the guest book says %+v", entries)
	}
}

func TestGuests_WhatCannotBeWrittenDownDoesNotRun(t *testing.T) {
	b := newBench(t)
	b.desk.Watch(hubKey, &doorman{}, &diary{err: errors.New("the pen is dry")})
	l := b.lease(1, echo)
	b.desk.Grant([]*pb.Lease{l})
	ended := b.report(l)
	if ended.Outcome != pb.Outcome_OUTCOME_SANDBOX_FAILED || !strings.Contains(ended.Message, "the pen is dry") || ended.Result != nil {
		t.Errorf("reported as %v: %q", ended.Outcome, ended.Message)
	}
}

func TestGuests_EnvironmentThatCannotBeReadIsNotRun(t *testing.T) {
	b := newBench(t)
	l := b.lease(1, echo)
	l.App.Environment = []byte(`{"platform":`)
	b.desk.Grant([]*pb.Lease{l})
	if ended := b.report(l); ended.Outcome == pb.Outcome_OUTCOME_SUCCEEDED || b.hub.gets != 0 {
		t.Errorf("reported as %v: %q", ended.Outcome, ended.Message)
	}
}

// The GPUs that an App gets are among the requirements that the guard was asked about.
func TestGuests_HubCannotAddAGPU(t *testing.T) {
	b := newBench(t)
	guard := &doorman{}
	b.desk.Watch(hubKey, guard, &diary{})
	l := b.lease(1, echo)
	l.App.Needs, l.App.Gpus = []byte(`{"min_memory":0.25}`), []string{"RTX 4090"}
	b.desk.Grant([]*pb.Lease{l})
	if ended := b.report(l); ended.Outcome != pb.Outcome_OUTCOME_SUCCEEDED {
		t.Errorf("a GPU that nobody was asked about: reported as %v: %q", ended.Outcome, ended.Message)
	}
	if needs := guard.asked[0].Needs; needs.MinMemory != 0.25 || len(needs.GPU) > 0 {
		t.Errorf("the guard is asked about %+v", needs)
	}
	// A hub of an earlier release names the GPUs alone.
	earlier := b.lease(2, echo)
	earlier.App.Gpus = []string{"RTX 4090"}
	b.desk.Grant([]*pb.Lease{earlier})
	if ended := b.report(earlier); ended.Outcome == pb.Outcome_OUTCOME_SUCCEEDED { // this runtime has none to give
		t.Errorf("reported as %v", ended.Outcome)
	}
	if needs := guard.asked[1].Needs; len(needs.GPU) != 1 {
		t.Errorf("the guard is asked about %+v", needs)
	}
}

func TestGuests_RequirementsThatCannotBeReadAreNotRun(t *testing.T) {
	b := newBench(t)
	l := b.lease(1, echo)
	l.App.Needs = []byte(`{"gpu":`)
	b.desk.Grant([]*pb.Lease{l})
	if ended := b.report(l); ended.Outcome == pb.Outcome_OUTCOME_SUCCEEDED || b.hub.gets != 0 {
		t.Errorf("reported as %v: %q", ended.Outcome, ended.Message)
	}
}

func TestGuests_RefusalsDoNotFloodTheBook(t *testing.T) {
	var q quiet
	now := time.Now()
	refusal := func(app string) *publisher.Refusal { return &publisher.Refusal{App: app, Err: publisher.ErrUnsigned} }
	count := func(n int, app func(int) string) (written int) {
		for i := range n {
			if _, ok := q.pass(refusal(app(i)), "bundle", now); ok {
				written++
			}
		}
		return written
	}
	if n := count(1000, func(int) string { return "same" }); n != sameAnHour {
		t.Errorf("the same refusal is written %d times, want %d", n, sameAnHour)
	}
	if n := count(1000, func(i int) string { return fmt.Sprint(i) }); n != refusalsAnHour-sameAnHour {
		t.Errorf("%d different refusals are written, want %d", n, refusalsAnHour-sameAnHour)
	}
	if len(q.seen) > refusalsAnHour {
		t.Errorf("%d refusals are remembered", len(q.seen))
	}
	now = now.Add(time.Hour)
	if again, ok := q.pass(refusal("same"), "bundle", now); !ok || again != 1000-sameAnHour {
		t.Errorf("an hour later: %v, %d like it before", ok, again)
	}
}
