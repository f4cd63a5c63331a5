package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownOwner reports whether programs run as ownID: Spare is root, and root here may use
// that id (in a container it may not; then programs run as the container's root, with
// no more rights than an ordinary user's).
var ownOwner = sync.OnceValue(func() bool {
	if os.Geteuid() != 0 {
		return false
	}
	for _, file := range []string{"/proc/self/uid_map", "/proc/self/gid_map"} {
		text, err := os.ReadFile(file)
		if err != nil || !covers(string(text), ownID) {
			return false
		}
	}
	return true
})

// covers reports whether an id map's text covers id.
func covers(text string, id uint64) bool {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		first, err := strconv.ParseUint(f[0], 10, 64)
		count, err2 := strconv.ParseUint(f[2], 10, 64)
		if err == nil && err2 == nil && id >= first && id-first < count {
			return true
		}
	}
	return false
}

// give makes a file or folder usable by ownID. A writable one becomes its own, with all
// that is in it; of a read-only one, what others may not read becomes readable through
// the group, so that nobody else on the machine gains anything.
func give(host string, info fs.FileInfo, writable bool) error {
	if !info.IsDir() {
		return giveOne(host, info, writable, os.Lchown, os.Chmod)
	}
	if writable && owner(info) == ownID {
		return nil // given before, and all in it was made inside
	}
	root, err := os.OpenRoot(host)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			err = giveOne(name, info, writable, root.Lchown, root.Chmod)
		}
		if errors.Is(err, fs.ErrNotExist) { // another run of this folder took it away meanwhile
			return nil
		}
		return err
	})
}

func giveOne(name string, info fs.FileInfo, writable bool, chown func(string, int, int) error, chmod func(string, fs.FileMode) error) error {
	kind := info.Mode().Type()
	if kind != 0 && kind != fs.ModeDir {
		return nil // links lead nowhere inside; nothing else belongs in a mount
	}
	mode := info.Mode().Perm()
	switch {
	case writable && owner(info) != ownID:
		if err := chown(name, ownID, ownID); err != nil {
			return fmt.Errorf("give it to the sandbox's user: %w", err)
		}
		return chmod(name, mode|0o600|folderBit(info, 0o100))
	case writable:
		return nil
	}
	// Reading is what others may do, or the group if that is ours.
	need := fs.FileMode(0o004) | folderBit(info, 0o001) | mode>>6&0o001
	if mode&need == need {
		return nil
	}
	if err := chown(name, -1, ownID); err != nil {
		return fmt.Errorf("let the sandbox's group read it: %w", err)
	}
	return chmod(name, mode|need<<3)
}

func folderBit(info fs.FileInfo, bit fs.FileMode) fs.FileMode {
	if info.IsDir() {
		return bit
	}
	return 0
}

func owner(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}

// cloneTree makes a detached copy of the mounts at a path and below, as the program may
// see them.
func cloneTree(host string, writable bool) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, host, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return -1, err
	}
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE}
	if !writable {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("set its mount attributes: %w", err)
	}
	return fd, nil
}
