package first

import (
	"syscall"
	"unsafe"
)

// What package syscall does not name. The numbers of these calls are the same on every
// architecture Linux has them on.
const (
	sysOpenTree     = 428
	sysMoveMount    = 429
	sysCloseRange   = 436
	sysMountSetattr = 442

	openTreeClone      = 1
	openTreeCloexec    = syscall.O_CLOEXEC
	atRecursive        = 0x8000
	atEmptyPath        = 0x1000
	moveMountEmptyPath = 4
	closeRangeCloexec  = 4
	mountAttrReadOnly  = 1
	mountAttrNosuid    = 2
	mountAttrNodev     = 4
	mountAttrNoexec    = 8
	prCapAmbient       = 47
	prCapAmbientClear  = 4
	prSetNoNewPrivs    = 38
	prCapbsetDrop      = 24
	prSetSecurebits    = 28
	capabilityVersion3 = 0x20080522
	keyctlJoinSession  = 1
	rlimitNproc        = 6
	rlimitMemlock      = 8
	rlimitMsgqueue     = 12
	rlimitSigpending   = 11
	seccompSetFilter   = 1 // SECCOMP_SET_MODE_FILTER
	seccompAllThreads  = 1 // SECCOMP_FILTER_FLAG_TSYNC
	// Without it, some kernels slow a filtered program down against an attack that is one
	// process's on itself.
	seccompSpecAllow    = 4
	prCapbsetRead       = 23
	prGetSeccomp        = 21
	prGetNoNewPrivs     = 39
	seccompFiltered     = 2 // SECCOMP_MODE_FILTER
	tmpfsMagic          = 0x01021994
	schedIdle           = 5
	rusageChildren      = -1
	sigSetMask          = 2
	pollIn              = 1
	userHz              = 100 // ticks a second in /proc, on every Linux
	nanosecondsInSecond = 1_000_000_000
)

var atCwd = -100 // AT_FDCWD; a variable, for its conversion to an unsigned word

// faultError is an error of the kernel with what was tried.
type faultError struct {
	what string
	err  error
}

func (f faultError) Error() string { return f.what + ": " + f.err.Error() }

func fault(what string, err error) error { return faultError{what, err} }

// mountAttr is struct mount_attr.
type mountAttr struct{ set, clear, propagation, namespace uint64 }

func openTree(name string) (int, error) {
	p, err := syscall.BytePtrFromString(name)
	if err != nil {
		return -1, err
	}
	fd, _, e := syscall.RawSyscall(sysOpenTree, uintptr(atCwd), uintptr(unsafe.Pointer(p)), openTreeClone|openTreeCloexec|atRecursive)
	if e != 0 {
		return -1, e
	}
	return int(fd), nil
}

func setTreeAttr(fd int, set uint64) error {
	attr := mountAttr{set: set, propagation: syscall.MS_PRIVATE}
	return mountSetattr(fd, "", atEmptyPath|atRecursive, &attr)
}

func mountSetattr(fd int, name string, flags uintptr, attr *mountAttr) error {
	p, err := syscall.BytePtrFromString(name)
	if err != nil {
		return err
	}
	_, _, e := syscall.RawSyscall6(sysMountSetattr, uintptr(fd), uintptr(unsafe.Pointer(p)), flags, uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr), 0)
	if e != 0 {
		return e
	}
	return nil
}

func moveMount(fd int, target string) error {
	p, err := syscall.BytePtrFromString(target)
	if err != nil {
		return err
	}
	empty := new(byte)
	_, _, e := syscall.RawSyscall6(sysMoveMount, uintptr(fd), uintptr(unsafe.Pointer(empty)), uintptr(atCwd), uintptr(unsafe.Pointer(p)), moveMountEmptyPath, 0)
	if e != 0 {
		return e
	}
	return nil
}

func prctl(option int, a, b uintptr) error {
	if _, _, e := syscall.RawSyscall6(syscall.SYS_PRCTL, uintptr(option), a, b, 0, 0, 0); e != 0 {
		return e
	}
	return nil
}

func writeFile(name, text string) error {
	fd, err := syscall.Open(name, syscall.O_CREAT|syscall.O_WRONLY|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	_, err = syscall.Write(fd, []byte(text))
	if closing := syscall.Close(fd); err == nil {
		err = closing
	}
	return err
}

// readFile reads a small file whole, into buf as far as that goes.
func readFile(name string, buf []byte) []byte {
	fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer func() { _ = syscall.Close(fd) }()
	n := 0
	for n < len(buf) {
		m, err := syscall.Read(fd, buf[n:])
		if err != nil || m == 0 {
			break
		}
		n += m
	}
	return buf[:n]
}

func readlink(name string) (string, bool) {
	var buf [4096]byte
	n, err := syscall.Readlink(name, buf[:])
	return string(buf[:max(n, 0)]), err == nil
}

// itoa writes a whole number that is not negative.
func itoa(n int64) string {
	var buf [20]byte
	i := len(buf)
	for {
		i--
		buf[i] = byte('0' + n%10)
		if n /= 10; n == 0 {
			return string(buf[i:])
		}
	}
}
