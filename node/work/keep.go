package work

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/protocol/pb"
)

// errRoom says that a checkpoint does not fit what the owner lends of the disk.
var errRoom = errors.New("the task's checkpoint does not fit what the owner lends of the disk")

// clearings are removals of files that wait until the executor's lock is free again.
type clearings []func()

func (c *clearings) add(clear func()) { *c = append(*c, clear) }

func (c *clearings) clear() {
	for _, clear := range *c {
		clear()
	}
}

// inUse reports whether an attempt of a task is here, or was and is still ending. The
// caller holds the executor's lock.
func (d *Desk) inUse(task spare.TaskID) bool {
	if d.leaving[task] > 0 {
		return true
	}
	for id := range d.attempts {
		if id.Task() == task {
			return true
		}
	}
	return false
}

// forget drops the checkpoint of a task that nobody will ask for, unless it is in use. The
// caller holds the executor's lock, and clears the files without it.
func (d *Desk) forget(task spare.TaskID) (clear func()) {
	if d.inUse(task) {
		return func() {}
	}
	return d.checkpoints.drop(task)
}

// mayComeBack reports whether an attempt was handed back without its checkpoint: what lies
// here is then all there is for the task to go on from.
func (d *Desk) mayComeBack(a *attempt) bool {
	return a.ended.Outcome == pb.Outcome_OUTCOME_PREEMPTED && a.ended.Checkpoint == nil && !d.checkpoints.empty(a.id.Task())
}

// runEnded is the last of an attempt that was gone before its run had ended.
func (d *Desk) runEnded(a *attempt) {
	var cleared clearings
	defer cleared.clear()
	d.e.mu.Lock()
	defer d.e.mu.Unlock()
	task := a.id.Task()
	if d.leaving[task]--; d.leaving[task] == 0 {
		delete(d.leaving, task)
	}
	if !d.closed {
		cleared.add(d.forget(task))
	}
}

// unsave removes an end that was put on disk while the hub said that it may be forgotten.
func (d *Desk) unsave(a *attempt) {
	d.e.mu.Lock()
	defer d.e.mu.Unlock()
	if !d.closed {
		d.results.remove(a.id)
	}
}

// An unclaimed checkpoint is one that no attempt here uses.
type unclaimed struct {
	desk  *Desk
	task  spare.TaskID
	since time.Time // when the last attempt took it up
	bytes int64
}

// waitingShare is the part of the disk the owner lends that waiting checkpoints may take
// together: by the default, more than the largest one.
const waitingShare = 2

// prune clears checkpoints that have waited too long, or that are too much together: of
// tasks that went on elsewhere no hub ever tells.
func (e *Executor) prune(now time.Time) {
	e.pruning.Lock()
	defer e.pruning.Unlock()
	e.mu.Lock()
	desks := slices.Clone(e.desks)
	e.mu.Unlock()
	var all []unclaimed
	for _, d := range desks {
		all = append(all, d.unclaimed()...)
	}
	for _, w := range surplus(all, int64(e.lent().Disk/waitingShare), now) {
		e.mu.Lock()
		clear := w.desk.forget(w.task)
		e.mu.Unlock()
		clear()
	}
}

// surplus chooses what goes: what is too old, and the oldest until the rest takes no more
// than room; 0 is no bound.
func surplus(all []unclaimed, room int64, now time.Time) (goes []unclaimed) {
	slices.SortFunc(all, func(a, b unclaimed) int { return a.since.Compare(b.since) })
	var total int64
	for _, w := range all {
		total += w.bytes
	}
	for _, w := range all {
		if now.Sub(w.since) > keepState || room > 0 && total > room {
			goes = append(goes, w)
			total -= w.bytes
		}
	}
	return goes
}

// unclaimed lists this hub's. They are measured once: nobody writes to them. The caller
// holds the executor's pruning.
func (d *Desk) unclaimed() (all []unclaimed) {
	entries, err := os.ReadDir(d.checkpoints.dir)
	if err != nil {
		d.log.Warn("cannot look through the checkpoints", "error", err)
		return nil
	}
	measured := map[spare.TaskID]unclaimed{}
	for _, entry := range entries {
		task := spare.TaskID(entry.Name())
		d.e.mu.Lock()
		used := d.inUse(task)
		d.e.mu.Unlock()
		info, err := d.checkpoints.root.Stat(filepath.Join(entry.Name(), stateFile))
		if used || err != nil || !taskName.MatchString(entry.Name()) {
			continue
		}
		w, known := d.sizes[task]
		if !known || !w.since.Equal(info.ModTime()) {
			w = unclaimed{desk: d, task: task, since: info.ModTime(), bytes: d.checkpoints.size(task)}
		}
		measured[task] = w
		all = append(all, w)
	}
	d.sizes = measured
	return all
}

const (
	leastFile = 4 << 10 // what a file counts for at least, as in the sandbox
	deepest   = 64      // folders in folders: what is deeper could not travel either
	noEnd     = 1 << 50 // bytes; keeps sums far from overflow
)

// size is what a checkpoint takes, counted as the sandbox counts: of a sparse file, its
// length. What is too deep to be counted takes more than anything.
func (c *checkpoints) size(task spare.TaskID) (sum int64) {
	dir := filepath.Join(string(task), stateDir)
	root, err := c.root.OpenRoot(dir)
	if errors.Is(err, fs.ErrPermission) { // the App has closed it
		if err = c.root.Chmod(dir, 0o711); err == nil {
			root, err = c.root.OpenRoot(dir)
		}
	}
	if err != nil {
		return 0
	}
	defer func() { _ = root.Close() }()
	_ = fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return fs.SkipDir
		}
		info, err := e.Info()
		if err != nil || name == "." {
			return nil
		}
		if e.IsDir() && info.Mode().Perm()&0o500 != 0o500 { // closed, to hide what is in it
			_ = root.Chmod(name, 0o700)
		}
		if strings.Count(name, "/") >= deepest {
			sum = noEnd
			return fs.SkipAll
		}
		sum = min(sum+max(min(info.Size(), noEnd), leastFile), noEnd)
		return nil
	})
	return sum
}

// room is how many bytes an attempt may write: what lies in its checkpoint already counts.
// A limit of 0 is none.
func (a *attempt) room(limit int64) (int64, error) {
	if limit == 0 {
		return 0, nil
	}
	has := a.desk.checkpoints.size(a.id.Task())
	if has >= limit {
		return 0, fmt.Errorf("%w: what earlier attempts left takes all of the %d MiB that an attempt may use; give it more with \"spare-node prefs set disk=…\"", errRoom, limit>>20)
	}
	return limit - has, nil
}
