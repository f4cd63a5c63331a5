package first

import (
	"syscall"
	"unsafe"
)

// step names what the program's process was doing when it failed to start.
type step uint32

const (
	stepFork step = iota
	stepLimits
	stepPriority
	stepLandlock
	stepExec
)

func (s step) String() string {
	return [...]string{"fork", "set the resource limits", "lower the priority", "enter Landlock's rules", "execute"}[s]
}

// child is all that the program's process needs between fork and exec, and tells. Every
// pointer is made before the fork: in between, the Go runtime must not be entered, because
// it knows nothing of that process.
type child struct {
	path   *byte
	argv   **byte
	envv   **byte
	limits []limit
	nice   bool
	rules  int // Landlock's, or -1

	failed step
	errno  syscall.Errno // 0 = it has become the program
}

type limit struct {
	what  uintptr
	value [2]uint64 // soft and hard
}

// launch starts the program. It forks by hand because limits must hold for the program
// from its first instruction and must not hold for this process: a fork bomb that uses
// up RLIMIT_NPROC would else keep the Go runtime here from starting a thread it needs.
func launch(program string, o *Orders, rules int) (pid int, failed step, errno syscall.Errno) {
	c := &child{limits: limitsOf(o), nice: o.Nice, rules: rules}
	path, err := syscall.BytePtrFromString(program)
	argv, err2 := syscall.SlicePtrFromStrings(o.Argv)
	envv, err3 := syscall.SlicePtrFromStrings(o.Env)
	if err != nil || err2 != nil || err3 != nil {
		return 0, stepExec, syscall.EINVAL
	}
	c.path, c.argv, c.envv = path, &argv[0], &envv[0]

	if pid, errno = forkExec(c); errno != 0 {
		return 0, stepFork, errno
	}
	if c.errno != 0 {
		_, _ = syscall.Wait4(pid, nil, 0, nil)
		return 0, c.failed, c.errno
	}
	return pid, 0, 0
}

// fileSlack lets a file get past the limit far enough that the count of the disk sees why
// the write failed.
const fileSlack = 1 << 20

// sigPending bounds signals and timers that wait, which count for the host's user too.
const sigPending = 1024

func limitsOf(o *Orders) []limit {
	if !o.has(WallLimits) {
		return nil
	}
	same := func(what uintptr, n uint64) limit { return limit{what, [2]uint64{n, n}} }
	all := []limit{
		same(syscall.RLIMIT_CORE, 0),
		same(syscall.RLIMIT_NOFILE, uint64(o.Files)),
		same(rlimitNproc, uint64(o.Processes)+OwnThreads),
		same(rlimitMemlock, 64<<10),
		same(rlimitMsgqueue, 0),
		same(rlimitSigpending, sigPending),
	}
	if o.Disk > 0 {
		all = append(all, same(syscall.RLIMIT_FSIZE, uint64(o.Disk)+fileSlack))
	}
	if o.CPU > 0 && o.has(WallCPUTime) { // of one process; the watch adds them up
		all = append(all, same(syscall.RLIMIT_CPU, uint64(o.CPU/nanosecondsInSecond)+2))
	}
	if o.Memory > 0 {
		// The floor under the watch, which looks ten times a second: no single process
		// gets much further meanwhile. Far above the limit, since address space set
		// aside (thread stacks, arenas) counts here.
		all = append(all, same(syscall.RLIMIT_DATA, 2*uint64(o.Memory)+512<<20))
	}
	return all
}

// forkExec forks, and in the child becomes the program. All signals are held back until
// the child is ready for them.
//
//go:norace
func forkExec(c *child) (int, syscall.Errno) {
	all, old := ^uint64(0), uint64(0)
	if _, _, e := syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, sigSetMask, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&old)), 8, 0, 0); e != 0 {
		return 0, e
	}
	pid := vfork()
	if pid == 0 {
		inChild(c)
	}
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, sigSetMask, uintptr(unsafe.Pointer(&old)), 0, 8, 0, 0)
	if pid < 0 {
		return 0, syscall.Errno(-pid)
	}
	return pid, 0
}

// inChild never returns. It makes raw system calls only.
//
//go:norace
//go:nosplit
func inChild(c *child) {
	var zero [32]byte // a struct sigaction that says "default"
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, 32, uintptr(unsafe.Pointer(&zero)), 0, 8, 0, 0)
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, 33, uintptr(unsafe.Pointer(&zero)), 0, 8, 0, 0)
	_, _, _ = syscall.RawSyscall(syscall.SYS_SETSID, 0, 0, 0)
	for i := range c.limits {
		l := &c.limits[i]
		if _, _, e := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, 0, l.what, uintptr(unsafe.Pointer(&l.value)), 0, 0, 0); e != 0 {
			quit(c, stepLimits, e)
		}
	}
	if c.nice {
		var priority int32 // SCHED_IDLE knows only 0
		if _, _, e := syscall.RawSyscall(syscall.SYS_SETPRIORITY, syscall.PRIO_PROCESS, 0, 19); e != 0 {
			quit(c, stepPriority, e)
		}
		if _, _, e := syscall.RawSyscall(syscall.SYS_SCHED_SETSCHEDULER, 0, schedIdle, uintptr(unsafe.Pointer(&priority))); e != 0 {
			quit(c, stepPriority, e)
		}
	}
	var none uint64
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, sigSetMask, uintptr(unsafe.Pointer(&none)), 0, 8, 0, 0)
	if c.rules >= 0 {
		if _, _, e := syscall.RawSyscall(sysLandlockRestrict, uintptr(c.rules), 0, 0); e != 0 {
			quit(c, stepLandlock, e)
		}
	}
	_, _, e := syscall.RawSyscall(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(c.path)), uintptr(unsafe.Pointer(c.argv)), uintptr(unsafe.Pointer(c.envv)))
	quit(c, stepExec, e)
}

//go:norace
//go:nosplit
func quit(c *child, s step, e syscall.Errno) {
	c.failed, c.errno = s, e
	for {
		_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 127, 0, 0)
	}
}
