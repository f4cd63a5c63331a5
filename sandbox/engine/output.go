package engine

import (
	"io"
	"sync"
	"sync/atomic"
)

// output hands on what a program prints until the limit is used up, and drops the rest.
type output struct {
	mu        sync.Mutex
	limited   bool
	left      int64
	truncated atomic.Bool
}

func newOutput(limit int64) *output {
	return &output{limited: limit > 0, left: limit}
}

// take grants up to n bytes of the limit.
func (o *output) take(n int) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.limited {
		return n
	}
	granted := min(int64(n), o.left)
	o.left -= granted
	if granted < int64(n) {
		o.truncated.Store(true)
	}
	return int(granted)
}

// stream is one of the program's two outputs on its way to w. It remembers its last
// words: where the engine could not start the program, they are the engine's.
type stream struct {
	out  *output
	w    io.Writer
	last []byte
}

const lastSize = 4 << 10

// Write never fails: the program must not be stopped by who listens to it.
func (s *stream) Write(p []byte) (int, error) {
	s.last = append(s.last, p...)
	if over := len(s.last) - lastSize; over > 0 {
		s.last = append(s.last[:0], s.last[over:]...)
	}
	if keep := s.out.take(len(p)); keep > 0 && s.w != nil {
		if _, err := s.w.Write(p[:keep]); err != nil {
			s.w = nil
		}
	}
	return len(p), nil
}

// sameWriter compares without panicking on writers that cannot be compared.
func sameWriter(a, b io.Writer) (same bool) {
	defer func() {
		if recover() != nil {
			same = false
		}
	}()
	return a == b
}
