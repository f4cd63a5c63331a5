package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spare-compute/spare/sandbox"
)

func processLimit() (uint64, bool) {
	var l unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_NPROC, &l)
	return l.Max, err == nil
}

// owner is the user and group that containers run as: ids that own nothing when this is
// root, and the node's own otherwise, which the engine keeps apart from the machine's.
func (e *engine) owner() (uid, gid int) {
	if e.remote {
		return remoteOwner, remoteOwner
	}
	if os.Geteuid() != 0 {
		return os.Geteuid(), os.Getegid()
	}
	id, _ := sandbox.Owner()
	return id, id
}

// share makes a mount's files usable by the container's user.
func (e *engine) share(m sandbox.Mount) error {
	if os.Geteuid() != 0 || e.remote {
		return nil
	}
	return sandbox.Give(m.Host, m.Writable)
}

// groups are the control groups of a container on this machine, by what they tell.
type groups struct {
	v2     string // the one group of version 2
	memory string // of version 1
	cpu    string
}

const cgroupRoot = "/sys/fs/cgroup"

// groupsOf finds them by a process of the container, if it is one: its groups' names
// hold the container's id.
func groupsOf(pid int, container string) (groups, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || container == "" || !strings.Contains(string(text), container) {
		return groups{}, false
	}
	var g groups
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 || !strings.Contains(f[2], container) {
			continue
		}
		for name := range strings.SplitSeq(f[1], ",") {
			dir := filepath.Join(cgroupRoot, f[1], f[2])
			switch name {
			case "":
				g.v2 = filepath.Join(cgroupRoot, f[2])
			case "memory":
				g.memory = dir
			case "cpuacct":
				g.cpu = dir
			}
		}
	}
	return g, g.v2 != "" || g.memory != ""
}

// read adds what the groups say to u, and reports whether they still stand.
func (g groups) read(u *use) bool {
	if g.memory != "" {
		now, ok := number(g.memory, "memory.usage_in_bytes")
		peak, _ := number(g.memory, "memory.max_usage_in_bytes")
		ns, _ := number(g.cpu, "cpuacct.usage")
		if ok {
			u.add(time.Duration(ns), now, peak, field(g.memory, "memory.oom_control", "oom_kill"))
		}
		return ok
	}
	now, ok := number(g.v2, "memory.current")
	peak, _ := number(g.v2, "memory.peak") // since Linux 5.19
	if ok {
		µs := field(g.v2, "cpu.stat", "usage_usec")
		u.add(time.Duration(µs)*time.Microsecond, now, peak, field(g.v2, "memory.events", "oom_kill"))
	}
	return ok
}

// pids are the processes of a container.
func (g groups) pids() (all []int) {
	dir := g.v2
	if g.memory != "" {
		dir = g.memory
	}
	text, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	for line := range strings.FieldsSeq(string(text)) {
		if p, err := strconv.Atoi(line); err == nil && p > 0 {
			all = append(all, p)
		}
	}
	return all
}

// held is the space of the run's files that have no name any more. It needs processes
// that this one may look at: an ordinary user's node does not see what a process holds
// that has made itself undumpable.
func (n *run) held() int64 {
	g, ok := groupsOf(int(n.pid.Load()), n.id())
	if !ok {
		return 0
	}
	return sandbox.Held(g.pids(), n.disk.dirs)
}

func number(dir, file string) (int64, bool) {
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil
}

// field reads a line "name number" of a file.
func field(dir, file, name string) int64 {
	text, _ := os.ReadFile(filepath.Join(dir, file))
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == name {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n
		}
	}
	return 0
}

// heedsTerm reports whether a container's first process has a handler for SIGTERM. The
// kernel does not deliver it to a first process without one.
func heedsTerm(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return true // not known: it gets its time
	}
	for line := range strings.Lines(string(text)) {
		if mask, ok := strings.CutPrefix(line, "SigCgt:"); ok {
			caught, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			return err != nil || caught&(1<<(unix.SIGTERM-1)) != 0
		}
	}
	return true
}

// deviceGroup is the group that may open a device.
func deviceGroup(device string) (string, error) {
	info, err := os.Stat(device)
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode()&os.ModeCharDevice == 0 {
		return "", fmt.Errorf("%s is no device", device)
	}
	return strconv.FormatUint(uint64(st.Gid), 10), nil
}
