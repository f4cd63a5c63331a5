//go:build linux || darwin

package engine

import (
	"os/exec"
	"syscall"
)

// own keeps signals that are meant for the node, as a terminal sends them, from the
// client, which would hand them on to the container.
func own(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
