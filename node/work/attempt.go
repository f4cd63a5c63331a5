package work

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/protocol/pb"
	"github.com/spare-compute/spare/publisher"
	"github.com/spare-compute/spare/sandbox"
)

// phase is where an attempt is on this node.
//
//	fetching → waiting → running → saving → uploading → reporting → gone
//	    └─────────┴── failed, preempted ──↗         (Accepted) ↗
//	(any phase) ── Cancel ──→ gone
//
// After a restart an attempt found on disk begins at uploading.
type phase int

const (
	fetching phase = iota
	waiting
	running
	saving
	uploading
	reporting
	gone
)

var phaseNames = [...]string{"fetching", "waiting", "running", "saving", "uploading", "reporting", "gone"}

func (p phase) String() string { return phaseNames[p] }

// moves is the whole state machine.
var moves = [...][]phase{
	fetching:  {waiting, saving, gone},
	waiting:   {running, saving, gone},
	running:   {saving, gone},
	saving:    {uploading, gone},
	uploading: {reporting, gone},
	reporting: {gone},
	gone:      {},
}

// unfinished phases die with the process; the others have something on disk.
func (p phase) unfinished() bool { return p <= running }

// attempt is one lease, or what is left of one from before a restart.
type attempt struct {
	id     spare.AttemptID
	desk   *Desk
	lease  *pb.Lease // nil after a restart
	ctx    context.Context
	cancel context.CancelCauseFunc
	rest   context.Context // outlives ctx, to hand back what is left; ends when the attempt is gone or the node has no more time
	giveUp context.CancelCauseFunc
	start  chan struct{} // closed when cores are given
	steer  sandbox.Steer
	wants  int // cores

	verdict publisher.Verdict // the guard's, once it has admitted the App

	// Under the executor's lock:
	phase  phase
	since  time.Time
	cores  int       // given
	frozen bool      // by a pause
	ended  *pb.Ended // from saving on
}

// move enters a phase. A move the table does not allow is a mistake of this package.
func (a *attempt) move(next phase) {
	if !slices.Contains(moves[a.phase], next) {
		panic(fmt.Sprintf("attempt %s cannot go from %s to %s", a.id, a.phase, next))
	}
	a.phase, a.since = next, time.Now()
}

// enter is move for those who do not hold the lock. It is false when the attempt is gone.
func (e *Executor) enter(a *attempt, next phase) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if a.phase == gone {
		return false
	}
	if a.phase == fetching || a.phase == waiting {
		e.unqueueUnless(a, next)
	}
	a.move(next)
	e.dispatch()
	e.changed()
	return true
}

func (e *Executor) unqueueUnless(a *attempt, next phase) {
	if next != waiting {
		e.unqueue(a)
	}
}

// live takes a fresh lease through all its phases.
func (e *Executor) live(a *attempt) {
	ended, made := e.process(a)
	overDisk(ended)
	if !e.enter(a, saving) {
		made.discard()
		a.desk.runEnded(a)
		return
	}
	a.desk.save(ended, made)
	made.discard()
	e.mu.Lock()
	a.ended = ended
	e.mu.Unlock()
	if !e.enter(a, uploading) {
		a.desk.unsave(a)
		return
	}
	e.handOver(a)
}

// overDisk tells an App that wrote more than it may, which would do so anywhere, from a
// disk of this node that is full: the hub counts the one against the task and not the
// other. Only what came to run has taken time.
func overDisk(ended *pb.Ended) {
	if ended.Outcome == pb.Outcome_OUTCOME_OUT_OF_DISK && ended.WallMs > 0 {
		ended.Outcome = pb.Outcome_OUTCOME_APP_FAILED
	}
}

// handOver uploads what the hub must have before it hears of the end, and lets the
// link report it.
func (e *Executor) handOver(a *attempt) {
	ended := a.ended
	switch b := left(ended); {
	case b == nil:
	case b == ended.Checkpoint:
		if err := e.putCheckpoint(a, b); err != nil {
			if errors.Is(context.Cause(a.rest), errCancelled) {
				return
			}
			a.desk.log.Warn("checkpoint not handed back", "attempt", a.id, "error", err)
			ended.Checkpoint = nil
			a.desk.save(ended, nil)
		}
	default:
		if err := e.put(a.ctx, a, b); err != nil {
			if a.ctx.Err() != nil {
				return // cancelled, or the node stops: the result stays on disk for the next start
			}
			ended = &pb.Ended{
				Attempt: ended.Attempt, Outcome: pb.Outcome_OUTCOME_UPLOAD_FAILED, Message: sentence(err), Log: ended.Log,
				WallMs: ended.WallMs, CpuMs: ended.CpuMs, PeakMemory: ended.PeakMemory, Written: ended.Written,
			}
			a.desk.save(ended, nil)
		}
	}
	e.mu.Lock()
	a.ended = ended
	e.mu.Unlock()
	if !e.enter(a, reporting) {
		a.desk.unsave(a)
	}
}

func (e *Executor) put(ctx context.Context, a *attempt, r *pb.Blob) error {
	if err := e.upload.Acquire(ctx, 1); err != nil {
		return err
	}
	defer e.upload.Release(1)
	digest, err := spare.ParseDigest(r.Digest)
	if err != nil {
		return fmt.Errorf("upload the result: %w", err)
	}
	if err := a.desk.transfers.Put(ctx, digest, int64(r.Size), a.desk.opener(a.id)); err != nil {
		return fmt.Errorf("upload the result: %w", err)
	}
	return nil
}
