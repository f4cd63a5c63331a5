package wasm

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spare-compute/spare/sandbox"
)

const maxrssUnit = 1 << 10 // bytes; Linux counts KiB

func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// harden gives up for good what a helper never needs.
func harden() {
	_ = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}

func residentSet(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	f := bytes.Fields(text)
	if err != nil || len(f) < 2 {
		return 0, sandbox.ErrNotRunning
	}
	pages, err := strconv.ParseInt(string(f[1]), 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// awaitStop waits until all threads are stopped, which takes them microseconds.
func awaitStop(pid int) error {
	deadline := time.Now().Add(time.Second)
	for {
		all, err := stopped(pid)
		switch {
		case err != nil:
			return sandbox.ErrNotRunning
		case all:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("pause process %d: it did not stop within a second", pid)
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// stopped looks at the state of each thread: "T", or a dead one's.
func stopped(pid int) (bool, error) {
	dir := fmt.Sprintf("/proc/%d/task/", pid)
	list, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	for _, d := range list {
		text, err := os.ReadFile(dir + d.Name() + "/stat")
		if err != nil {
			continue // it has just ended
		}
		end := bytes.LastIndexByte(text, ')') // the name before it may hold anything
		if end < 0 || end+2 >= len(text) || !bytes.ContainsRune([]byte("TtXxZ"), rune(text[end+2])) {
			return false, nil
		}
	}
	return true, nil
}

// largePages asks for them: CPython's first ten MiB are then five faults and not 2,500.
func largePages(space []byte) { _ = unix.Madvise(space, unix.MADV_HUGEPAGE) }
