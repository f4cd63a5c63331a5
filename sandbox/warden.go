package sandbox

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"
)

// A tree is the processes of a run, on systems whose kernel does not hold them in
// namespaces of their own. Its methods are safe for concurrent use.
type tree interface {
	Pause() error
	Resume() error
	// Use is what the processes use at the moment.
	Use() (treeUse, error)
	// Ask tells the program that it should end, where that can be told.
	Ask()
	// Kill ends all processes. It may return before they are gone.
	Kill()
}

type treeUse struct {
	memory int64 // bytes
	cpu    time.Duration
}

// A warden holds a tree to its limits: by looking, where the system does not hold it by
// itself. It is what a Steer steers.
type warden struct {
	tree    tree
	limits  Limits
	grace   time.Duration
	folders []string // whose growth counts
	before  growth
	glance  time.Duration // between looks

	mu      sync.Mutex
	cause   Cause // why the tree was ended; "" if it was not
	paused  bool
	since   time.Time     // when it last went on
	elapsed time.Duration // until then
	peak    int64         // bytes
	grown   growth
	wall    *time.Timer
	over    bool
}

// growth is what folders hold.
type growth struct{ bytes, files int64 }

const (
	wardenGlance  = 250 * time.Millisecond
	wardenShare   = 20        // counting files may take one part in so many of the time
	smallestFile  = 4 << 10   // the least a file counts for: a million empty files are no free gift
	defaultGrowth = 1_000_000 // files
)

func newWarden(t tree, s Spec, folders []string) *warden {
	w := &warden{tree: t, limits: s.Limits, grace: s.Grace, folders: folders, glance: wardenGlance, since: time.Now()}
	if w.limits.Inodes == 0 {
		w.limits.Inodes = defaultGrowth
	}
	w.before = w.count()
	return w
}

// guard watches the tree until its program has ended.
func (w *warden) guard(ctx context.Context, ended <-chan struct{}) {
	w.mu.Lock()
	w.since = time.Now()
	w.setWall()
	w.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { w.cancel(context.Cause(ctx)) })
	defer stop()
	w.look() // a quick program's only one
	endLooks := every(w.glance, w.look)
	var cost time.Duration
	endCounts := every(w.glance, func() {
		if cost -= w.glance; cost > 0 {
			return
		}
		start := time.Now()
		w.lookAtDisk()
		cost = time.Since(start) * wardenShare
	})
	<-ended
	endLooks()
	endCounts()
	w.mu.Lock()
	w.over = true
	if w.wall != nil {
		w.wall.Stop()
	}
	if !w.paused {
		w.elapsed += time.Since(w.since)
	}
	w.mu.Unlock()
	w.lookAtDisk()
}

// every has look called after each pause, until its end is called; then no look goes on.
// It needs no thread in between: most runs are over before the first look.
func every(pause time.Duration, look func()) (end func()) {
	var mu sync.Mutex
	ended := false
	mu.Lock()
	defer mu.Unlock()
	var timer *time.Timer
	timer = time.AfterFunc(pause, func() {
		mu.Lock()
		defer mu.Unlock()
		if !ended {
			look()
			timer.Reset(pause)
		}
	})
	return func() {
		timer.Stop()
		mu.Lock()
		defer mu.Unlock()
		ended = true
	}
}

// look holds the tree to its memory and processor time.
func (w *warden) look() {
	use, err := w.tree.Use()
	if err != nil {
		return // it ends, or the machine is busy: the next look tells
	}
	w.mu.Lock()
	w.peak = max(w.peak, use.memory)
	w.mu.Unlock()
	switch {
	case w.limits.Memory > 0 && use.memory > w.limits.Memory:
		w.end(KilledMemory)
	case w.limits.CPU > 0 && use.cpu > w.limits.CPU:
		w.end(KilledTime)
	}
}

func (w *warden) lookAtDisk() {
	now := w.count()
	grown := growth{now.bytes - w.before.bytes, now.files - w.before.files}
	w.mu.Lock()
	w.grown = grown
	w.mu.Unlock()
	if w.limits.Disk > 0 && grown.bytes > w.limits.Disk || grown.files > w.limits.Inodes {
		w.end(KilledDisk)
	}
}

// count adds up the folders: of a sparse file, its length counts.
func (w *warden) count() growth {
	var sum growth
	for _, dir := range w.folders {
		root, err := os.OpenRoot(dir)
		if err != nil {
			continue
		}
		_ = fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
			if name == "." || e == nil {
				return nil
			}
			if err != nil && e.IsDir() { // a folder the program has closed to hide what is in it
				_ = root.Chmod(name, 0o700) // the next count sees into it
				return fs.SkipDir
			}
			if info, err := e.Info(); err == nil {
				sum.files++
				sum.bytes += max(info.Size(), smallestFile)
			}
			return nil
		})
		_ = root.Close()
	}
	return sum
}

// end ends the tree. The first reason counts, and one that comes when the program has
// ended by itself still counts if it is the disk: it was quicker than the look.
func (w *warden) end(c Cause) {
	w.mu.Lock()
	if w.cause == "" && (!w.over || c == KilledDisk) {
		w.cause = c
	}
	over := w.over
	w.mu.Unlock()
	if !over {
		w.tree.Kill()
	}
}

// cancel asks the program to end, and ends it when its grace is over. A program that is
// paused could not even hear.
func (w *warden) cancel(cause error) {
	w.mu.Lock()
	paused := w.paused
	w.mu.Unlock()
	if w.grace <= 0 || paused || errors.Is(cause, ErrAtOnce) {
		w.end(KilledCancel)
		return
	}
	w.mu.Lock()
	if w.cause == "" && !w.over {
		w.cause = KilledCancel
	}
	w.mu.Unlock()
	w.tree.Ask()
	time.AfterFunc(w.grace, func() { w.end(KilledCancel) })
}

// setWall sets the clock that ends the run.
func (w *warden) setWall() {
	if w.limits.Wall > 0 && !w.over {
		w.wall = time.AfterFunc(w.limits.Wall-w.elapsed, func() { w.end(KilledTime) })
	}
}

// Pause implements Steered. Time does not count meanwhile.
func (w *warden) Pause() error {
	if err := w.tree.Pause(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.paused {
		return nil
	}
	w.paused = true
	w.elapsed += time.Since(w.since)
	if w.wall != nil {
		w.wall.Stop()
	}
	return nil
}

// Resume implements Steered.
func (w *warden) Resume() error {
	w.mu.Lock()
	if w.paused {
		w.paused, w.since = false, time.Now()
		w.setWall()
	}
	w.mu.Unlock()
	return w.tree.Resume()
}

// Memory implements Steered.
func (w *warden) Memory() (int64, error) {
	use, err := w.tree.Use()
	return use.memory, err
}

// account fills in what the warden knows of how the run went.
func (w *warden) account(r *Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r.Wall, r.Written = w.elapsed, max(0, w.grown.bytes)
	r.PeakMemory = max(r.PeakMemory, w.peak)
	// A program that was asked and ended well has made use of its grace: that is still
	// how it ended.
	if w.cause != "" {
		r.Cause = w.cause
	}
}
