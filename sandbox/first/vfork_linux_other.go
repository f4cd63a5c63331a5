//go:build linux && !amd64 && !arm64

package first

import "syscall"

// vfork is a fork here: a process of its own memory cannot tell why it became no program,
// and ends as a shell does then, with exit code 127.
func vfork() (pid int) {
	n, _, e := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if e != 0 {
		return -int(e)
	}
	return int(n)
}
