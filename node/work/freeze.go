package work

import (
	"sync"
	"time"
)

// Patience is how long what is frozen waits for the owner to leave again before it is
// handed back, unless Config says otherwise.
const Patience = 10 * time.Minute

// pause stops all work because the owner needs the machine: what runs is frozen where it
// is, and handed back if that lasts; what has not begun is handed back at once. The
// caller holds the lock, and calls freeze without it: a process in the middle of a slow
// system call can take seconds to stop.
func (e *Executor) pause(reason string) (freeze func()) {
	e.turn++
	turn := e.turn
	var run []*attempt
	for _, d := range e.desks {
		for _, a := range d.attempts {
			switch {
			case a.phase == running:
				run = append(run, a)
			case a.phase.unfinished():
				a.cancel(atOnce(reason))
			}
		}
	}
	return func() {
		var freezing sync.WaitGroup
		for _, a := range run {
			freezing.Go(func() { e.freeze(a, reason) })
		}
		freezing.Wait()
		e.mu.Lock()
		defer e.mu.Unlock()
		e.patience = time.AfterFunc(e.cfg.Patience, func() { e.handBackFrozen(turn, reason) })
	}
}

// freeze returns when an attempt gets no processor time any more.
func (e *Executor) freeze(a *attempt, reason string) {
	if err := a.steer.Pause(); err != nil {
		a.desk.log.Warn("cannot freeze an attempt; it is handed back", "attempt", a.id, "error", err)
		a.cancel(atOnce(reason))
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	a.frozen = true
}

// handBackFrozen gives up on an owner who stays. The pause it belongs to may be over, and
// another have begun, when it comes to hold the lock.
func (e *Executor) handBackFrozen(turn int, reason string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.turn != turn {
		return
	}
	for _, d := range e.desks {
		for _, a := range d.attempts {
			if a.phase == running {
				a.cancel(atOnce(reason))
			}
		}
	}
}

// unpause lets what is frozen go on. The caller holds the lock, and calls thaw without it.
func (e *Executor) unpause() (thaw func()) {
	e.turn++
	if e.patience != nil {
		e.patience.Stop()
	}
	var run []*attempt
	for _, d := range e.desks {
		for _, a := range d.attempts {
			if a.phase == running {
				a.frozen = false
				run = append(run, a)
			}
		}
	}
	return func() {
		var thawing sync.WaitGroup
		for _, a := range run {
			thawing.Go(func() {
				if err := a.steer.Resume(); err != nil {
					a.desk.log.Warn("cannot let an attempt go on; it is handed back", "attempt", a.id, "error", err)
					a.cancel(atOnce("it could not go on after a pause"))
				}
			})
		}
		thawing.Wait()
	}
}
