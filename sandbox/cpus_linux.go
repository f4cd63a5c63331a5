package sandbox

import (
	"math"
	"math/rand/v2"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// shares counts how many of this process's runs use each processor, so that runs with
// few cores spread. A claim says so to the machine's other nodes.
var shares struct {
	sync.Mutex
	runs   [1024]int // as many as unix.CPUSet holds
	claims map[int]int
}

// takeCPUs picks the least used processors for a run, or none if it may use them all.
// Those that another process of ours works on come last.
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
		cpu := leastUsed(&allowed)
		allowed.Clear(cpu)
		shares.runs[cpu]++
		picked = append(picked, cpu)
	}
	return picked
}

// leastUsed is a processor with the fewest of our own runs that nobody else claims, or
// else any with the fewest.
func leastUsed(allowed *unix.CPUSet) int {
	best := -1
	var equal []int
	for cpu, n := range shares.runs {
		switch {
		case !allowed.IsSet(cpu):
		case best < 0 || n < shares.runs[best]:
			best, equal = cpu, append(equal[:0], cpu)
		case n == shares.runs[best]:
			equal = append(equal, cpu)
		}
	}
	for _, cpu := range equal {
		if shares.runs[cpu] > 0 || claim(cpu) {
			return cpu
		}
	}
	return equal[rand.IntN(len(equal))]
}

// claims are named with this; tests use names of their own.
var claimName = "@spare-cpu-"

// claim takes a name of the machine that only one process can hold: an abstract socket's,
// which goes with the process, however it ends, and needs no folder that all may write.
// Nothing is ever received on it.
func claim(cpu int) bool {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	if unix.Bind(fd, &unix.SockaddrUnix{Name: claimName + strconv.Itoa(cpu)}) != nil || unix.Shutdown(fd, unix.SHUT_RD) != nil {
		_ = unix.Close(fd)
		return false
	}
	if shares.claims == nil {
		shares.claims = map[int]int{}
	}
	shares.claims[cpu] = fd
	return true
}

func freeCPUs(cpus []int) {
	shares.Lock()
	defer shares.Unlock()
	for _, cpu := range cpus {
		if shares.runs[cpu]--; shares.runs[cpu] > 0 {
			continue
		}
		if fd, ok := shares.claims[cpu]; ok {
			delete(shares.claims, cpu)
			_ = unix.Close(fd)
		}
	}
}
