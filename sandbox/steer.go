package sandbox

import (
	"errors"
	"sync"
)

// A Steer pauses and resumes one run from outside. Its zero value is ready; it must not
// be used for a second run. It is safe for concurrent use.
type Steer struct {
	mu     sync.Mutex
	run    Steered
	paused bool
}

// Steered is a run that can be paused: what a Runtime gives to Steer.Attach.
type Steered interface {
	// Pause returns when no process of the run gets processor time any more.
	Pause() error
	// Resume lets them all go on.
	Resume() error
	// Memory is what they use at the moment, in bytes, paused or not.
	Memory() (int64, error)
}

// ErrNotRunning says that there is nothing to steer: the run has not begun, or has ended.
var ErrNotRunning = errors.New("the program is not running")

// Attach connects a run, and pauses it if that was asked for before. A Runtime calls it
// once the program runs, and detach before it takes the run down.
func (s *Steer) Attach(run Steered) (detach func(), err error) {
	if s == nil {
		return func() {}, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run = run
	if s.paused {
		err = run.Pause()
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.run = nil
	}, err
}

// Pause stops the program where it is. One that has not begun is paused at its start.
func (s *Steer) Pause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paused {
		return nil
	}
	s.paused = true
	if s.run == nil {
		return nil
	}
	if err := s.run.Pause(); err != nil {
		s.paused = false
		return err
	}
	return nil
}

// Resume lets the program go on.
func (s *Steer) Resume() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.paused {
		return nil
	}
	s.paused = false
	if s.run == nil {
		return nil
	}
	return s.run.Resume()
}

// Paused reports whether the program is paused, or will be when it begins.
func (s *Steer) Paused() bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.paused
}

// Memory is what the program uses at the moment, in bytes.
func (s *Steer) Memory() (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run == nil {
		return 0, ErrNotRunning
	}
	return s.run.Memory()
}
