package first

import (
	"syscall"
	"unsafe"
)

// deafen gives every signal its default action, which for the first process of a pid
// namespace means that no signal from inside has any effect. The Go runtime's own
// handlers would end it on most. Signals 32 and 33 stay: runtimes use them among threads.
func deafen() {
	var standard [32]byte // a struct sigaction
	for s := uintptr(1); s <= 64; s++ {
		if s != 32 && s != 33 {
			_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, s, uintptr(unsafe.Pointer(&standard)), 0, 8, 0, 0)
		}
	}
}

// keepTo lets the program run on some processors only.
func keepTo(cpus []int) error {
	if len(cpus) == 0 {
		return nil
	}
	var set [1024 / 8]byte
	for _, cpu := range cpus {
		if cpu >= 0 && cpu < len(set)*8 {
			set[cpu/8] |= 1 << (cpu % 8)
		}
	}
	if _, _, e := syscall.RawSyscall(syscall.SYS_SCHED_SETAFFINITY, 0, unsafe.Sizeof(set), uintptr(unsafe.Pointer(&set))); e != 0 {
		return fault("keep to "+itoa(int64(len(cpus)))+" processors", e)
	}
	return nil
}

// securebits of linux/securebits.h: user id 0 means nothing (1), changing ids gives no
// capabilities (4), nor are they kept (lock 0x20), none become ambient (0x40), and all
// of that is locked (2, 8, 0x80).
const securebits = 1 | 2 | 4 | 8 | 0x20 | 0x40 | 0x80

// dropRights gives up every capability, now and for good, on this thread: the one the
// program is forked from. The other threads of the first process keep theirs in this
// namespace; nothing inside reaches them.
func dropRights(o *Orders) error {
	if o.has(WallPrivileges) {
		if err := prctl(prSetNoNewPrivs, 1, 0); err != nil {
			return fault("set no_new_privs", err)
		}
	}
	if !o.has(WallRights) {
		return nil
	}
	for c := uintptr(0); c < 64; c++ {
		err := prctl(prCapbsetDrop, c, 0)
		if err == syscall.EINVAL {
			break // past this kernel's last capability
		}
		if err != nil {
			return fault("drop a capability", err)
		}
	}
	if err := prctl(prCapAmbient, prCapAmbientClear, 0); err != nil {
		return fault("clear the ambient capabilities", err)
	}
	if err := prctl(prSetSecurebits, securebits, 0); err != nil {
		return fault("lock the secure bits", err)
	}
	header := [2]uint32{capabilityVersion3, 0}
	var none [6]uint32 // effective, permitted and inheritable, twice
	if _, _, e := syscall.RawSyscall(syscall.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none)), 0); e != 0 {
		return fault("drop the capabilities", e)
	}
	return nil
}

// seal starts a keyring of this process's own and then installs the filter of system
// calls, on every thread: the first process has made all calls that it refuses, and the
// program inherits it.
func seal(program []byte) error {
	_, _, e := syscall.RawSyscall(syscall.SYS_KEYCTL, keyctlJoinSession, 0, 0)
	if e != 0 && e != syscall.ENOSYS && e != syscall.EPERM { // a kernel or container without keyrings
		return fault("start a keyring of its own", e)
	}
	if len(program) == 0 {
		return nil
	}
	filter := struct { // struct sock_fprog
		length uint16 // in instructions of 8 bytes
		first  *byte
	}{uint16(len(program) / 8), &program[0]}
	thread, _, e := syscall.RawSyscall(sysSeccomp, seccompSetFilter, seccompSpecAllow|seccompAllThreads, uintptr(unsafe.Pointer(&filter)))
	if e == 0 && thread != 0 {
		e = syscall.EBUSY // that thread has another filter
	}
	if e != 0 {
		return fault("install the filter of system calls", e)
	}
	return nil
}
