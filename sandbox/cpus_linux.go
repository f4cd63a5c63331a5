package sandbox

import (
	"math"
	"sync"

	"golang.org/x/sys/unix"
)

// shares counts how many runs use each processor, so that runs with few cores spread.
var shares struct {
	sync.Mutex
	runs [1024]int // as many as unix.CPUSet holds
}

// takeCPUs picks the least used processors for a run, or none if it may use them all.
func takeCPUs(cores float64) []int {
	var allowed unix.CPUSet
	if cores <= 0 || unix.SchedGetaffinity(0, &allowed) != nil {
		return nil
	}
	want := int(math.Ceil(cores))
	if want >= allowed.Count() {
		return nil
	}
	shares.Lock()
	defer shares.Unlock()
	var picked []int
	for len(picked) < want {
		best := -1
		for cpu := range shares.runs {
			if allowed.IsSet(cpu) && (best < 0 || shares.runs[cpu] < shares.runs[best]) {
				best = cpu
			}
		}
		allowed.Clear(best)
		shares.runs[best]++
		picked = append(picked, best)
	}
	return picked
}

func freeCPUs(cpus []int) {
	shares.Lock()
	defer shares.Unlock()
	for _, cpu := range cpus {
		shares.runs[cpu]--
	}
}
