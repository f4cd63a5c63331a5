package sandbox

import (
	"io/fs"
	"os"
	"syscall"
	"time"
)

// diskUse watches how much the writable mounts of a run grow. It is a periodic count,
// so a run may pass its limit for a moment; RLIMIT_FSIZE bounds each single file at once.
type diskUse struct {
	dirs   []string
	before int64
	last   int64
	limit  int64
	cost   time.Duration // of the last count
}

// fileCost is the least a file counts for: a million empty files are no free gift.
const fileCost = 4 << 10

const (
	diskPause = 250 * time.Millisecond
	diskShare = 20 // a count may take one part in so many of the time
)

func newDiskUse(dirs []string, limit int64) *diskUse {
	d := &diskUse{dirs: dirs, limit: limit}
	d.before = d.count()
	return d
}

func (d *diskUse) limited() bool { return d.limit > 0 && len(d.dirs) > 0 }

// pause is how long to wait before the next count.
func (d *diskUse) pause() time.Duration {
	return max(diskPause, d.cost*diskShare)
}

// over counts, and reports whether the limit is passed.
func (d *diskUse) over() bool {
	d.last = d.count() - d.before
	return d.exceeded()
}

// written counts for the last time.
func (d *diskUse) written() int64 {
	d.last = d.count() - d.before
	return max(0, d.last)
}

func (d *diskUse) exceeded() bool { return d.limit > 0 && d.last > d.limit }

func (d *diskUse) count() int64 {
	start := time.Now()
	var sum int64
	for _, dir := range d.dirs {
		sum += folderUse(dir)
	}
	d.cost = time.Since(start)
	return sum
}

// folderUse is the space a file or folder takes or claims: of a sparse file, its length.
// What cannot be looked at while the program moves it about counts next time.
func folderUse(host string) int64 {
	info, err := os.Lstat(host)
	if err != nil || !info.IsDir() {
		return fileUse(info)
	}
	root, err := os.OpenRoot(host)
	if err != nil {
		return 0
	}
	defer func() { _ = root.Close() }()
	var sum int64
	_ = fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if name == "." || e == nil {
			return nil
		}
		if err != nil && e.IsDir() { // a folder the program has closed to hide what is in it
			if root.Chmod(name, 0o700) == nil {
				sum += countClosed(root, name)
			}
			return nil
		}
		if info, err := e.Info(); err == nil {
			sum += fileUse(info)
		}
		return nil
	})
	return sum
}

// countClosed counts a folder that has just been opened again.
func countClosed(root *os.Root, name string) int64 {
	sub, err := root.OpenRoot(name)
	if err != nil {
		return 0
	}
	defer func() { _ = sub.Close() }()
	var sum int64
	_ = fs.WalkDir(sub.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err == nil && name != "." {
			if info, err := e.Info(); err == nil {
				sum += fileUse(info)
			}
		}
		return nil
	})
	return sum
}

func fileUse(info fs.FileInfo) int64 {
	if info == nil {
		return 0
	}
	use := max(info.Size(), fileCost)
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		use = max(use, st.Blocks*512)
	}
	return use
}
