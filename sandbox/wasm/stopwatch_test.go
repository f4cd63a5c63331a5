package wasm

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestStopwatch_LeavesOutPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, rang := time.Now(), make(chan time.Duration, 1)
		s := &stopwatch{limit: 10 * time.Second, ring: func() { rang <- time.Since(began) }}
		for range 3 {
			s.start()
			s.start()
			time.Sleep(3 * time.Second)
			s.stop()
			s.stop()
			time.Sleep(time.Minute)
		}
		if got := s.elapsed(); got != 9*time.Second {
			t.Errorf("it counts %v, want 9 s", got)
		}
		s.start()
		if got, want := <-rang, 3*time.Minute+10*time.Second; got != want {
			t.Errorf("it rings after %v, want %v", got, want)
		}
	})
}
