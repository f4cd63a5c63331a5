package work

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/spare-compute/spare/protocol/pb"
	"github.com/spare-compute/spare/sandbox"
)

// stubborn is a runtime whose program does not stop at once when it is paused, as one in
// the middle of a slow system call.
type stubborn struct {
	sandbox.Runtime
	pausing chan struct{} // closed at the first pause
	let     chan struct{} // closed: it stops

	mu     sync.Mutex
	events []string
}

func (s *stubborn) Run(ctx context.Context, spec sandbox.Spec) (sandbox.Result, error) {
	detach, err := spec.Steer.Attach(s)
	defer detach()
	<-ctx.Done()
	return sandbox.Result{Cause: sandbox.KilledCancel}, err
}

func (s *stubborn) note(event string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, event)
}

func (s *stubborn) Pause() error {
	close(s.pausing)
	<-s.let
	s.note("paused")
	return nil
}

func (s *stubborn) Resume() error {
	s.note("resumed")
	return nil
}

func (s *stubborn) Memory() (int64, error) { return 0, errors.New("not known") }

func TestExecutor_NothingWaitsForAProgramThatDoesNotStop(t *testing.T) {
	b := newBench(t)
	s := &stubborn{Runtime: sandbox.Default()[0], pausing: make(chan struct{}), let: make(chan struct{})}
	b.e.SetRuntimes([]Runtime{{s, s.Probe(t.Context())}})
	l, late := b.lease(0, forever), b.lease(1, forever)
	b.desk.Grant([]*pb.Lease{l})
	b.await("it runs", b.running(l))
	// Once it is attached, it is what is paused.
	b.await("it can be paused", func() bool {
		for _, a := range b.attempts() {
			_, err := a.steer.Memory()
			return !errors.Is(err, sandbox.ErrNotRunning)
		}
		return false
	})
	var limits sync.WaitGroup
	limits.Go(func() { b.e.SetLimits(Limits{Cores: 1}, "the owner is back") })
	<-s.pausing
	for name, call := range map[string]func(){
		"Held":     func() { b.desk.Held() },
		"Progress": func() { b.desk.Progress() },
		"Want":     func() { b.desk.Want() },
		"Count":    func() { b.e.Count() },
		"Items":    func() { b.e.Items() },
		"Grant":    func() { b.desk.Grant([]*pb.Lease{late}) },
	} {
		done := make(chan struct{})
		go func() { defer close(done); call() }()
		select {
		case <-done:
		case <-time.After(2 * time.Second):
			t.Errorf("%s waits for it", name)
		}
	}
	if ended := b.report(late); ended.Outcome != pb.Outcome_OUTCOME_PREEMPTED {
		t.Errorf("what came meanwhile ended as %v", ended)
	}
	// The owner leaves before it has stopped: it must go on afterwards.
	limits.Go(func() { b.e.SetLimits(Limits{Cores: 1}, "") })
	time.Sleep(50 * time.Millisecond) // that would be enough to overtake
	close(s.let)
	limits.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.events, []string{"paused", "resumed"}) {
		t.Errorf("events %v", s.events)
	}
	if items := b.e.Items(); slices.ContainsFunc(items, func(it Item) bool { return it.Frozen }) {
		t.Errorf("items %+v", items)
	}
}

// attempts are those of the desk.
func (b *bench) attempts() (all []*attempt) {
	b.e.mu.Lock()
	defer b.e.mu.Unlock()
	for _, a := range b.desk.attempts {
		all = append(all, a)
	}
	return all
}

func TestExecutor_TheEndOfOnePatienceIsNotThatOfTheNext(t *testing.T) {
	b := newBench(t)
	l := b.lease(0, counts)
	b.desk.Grant([]*pb.Lease{l})
	b.await("it runs", func() bool { return b.state(l) != "" })
	b.e.SetLimits(Limits{Cores: 1}, "the owner is back")
	b.e.mu.Lock()
	first := b.e.turn
	b.e.mu.Unlock()
	b.e.SetLimits(Limits{Cores: 1}, "")
	b.e.SetLimits(Limits{Cores: 1}, "the owner is back again")
	// The first one's timer had fired, and only now gets hold of the lock.
	b.e.handBackFrozen(first, "the owner is back")
	for _, a := range b.attempts() {
		if a.ctx.Err() != nil {
			t.Error("what was frozen a moment ago is handed back")
		}
	}
	b.e.mu.Lock()
	second := b.e.turn
	b.e.mu.Unlock()
	b.e.handBackFrozen(second, "the owner stays")
	if ended := b.report(l); ended.Outcome != pb.Outcome_OUTCOME_PREEMPTED || ended.Message != "the owner stays" {
		t.Errorf("ended = %v", ended)
	}
}
