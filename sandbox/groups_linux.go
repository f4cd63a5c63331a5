package sandbox

import (
	"sync"

	"github.com/spare-compute/spare/sandbox/cgroup"
	"github.com/spare-compute/spare/sandbox/first"
)

// The walls that this side of the sandbox builds; package first names the others.
const (
	wallDiskWatch = "disk watch"
	wallOutputCap = "output cap"
	wallWallTime  = "wall time"
)

// groupWalls are the walls that control groups are, by what they do.
var groupWalls = map[cgroup.Feature]string{
	cgroup.Memory: "cgroup memory", cgroup.Pids: "cgroup pids", cgroup.CPU: "cgroup cpu", cgroup.IO: "cgroup io", cgroup.Freezer: "freezer",
}

// machineGroups are found once: finding them may move this process.
var machineGroups = sync.OnceValue(cgroup.Find)

// groups are the control groups that runs get.
func (l linux) groups() *cgroup.Groups {
	g := machineGroups()
	var off []cgroup.Feature
	for f, wall := range groupWalls {
		if !l.has(wall) {
			off = append(off, f)
		}
	}
	if len(off) > 0 {
		g = g.Without(off...)
	}
	return g
}

// limitWalls lists the walls of this side that stand here, and says of each that does not
// why. Without control groups the watches and resource limits hold: later, and less exactly.
func (l linux) limitWalls() (walls []string, lacks map[string]string) {
	lacks = map[string]string{}
	for _, wall := range []string{wallDiskWatch, wallOutputCap, wallWallTime} {
		if l.has(wall) {
			walls = append(walls, wall)
		}
	}
	g := l.groups()
	for _, f := range cgroup.Features {
		if why := g.Lacks(f); why != "" {
			lacks[groupWalls[f]] = why
		} else {
			walls = append(walls, groupWalls[f])
		}
	}
	return walls, lacks
}

// ownMemory is what the first process may take beside the program, with what the kernel
// holds for it: 8 MiB were seen.
const ownMemory = 16 << 20

// newGroup makes the run's control group, if this machine has any. That none can be made
// is no error: a run is then held by what holds it where there are none.
func (r *run) newGroup() {
	g := r.linux.groups()
	if !g.Any() {
		return
	}
	l := cgroup.Limits{Memory: r.orders.Memory, Processes: r.orders.Processes + first.OwnThreads, CPUs: r.spec.Limits.CPUs, Idle: r.spec.Limits.Nice}
	if l.Memory > 0 {
		l.Memory += ownMemory
	}
	if made, err := g.New(l); err == nil {
		r.group, r.freezes = made, g.Lacks(cgroup.Freezer) == ""
		r.orders.Counted = made.Counts()
	}
}

// launch starts the first process, in its group if there is one.
func (r *run) launch() error {
	attr := r.linux.attributes(r.spec.Network)
	if r.group == nil {
		return r.birth(attr)
	}
	tried := false
	err := r.group.Start(attr, func() (int, error) {
		tried = true
		if err := r.birth(attr); err != nil {
			return 0, err
		}
		return r.first.Pid, nil
	})
	switch {
	case err == nil:
		_ = r.group.Share() // a matter of courtesy, not of containment
		return nil
	case tried && r.first != nil:
		_ = r.first.Kill()
		_, _ = r.first.Wait()
		return err
	case tried:
		return err
	}
	r.dropGroup()
	r.group, r.freezes, r.orders.Counted = nil, false, false
	attr.UseCgroupFD = false
	return r.birth(attr)
}

// dropGroup takes the group away once its processes are gone.
func (r *run) dropGroup() {
	if r.group != nil {
		_ = r.group.Remove() // what is left is taken away at the next start
	}
}
