//go:build unix

package device

import (
	"os/exec"

	"golang.org/x/sys/unix"
)

func beforeStart(*exec.Cmd) {}

// afterStart gives way to everything the owner runs. Failing to do so is harmless.
func afterStart(cmd *exec.Cmd) {
	_ = unix.Setpriority(unix.PRIO_PROCESS, cmd.Process.Pid, 19)
}
