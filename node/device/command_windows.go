package device

import (
	"os/exec"
	"syscall"

	"golang.org/x/sys/windows"
)

func beforeStart(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		HideWindow:    true,
		CreationFlags: windows.IDLE_PRIORITY_CLASS | windows.CREATE_NO_WINDOW,
	}
}

func afterStart(*exec.Cmd) {}
