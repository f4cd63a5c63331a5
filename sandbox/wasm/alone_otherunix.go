//go:build unix && !linux

package wasm

import (
	"bytes"
	"fmt"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/spare-compute/spare/sandbox"
)

const maxrssUnit = 1 // byte; macOS counts bytes

func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func harden() {}

// residentSet asks ps: the system call for it is no stable interface here.
func residentSet(pid int) (int64, error) {
	out, err := exec.Command("/bin/ps", "-o", "rss=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return 0, sandbox.ErrNotRunning
	}
	kib, err := strconv.ParseInt(string(bytes.TrimSpace(out)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read what ps says of process %d: %w", pid, err)
	}
	return kib << 10, nil
}

// awaitStop has nothing cheap to look at here; a stop takes microseconds.
func awaitStop(int) error { return nil }

func largePages([]byte) {}
