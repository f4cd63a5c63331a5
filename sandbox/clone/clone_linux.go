//go:build linux && (amd64 || arm64)

package clone

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Start executes a program in a process of its own, and returns once it is that program.
// Of the attributes it takes Dir, Env, Files, and of Sys those that a sandbox needs:
// Cloneflags, UidMappings, GidMappings, GidMappingsEnableSetgroups, Credential, AmbientCaps,
// Pdeathsig, Setsid, UseCgroupFD. All others are ignored. The program starts with every
// signal blocked. Errors are the kernel's, with what was tried.
func Start(program string, argv []string, attr *syscall.ProcAttr) (pid int, err error) {
	c, err := newChild(program, argv, attr)
	if err != nil {
		return 0, err
	}
	// The kernel ties the child's life to this thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer runtime.KeepAlive(c)

	stack, err := unix.Mmap(-1, 0, stackSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0, fmt.Errorf("make a stack: %w", err)
	}
	defer func() { _ = unix.Munmap(stack) }()
	pid, errno := c.clone(attr.Sys, stack)
	if errno != 0 {
		return 0, fmt.Errorf("clone: %w", errno)
	}
	err = mapIDs(pid, attr.Sys)
	c.answer(err == nil)
	c.gone(pid)
	if err == nil && c.errno != 0 {
		err = fmt.Errorf("%s: %w", c.failed, c.errno)
	}
	if err != nil {
		for {
			if _, again := syscall.Wait4(pid, nil, 0, nil); again != syscall.EINTR {
				return 0, err
			}
		}
	}
	return pid, nil
}

// stackSize is the child's stack. What it calls is bounded by the linker, far below.
const stackSize = 32 << 10

// child is all that the process needs until it is the program. It shares this process's
// memory until then, so that what it writes is seen here; but it is no thread of this
// process, and the Go runtime, which knows nothing of it, must not be entered there.
type child struct {
	answered uint32 // a futex: what the parent says once the ids are mapped
	alive    uint32 // a futex: the kernel sets it to 0 when the process is the program, or gone

	failed step
	errno  syscall.Errno // 0 = it has become the program

	path, dir  *byte
	argv, envv **byte
	files      []uintptr // of the parent, to become 0, 1, 2, …
	credential *syscall.Credential
	groups     bool // it may give up the groups that it is in
	dumpable   uintptr
	ambient    []uintptr
	caps       [6]uint32 // what to add: effective, permitted, inheritable, and those of the higher 32
	death      uintptr   // the signal it gets when the parent is gone
	session    bool
}

// What the parent answers.
const (
	goOn   = 1 + iota
	giveUp // the ids could not be mapped
)

// step names what the process was doing when it failed to start.
type step uint32

const (
	stepNone step = iota
	stepGroups
	stepGroup
	stepUser
	stepRights
	stepDeath
	stepSession
	stepDir
	stepFiles
	stepExec
)

func (s step) String() string {
	return [...]string{
		"wait for the ids", "leave the groups", "take the group", "take the user", "keep the capabilities",
		"tie to the parent's life", "start a session", "enter the folder", "take the files", "execute",
	}[s]
}

func newChild(program string, argv []string, attr *syscall.ProcAttr) (*child, error) {
	c := &child{alive: 1, dumpable: dumpable(), credential: attr.Sys.Credential, ambient: attr.Sys.AmbientCaps, death: uintptr(attr.Sys.Pdeathsig), session: attr.Sys.Setsid}
	path, err := syscall.BytePtrFromString(program)
	args, err2 := syscall.SlicePtrFromStrings(argv)
	env, err3 := syscall.SlicePtrFromStrings(attr.Env)
	dir, err4 := syscall.BytePtrFromString(attr.Dir)
	for _, err := range []error{err, err2, err3, err4} {
		if err != nil {
			return nil, err
		}
	}
	c.path, c.argv, c.envv = path, &args[0], &env[0]
	if attr.Dir != "" {
		c.dir = dir
	}
	c.groups = attr.Sys.GidMappingsEnableSetgroups || len(attr.Sys.GidMappings) == 0
	c.files = append(c.files, attr.Files...)
	for _, what := range c.ambient {
		c.caps[3*(what/32)+1] |= 1 << (what % 32)
		c.caps[3*(what/32)+2] |= 1 << (what % 32)
	}
	return c, nil
}

// dumpable is whether other processes of this one's user may look into it. A process that
// changes its user ends that, and for all that share its memory.
var dumpable = sync.OnceValue(func() uintptr {
	n, _ := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	return uintptr(n)
})

const (
	cloneIntoCgroup = 1 << 33 // of clone3 only
	cloneArgsSize   = 88      // of struct clone_args, with its field cgroup
	spill           = 64      // bytes above its frame, in which a Go function may keep its arguments
)

// cloneArgs is struct clone_args of linux/sched.h.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

var withoutClone3 bool // tests only

// clone makes the process. It has every signal blocked, because the handlers are those of
// the Go runtime.
//
//go:norace
func (c *child) clone(sys *syscall.SysProcAttr, stack []byte) (int, syscall.Errno) {
	flags := uint64(sys.Cloneflags) | unix.CLONE_VM | unix.CLONE_CHILD_CLEARTID
	low := uint64(uintptr(unsafe.Pointer(&stack[0])))
	size := uint64(len(stack) - spill)
	alive := uint64(uintptr(unsafe.Pointer(&c.alive)))
	args := &cloneArgs{flags: flags, childTID: alive, exitSignal: uint64(unix.SIGCHLD), stack: low, stackSize: size}
	if sys.UseCgroupFD {
		args.flags |= cloneIntoCgroup
		args.cgroup = uint64(sys.CgroupFD)
	}
	live := entry()
	all, old := ^uint64(0), uint64(0)
	if _, _, e := syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&old)), 8, 0, 0); e != 0 {
		return 0, e
	}
	pid := -int(unix.ENOSYS)
	if !withoutClone3 {
		pid = cloned(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), cloneArgsSize, 0, 0, 0, live, c)
	}
	if pid == -int(unix.ENOSYS) && !sys.UseCgroupFD {
		// A container's filter, or a service's, cannot look into the arguments of clone3, and
		// says that there is none. Of clone, architectures have the last two arguments
		// either way round; one is of no effect without its flag.
		tid := uintptr(alive)
		pid = cloned(unix.SYS_CLONE, uintptr(flags)|uintptr(unix.SIGCHLD), uintptr(low+size), 0, tid, tid, live, c)
	}
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&old)), 0, 8, 0, 0)
	runtime.KeepAlive(args)
	if pid < 0 {
		return 0, syscall.Errno(-pid)
	}
	return pid, 0
}

// cloned makes a call of clone's kind. The child calls live, on the stack it was given; in
// the parent it returns a negated error number if the call fails.
func cloned(call, a, b, c, d, e, live uintptr, child *child) (pid int)

// entry is where live begins: its code, called as Go calls it. Called by its name from
// assembly it would have a wrapper around it, into which the race detector puts calls.
func entry() uintptr {
	f := live
	return **(**uintptr)(unsafe.Pointer(&f))
}

// mapIDs writes the maps of the process's user namespace.
func mapIDs(pid int, sys *syscall.SysProcAttr) error {
	proc := "/proc/" + strconv.Itoa(pid) + "/"
	if len(sys.GidMappings) > 0 && !sys.GidMappingsEnableSetgroups {
		if err := write(proc+"setgroups", "deny"); err != nil {
			return err
		}
	}
	if err := write(proc+"uid_map", lines(sys.UidMappings)); err != nil {
		return err
	}
	return write(proc+"gid_map", lines(sys.GidMappings))
}

func lines(maps []syscall.SysProcIDMap) string {
	var b strings.Builder
	for _, m := range maps {
		fmt.Fprintf(&b, "%d %d %d\n", m.ContainerID, m.HostID, m.Size)
	}
	return b.String()
}

// write writes to a file that takes one write.
func write(name, text string) error {
	if text == "" {
		return nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	_ = f.Close()
	return err
}

// answer tells the child to go on, or to give up.
func (c *child) answer(mapped bool) {
	answer := uint32(goOn)
	if !mapped {
		answer = giveUp
	}
	atomic.StoreUint32(&c.answered, answer)
	_, _, _ = syscall.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&c.answered)), futexWake, 1, 0, 0, 0)
}

// Operations of futex. They are not the private ones, which the kernel does not use when
// a process ends.
const (
	futexWait = 0
	futexWake = 1
)

// gone waits until the child has left this process's memory. The kernel says so, but not if
// the child crashes and its memory is written down: so now and then it is looked at.
func (c *child) gone(pid int) {
	for n := atomic.LoadUint32(&c.alive); n != 0; n = atomic.LoadUint32(&c.alive) {
		look := unix.Timespec{Sec: 1}
		_, _, e := syscall.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&c.alive)), futexWait, uintptr(n), uintptr(unsafe.Pointer(&look)), 0, 0)
		var info unix.Siginfo
		if e == unix.ETIMEDOUT && unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) == nil && info.Signo != 0 {
			return
		}
	}
}
