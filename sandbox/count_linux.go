package sandbox

import (
	"bytes"
	"encoding/binary"
	"strconv"

	"golang.org/x/sys/unix"
)

// total counts all in the folders; it may end early when it has passed stop.
func (d *diskUse) total(stop tally) tally {
	c := &count{stop: stop, linked: map[fileID]bool{}}
	for _, dir := range d.dirs {
		c.path(dir)
	}
	return c.tally
}

// fileID is a file, by whatever name.
type fileID struct{ device, inode uint64 }

// count adds up files. A folder is entered through the descriptor of the one above, never
// through a link: whatever the program moves about meanwhile, the count stays inside.
type count struct {
	tally
	stop   tally
	linked map[fileID]bool // files with several names that are counted
	buf    []byte
}

// maxDepth of folders counts as more than any limit: each level costs a descriptor.
const maxDepth = 200

// passed ends the count. Zero stops nothing.
func (c *count) passed() bool { return c.over(c.stop) }

func (c *count) path(dir string) {
	var st unix.Stat_t
	if unix.Lstat(dir, &st) != nil {
		return
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		c.add(&st)
		return
	}
	if fd := openFolder(unix.AT_FDCWD, dir); fd >= 0 {
		c.folder(fd, 0)
	}
}

// add counts the space a file takes or claims: of a sparse file, its length.
func (c *count) add(st *unix.Stat_t) {
	folder := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if !folder && st.Nlink > 1 {
		id := fileID{st.Dev, st.Ino}
		if c.linked[id] {
			c.files++
			c.bytes += fileCost
			return
		}
		c.linked[id] = true
	}
	c.files++
	c.bytes += claims(st)
}

func claims(st *unix.Stat_t) int64 { return max(st.Size, st.Blocks*512, fileCost) }

// openFolder opens a folder to list it. One that the program has closed, to hide what is
// in it, is opened up again: through a handle, since the name may be another thing's by then.
func openFolder(at int, name string) int {
	const flags = unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(at, name, unix.O_RDONLY|flags, 0)
	if err == nil {
		return fd
	}
	if err != unix.EACCES {
		return -1
	}
	handle, err := unix.Openat(at, name, unix.O_PATH|flags, 0)
	if err != nil {
		return -1
	}
	defer func() { _ = unix.Close(handle) }()
	self := "/proc/self/fd/" + strconv.Itoa(handle)
	if unix.Chmod(self, 0o700) != nil {
		return -1
	}
	fd, err = unix.Open(self, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
}

// folder counts what is in an open folder, and closes it. What cannot be looked at while
// the program moves it about counts next time.
func (c *count) folder(fd, depth int) {
	defer func() { _ = unix.Close(fd) }()
	if depth > maxDepth {
		c.bytes, c.files = max(c.bytes, c.stop.bytes+1), max(c.files, c.stop.files+1)
		return
	}
	if c.buf == nil {
		c.buf = make([]byte, 64<<10)
	}
	var folders []string
	for !c.passed() {
		n, err := unix.Getdents(fd, c.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			break
		}
		for name := range names(c.buf[:n]) {
			var st unix.Stat_t
			if unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
				continue
			}
			c.add(&st)
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				folders = append(folders, name)
			}
		}
	}
	for _, name := range folders {
		if c.passed() {
			return
		}
		if sub := openFolder(fd, name); sub >= 0 {
			c.folder(sub, depth+1)
		}
	}
}

// names yields the entries of what getdents64(2) gave, but "." and "..".
func names(buf []byte) func(func(string) bool) {
	const length, nameAt = 16, 19 // offsets in struct linux_dirent64
	return func(yield func(string) bool) {
		for len(buf) > nameAt {
			size := int(binary.NativeEndian.Uint16(buf[length:]))
			if size <= nameAt || size > len(buf) {
				return
			}
			name, _, _ := bytes.Cut(buf[nameAt:size], []byte{0})
			buf = buf[size:]
			if s := string(name); s != "." && s != ".." && !yield(s) {
				return
			}
		}
	}
}
