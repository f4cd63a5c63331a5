package sandbox

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spare-compute/spare/sandbox/cgroup"
	"github.com/spare-compute/spare/sandbox/first"
)

// use is what a run's control group was seen to use.
type use struct {
	mu     sync.Mutex
	peak   int64 // bytes
	cpu    time.Duration
	killed bool // the kernel has ended processes of it for want of memory
}

// usePause is how often it is looked at. A look takes some 50 µs.
const usePause = 250 * time.Millisecond

func (u *use) look(g *cgroup.Group) (cpu time.Duration, killed bool) {
	now := g.Usage()
	u.mu.Lock()
	defer u.mu.Unlock()
	u.peak, u.cpu, u.killed = max(u.peak, now.Memory), max(u.cpu, now.CPU), u.killed || now.Killed > 0
	return u.cpu, u.killed
}

// last looks when the run is over; there may be no group.
func (u *use) last(g *cgroup.Group) {
	if g != nil {
		u.look(g)
	}
}

// ownTime is what the first process may take of the processor, which the group counts too:
// a fixed part to build the walls, and a share for its looks at the program.
func ownTime(cpu time.Duration) time.Duration { return 100*time.Millisecond + cpu/20 }

// watchUse ends the run when the kernel has killed for memory, and when all its processes
// together have had their time. The first process counts time too, but what a process
// leaves to nobody (its children are reaped unseen) only the group knows.
func (r *run) watchUse() (end func()) {
	if r.group == nil {
		return func() {}
	}
	limit := r.spec.Limits.CPU
	if !r.linux.has(first.WallCPUTime) {
		limit = 0
	}
	return every(usePause, func() {
		cpu, killed := r.use.look(r.group)
		if killed {
			r.stop(first.KillMemory)
		}
		if limit > 0 && cpu > limit+ownTime(limit) {
			r.stop(first.KillTime)
		}
	})
}

// time is the processor time to report: the program's own, or the group's if that saw
// clearly more than the program's parents were told.
func (u *use) time(reported time.Duration) time.Duration {
	if u.cpu > reported+ownTime(reported) {
		return u.cpu
	}
	return reported
}

// memoryOf adds up what processes hold of their own and shared memory, for want of a
// group that counts.
func memoryOf(pids []int) int64 {
	var sum int64
	for _, pid := range pids {
		for _, thread := range threads(pid) {
			if memory, told := memoryOfThread(thread); told {
				sum += memory
				break // it is the others' too
			}
		}
	}
	return sum
}

// memoryOfThread is told by all but threads that have ended.
func memoryOfThread(thread string) (sum int64, told bool) {
	text, _ := os.ReadFile("/proc/" + thread + "/status")
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if name == "RssAnon" || name == "RssShmem" {
			kilobytes, _, _ := strings.Cut(strings.TrimSpace(value), " ")
			n, _ := strconv.ParseInt(kilobytes, 10, 64)
			sum, told = sum+n<<10, true
		}
	}
	return sum, told
}
