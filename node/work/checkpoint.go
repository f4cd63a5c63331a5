package work

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/bundle"
	"github.com/spare-compute/spare/node/cache"
	"github.com/spare-compute/spare/protocol/pb"
)

// checkpoints keeps what Apps leave in CHECKPOINT_DIR, a folder for each task. It
// outlives attempts, pauses and restarts of the node, until the task's end is accepted.
//
//	<task>/data     what the App sees
//	<task>/attempt  the number of the last attempt that could write there
//	.gone-<n>       what is being removed
type checkpoints struct {
	dir  string
	root *os.Root     // names come from the hub
	gone atomic.Int64 // names what is being removed
}

const (
	stateDir  = "data"
	stateFile = "attempt"
	goneMark  = ".gone-"
	// keepState is how long a checkpoint waits for its task to come back: longer than a
	// weekend, and no job is younger for ever.
	keepState = 7 * 24 * time.Hour
)

var taskName = regexp.MustCompile(`^[0-9a-zA-Z][0-9a-zA-Z-]{0,63}\.[0-9]{1,10}$`)

// openCheckpoints makes the folder, and clears what no task came back for.
func openCheckpoints(dir string) (*checkpoints, error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("make the folder for checkpoints: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the folder for checkpoints: %w", err)
	}
	c := &checkpoints{dir: dir, root: root}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list checkpoints: %w", err)
	}
	for _, e := range entries {
		info, err := c.root.Stat(filepath.Join(e.Name(), stateFile))
		if err != nil || !taskName.MatchString(e.Name()) || time.Since(info.ModTime()) > keepState {
			c.remove(spare.TaskID(e.Name()))
		}
	}
	return c, nil
}

// number is the last attempt that could write to a task's checkpoint; 0 if none did.
func (c *checkpoints) number(task spare.TaskID) int {
	raw, err := c.root.ReadFile(filepath.Join(string(task), stateFile))
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(string(raw))
	if err != nil {
		return 0
	}
	return n
}

// begin makes a task's folder for an attempt. What an attempt before number left is
// kept; fill replaces it, if given.
func (c *checkpoints) begin(task spare.TaskID, number int, fill func(dir string) error) (string, error) {
	name := string(task)
	if fill != nil {
		c.remove(task)
	}
	data := filepath.Join(c.dir, name, stateDir)
	if err := c.root.MkdirAll(filepath.Join(name, stateDir), 0o711); err != nil {
		return "", fmt.Errorf("make the folder for the checkpoint of %s: %w", task, err)
	}
	if fill != nil {
		if err := fill(data); err != nil {
			c.remove(task)
			return "", err
		}
	}
	if err := c.root.WriteFile(filepath.Join(name, stateFile), []byte(strconv.Itoa(number)), 0o600); err != nil {
		return "", fmt.Errorf("note the checkpoint of %s: %w", task, err)
	}
	return data, nil
}

// empty reports whether an App left nothing.
func (c *checkpoints) empty(task spare.TaskID) bool {
	dir, err := c.root.Open(filepath.Join(string(task), stateDir))
	if err != nil {
		return true
	}
	defer func() { _ = dir.Close() }()
	_, err = dir.Readdirnames(1)
	return err != nil
}

func (c *checkpoints) remove(task spare.TaskID) { c.drop(task)() }

// drop makes a task's checkpoint disappear at once. It returns what may take long: the
// removal of its files, of which there may be a million.
func (c *checkpoints) drop(task spare.TaskID) (clear func()) {
	name := goneMark + strconv.FormatInt(c.gone.Add(1), 10)
	switch err := c.root.Rename(string(task), name); {
	case errors.Is(err, fs.ErrNotExist):
		return func() {}
	case err != nil:
		name = string(task)
	}
	return func() {
		if err := c.root.RemoveAll(name); errors.Is(err, fs.ErrPermission) { // the App's own modes
			_ = cache.RemoveAll(filepath.Join(c.dir, name))
		}
	}
}

// checkpoint is the folder that the App finds as its CHECKPOINT_DIR: with what an
// earlier attempt left here, or with what the hub sends of a later one.
func (a *attempt) checkpoint() (string, error) {
	task, kept := a.id.Task(), a.desk.checkpoints
	number, err := strconv.Atoi(string(a.id)[len(task)+1:])
	if err != nil {
		return "", fmt.Errorf("attempt name %q is malformed", a.id)
	}
	sent := a.lease.Checkpoint
	if sent == nil {
		return kept.begin(task, number, nil)
	}
	if theirs, err := strconv.Atoi(sent.Name); err == nil && theirs <= kept.number(task) {
		return kept.begin(task, number, nil) // what lies here is as new
	}
	return kept.begin(task, number, func(dir string) error { return a.fetchCheckpoint(sent, dir) })
}

// maxCheckpoint bounds a checkpoint, unpacked.
const maxCheckpoint = 8 << 30

func (a *attempt) fetchCheckpoint(sent *pb.Blob, dir string) error {
	pin, err := a.desk.e.cfg.Cache.Blob(a.ctx, spare.Digest(sent.Digest), int64(sent.Size), a.fetch(sent))
	if err != nil {
		return fmt.Errorf("fetch the checkpoint: %w", err)
	}
	defer pin.Release()
	f, err := os.Open(pin.Path())
	if err != nil {
		return fmt.Errorf("read the checkpoint: %w", err)
	}
	defer func() { _ = f.Close() }()
	most, scarce := int64(maxCheckpoint), false
	if disk := a.desk.e.lent().Disk; disk > 0 && disk < maxCheckpoint {
		most, scarce = int64(disk), true
	}
	err = bundle.Unpack(a.ctx, f, dir, bundle.Limits{Files: maxFiles, Bytes: most})
	var refused *bundle.Refused
	switch {
	case err == nil:
		return nil
	case scarce && errors.As(err, &refused): // no fault of the App's: on another node it may fit
		return fmt.Errorf("%w: %s", errRoom, refused.Reason)
	}
	return fmt.Errorf("unpack the checkpoint: %w", err)
}

// packCheckpoint packs what the App of a handed back attempt left of itself. A
// checkpoint that cannot be packed costs only itself.
func (a *attempt) packCheckpoint(ended *pb.Ended, dir string) *pack {
	task := a.id.Task()
	if a.lease == nil || a.rest.Err() != nil || a.desk.checkpoints.empty(task) {
		return nil // of an attempt that is gone nobody asks for one
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		a.desk.log.Warn("checkpoint not handed back", "attempt", a.id, "error", err)
		return nil
	}
	data := filepath.Join(a.desk.checkpoints.dir, string(task), stateDir)
	made, _, blob, err := packFolder(a.rest, data, dir)
	if err != nil {
		_ = cache.RemoveAll(dir)
		a.desk.log.Warn("checkpoint not handed back", "attempt", a.id, "error", err)
		return nil
	}
	blob.Name = "checkpoint"
	ended.Checkpoint = blob
	return made
}

// handBack is how long the upload of a checkpoint may keep an attempt from being handed back.
const handBack = 10 * time.Second

// putCheckpoint uploads a checkpoint before the hub hears of the end. It may outlive
// the attempt, but not for long: without it the next attempt just begins anew.
func (e *Executor) putCheckpoint(a *attempt, b *pb.Blob) error {
	ctx := a.ctx
	if ctx.Err() != nil {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(a.rest, handBack)
		defer stop()
	}
	return e.put(ctx, a, b)
}

// left is the blob of an end that lies beside it on disk, or nil.
func left(ended *pb.Ended) *pb.Blob {
	for _, b := range []*pb.Blob{ended.Result, ended.Checkpoint} {
		if b != nil && len(b.Inline) == 0 && b.Size > 0 {
			return b
		}
	}
	return nil
}
