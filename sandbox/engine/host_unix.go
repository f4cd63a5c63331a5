//go:build linux || darwin

package engine

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// blocks is the space a file takes on the disk.
func blocks(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int64(st.Blocks) * 512
	}
	return 0
}

// alive reports whether a process runs.
func alive(pid int) bool {
	if pid <= 0 {
		return false
	}
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, os.ErrPermission)
}

// limits are the hard limits of this process, which containers of an ordinary user
// cannot go beyond.
func limits() ceiling {
	c := ceiling{processes: maxProcesses, files: maxFiles}
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) == nil {
		c.files = min(c.files, uint64(l.Max))
	}
	if n, ok := processLimit(); ok {
		c.processes = min(c.processes, n)
	}
	return c
}
