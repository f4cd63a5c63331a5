package cgroup

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Limits bound a group. Zero is no limit.
type Limits struct {
	Memory    int64   // bytes, with what the kernel holds for the processes
	Processes int     // processes and threads
	CPUs      float64 // cores
	Idle      bool    // only processor and disk time that nobody else wants
}

// A Group holds the processes of one run. It is safe for concurrent use until Remove.
type Group struct {
	places []place
	limits Limits

	mu     sync.Mutex // one freezes, thaws or kills at a time
	ending atomic.Bool
}

// A place is the group in one hierarchy. The open folder carries the lock that tells
// other processes that this one lives: the kernel lets go of it with the process.
type place struct {
	tree
	path string
	dir  *os.File
}

// prefix marks our groups.
const prefix = "spare-run-"

func newName() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return prefix + hex.EncodeToString(b[:])
}

// New makes a group and bounds its memory and processes; Share does the rest.
func (g *Groups) New(l Limits) (*Group, error) {
	if !g.Any() {
		return nil, errors.New("make a control group: " + g.lacks[Memory])
	}
	for {
		made, err := g.claim(newName(), l)
		if errors.Is(err, errTaken) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("make a control group: %w", err)
		}
		if len(made.places) == 0 {
			return nil, errors.New("make a control group: there is nothing it would do")
		}
		made.limits = l
		if err := made.limit(); err != nil {
			return nil, errors.Join(fmt.Errorf("limit a control group: %w", err), made.Remove())
		}
		return made, nil
	}
}

// errTaken says that a process that was cleaning up took a new group for an old one.
var errTaken = errors.New("the new control group is gone")

func (g *Groups) claim(name string, l Limits) (*Group, error) {
	made := &Group{}
	for _, t := range g.trees {
		if !t.needed(l, g.trees[0].v2) {
			continue
		}
		p := place{tree: t, path: filepath.Join(t.base, name)}
		err := t.make(p.path)
		if err == nil {
			if err = p.lock(); err != nil && err != errTaken {
				_ = unix.Rmdir(p.path)
			}
		}
		if err != nil {
			return nil, errors.Join(err, made.Remove())
		}
		made.places = append(made.places, p)
	}
	return made, nil
}

// needed reports whether a hierarchy has anything to do for a group with these limits:
// in version 1 each costs a quarter of a millisecond. Processor time is counted by version
// 2 without being asked to.
func (t tree) needed(l Limits, counted bool) bool {
	return t.v2 || t.has[Memory] || t.has[Pids] || t.has[Freezer] || t.has[CPU] && (l.CPUs > 0 || l.Idle || !counted) || t.has[IO] && l.Idle
}

// lock takes a group as this process's own.
func (p *place) lock() error {
	dir, err := os.Open(p.path)
	if errors.Is(err, os.ErrNotExist) {
		return errTaken
	}
	if err != nil {
		return err
	}
	err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil && !p.is(dir) || err == unix.EWOULDBLOCK {
		err = errTaken
	}
	if err != nil {
		_ = dir.Close()
		return err
	}
	p.dir = dir
	return nil
}

// is reports whether an open folder is still the one at the path.
func (p *place) is(dir *os.File) bool {
	opened, err := dir.Stat()
	named, err2 := os.Lstat(p.path)
	return err == nil && err2 == nil && os.SameFile(opened, named)
}

// write sets a file of the group.
func (p place) write(file, text string) error {
	fd, err := unix.Openat(int(p.dir.Fd()), file, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.EINTR
		for err == unix.EINTR { // a limit may have to wait for memory to be freed
			_, err = unix.Write(fd, []byte(text))
		}
		_ = unix.Close(fd)
	}
	if err != nil {
		return fmt.Errorf("write %q to %s/%s: %w", text, p.path, file, err)
	}
	return nil
}

// read reads a file of the group whole.
func (p place) read(file string) (string, error) {
	fd, err := unix.Openat(int(p.dir.Fd()), file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("read %s/%s: %w", p.path, file, err)
	}
	defer func() { _ = unix.Close(fd) }()
	var text []byte
	buf := make([]byte, 8<<10)
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("read %s/%s: %w", p.path, file, err)
		}
		if n == 0 {
			return string(text), nil
		}
		text = append(text, buf[:n]...)
	}
}

// with is the place that serves a feature, or nil.
func (g *Group) with(f Feature) *place {
	if i := slices.IndexFunc(g.places, func(p place) bool { return p.has[f] }); i >= 0 {
		return &g.places[i]
	}
	return nil
}

// limit sets what holds from the first process on.
func (g *Group) limit() error {
	if p := g.with(Memory); p != nil && g.limits.Memory > 0 {
		if err := p.limitMemory(g.limits.Memory); err != nil {
			return err
		}
	}
	if p := g.with(Pids); p != nil && g.limits.Processes > 0 {
		return p.write("pids.max", strconv.Itoa(g.limits.Processes))
	}
	return nil
}

// limitMemory bounds memory without swap: a swapping run would slow the whole machine.
func (p place) limitMemory(bytes int64) error {
	max := strconv.FormatInt(bytes, 10)
	if !p.v2 {
		if err := p.write("memory.limit_in_bytes", max); err != nil {
			return err
		}
		return p.writeIfThere("memory.memsw.limit_in_bytes", max) // kernels may count no swap
	}
	if err := p.write("memory.max", max); err != nil {
		return err
	}
	if err := p.writeIfThere("memory.swap.max", "0"); err != nil {
		return err
	}
	// A run that has lost a process to its limit is of no use: all of it goes.
	return p.writeIfThere("memory.oom.group", "1")
}

func (p place) writeIfThere(file, text string) error {
	if err := p.write(file, text); !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

const (
	period     = 100 * time.Millisecond // of processor time, the kernel's default
	leastQuota = time.Millisecond       // the kernel takes no less
)

// limitCPU sets share and quota.
func (g *Group) limitCPU() error {
	p := g.with(CPU)
	if p == nil {
		return nil
	}
	if err := p.weigh(g.limits.Idle); err != nil {
		return err
	}
	if g.limits.CPUs <= 0 || g.limits.CPUs >= float64(runtime.NumCPU()) {
		return p.quota(0)
	}
	return p.quota(max(time.Duration(math.Ceil(g.limits.CPUs*float64(period))), leastQuota))
}

// Hurry lifts the processor limits until Share sets them again: to be stopped, each process
// must run until it notices, and must not wait for its turn behind the machine's other work.
func (g *Group) Hurry() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hurry()
}

func (g *Group) hurry() {
	p := g.with(CPU)
	if p == nil {
		return
	}
	_ = p.quota(0)
	_ = p.writeIfThere("cpu.idle", "0")
	if p.v2 {
		_ = p.write("cpu.weight", "10000")
	} else {
		_ = p.write("cpu.shares", "262144")
	}
}

// quota sets the processor time in each period; 0 is no limit.
func (p place) quota(q time.Duration) error {
	switch {
	case p.v2 && q == 0:
		return p.write("cpu.max", "max")
	case p.v2:
		return p.write("cpu.max", fmt.Sprintf("%d %d", q.Microseconds(), period.Microseconds()))
	case q == 0:
		return p.write("cpu.cfs_quota_us", "-1")
	}
	if err := p.write("cpu.cfs_period_us", strconv.FormatInt(period.Microseconds(), 10)); err != nil {
		return err
	}
	return p.write("cpu.cfs_quota_us", strconv.FormatInt(q.Microseconds(), 10))
}

// weigh gives the group a common share or makes it yield to all others. The idle priority
// of its processes is not enough for that: among groups, the kernel goes by the groups' own.
func (p place) weigh(idle bool) error {
	file, weight, least := "cpu.weight", "100", "1"
	if !p.v2 {
		file, weight, least = "cpu.shares", "1024", "2"
	}
	if !idle {
		// As long as a group is idle, the kernel takes no weight for it.
		return errors.Join(p.writeIfThere("cpu.idle", "0"), p.write(file, weight))
	}
	if p.write("cpu.idle", "1") == nil {
		return nil
	}
	return p.write(file, least) // before Linux 5.15
}

// limitIO gives the group the least share of the disks. Which weight the kernel goes by
// depends on each disk's scheduler, so all that are there are set.
func (g *Group) limitIO() error {
	p := g.with(IO)
	if p == nil || !g.limits.Idle {
		return nil
	}
	weights := [][2]string{{"io.weight", "default 1"}, {"io.bfq.weight", "default 1"}}
	if !p.v2 {
		weights = [][2]string{{"blkio.weight", "10"}, {"blkio.bfq.weight", "1"}}
	}
	for _, w := range weights {
		if err := p.writeIfThere(w[0], w[1]); err != nil {
			return err
		}
	}
	return nil
}

// Start has start, which starts a process with attr, do so such that the process is in
// the group from its birth. If that could not be prepared, start is not called; an error
// of its own is returned as it is.
func (g *Group) Start(attr *syscall.SysProcAttr, start func() (pid int, err error)) error {
	runtime.LockOSThread()
	visited, err := g.enter(attr)
	pid := 0
	if err == nil {
		pid, err = start()
	}
	if leave(visited) == nil {
		runtime.UnlockOSThread()
	} // else the thread must not serve anything else: it ends with its goroutine
	if err != nil {
		return err
	}
	for _, p := range g.places {
		if p.v2 && !p.into {
			if err := p.write("cgroup.procs", strconv.Itoa(pid)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Share sets what the group gets of processors and disks, unless it is ending. It comes
// after Start: what is at idle priority could keep the process that starts it waiting.
func (g *Group) Share() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.share()
}

func (g *Group) share() error {
	if g.ending.Load() {
		return nil
	}
	err := errors.Join(g.limitCPU(), g.limitIO())
	if g.ending.Load() { // since a moment
		g.hurry()
	}
	return err
}

// enter prepares the birth. A thread that visits a group of version 1 has its children
// there; moving a whole process takes the kernel a hundred times as long.
func (g *Group) enter(attr *syscall.SysProcAttr) (visited []place, err error) {
	for _, p := range g.places {
		switch {
		case p.v2 && p.into:
			attr.UseCgroupFD, attr.CgroupFD = true, int(p.dir.Fd())
		case !p.v2:
			if err := p.write("tasks", "0"); err != nil {
				return visited, err
			}
			visited = append(visited, p)
		}
	}
	return visited, nil
}

func leave(visited []place) error {
	var failed error
	for _, p := range visited {
		failed = errors.Join(failed, put(filepath.Join(p.base, "tasks"), "0"))
	}
	return failed
}

// tryBirth finds out whether a process can be born in a group: one that fails to become
// a program.
func tryBirth(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = os.StartProcess("", nil, &os.ProcAttr{Sys: &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}})
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// tryVisit finds out whether a thread can enter a group of version 1 and come back.
func tryVisit(dir, home string) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := put(filepath.Join(dir, "tasks"), "0")
		if err == nil {
			err = put(filepath.Join(home, "tasks"), "0")
		}
		result <- err
		if err == nil {
			runtime.UnlockOSThread()
		} // else the thread ends here
	}()
	return <-result
}
