package sandbox

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spare-compute/spare/sandbox/first"
)

// steering is what acts on a run from outside while it goes on.
type steering struct {
	clock   clock
	kill    atomic.Int64 // why the parent ended it, a first.Kill
	paused  atomic.Bool  // or about to be
	acting  sync.Mutex   // held by what acts on it, which must not outlive it
	done    chan struct{}
	answers chan first.Report // of the first process, to one question at a time
}

// steer watches ctx, the clock and what is used, and lets the caller steer, until it is
// released.
func (r *run) steer(ctx context.Context) (release func()) {
	stopCancel := context.AfterFunc(ctx, func() { r.act(func() { r.cancel(context.Cause(ctx)) }) })
	r.clock.start(func() { r.act(func() { r.stop(first.KillTime) }) })
	endUse, endDisk := r.watchUse(), r.watchDisk()
	detach := func() {}
	var attaching sync.WaitGroup
	if r.spec.Steer != nil {
		attaching.Go(func() { // this thread reads the answers that pausing waits for
			var err error
			if detach, err = r.spec.Steer.Attach(r); err != nil && !errors.Is(err, ErrNotRunning) {
				r.stop(first.KillCancel) // it was to be paused, and must not run
			}
		})
	}
	return func() {
		stopCancel()
		r.clock.stop()
		r.acting.Lock()
		close(r.done)
		r.acting.Unlock()
		endUse()
		endDisk()
		attaching.Wait()
		detach()
	}
}

// act does something to the run unless it is over: a timer may fire late.
func (r *run) act(f func()) {
	r.acting.Lock()
	defer r.acting.Unlock()
	select {
	case <-r.done:
	default:
		f()
	}
}

// cancel asks the program to end, and ends it when its grace is over. A program that is
// paused could not even hear.
func (r *run) cancel(cause error) {
	grace := r.spec.Grace
	if grace <= 0 || r.paused.Load() || errors.Is(cause, ErrAtOnce) {
		r.stop(first.KillCancel)
		return
	}
	if r.group != nil {
		r.group.Attend()
	}
	r.order(byte(first.OrderAsk))
	time.AfterFunc(grace, func() { r.act(func() { r.stop(first.KillCancel) }) })
}

// order fails only if the first process has just ended.
func (r *run) order(o byte) { _, _ = r.control.Write([]byte{o}) }

// stop orders the first process to end the run. If it cannot, it is ended itself, and
// the kernel ends the rest with it. What is frozen hears no order.
func (r *run) stop(k first.Kill) {
	if !r.kill.CompareAndSwap(int64(first.KillNone), int64(k)) {
		return
	}
	switch {
	case r.paused.Load() && r.freezes:
		_ = r.group.Kill()
	case r.group != nil:
		r.group.End()
		fallthrough
	default:
		r.order(byte(k))
	}
	time.AfterFunc(killGrace, func() { r.act(r.endAll) })
}

// endAll ends the run from outside.
func (r *run) endAll() {
	_ = r.first.Kill()
	if r.group != nil {
		_ = r.group.Kill()
	}
}

// Pause implements Steered. Time that passes while paused does not count as wall time.
func (r *run) Pause() error {
	if !r.freezes {
		r.paused.Store(true)
		if r.group != nil {
			r.group.Hurry()
			defer func() { _ = r.group.Share() }()
		}
		if err := r.ask(first.OrderPause); err != nil {
			r.paused.Store(false)
			return err
		}
		r.clock.pause()
		return nil
	}
	r.paused.Store(true)
	err := r.group.Freeze()
	if r.kill.Load() != int64(first.KillNone) { // its order may have come too late to be heard
		_ = r.group.Kill()
		return ErrNotRunning
	}
	if err != nil {
		r.paused.Store(false)
		return err
	}
	r.clock.pause()
	return nil
}

// Resume implements Steered.
func (r *run) Resume() error {
	var err error
	if r.freezes {
		err = r.group.Thaw()
	} else {
		err = r.ask(first.OrderResume)
	}
	if err == nil {
		r.paused.Store(false)
		r.clock.resume()
	}
	return err
}

// Memory implements Steered.
func (r *run) Memory() (int64, error) {
	switch {
	case r.group != nil && r.group.Counts():
		return r.group.Usage().Memory, nil
	case r.group != nil && r.paused.Load() && r.freezes: // the first process is frozen too
		return memoryOf(r.group.Pids()), nil
	}
	rep, err := r.question(first.OrderMemory)
	return rep.Peak, err
}

func (r *run) ask(o first.Order) error {
	_, err := r.question(o)
	return err
}

// question gives an order and waits for the answer, or the end of the run. Steer asks
// one at a time.
func (r *run) question(o first.Order) (first.Report, error) {
	r.order(byte(o))
	select {
	case rep := <-r.answers:
		if rep.Failed != "" {
			return rep, errors.New(rep.Failed)
		}
		return rep, nil
	case <-r.done:
		return first.Report{}, ErrNotRunning
	}
}

// A clock measures how long a run has gone on, without its pauses, and rings once at the
// limit. A limit of 0 never rings.
type clock struct {
	limit time.Duration

	mu    sync.Mutex
	used  time.Duration // until since
	since time.Time     // zero while paused
	timer *time.Timer
}

func (c *clock) start(ring func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.limit > 0 {
		c.timer = time.AfterFunc(c.limit-c.elapsedLocked(), ring)
	}
}

func (c *clock) pause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used, c.since = c.elapsedLocked(), time.Time{}
	if c.timer != nil {
		c.timer.Stop()
	}
}

func (c *clock) resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.since.IsZero() {
		return
	}
	c.since = time.Now()
	if c.timer != nil {
		c.timer.Reset(max(0, c.limit-c.used))
	}
}

func (c *clock) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
}

func (c *clock) elapsed() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.elapsedLocked()
}

func (c *clock) elapsedLocked() time.Duration {
	if c.since.IsZero() {
		return c.used
	}
	return c.used + time.Since(c.since)
}
