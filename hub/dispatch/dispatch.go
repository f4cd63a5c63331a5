// Package dispatch drives the scheduler's core. One goroutine owns the core: it takes
// events, lets the core decide, writes the turn to the ledger in one transaction, and
// only then lets the effects leave. Events that arrive while a turn is being written
// share the next one, so that the ledger's cost is spread when there is much to do.
package dispatch

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/spare-compute/spare/hub/scheduler"
	"github.com/spare-compute/spare/hub/store"
)

// ErrStopped is returned to callers whose event or question came after the end.
var ErrStopped = errors.New("the hub is shutting down")

const (
	queued   = 4096 // events waiting for the loop
	perTurn  = 2048 // events applied before a turn is written
	retryMin = 100 * time.Millisecond
	retryMax = 5 * time.Second
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
	inbox chan any // scheduler.Event or query
	done  chan struct{}
}

type query struct {
	ask  func(*scheduler.Core, time.Time)
	done chan struct{}
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
// includes every event posted before.
func (d *Dispatcher) Ask(ctx context.Context, f func(core *scheduler.Core, now time.Time)) error {
	q := query{ask: f, done: make(chan struct{})}
	if err := d.send(ctx, q); err != nil {
		return err
	}
	select {
	case <-q.done:
		return nil
	case <-d.done:
		return ErrStopped
	}
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
	case query:
		item.ask(d.cfg.Core, time.Now())
		close(item.done)
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
			return nil
		}
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
