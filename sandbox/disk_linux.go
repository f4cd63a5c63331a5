package sandbox

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/spare-compute/spare/sandbox/first"
)

// diskUse watches how much the writable mounts of a run grow. It counts now and then, so
// a run may pass its limit for a moment; the free space of the volume, which costs
// nothing to look at, tells when not to wait. RLIMIT_FSIZE bounds each single file at once.
//
// Quotas of the kernel's would be exact, but need a file system that was made and mounted
// for them, and root.
type diskUse struct {
	dirs    []string
	volumes []volume
	limit   tally
	before  tally
	last    tally // beyond before
	hidden  int   // counts in a row that found files hidden from counting
	cost    time.Duration
	pids    func() []int // the run's processes
}

// tally is space and number of files.
type tally struct{ bytes, files int64 }

func (t tally) less(o tally) tally { return tally{t.bytes - o.bytes, t.files - o.files} }

// over reports whether it passes a limit; a limit of 0 is none.
func (t tally) over(limit tally) bool {
	return limit.bytes > 0 && t.bytes > limit.bytes || limit.files > 0 && t.files > limit.files
}

const (
	fileCost = 4 << 10 // the least a file counts for: a million empty files are no free gift

	defaultInodes = 1_000_000

	diskGlance = 50 * time.Millisecond  // between looks at the free space
	diskPause  = 250 * time.Millisecond // between counts
	diskShare  = 50                     // counts may take one part in so many of the time,
	diskUrgent = 3                      // or in so many while space goes quickly

	// However long a count takes, the next one comes after no more than this: it may be
	// the run that makes it long.
	diskLongest = 10 * time.Second
	diskPressed = 2 * time.Second // while space goes quickly
)

func newDiskUse(dirs []string, l Limits) *diskUse {
	d := &diskUse{dirs: dirs, limit: tally{l.Disk, l.Inodes}, pids: func() []int { return nil }}
	if l.Inodes == 0 {
		d.limit.files = defaultInodes
	}
	d.volumes = volumesOf(dirs)
	d.before = d.total(tally{})
	return d
}

func (d *diskUse) watched() bool { return len(d.dirs) > 0 }

// over counts, and reports whether a limit is passed.
func (d *diskUse) over() bool {
	start := time.Now()
	stop := d.before
	stop.bytes, stop.files = beyond(stop.bytes, d.limit.bytes), beyond(stop.files, d.limit.files)
	d.last = d.total(stop).less(d.before)
	held := heldBy(d.pids(), d.dirs)
	d.last.bytes += held.bytes
	d.last.files += held.files
	d.blame(held.hidden)
	for i := range d.volumes {
		d.volumes[i].counted()
	}
	d.cost = time.Since(start)
	return d.exceeded()
}

// beyond is where a count may end: it is past the limit by then. 0 is nowhere.
func beyond(before, limit int64) int64 {
	if limit == 0 {
		return 0
	}
	return before + limit
}

// blame charges a run that keeps files where they cannot be measured (in a message not
// yet received, deleted and only mapped, in a process that lets nobody look) with all the
// space that its volumes lose while it does. What is found but once may be on its way.
func (d *diskUse) blame(hidden bool) {
	if !hidden {
		d.hidden = 0
		return
	}
	if d.hidden++; d.hidden == 1 {
		for i := range d.volumes {
			d.volumes[i].open = d.volumes[i].count // how it was when nothing was hidden
		}
		return
	}
	for _, v := range d.volumes {
		d.last.bytes = max(d.last.bytes, v.open.less(v.free()).bytes)
	}
}

// written counts for the last time.
func (d *diskUse) written() int64 {
	d.last = d.total(tally{}).less(d.before)
	return max(0, d.last.bytes)
}

func (d *diskUse) exceeded() bool { return d.last.over(d.limit) || d.fills() }

// fills reports whether a volume is close to full and this run is to blame for half of
// what it lost: the machine's owner needs room too.
func (d *diskUse) fills() bool {
	for _, v := range d.volumes {
		lost := v.lost()
		if v.low() && d.last.over(tally{max(1, lost.bytes/2), max(1, lost.files/2)}) {
			return true
		}
	}
	return false
}

// hurries reports whether so much space has gone since the last count that this run may
// be close to its limit, or a volume to its end.
func (d *diskUse) hurries() bool {
	for _, v := range d.volumes {
		if v.low() {
			return true
		}
		lost := v.sinceCount()
		if lost.over(tally{max(1, (d.limit.bytes-d.last.bytes)/2) * sign(d.limit.bytes), max(1, (d.limit.files-d.last.files)/2)}) {
			return true
		}
	}
	return false
}

func sign(n int64) int64 {
	if n > 0 {
		return 1
	}
	return 0
}

// due reports whether to count again, so long after the last count.
func (d *diskUse) due(since time.Duration) bool {
	if since >= min(max(diskPause, d.cost*diskShare), diskLongest) {
		return true
	}
	return since >= min(d.cost*diskUrgent, diskPressed) && d.hurries()
}

func (r *run) watchDisk() (end func()) {
	d := r.disk
	if !d.watched() || !r.linux.has(wallDiskWatch) {
		return func() {}
	}
	d.pids = r.pids
	counted := time.Now()
	return every(diskGlance, func() {
		if !d.due(time.Since(counted)) {
			return
		}
		if d.over() {
			r.stop(first.KillDisk)
		}
		counted = time.Now()
	})
}

// A volume is a file system that writable mounts are on.
type volume struct {
	dir   string
	start tally // free then
	count tally // free at the last count
	open  tally // free when last nothing was hidden
	floor tally // less is low
}

const (
	floorShare = 10      // a volume may not lose more than all but one part in so many of what was free,
	floorBytes = 1 << 30 // or all but this
	floorFiles = 100_000
)

func volumesOf(dirs []string) []volume {
	var all []volume
	seen := map[uint64]bool{}
	for _, dir := range dirs {
		var st unix.Stat_t
		if unix.Stat(dir, &st) != nil || seen[st.Dev] {
			continue
		}
		seen[st.Dev] = true
		v := volume{dir: dir}
		v.start = v.free()
		v.count = v.start
		v.floor = tally{min(floorBytes, v.start.bytes/floorShare), min(floorFiles, v.start.files/floorShare)}
		all = append(all, v)
	}
	return all
}

// free is what is free now. Some file systems have no fixed number of files: of those
// it is 0.
func (v *volume) free() tally {
	var st unix.Statfs_t
	if unix.Statfs(v.dir, &st) != nil {
		return v.count
	}
	return tally{int64(st.Bavail) * st.Bsize, int64(st.Ffree)}
}

func (v *volume) counted() { v.count = v.free() }

func (v *volume) lost() tally { return v.start.less(v.free()) }

func (v *volume) sinceCount() tally { return v.count.less(v.free()) }

func (v *volume) low() bool {
	now := v.free()
	return now.bytes < v.floor.bytes || now.files < v.floor.files
}
