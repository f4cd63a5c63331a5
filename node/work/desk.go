package work

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/protocol/pb"
)

// Transfers moves blobs from and to one hub. Both wait while the hub cannot be
// reached, and go on where they broke off; an error means that it cannot be done.
type Transfers interface {
	// Get writes the blob's bytes from offset on.
	Get(ctx context.Context, d spare.Digest, offset int64, w io.Writer) error
	// Put hands over a blob; open reads it from an offset.
	Put(ctx context.Context, d spare.Digest, size int64, open func(offset int64) (io.ReadCloser, error)) error
}

// A Desk is where one hub's leases come in and its results go out.
type Desk struct {
	e         *Executor
	name      string
	transfers Transfers
	results   results

	checkpoints *checkpoints
	sizes       map[spare.TaskID]unclaimed // of checkpoints, as last measured; under the executor's pruning
	house       house

	news     chan struct{}
	log      *slog.Logger
	attempts map[spare.AttemptID]*attempt // under the executor's lock, as what follows
	leaving  map[spare.TaskID]int         // attempts that are gone and whose run has not ended yet
	draining bool
	closed   bool
}

// Desk opens a hub's desk. The folder holds its results; finished ones of an earlier
// run are handed over again.
func (e *Executor) Desk(name, folder string, t Transfers) (*Desk, error) {
	rs, err := openResults(folder)
	if err != nil {
		return nil, err
	}
	cs, err := openCheckpoints(filepath.Join(filepath.Dir(folder), "checkpoints"))
	if err != nil {
		return nil, err
	}
	d := &Desk{
		e: e, name: name, transfers: t, results: rs, checkpoints: cs, news: make(chan struct{}, 1),
		log: e.cfg.Log.With("hub", name), attempts: map[spare.AttemptID]*attempt{},
		leaving: map[spare.TaskID]int{},
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.desks = append(e.desks, d)
	if e.life != nil {
		e.resume(d)
	}
	return d, nil
}

// Close forgets a desk. What it has on disk stays. Its attempts are cancelled.
func (d *Desk) Close() {
	d.e.mu.Lock()
	defer d.e.mu.Unlock()
	d.closed = true
	for _, a := range d.attempts {
		d.remove(a)
	}
	if i := slices.Index(d.e.desks, d); i >= 0 {
		d.e.desks = slices.Delete(d.e.desks, i, i+1)
	}
}

// resume takes up what lies finished on disk. The caller holds the executor's lock.
func (e *Executor) resume(d *Desk) {
	found, err := d.results.load()
	if err != nil {
		d.log.Error("cannot take up results of an earlier run", "error", err)
	}
	for _, ended := range found {
		id := spare.AttemptID(ended.Attempt)
		if _, known := d.attempts[id]; known {
			continue
		}
		a := e.newAttempt(d, id)
		a.phase, a.since, a.ended = uploading, time.Now(), ended
		d.attempts[id] = a
		e.wg.Go(func() { e.handOver(a) })
	}
}

func (e *Executor) newAttempt(d *Desk, id spare.AttemptID) *attempt {
	a := &attempt{id: id, desk: d, start: make(chan struct{}), since: time.Now(), wants: 1}
	a.ctx, a.cancel = context.WithCancelCause(e.life)
	a.rest, a.giveUp = context.WithCancelCause(e.late)
	return a
}

func (d *Desk) notify() {
	select {
	case d.news <- struct{}{}:
	default:
	}
}

// News has a value whenever Want, Held or Reports may have changed.
func (d *Desk) News() <-chan struct{} { return d.news }

// attemptName is what an attempt may be called: it becomes a folder's name.
var attemptName = regexp.MustCompile(`^[0-9a-zA-Z][0-9a-zA-Z-]{0,63}\.[0-9]{1,10}\.[0-9]{1,10}$`)

// checkLease refuses what cannot be run, before anything is done for it.
func checkLease(l *pb.Lease) error {
	switch {
	case !attemptName.MatchString(l.GetAttempt()):
		return fmt.Errorf("attempt name %.100q is malformed", l.GetAttempt())
	case l.App == nil || l.App.Bundle == nil || l.Input == nil:
		return fmt.Errorf("lease %s names no App or no input", l.Attempt)
	case !spare.Digest(l.App.Bundle.Digest).Valid():
		return fmt.Errorf("lease %s: App bundle %.80q is no digest", l.Attempt, l.App.Bundle.Digest)
	case len(l.Input.Inline) == 0 && l.Input.Size > 0 && !spare.Digest(l.Input.Digest).Valid():
		return fmt.Errorf("lease %s: input %.80q is no digest", l.Attempt, l.Input.Digest)
	case l.App.Bundle.Size > maxSize || l.Input.Size > maxSize:
		return fmt.Errorf("lease %s: its content is too large", l.Attempt)
	}
	return nil
}

const maxSize = 1 << 50 // bytes; keeps sums of sizes far from overflow

// Grant takes leases. Their input is fetched at once; they run when cores are free.
func (d *Desk) Grant(leases []*pb.Lease) {
	<-d.e.started
	d.e.mu.Lock()
	defer d.e.mu.Unlock()
	for _, l := range leases {
		if err := checkLease(l); err != nil {
			d.log.Warn("lease refused", "error", err)
			continue
		}
		id := spare.AttemptID(l.Attempt)
		if _, known := d.attempts[id]; known || d.e.life.Err() != nil {
			continue
		}
		a := d.e.newAttempt(d, id)
		a.lease = l
		a.wants = min(max(1, int(l.Cores)), max(1, d.e.limits.Cores))
		d.attempts[id] = a
		d.e.queue = append(d.e.queue, a)
		if d.e.paused != "" {
			a.cancel(atOnce(d.e.paused))
		}
		d.e.wg.Go(func() { d.e.live(a) })
	}
	d.e.changed()
}

// Cancel stops attempts at once and drops what they made.
func (d *Desk) Cancel(ids []spare.AttemptID, reason string) {
	var cleared clearings
	defer cleared.clear()
	d.e.mu.Lock()
	defer d.e.mu.Unlock()
	for _, id := range ids {
		if a := d.attempts[id]; a != nil {
			d.log.Info("attempt cancelled", "attempt", id, "phase", a.phase, "reason", reason)
			d.remove(a)
			d.results.remove(id)
			cleared.add(d.forget(id.Task()))
		}
	}
}

// Drop stops what the hub no longer counts on. A finished result is offered all the
// same: the hub may still have use for it.
func (d *Desk) Drop(ids []spare.AttemptID) {
	d.e.mu.Lock()
	defer d.e.mu.Unlock()
	for _, id := range ids {
		if a := d.attempts[id]; a != nil && a.phase.unfinished() {
			d.log.Info("attempt dropped", "attempt", id, "phase", a.phase)
			d.remove(a)
		}
	}
}

// Accepted forgets what the hub has taken, or has no use for.
func (d *Desk) Accepted(verdicts []*pb.Verdict) {
	var cleared clearings
	defer cleared.clear()
	d.e.mu.Lock()
	defer d.e.mu.Unlock()
	for _, v := range verdicts {
		a := d.attempts[spare.AttemptID(v.Attempt)]
		if a == nil || a.phase < uploading {
			continue // of an attempt that is not reported
		}
		if !v.Taken {
			d.log.Info("result not needed", "attempt", v.Attempt, "reason", v.Reason)
		}
		d.remove(a)
		d.results.remove(a.id)
		if !v.Taken || !d.mayComeBack(a) {
			cleared.add(d.forget(a.id.Task()))
		}
	}
}

// remove ends an attempt, wherever it is. The caller holds the executor's lock.
func (d *Desk) remove(a *attempt) {
	d.e.unqueue(a)
	if a.phase.unfinished() {
		d.leaving[a.id.Task()]++
	}
	a.move(gone)
	delete(d.attempts, a.id)
	a.cancel(errCancelled)
	a.giveUp(errCancelled)
	d.e.dispatch()
	d.e.changed()
}

// Drain stops or resumes asking this hub for leases; what is leased goes on.
func (d *Desk) Drain(draining bool) {
	d.e.mu.Lock()
	defer d.e.mu.Unlock()
	d.draining = draining
	d.notify()
}

// Want is how many more leases this hub may give: to run at once, and to prepare.
func (d *Desk) Want() (run, prefetch int) {
	d.e.mu.Lock()
	defer d.e.mu.Unlock()
	if d.draining {
		return 0, 0
	}
	return d.e.want()
}

// Held lists the leases to renew: all that was not accepted yet.
func (d *Desk) Held() []spare.AttemptID {
	d.e.mu.Lock()
	defer d.e.mu.Unlock()
	return slices.Sorted(maps.Keys(d.attempts))
}

// Progress tells how long each running attempt has run.
func (d *Desk) Progress() []*pb.Progress {
	d.e.mu.Lock()
	defer d.e.mu.Unlock()
	var ps []*pb.Progress
	for _, a := range d.attempts {
		if a.phase == running {
			ps = append(ps, &pb.Progress{Attempt: string(a.id), WallMs: uint64(time.Since(a.since).Milliseconds())})
		}
	}
	return ps
}

// Reports lists the ends that the hub has not accepted yet.
func (d *Desk) Reports() []*pb.Ended {
	d.e.mu.Lock()
	defer d.e.mu.Unlock()
	var ends []*pb.Ended
	for _, a := range d.attempts {
		if a.phase == reporting {
			ends = append(ends, a.ended)
		}
	}
	return ends
}

// save keeps an end on disk, with what was made. A disk that cannot take it costs the
// result, but not the news.
func (d *Desk) save(ended *pb.Ended, made *pack) {
	err := d.results.save(ended, made)
	if err == nil {
		return
	}
	d.log.Error("cannot keep a result until the hub has it", "attempt", ended.Attempt, "error", err)
	if ended.Result != nil && len(ended.Result.Inline) == 0 {
		ended.Outcome, ended.Message = diskOutcome(err, pb.Outcome_OUTCOME_SANDBOX_FAILED), sentence(err)
		ended.Result, ended.Content, ended.Files, ended.Bytes = nil, "", 0, 0
	}
}

func (d *Desk) opener(id spare.AttemptID) func(int64) (io.ReadCloser, error) {
	return func(offset int64) (io.ReadCloser, error) { return d.results.open(id, offset) }
}
