package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/bundle"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/protocol/pb"
)

// A worker is a node's end of a session that does no work: it reports each lease as
// done the moment it gets it, all with the same small result.
type worker struct {
	session protocol.Session
	conn    *protocol.Conn
	result  *packed
}

// packed is a result as a node would send it.
type packed struct {
	blob    *pb.Blob
	content string
	files   int
	size    int64
}

// packResult makes one file of 200 bytes into a result.
func packResult(ctx context.Context, work string) (*packed, error) {
	dir := filepath.Join(work, "result")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	text := append(bytes.Repeat([]byte("x"), 199), '\n')
	if err := os.WriteFile(filepath.Join(dir, "result.json"), text, 0o644); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	p, err := bundle.PackResult(ctx, dir, &b)
	if err != nil {
		return nil, err
	}
	return &packed{
		blob:    &pb.Blob{Digest: string(spare.Sum(b.Bytes())), Size: uint64(b.Len()), Inline: b.Bytes()},
		content: string(p.Content), files: p.Files, size: p.Bytes,
	}, nil
}

// device is what a worker claims to be: able to run Python, with room for the window.
func device(name string, cores int) spare.Device {
	memory := &spare.Amount{Total: 64 << 30, Free: 64 << 30}
	return spare.Device{
		Name: name, OS: "linux", Arch: "amd64", CPU: spare.CPU{Cores: cores}, Memory: memory, Disk: memory,
		Runtimes: []spare.Capability{{Runtime: "linux", Platforms: []spare.Platform{spare.PlatformPython}, OK: true}},
		Offer:    spare.Offer{Cores: cores, Memory: 64 << 30, Disk: 64 << 30},
		Software: spare.Version,
	}
}

// enrol connects a worker to the hub by ticket.
func enrol(ctx context.Context, ticket protocol.Ticket, name string, cores int, result *packed) (*worker, error) {
	id, err := protocol.NewIdentity()
	if err != nil {
		return nil, err
	}
	s, err := protocol.DialAny(ctx, ticket.Addresses, id, ticket.HubKey)
	if err != nil {
		return nil, err
	}
	st, err := s.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	about, err := json.Marshal(device(name, cores))
	if err != nil {
		return nil, err
	}
	w := &worker{session: s, conn: protocol.NewConn(st), result: result}
	err = w.conn.Send(&pb.Frame{Body: &pb.Frame_Hello{Hello: &pb.Hello{
		MinVersion: protocol.Version, MaxVersion: protocol.Version, Software: spare.Version,
		EnrolmentToken: ticket.Token, Device: about, Instance: []byte(name),
	}}})
	if err != nil {
		return nil, err
	}
	f, err := w.conn.Receive()
	if err != nil {
		return nil, err
	}
	if f.GetWelcome() == nil {
		return nil, fmt.Errorf("the hub answered a Hello with %v", f)
	}
	return w, nil
}

func (w *worker) close() { _ = w.session.Close(protocol.CodeNone, "") }

func (w *worker) want(n int) error {
	return w.conn.Send(&pb.Frame{Body: &pb.Frame_Want{Want: &pb.Want{Run: uint32(n)}}})
}

// report says that every lease of a grant succeeded.
func (w *worker) report(leases []*pb.Lease) error {
	ended := make([]*pb.Ended, len(leases))
	for i, l := range leases {
		ended[i] = &pb.Ended{
			Attempt: l.Attempt, Outcome: pb.Outcome_OUTCOME_SUCCEEDED, Result: w.result.blob,
			Content: w.result.content, Files: uint32(w.result.files), Bytes: uint64(w.result.size), WallMs: 1, CpuMs: 1,
		}
	}
	return w.conn.Send(&pb.Frame{Body: &pb.Frame_Report{Report: &pb.Report{Ended: ended}}})
}

// drain keeps a window of leases open until the fleet has had total reports accepted.
func (w *worker) drain(window int, accepted *atomic.Int64, total int64) error {
	if err := w.want(window); err != nil {
		return err
	}
	for accepted.Load() < total {
		f, err := w.conn.Receive()
		if err != nil {
			return err
		}
		switch body := f.Body.(type) {
		case *pb.Frame_Grant:
			if err := w.report(body.Grant.Leases); err != nil {
				return err
			}
			if err := w.want(window); err != nil {
				return err
			}
		case *pb.Frame_Accepted:
			for _, v := range body.Accepted.Verdicts {
				if !v.Taken {
					return fmt.Errorf("attempt %s was not taken: %s", v.Attempt, v.Reason)
				}
			}
			accepted.Add(int64(len(body.Accepted.Verdicts)))
		case *pb.Frame_Goodbye:
			return fmt.Errorf("the hub said goodbye: %s", body.Goodbye.Reason)
		}
	}
	return nil
}

// oneByOne takes one lease after the other and times each from the wish to the acceptance.
func (w *worker) oneByOne(n int) ([]time.Duration, error) {
	took := make([]time.Duration, 0, n)
	for range n {
		began := time.Now()
		if err := w.want(1); err != nil {
			return nil, err
		}
		for done := false; !done; {
			f, err := w.conn.Receive()
			if err != nil {
				return nil, err
			}
			switch body := f.Body.(type) {
			case *pb.Frame_Grant:
				if err := w.report(body.Grant.Leases); err != nil {
					return nil, err
				}
			case *pb.Frame_Accepted:
				done = true
			case *pb.Frame_Goodbye:
				return nil, fmt.Errorf("the hub said goodbye: %s", body.Goodbye.Reason)
			}
		}
		took = append(took, time.Since(began))
	}
	return took, nil
}

// fleet is several workers.
type fleet []*worker

func newFleet(ctx context.Context, ticket protocol.Ticket, n, cores int, result *packed) (fleet, error) {
	var f fleet
	for i := range n {
		w, err := enrol(ctx, ticket, fmt.Sprint("worker", i), cores, result)
		if err != nil {
			f.close()
			return nil, fmt.Errorf("connect worker %d: %w", i, err)
		}
		f = append(f, w)
	}
	return f, nil
}

func (f fleet) close() {
	for _, w := range f {
		w.close()
	}
}

// drain has all workers work until total tasks are accepted, and returns how long it took.
func (f fleet) drain(ctx context.Context, window int, total int64) (time.Duration, error) {
	var accepted atomic.Int64
	errs := make([]error, len(f))
	var wg sync.WaitGroup
	began := time.Now()
	finished := make(chan time.Duration, len(f))
	for i, w := range f {
		wg.Go(func() {
			errs[i] = w.drain(window, &accepted, total)
			finished <- time.Since(began)
			if accepted.Load() >= total || errs[i] != nil {
				f.close() // the others wait for messages that do not come
			}
		})
	}
	stop := context.AfterFunc(ctx, f.close)
	defer stop()
	took := <-finished
	wg.Wait()
	if accepted.Load() >= total {
		return took, nil // what the closing broke is no error
	}
	return 0, errors.Join(append(errs, ctx.Err())...)
}
