package engine

import (
	"io/fs"
	"os"
	"strings"
	"time"
)

// diskUse watches how much the writable mounts of a run grow: a periodic count, while
// the limit on the size of a file bounds each single one at once. What a container in an
// engine's own machine holds in deleted files cannot be seen from here and is not counted.
type diskUse struct {
	dirs         []string
	before, last int64
	limit        int64
	cost         time.Duration // of the last count
	held         func() int64  // space of files that have no name any more; nil is none
	deep         bool          // folders lie too deep to be counted
}

const (
	fileCost  = 4 << 10 // the least a file counts for: a million empty files are no free gift
	diskPause = 250 * time.Millisecond
	diskShare = 20 // a count may take one part in so many of the time

	// Folders deeper than this count as more than any limit: to look at each takes a step
	// for each folder above it.
	maxDepth = 200
)

func newDiskUse(dirs []string, limit int64) *diskUse {
	d := &diskUse{dirs: dirs, limit: limit}
	d.before = d.count()
	return d
}

func (d *diskUse) limited() bool { return d.limit > 0 && len(d.dirs) > 0 }

func (d *diskUse) pause() time.Duration { return max(diskPause, d.cost*diskShare) }

// over counts, and reports whether the limit is passed.
func (d *diskUse) over() bool {
	start := time.Now()
	d.last = d.count() - d.before
	if d.held != nil {
		d.last += d.held()
	}
	d.cost = time.Since(start)
	return d.exceeded()
}

func (d *diskUse) exceeded() bool { return d.limit > 0 && (d.last > d.limit || d.deep) }

// written counts for the last time.
func (d *diskUse) written() int64 {
	d.last = d.count() - d.before
	return max(0, d.last)
}

func (d *diskUse) count() (sum int64) {
	for _, dir := range d.dirs {
		sum += d.folder(dir)
	}
	return sum
}

// folder is the space a file or folder takes or claims: of a sparse file, its length.
// What cannot be looked at while the program moves it about counts next time.
func (d *diskUse) folder(host string) (sum int64) {
	info, err := os.Lstat(host)
	if err != nil || !info.IsDir() {
		return fileUse(info)
	}
	root, err := os.OpenRoot(host)
	if err != nil {
		return 0
	}
	defer func() { _ = root.Close() }()
	_ = fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if e == nil || name == "." {
			return nil
		}
		if strings.Count(name, "/") >= maxDepth {
			d.deep = true
			return fs.SkipAll
		}
		if err != nil && e.IsDir() { // a folder the program has closed to hide what is in it
			if root.Chmod(name, 0o700) == nil {
				sum += d.closed(root, name)
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

// closed counts a folder that has just been opened again.
func (d *diskUse) closed(root *os.Root, name string) (sum int64) {
	sub, err := root.OpenRoot(name)
	if err != nil {
		return 0
	}
	defer func() { _ = sub.Close() }()
	_ = fs.WalkDir(sub.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if strings.Count(name, "/") >= maxDepth {
			d.deep = true
			return fs.SkipAll
		}
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
	return max(info.Size(), blocks(info), fileCost)
}
