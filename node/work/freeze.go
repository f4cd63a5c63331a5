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
// caller holds the lock.
func (e *Executor) pause(reason string) {
	var freezing sync.WaitGroup
	for _, d := range e.desks {
		for _, a := range d.attempts {
			switch {
			case a.phase == running:
				freezing.Go(func() {
					if err := a.steer.Pause(); err != nil {
						d.log.Warn("cannot freeze an attempt; it is handed back", "attempt", a.id, "error", err)
						a.cancel(atOnce(reason))
					}
				})
			case a.phase.unfinished():
				a.cancel(atOnce(reason))
			}
		}
	}
	freezing.Wait()
	e.patience = time.AfterFunc(e.cfg.Patience, func() { e.handBackFrozen(reason) })
}

// handBackFrozen gives up on an owner who stays.
func (e *Executor) handBackFrozen(reason string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.paused == "" {
		return // just now resumed
	}
	for _, d := range e.desks {
		for _, a := range d.attempts {
			if a.phase == running {
				a.cancel(atOnce(reason))
			}
		}
	}
}

// unpause lets what is frozen go on. The caller holds the lock.
func (e *Executor) unpause() {
	if e.patience != nil {
		e.patience.Stop()
	}
	for _, d := range e.desks {
		for _, a := range d.attempts {
			if a.phase != running {
				continue
			}
			if err := a.steer.Resume(); err != nil {
				d.log.Warn("cannot let an attempt go on; it is handed back", "attempt", a.id, "error", err)
				a.cancel(atOnce("it could not go on after a pause"))
			}
		}
	}
}
