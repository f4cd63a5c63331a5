package sandbox

import (
	"encoding/binary"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// step names what the program's process was doing when it failed to start.
type step uint32

const (
	stepKeyring step = iota + 1
	stepLimits
	stepPriority
	stepExec
)

func (s step) String() string {
	switch s {
	case stepKeyring:
		return "start a keyring of its own"
	case stepLimits:
		return "set the resource limits"
	case stepPriority:
		return "lower the priority"
	}
	return "execute"
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
	fail   int // where step and error number are written
}

type limit struct {
	what  uintptr
	value unix.Rlimit
}

// launch starts the program. It forks by hand because limits must hold for the program
// from its first instruction and must not hold for this process: a fork bomb that uses
// up RLIMIT_NPROC would else keep the Go runtime here from starting a thread it needs.
func launch(program string, o orders) (pid int, failed step, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return 0, 0, err
	}
	defer func() { _ = unix.Close(fds[0]) }()
	c := &child{limits: limitsOf(o), nice: o.Nice, fail: fds[1]}
	if c.path, err = syscall.BytePtrFromString(program); err != nil {
		return 0, 0, err
	}
	argv, err := syscall.SlicePtrFromStrings(o.Argv)
	if err != nil {
		return 0, 0, err
	}
	envv, err := syscall.SlicePtrFromStrings(o.Env)
	if err != nil {
		return 0, 0, err
	}
	c.argv, c.envv = &argv[0], &envv[0]

	pid, err = forkExec(c)
	if err != nil {
		_ = unix.Close(fds[1])
		return 0, 0, fmt.Errorf("fork: %w", err)
	}
	_ = unix.Close(fds[1])
	var answer [8]byte
	n, _ := unix.Read(fds[0], answer[:]) // the end of the pipe is the sign of a good exec
	if n < len(answer) {
		return pid, 0, nil
	}
	_, _ = unix.Wait4(pid, nil, 0, nil)
	return 0, step(binary.NativeEndian.Uint32(answer[:])), syscall.Errno(binary.NativeEndian.Uint32(answer[4:]))
}

func limitsOf(o orders) []limit {
	same := func(what int, n uint64) limit { return limit{uintptr(what), unix.Rlimit{Cur: n, Max: n}} }
	all := []limit{
		same(unix.RLIMIT_CORE, 0),
		same(unix.RLIMIT_NOFILE, uint64(o.Files)),
		same(unix.RLIMIT_NPROC, uint64(o.Processes)+ownThreads),
		same(unix.RLIMIT_MEMLOCK, 64<<10),
		same(unix.RLIMIT_MSGQUEUE, 0),
	}
	if o.Disk > 0 {
		all = append(all, same(unix.RLIMIT_FSIZE, uint64(o.Disk)+fileSlack))
	}
	if o.CPU > 0 { // of one process; the watch adds them up
		all = append(all, same(unix.RLIMIT_CPU, uint64(o.CPU.Seconds())+2))
	}
	if o.Memory > 0 {
		// The floor under the watch, which looks ten times a second: no single process
		// gets much further meanwhile. Far above the limit, since address space set
		// aside (thread stacks, arenas) counts here.
		all = append(all, same(unix.RLIMIT_DATA, 2*uint64(o.Memory)+512<<20))
	}
	return all
}

// fileSlack lets a file get past the limit far enough that the count of the disk sees why
// the write failed.
const fileSlack = 1 << 20

// ownThreads are the first process's own, which the kernel counts with the program's.
const ownThreads = 16

// forkExec forks, and in the child becomes the program. All signals are held back until
// the child has put their handlers off, or the Go runtime's would run there.
//
//go:norace
func forkExec(c *child) (int, error) {
	all, old := ^uint64(0), uint64(0)
	if _, _, e := syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&old)), 8, 0, 0); e != 0 {
		return 0, e
	}
	pid, _, e := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if e == 0 && pid == 0 {
		inChild(c)
	}
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&old)), 0, 8, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(pid), nil
}

// inChild never returns. It makes raw system calls only.
//
//go:norace
//go:nosplit
func inChild(c *child) {
	var zero [32]byte // a struct sigaction that says "default"
	for s := uintptr(1); s <= 64; s++ {
		_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGACTION, s, uintptr(unsafe.Pointer(&zero)), 0, 8, 0, 0)
	}
	_, _, _ = syscall.RawSyscall(unix.SYS_SETSID, 0, 0, 0)
	_, _, e := syscall.RawSyscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0)
	if e != 0 && e != unix.ENOSYS && e != unix.EPERM { // a kernel or container without keyrings
		quit(c, stepKeyring, e)
	}
	for i := range c.limits {
		l := &c.limits[i]
		if _, _, e := syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, l.what, uintptr(unsafe.Pointer(&l.value)), 0, 0, 0); e != 0 {
			quit(c, stepLimits, e)
		}
	}
	if c.nice {
		var priority int32 // SCHED_IDLE knows only 0
		if _, _, e := syscall.RawSyscall(unix.SYS_SETPRIORITY, unix.PRIO_PROCESS, 0, 19); e != 0 {
			quit(c, stepPriority, e)
		}
		if _, _, e := syscall.RawSyscall(unix.SYS_SCHED_SETSCHEDULER, 0, unix.SCHED_IDLE, uintptr(unsafe.Pointer(&priority))); e != 0 {
			quit(c, stepPriority, e)
		}
	}
	var none uint64
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&none)), 0, 8, 0, 0)
	_, _, e = syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(c.path)), uintptr(unsafe.Pointer(c.argv)), uintptr(unsafe.Pointer(c.envv)))
	quit(c, stepExec, e)
}

//go:norace
//go:nosplit
func quit(c *child, s step, e syscall.Errno) {
	answer := [2]uint32{uint32(s), uint32(e)}
	_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, uintptr(c.fail), uintptr(unsafe.Pointer(&answer)), 8)
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
	}
}
