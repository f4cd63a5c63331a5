//go:build unix

package image

import (
	"errors"
	"io/fs"
	"syscall"
)

// noExec says that the system keeps no executable bit.
const noExec = false

// noSpace reports whether an error says that a disk, or its owner's part of it, is full.
func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// cannotLink reports whether a hard link failed for a reason that a copy gets around: too
// many to one file, or a file system without any (FAT says EPERM).
func cannotLink(err error) bool {
	return errors.Is(err, syscall.EMLINK) || errors.Is(err, syscall.EXDEV) || errors.Is(err, syscall.EPERM) || errors.Is(err, errors.ErrUnsupported)
}

type inode struct{ dev, ino uint64 }

// inodeOf tells a file that has several names.
func inodeOf(info fs.FileInfo) (inode, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Nlink < 2 {
		return inode{}, false
	}
	return inode{uint64(st.Dev), uint64(st.Ino)}, true
}
