package work

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/bundle"
	"github.com/spare-compute/spare/image"
	"github.com/spare-compute/spare/node/cache"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/protocol/pb"
	"github.com/spare-compute/spare/sandbox"
	"github.com/spare-compute/spare/stage"
)

// materials are what one run needs, held in the cache.
type materials struct {
	app   string // folder
	input string // file
	state string // folder: what earlier attempts left of themselves
	image *sandbox.Image
	pins  []interface{ Release() }
}

func (m *materials) release() {
	for _, p := range m.pins {
		p.Release()
	}
}

// process fetches, waits for cores, runs and packs. It always returns how it ended.
func (e *Executor) process(a *attempt) (*pb.Ended, *pack) {
	if err := a.admit(); err != nil {
		return a.turnedAway(err), nil
	}
	dir, err := e.scratch()
	if err != nil {
		return a.failed(err, pb.Outcome_OUTCOME_SANDBOX_FAILED), nil
	}
	m, err := e.collect(a, dir)
	defer m.release()
	if err != nil {
		_ = cache.RemoveAll(dir)
		return a.failed(err, pb.Outcome_OUTCOME_FETCH_FAILED), nil
	}
	if err := e.awaitCores(a); err != nil {
		_ = cache.RemoveAll(dir)
		return a.failed(err, pb.Outcome_OUTCOME_PREEMPTED), nil
	}
	defer e.release(a)
	began := time.Now()
	if err := a.began(began); err != nil {
		_ = cache.RemoveAll(dir)
		return a.failed(err, pb.Outcome_OUTCOME_SANDBOX_FAILED), nil
	}
	run := e.run(a, m, dir)
	if a.ctx.Err() == nil {
		e.took(time.Since(began))
	}
	ended := a.report(run)
	made, err := a.pack(run, ended, dir)
	if ended.Outcome == pb.Outcome_OUTCOME_PREEMPTED {
		made = a.packCheckpoint(ended, dir)
	}
	if err != nil {
		ended = a.failed(err, pb.Outcome_OUTCOME_SANDBOX_FAILED)
		ended.Log = run.Log
	}
	a.wentAway(began, ended)
	return ended, made
}

// collect fetches the App and the input, two attempts at a time.
func (e *Executor) collect(a *attempt, dir string) (*materials, error) {
	m := &materials{}
	if err := e.fetch.Acquire(a.ctx, 1); err != nil {
		return m, err
	}
	defer e.fetch.Release(1)
	b := a.lease.App.Bundle
	app, err := e.cfg.Cache.App(a.ctx, spare.Digest(b.Digest), int64(b.Size), a.fetch(b), unpack)
	if err != nil {
		return m, err
	}
	m.pins = append(m.pins, app)
	m.app = app.Path()
	in := a.lease.Input
	if len(in.Inline) > 0 || in.Size == 0 {
		m.input = filepath.Join(dir, "input")
		if spare.Digest(in.Digest).Valid() && spare.Sum(in.Inline) != spare.Digest(in.Digest) {
			return m, fmt.Errorf("the input: %w", cache.ErrCorrupt)
		}
		if err := os.WriteFile(m.input, in.Inline, 0o444); err != nil {
			return m, fmt.Errorf("store the input: %w", err)
		}
	} else {
		pin, err := e.cfg.Cache.Blob(a.ctx, spare.Digest(in.Digest), int64(in.Size), a.fetch(in))
		if err != nil {
			return m, err
		}
		m.pins = append(m.pins, pin)
		m.input = pin.Path()
	}
	if err := e.image(a, m); err != nil {
		return m, err
	}
	e.prune(time.Now())
	if m.state, err = a.checkpoint(); err != nil {
		return m, err
	}
	if !e.enter(a, waiting) {
		return m, errCancelled
	}
	return m, nil
}

// fetch is how the cache gets a blob: from the lease itself, or from the hub.
func (a *attempt) fetch(b *pb.Blob) cache.Fetch {
	return func(ctx context.Context, offset int64, w io.Writer) error {
		if len(b.Inline) > 0 {
			_, err := io.Copy(w, bytes.NewReader(b.Inline[min(offset, int64(len(b.Inline))):]))
			return err
		}
		err := a.desk.transfers.Get(ctx, spare.Digest(b.Digest), offset, w)
		if errors.Is(err, protocol.ErrMismatch) {
			return fmt.Errorf("%w: %w", cache.ErrCorrupt, err)
		}
		return err
	}
}

// awaitCores returns when the attempt may start. If it returns an error, the attempt
// holds no cores.
func (e *Executor) awaitCores(a *attempt) error {
	select {
	case <-a.start:
		return nil
	case <-a.ctx.Done():
	}
	e.mu.Lock()
	started := a.cores > 0
	e.mu.Unlock()
	if started { // both at once
		e.release(a)
	}
	return context.Cause(a.ctx)
}

// report puts how a run ended into the wire's words.
func (a *attempt) report(run stage.Ended) *pb.Ended {
	ended := &pb.Ended{
		Attempt: string(a.id), Outcome: wire(run.Outcome), ExitCode: int32(run.ExitCode), Message: strings.ToValidUTF8(run.Message, "�"), Log: run.Log,
		WallMs: uint64(run.Usage.Wall.Milliseconds()), CpuMs: uint64(run.Usage.CPU.Milliseconds()),
		PeakMemory: uint64(max(0, run.Usage.PeakMemory)), Written: uint64(max(0, run.Usage.Written)),
	}
	if a.ctx.Err() != nil && run.Outcome != spare.Succeeded {
		ended.Outcome, ended.Message = pb.Outcome_OUTCOME_PREEMPTED, sentence(context.Cause(a.ctx))
	}
	return ended
}

// wire is an outcome's number.
func wire(o spare.Outcome) pb.Outcome {
	return pb.Outcome(slices.Index(spare.Outcomes, o) + 1)
}

// failed is the end of an attempt that did not come to run, or whose result is lost.
// Whose fault it is follows from the error, else it is otherwise's.
func (a *attempt) failed(err error, otherwise pb.Outcome) *pb.Ended {
	ended := &pb.Ended{Attempt: string(a.id), Outcome: otherwise, Message: sentence(err)}
	var refused *bundle.Refused // the App's bundle, or what the App made
	switch {
	case a.ctx.Err() != nil:
		ended.Outcome, ended.Message = pb.Outcome_OUTCOME_PREEMPTED, sentence(context.Cause(a.ctx))
	case errors.As(err, &refused), errors.As(err, new(*image.Refused)), errors.Is(err, cache.ErrUnpack):
		ended.Outcome = pb.Outcome_OUTCOME_APP_FAILED
	default:
		ended.Outcome = diskOutcome(err, otherwise)
	}
	return ended
}

func diskOutcome(err error, otherwise pb.Outcome) pb.Outcome {
	if errors.Is(err, cache.ErrFull) || errors.Is(err, image.ErrFull) || errors.Is(err, errRoom) || cache.DiskFull(err) {
		return pb.Outcome_OUTCOME_OUT_OF_DISK
	}
	return otherwise
}

// sentence is an error for people, with an upper limit on its length.
func sentence(err error) string {
	const most = 1 << 10
	s := err.Error()
	return strings.ToValidUTF8(s[:min(len(s), most)], "�")
}

// maxFiles bounds what an App's bundle may hold.
const maxFiles = 200_000

func unpack(ctx context.Context, archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return bundle.Unpack(ctx, f, dir, bundle.Limits{Files: maxFiles, Bytes: maxApp})
}

// maxApp bounds an App's bundle, unpacked.
const maxApp = 8 << 30
