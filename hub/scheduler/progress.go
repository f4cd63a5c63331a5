package scheduler

import (
	"time"

	"github.com/spare-compute/spare"
)

// Progress is how far a job is.
type Progress struct {
	Total    int             // -1 while the input is being cut
	Done     int             // tasks
	Running  int             // tasks under a lease
	Ready    int             // tasks that could run now
	Backing  int             // tasks whose back-off runs
	Stored   int             // tasks not yet read from the store, about
	Nodes    int             // nodes that hold leases of it
	Eligible int             // connected nodes that could
	PerTask  time.Duration   // running mean of one task's wall time; 0 = unknown
	ETA      *time.Duration  // nil = unknown
	Attempts []spare.Attempt // live ones, by chunk
}

// JobProgress returns a job's progress; false once the job is done, failed or closed.
func (c *Core) JobProgress(id spare.JobID, now time.Time) (Progress, bool) {
	j := c.jobs[id]
	if j == nil {
		return Progress{}, false
	}
	p := Progress{
		Total: j.total, Done: j.done, Running: j.running, Ready: j.ready,
		Backing: len(j.tasks) - j.running - j.ready, Stored: max(0, j.stored-j.next),
		Eligible: j.class.eligible, PerTask: time.Duration(j.wall * float64(time.Second)),
	}
	leases := map[*node]int{}
	var begun float64 // seconds of work already put into live attempts
	for _, t := range inOrder(j.tasks) {
		if a := t.live; a != nil {
			p.Attempts = append(p.Attempts, a.row)
			leases[a.node]++
			if !a.prefetch {
				begun += min(j.wall, now.Sub(a.row.Granted).Seconds())
			}
		}
	}
	p.Nodes = len(leases)
	at := 0 // tasks that run side by side: leases beyond a node's slots only wait there
	for n, k := range leases {
		at += min(k, max(1, n.slots))
	}
	if j.total >= 0 && j.wall > 0 && at > 0 {
		eta := time.Duration((float64(j.total-j.done)*j.wall - begun) / float64(at) * float64(time.Second))
		eta = max(0, eta)
		p.ETA = &eta
	}
	return p, true
}
