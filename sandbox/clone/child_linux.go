//go:build linux && (amd64 || arm64)

package clone

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// live is what the child does. It never returns, and makes raw system calls only.
//
//go:norace
//go:nosplit
func live(c *child) {
	// Before anything else: if the parent is killed now, nobody answers. If it was killed a
	// moment ago, nothing tells so but that no answer comes.
	c.tie()
	patience := unix.Timespec{Sec: 60}
	for c.answered == 0 { // read anew each time: the call in between may change it
		_, _, e := syscall.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&c.answered)), futexWait, 0, uintptr(unsafe.Pointer(&patience)), 0, 0)
		if e == unix.ETIMEDOUT {
			c.quit(stepNone, e)
		}
	}
	if c.answered != goOn {
		c.quit(stepNone, syscall.ECANCELED)
	}
	c.become()
	if len(c.ambient) > 0 {
		c.keepRights()
	}
	c.tie() // changing the user has undone it
	if c.session {
		if _, _, e := syscall.RawSyscall(unix.SYS_SETSID, 0, 0, 0); e != 0 {
			c.quit(stepSession, e)
		}
	}
	if c.dir != nil {
		if _, _, e := syscall.RawSyscall(unix.SYS_CHDIR, uintptr(unsafe.Pointer(c.dir)), 0, 0); e != 0 {
			c.quit(stepDir, e)
		}
	}
	c.takeFiles()
	_, _, e := syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(c.path)), uintptr(unsafe.Pointer(c.argv)), uintptr(unsafe.Pointer(c.envv)))
	c.quit(stepExec, e)
}

//go:norace
//go:nosplit
func (c *child) tie() {
	if c.death == 0 {
		return
	}
	if _, _, e := syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, c.death, 0, 0, 0, 0); e != 0 {
		c.quit(stepDeath, e)
	}
}

// become takes the user and group.
//
//go:norace
//go:nosplit
func (c *child) become() {
	if c.credential == nil {
		return
	}
	if len(c.ambient) > 0 {
		_, _, _ = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0, 0, 0, 0)
	}
	if c.groups {
		if _, _, e := syscall.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); e != 0 {
			c.quit(stepGroups, e)
		}
	}
	gid, uid := uintptr(c.credential.Gid), uintptr(c.credential.Uid)
	if _, _, e := syscall.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); e != 0 {
		c.quit(stepGroup, e)
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); e != 0 {
		c.quit(stepUser, e)
	}
	if c.dumpable == 1 {
		_, _, _ = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1, 0, 0, 0, 0)
	}
}

// keepRights makes capabilities survive the execution of a program.
//
//go:norace
//go:nosplit
func (c *child) keepRights() {
	header := [2]uint32{unix.LINUX_CAPABILITY_VERSION_3, 0}
	var has [6]uint32
	if _, _, e := syscall.RawSyscall(unix.SYS_CAPGET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&has)), 0); e != 0 {
		c.quit(stepRights, e)
	}
	for i := range has {
		has[i] |= c.caps[i]
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&has)), 0); e != 0 {
		c.quit(stepRights, e)
	}
	for _, what := range c.ambient {
		if _, _, e := syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, what, 0, 0, 0); e != 0 {
			c.quit(stepRights, e)
		}
	}
}

// takeFiles moves the files out of the way of one another, and then to their numbers.
//
//go:norace
//go:nosplit
func (c *child) takeFiles() {
	for i, fd := range c.files {
		moved, _, e := syscall.RawSyscall(unix.SYS_FCNTL, fd, unix.F_DUPFD_CLOEXEC, uintptr(len(c.files)))
		if e != 0 {
			c.quit(stepFiles, e)
		}
		c.files[i] = moved
	}
	for i, fd := range c.files {
		if _, _, e := syscall.RawSyscall(unix.SYS_DUP3, fd, uintptr(i), 0); e != 0 {
			c.quit(stepFiles, e)
		}
	}
}

//go:norace
//go:nosplit
func (c *child) quit(s step, e syscall.Errno) {
	c.failed, c.errno = s, e
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
	}
}
