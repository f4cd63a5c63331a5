package engine

import (
	"io/fs"
	"os"
)

// blocks is the space a file takes on the disk, which Windows does not tell so easily.
func blocks(fs.FileInfo) int64 { return 0 }

// alive reports whether a process runs: on Windows one that does not cannot be found.
func alive(pid int) bool {
	p, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	_ = p.Release()
	return true
}

// limits are the engine's own machine's, of which this one knows nothing.
func limits() ceiling { return ceiling{processes: maxProcesses, files: maxFiles} }
