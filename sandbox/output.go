package sandbox

import (
	"io"
	"sync/atomic"
	"time"
)

// output hands on what a program prints until the limit is used up, and drops the
// rest: a program must never block on, or fill, what listens to it.
type output struct {
	limited   bool
	left      atomic.Int64
	truncated atomic.Bool
}

func newOutput(limit int64) *output {
	o := &output{limited: limit > 0}
	o.left.Store(limit)
	return o
}

// floodPause slows what is only thrown away to one buffer, as much as a pipe holds, in
// this time: 64 MB/s. A flood then costs its maker time, and the machine none.
const floodPause = time.Millisecond

// drain reads r to its end. A writer that fails gets nothing more.
func (o *output) drain(r io.Reader, w io.Writer) {
	buf := make([]byte, 64<<10)
	for {
		if o.truncated.Load() {
			time.Sleep(floodPause)
		}
		n, err := r.Read(buf)
		if keep := o.take(n); keep > 0 && w != nil {
			if _, werr := w.Write(buf[:keep]); werr != nil {
				w = nil
			}
		}
		if err != nil {
			return
		}
	}
}

// take grants up to n bytes of the limit.
func (o *output) take(n int) int {
	if !o.limited {
		return n
	}
	before := max(0, o.left.Add(-int64(n))+int64(n))
	if int64(n) > before {
		o.truncated.Store(true)
		return int(before)
	}
	return n
}
