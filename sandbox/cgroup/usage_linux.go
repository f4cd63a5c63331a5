package cgroup

import (
	"strconv"
	"strings"
	"time"
)

// Usage is what a group uses. What cannot be counted is 0.
type Usage struct {
	// Memory is what the processes hold and the kernel cannot take back: memory of
	// their own, and shared memory with all that is in /tmp, /dev/shm and memfds, mapped
	// or not. Files that the kernel keeps in memory to be quick are not in it: it lets
	// go of them before it refuses anything.
	Memory int64
	CPU    time.Duration // also of processes that have ended
	Killed int           // processes that the kernel ended because the memory was used up
}

// Counts reports whether the group knows how much memory is used.
func (g *Group) Counts() bool { return g.with(Memory) != nil }

// Usage looks.
func (g *Group) Usage() Usage {
	var u Usage
	for _, p := range g.places {
		if p.v2 {
			text, _ := p.read("cpu.stat") // is there without the controller too
			u.CPU = time.Duration(value(text, "usage_usec")) * time.Microsecond
		} else if p.has[CPU] && u.CPU == 0 {
			text, _ := p.read("cpuacct.usage") // where both are mounted as one, as they mostly are
			ns, _ := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
			u.CPU = time.Duration(ns)
		}
		if !p.has[Memory] {
			continue
		}
		text, _ := p.read("memory.stat")
		if p.v2 {
			u.Memory = value(text, "anon") + value(text, "shmem")
			text, _ = p.read("memory.events")
		} else {
			u.Memory = value(text, "total_rss") + value(text, "total_shmem")
			text, _ = p.read("memory.oom_control")
		}
		u.Killed = int(value(text, "oom_kill"))
	}
	return u
}

// Pids lists the processes in the group.
func (g *Group) Pids() []int {
	text, _ := g.places[0].read("cgroup.procs")
	return numbers(text)
}

// value finds a "name 123" line.
func value(text, name string) int64 {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
			return n
		}
	}
	return 0
}
