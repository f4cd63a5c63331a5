package wasm

import (
	"sync"
	"time"
)

// stopwatch counts a run's time without its pauses, and rings once the limit is reached.
// It stands still until it is started.
type stopwatch struct {
	limit time.Duration // 0 = none
	ring  func()

	mu    sync.Mutex
	past  time.Duration // before since
	since time.Time     // zero while it stands still
	timer *time.Timer
}

func (s *stopwatch) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.since.IsZero() {
		return
	}
	s.since = time.Now()
	if s.limit > 0 {
		s.timer = time.AfterFunc(s.limit-s.past, s.ring)
	}
}

func (s *stopwatch) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since.IsZero() {
		return
	}
	if s.timer != nil {
		s.timer.Stop()
	}
	s.past, s.since = s.past+time.Since(s.since), time.Time{}
}

func (s *stopwatch) elapsed() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since.IsZero() {
		return s.past
	}
	return s.past + time.Since(s.since)
}
