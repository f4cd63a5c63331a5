package dispatch

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/scheduler"
)

// ledger is a store's ledger whose disk can be full.
type ledger struct {
	full    atomic.Bool
	commits atomic.Int64
}

func (l *ledger) Commit(context.Context, scheduler.Ledger) error {
	if l.full.Load() {
		return errors.New("no space left on device")
	}
	l.commits.Add(1)
	return nil
}

func (l *ledger) Records(context.Context) ([]spare.Record, error) { return nil, nil }

// start runs a dispatcher with one node that wants work and one job of one task.
func start(t *testing.T, l *ledger, effect func(scheduler.Decision)) (*Dispatcher, context.CancelFunc, chan error) {
	t.Helper()
	d := New(Config{
		Core: scheduler.New(scheduler.Config{}, 1), Ledger: l, Effect: effect, EndTurn: func() {},
		Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	return d, cancel, done
}

func work() []scheduler.Event {
	node := spare.Node{ID: "n", Device: spare.Device{
		OS: "linux", Arch: "amd64", CPU: spare.CPU{Cores: 1}, Offer: spare.Offer{Cores: 1},
		Runtimes: []spare.Capability{{Runtime: "linux", OK: true, Platforms: []spare.Platform{spare.PlatformPython}}},
	}}
	task := spare.Task{ID: "j.0", Job: "j", State: spare.TaskReady}
	return []scheduler.Event{
		scheduler.JobOpened{Job: "j", App: "a", Around: spare.Environment{Platform: spare.PlatformPython}, Owner: "o", Total: -1},
		scheduler.TasksAdded{Job: "j", Tasks: []spare.Task{task}},
		scheduler.NodeUp{Node: node},
		scheduler.Wanted{Node: "n", Run: 1},
	}
}

func TestDispatcher_NoEffectLeavesBeforeItsTurnIsOnDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{}
		l.full.Store(true)
		var grants atomic.Int64
		d, cancel, done := start(t, l, func(dec scheduler.Decision) {
			if _, ok := dec.(scheduler.Grant); !ok {
				return
			}
			if l.commits.Load() == 0 {
				t.Error("a grant left before anything was on disk")
			}
			grants.Add(1)
		})
		if err := d.Post(t.Context(), work()...); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // of the test's own clock: many tries at a full disk
		if grants.Load() != 0 {
			t.Fatal("a grant left although the disk was full")
		}
		l.full.Store(false)
		time.Sleep(retryMax)
		synctest.Wait()
		if grants.Load() != 1 {
			t.Errorf("%d grants once the disk had room, want the 1 that was held", grants.Load())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestDispatcher_StopWhileTheDiskIsFullDropsTheTurnWithItsEffects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{}
		l.full.Store(true)
		d, cancel, done := start(t, l, func(dec scheduler.Decision) {
			if _, ok := dec.(scheduler.Grant); ok {
				t.Error("a grant left although its turn never reached the disk")
			}
		})
		if err := d.Post(t.Context(), work()...); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := d.Post(t.Context(), scheduler.Wanted{Node: "n", Run: 1}); err != nil && !errors.Is(err, ErrStopped) {
			t.Errorf("post after the end: %v", err)
		}
		if err := d.Ask(t.Context(), func(*scheduler.Core, time.Time) {}); !errors.Is(err, ErrStopped) {
			t.Errorf("ask after the end: %v, want ErrStopped", err)
		}
	})
}

func TestDispatcher_AskSeesWhatWasPostedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, cancel, done := start(t, &ledger{}, func(scheduler.Decision) {})
		if err := d.Post(t.Context(), work()...); err != nil {
			t.Fatal(err)
		}
		var known bool
		if err := d.Ask(t.Context(), func(core *scheduler.Core, now time.Time) { _, known = core.JobProgress("j", now) }); err != nil {
			t.Fatal(err)
		}
		if !known {
			t.Error("the core does not know the job that was posted before the question")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestDispatcher_AskDoesNotWaitForALedgerThatCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{}
		l.full.Store(true)
		d, cancel, done := start(t, l, func(scheduler.Decision) {})
		if err := d.Post(t.Context(), work()...); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		ran := false // unguarded: the race detector sees whether a question is answered behind its owner's back
		ask := func(ctx context.Context) error {
			return d.Ask(ctx, func(*scheduler.Core, time.Time) { ran = true })
		}
		began := time.Now()
		if err := ask(t.Context()); err == nil || !strings.Contains(err.Error(), "no space left on device") || time.Since(began) > askWithin {
			t.Errorf("after %v: %v; want soon why the ledger cannot be written", time.Since(began), err)
		}
		hungUp, hangUp := context.WithCancel(t.Context())
		hangUp()
		if err := ask(hungUp); !errors.Is(err, context.Canceled) {
			t.Errorf("who hung up was told %v", err)
		}
		l.full.Store(false)
		time.Sleep(retryMax)
		synctest.Wait()
		if ran {
			t.Error("a question was answered that nobody waited for")
		}
		if err := ask(t.Context()); err != nil || !ran {
			t.Errorf("once the ledger can be written: %v, answered %v", err, ran)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestDispatcher_WakesForALeaseThatExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var retried atomic.Int64
		began := time.Now()
		d, cancel, done := start(t, &ledger{}, func(dec scheduler.Decision) {
			if r, ok := dec.(scheduler.Retried); ok && r.Outcome == spare.Lost {
				if after := time.Since(began); after > 10*time.Second {
					t.Errorf("the lease was given up after %v, want within 10 s", after)
				}
				retried.Add(1)
			}
		})
		if err := d.Post(t.Context(), work()...); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if retried.Load() == 0 {
			t.Error("no lease expired although nothing was heard for 15 s")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
