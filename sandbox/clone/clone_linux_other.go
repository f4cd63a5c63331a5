//go:build linux && !amd64 && !arm64

package clone

import "syscall"

// Start is syscall.ForkExec here.
func Start(program string, argv []string, attr *syscall.ProcAttr) (pid int, err error) {
	return syscall.ForkExec(program, argv, attr)
}
