// Package dispatch drives the scheduler's core. One goroutine owns the core: it takes
// events, lets the core decide, writes the turn to the ledger in one transaction, and
// only then lets the effects leave. Events that arrive while a turn is being written
// share the next one, so that the ledger's cost is spread when there is much to do.
package dispatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/spare-compute/spare/hub/scheduler"
	"github.com/spare-compute/spare/hub/store"
)

// ErrStopped is returned to callers whose event or question came after the end.
var ErrStopped = errors.New("the hub is shutting down")

// ErrHeld is returned to callers whose question waited for too long: it was not asked.
var ErrHeld = errors.New("the hub is busy and could not answer in time; try again")

const (
	queued   = 4096 // events waiting for the loop
	perTurn  = 2048 // events applied before a turn is written
	retryMin = 100 * time.Millisecond
	retryMax = 5 * time.Second

	askWithin = 5 * time.Second // a question waits no longer, whoever asks
)

// Config is what a Dispatcher needs.
type Config struct {
	Core   *scheduler.Core
	Ledger store.Ledger
	// Effect carries out one decision of a turn that is on disk. It must not block:
	// everything waits for it.
	Effect func(scheduler.Decision)
	// EndTurn is called after the last effect of a turn that had any.
	EndTurn func()
	Log     *slog.Logger
}

// A Dispatcher is the core's loop. Make it with New and start it with Run.
type Dispatcher struct {
	cfg   Config
	inbox chan any // scheduler.Event or *query
	done  chan struct{}
	fault atomic.Pointer[error] // why the ledger cannot be written now, or nil
}

// query is a question. Whoever sets taken first has it: the loop, to answer it, or the
// one who asked, to give up. So what ask writes is never written behind its owner's back.
type query struct {
	ask   func(*scheduler.Core, time.Time)
	taken atomic.Bool
	done  chan struct{}
}

// New returns a dispatcher that has not started.
func New(cfg Config) *Dispatcher {
	return &Dispatcher{cfg: cfg, inbox: make(chan any, queued), done: make(chan struct{})}
}

// Prime gives the core what the ledger held at start. It must be called before Run.
func (d *Dispatcher) Prime(events ...scheduler.Event) {
	for _, ev := range events {
		d.cfg.Core.Apply(time.Now(), ev)
	}
}

// Post hands events to the core, in order. It waits while the loop is behind.
func (d *Dispatcher) Post(ctx context.Context, events ...scheduler.Event) error {
	for _, ev := range events {
		if err := d.send(ctx, ev); err != nil {
			return err
		}
	}
	return nil
}

// Ask runs f on the loop, where it may read the core, and waits for it. What f sees
// includes every event posted before. It does not wait while the ledger cannot be written
// but says so; then f was not run and will not be.
func (d *Dispatcher) Ask(ctx context.Context, f func(core *scheduler.Core, now time.Time)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, askWithin, ErrHeld)
	defer cancel()
	q := &query{ask: f, done: make(chan struct{})}
	err := d.send(ctx, q)
	if err == nil {
		select {
		case <-q.done:
			return nil
		case <-d.done:
			err = ErrStopped
		case <-ctx.Done():
			err = ctx.Err()
		}
		if !q.taken.CompareAndSwap(false, true) {
			<-q.done // it is being answered
			return nil
		}
	}
	if !errors.Is(context.Cause(ctx), ErrHeld) {
		return err
	}
	if fault := d.fault.Load(); fault != nil {
		return fmt.Errorf("%w (it cannot write to its ledger and holds all work until it can: %w)", ErrHeld, *fault)
	}
	return ErrHeld
}

func (d *Dispatcher) send(ctx context.Context, item any) error {
	select {
	case d.inbox <- item:
		return nil
	case <-d.done:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run is the loop. It returns when ctx ends; turns whose commit was under way are
// either on disk or, with their effects, did not happen.
func (d *Dispatcher) Run(ctx context.Context) error {
	defer close(d.done)
	wake := time.NewTimer(0)
	defer wake.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case item := <-d.inbox:
			d.apply(item)
			for range perTurn {
				select {
				case item := <-d.inbox:
					d.apply(item)
					continue
				default:
				}
				break
			}
		case <-wake.C:
		}
		now := time.Now()
		turn := d.cfg.Core.Turn(now)
		if err := d.commit(ctx, turn.Ledger); err != nil {
			return nil // only the end of ctx makes a commit give up
		}
		for _, dec := range turn.Decisions {
			d.cfg.Effect(dec)
		}
		if len(turn.Decisions) > 0 {
			d.cfg.EndTurn()
		}
		if !turn.Wake.IsZero() {
			wake.Reset(max(time.Until(turn.Wake), 0))
		}
	}
}

func (d *Dispatcher) apply(item any) {
	switch item := item.(type) {
	case scheduler.Event:
		d.cfg.Core.Apply(time.Now(), item)
	case *query:
		if item.taken.CompareAndSwap(false, true) {
			item.ask(d.cfg.Core, time.Now())
			close(item.done)
		}
	}
}

// commit writes a turn, and goes on trying while the disk is full or the database
// busy: the core has moved on, so leaving the turn out is no choice, and no effect may
// leave before it is safe. Nodes keep their leases alive by heart-beats that wait in
// the inbox meanwhile.
func (d *Dispatcher) commit(ctx context.Context, batch scheduler.Ledger) error {
	if batch.Empty() {
		return nil
	}
	wait := retryMin
	for {
		// The write itself is not cut short by a shutdown: half a turn helps nobody.
		err := d.cfg.Ledger.Commit(context.WithoutCancel(ctx), batch)
		if err == nil {
			d.fault.Store(nil)
			return nil
		}
		d.fault.Store(&err)
		d.cfg.Log.Error("cannot write to the ledger; holding all work until it can be written",
			"error", err, "next try", wait)
		select {
		case <-ctx.Done():
			return ctx.Err() // its effects never leave: after a restart this turn did not happen
		case <-time.After(wait):
		}
		wait = min(2*wait, retryMax)
	}
}
