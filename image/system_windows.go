package image

import (
	"errors"
	"io/fs"
	"syscall"
)

// noExec says that the system keeps no executable bit.
const noExec = true

// noSpace reports whether an error says that a disk is full.
func noSpace(err error) bool {
	const handleDiskFull, diskFull = syscall.Errno(39), syscall.Errno(112)
	return errors.Is(err, handleDiskFull) || errors.Is(err, diskFull)
}

type inode struct{}

// inodeOf is not told here: a file with several names is just packed several times.
func inodeOf(fs.FileInfo) (inode, bool) { return inode{}, false }
