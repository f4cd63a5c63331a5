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

// cannotLink reports whether a hard link failed for a reason that a copy gets around: too
// many to one file, or a file system without any.
func cannotLink(err error) bool {
	const invalidFunction, notSameDevice, tooManyLinks = syscall.Errno(1), syscall.Errno(17), syscall.Errno(1142)
	return errors.Is(err, invalidFunction) || errors.Is(err, notSameDevice) || errors.Is(err, tooManyLinks) || errors.Is(err, errors.ErrUnsupported)
}

type inode struct{}

// inodeOf is not told here: a file with several names is just packed several times.
func inodeOf(fs.FileInfo) (inode, bool) { return inode{}, false }
