package engine

import (
	"os/exec"
	"syscall"
)

// own keeps a console's interruptions that are meant for the node from the client.
func own(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP, HideWindow: true}
}
