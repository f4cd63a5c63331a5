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

// child is all that the program's process needs between fork and exec. Every pointer is
// made before the fork: in between, the Go runtime must not be entered, because its
// other threads, and the locks they may hold, do not exist there.
type child struct {
	path   *byte
	argv   **byte
	envv   **byte
	limits []limit
	nice   bool
	rules  int // Landlock's, or -1
	fail   int // where step and error number are written
}

type limit struct {
	what  uintptr
	value [2]uint64 // soft and hard
}

// launch starts the program. It forks by hand because limits must hold for the program
// from its first instruction and must not hold for this process: a fork bomb that uses
// up RLIMIT_NPROC would else keep the Go runtime here from starting a thread it needs.
func launch(program string, o *Orders, rules int) (pid int, failed step, errno syscall.Errno) {
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
		return 0, stepFork, numberOf(err)
	}
	c := &child{limits: limitsOf(o), nice: o.Nice, rules: rules, fail: fds[1]}
	path, err := syscall.BytePtrFromString(program)
	argv, err2 := syscall.SlicePtrFromStrings(o.Argv)
	envv, err3 := syscall.SlicePtrFromStrings(o.Env)
	if err != nil || err2 != nil || err3 != nil {
		return 0, stepExec, syscall.EINVAL
	}
	c.path, c.argv, c.envv = path, &argv[0], &envv[0]

	pid, errno = forkExec(c)
	_ = syscall.Close(fds[1])
	defer func() { _ = syscall.Close(fds[0]) }()
	if errno != 0 {
		return 0, stepFork, errno
	}
	var answer [2]uint32
	// The end of the pipe is the sign of a good exec.
	n, _, _ := syscall.Syscall(syscall.SYS_READ, uintptr(fds[0]), uintptr(unsafe.Pointer(&answer)), 8)
	if n < 8 {
		return pid, 0, 0
	}
	_, _ = syscall.Wait4(pid, nil, 0, nil)
	return 0, step(answer[0]), syscall.Errno(answer[1])
}

// numberOf is the kernel's number of an error from package syscall.
func numberOf(err error) syscall.Errno {
	if e, ok := err.(syscall.Errno); ok {
		return e
	}
	return syscall.EINVAL
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
	pid, _, e := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if e == 0 && pid == 0 {
		inChild(c)
	}
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, sigSetMask, uintptr(unsafe.Pointer(&old)), 0, 8, 0, 0)
	return int(pid), e
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
	answer := [2]uint32{uint32(s), uint32(e)}
	_, _, _ = syscall.RawSyscall(syscall.SYS_WRITE, uintptr(c.fail), uintptr(unsafe.Pointer(&answer)), 8)
	for {
		_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 127, 0, 0)
	}
}
