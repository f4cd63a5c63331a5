package link

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/protocol/pb"
)

const (
	defaultBusy = 2 * time.Second
	defaultIdle = 20 * time.Second
	leastBeat   = 100 * time.Millisecond // whatever a hub asks
	repeatAfter = 30 * time.Second       // before an unanswered report is sent again
	reportBytes = protocol.MaxFrame / 2  // of ends in one message
)

// talk is one session's conversation.
type talk struct {
	reporting  sync.Mutex
	l          *Link
	s          protocol.Session
	conn       *protocol.Conn
	busy, idle time.Duration
	leased     atomic.Bool // whether the last heartbeat named attempts

	mu   sync.Mutex
	sent map[string]time.Time // reports, by attempt
	last [2]int               // the want the hub knows of; what it granted is taken off
	told bool                 // whether it knows of any
}

// read handles what the hub says until the session ends.
func (t *talk) read() error {
	for {
		f, err := t.conn.Receive()
		if err != nil {
			return fmt.Errorf("connection to the hub lost: %w", err)
		}
		if err := t.handle(f); err != nil {
			return err
		}
	}
}

// handle does what one message asks. Messages this release does not know are ignored.
func (t *talk) handle(f *pb.Frame) error {
	work := t.l.cfg.Work
	switch body := f.Body.(type) {
	case *pb.Frame_Grant:
		t.mu.Lock()
		t.told = false // the hub's idea of what is wanted has changed
		t.mu.Unlock()
		work.Grant(body.Grant.Leases)
		if !t.leased.Load() {
			poke(t.l.beat) // from now on the hub expects the quick heartbeat
		}
	case *pb.Frame_Accepted:
		work.Accepted(body.Accepted.Verdicts)
	case *pb.Frame_Cancel:
		work.Cancel(attemptIDs(body.Cancel.Attempts), body.Cancel.Reason)
	case *pb.Frame_Drain:
		t.l.cfg.Log.Info("the hub asks for no more work here", "reason", body.Drain.Reason)
		work.Drain(true)
	case *pb.Frame_RetryAfter:
		return &away{millis(body.RetryAfter.DelayMs), body.RetryAfter.Reason}
	case *pb.Frame_Goodbye:
		return farewell(body.Goodbye)
	}
	return nil
}

// write says what changed, when it changed.
func (t *talk) write(ctx context.Context) error {
	for {
		if err := errors.Join(t.reports(), t.want()); err != nil {
			return err
		}
		select {
		case <-t.l.cfg.Work.News():
		case <-t.l.update:
			if err := t.device(); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (t *talk) send(f *pb.Frame) error {
	if err := t.conn.Send(f); err != nil {
		return fmt.Errorf("connection to the hub lost: %w", err)
	}
	return nil
}

// want tells the hub how many more leases the node takes, if that is news to it.
func (t *talk) want() error {
	run, prefetch := t.l.cfg.Work.Want()
	t.mu.Lock()
	known := t.told && t.last == [2]int{run, prefetch}
	t.told, t.last = true, [2]int{run, prefetch}
	t.mu.Unlock()
	if known {
		return nil
	}
	return t.send(&pb.Frame{Body: &pb.Frame_Want{Want: &pb.Want{Run: uint32(run), Prefetch: uint32(prefetch)}}})
}

// reports tells of ended attempts the hub has not heard of in this session, and again
// of those it has not answered for long.
func (t *talk) reports() error {
	// One at a time: a goodbye must not overtake a report that another goroutine has
	// marked as sent and not sent yet.
	t.reporting.Lock()
	defer t.reporting.Unlock()
	ends := t.l.cfg.Work.Reports()
	open := make(map[string]bool, len(ends))
	var batch []*pb.Ended
	size := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		f := &pb.Frame{Body: &pb.Frame_Report{Report: &pb.Report{Ended: batch}}}
		batch, size = nil, 0
		return t.send(f)
	}
	for _, e := range ends {
		open[e.Attempt] = true
		if !t.due(e.Attempt) {
			continue
		}
		n := proto.Size(e)
		if size+n > reportBytes {
			if err := flush(); err != nil {
				return err
			}
		}
		batch, size = append(batch, e), size+n
	}
	t.mu.Lock()
	maps.DeleteFunc(t.sent, func(attempt string, _ time.Time) bool { return !open[attempt] })
	t.mu.Unlock()
	return flush()
}

// due reports whether an end is to be sent now, and notes that it is.
func (t *talk) due(attempt string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if at, ok := t.sent[attempt]; ok && now.Sub(at) < repeatAfter {
		return false
	}
	t.sent[attempt] = now
	return true
}

func (t *talk) device() error {
	raw, err := json.Marshal(t.l.cfg.Device())
	if err != nil {
		return fmt.Errorf("encode the device report: %w", err)
	}
	return t.send(&pb.Frame{Body: &pb.Frame_DeviceUpdate{DeviceUpdate: &pb.DeviceUpdate{Device: raw}}})
}

// heartbeat renews what is held, quickly while something is, seldom otherwise, and at
// once when there is something to say. It has a goroutine of its own, so that nothing
// that waits can cost a lease.
func (t *talk) heartbeat(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for sequence := uint64(1); ; sequence++ {
		select {
		case <-timer.C:
		case <-t.l.beat:
		case <-ctx.Done():
			return nil
		}
		held := t.l.cfg.Work.Held()
		state, reason := t.l.cfg.State()
		err := t.send(&pb.Frame{Body: &pb.Frame_Heartbeat{Heartbeat: &pb.Heartbeat{
			Sequence: sequence, Attempts: names(held), Progress: t.l.cfg.Work.Progress(),
			State: string(state), ReasonCode: reason.Code, ReasonDetail: reason.Detail,
		}}})
		if err != nil {
			return err
		}
		t.leased.Store(len(held) > 0)
		timer.Reset(t.every(len(held) > 0))
		if len(held) > 0 {
			if err := t.reports(); err != nil { // those not answered for long
				return err
			}
		}
	}
}

func (t *talk) every(busy bool) time.Duration {
	every, standard := t.idle, defaultIdle
	if busy {
		every, standard = t.busy, defaultBusy
	}
	if every == 0 {
		every = standard
	}
	return max(every, leastBeat)
}

// part says the last things before the node stops: how work ended, and goodbye.
func (t *talk) part() {
	ended := time.AfterFunc(partLimit, func() { _ = t.s.Close(protocol.CodeNone, "") })
	defer ended.Stop()
	if err := t.reports(); err != nil {
		return
	}
	if err := t.send(&pb.Frame{Body: &pb.Frame_Goodbye{Goodbye: &pb.Goodbye{
		Code: "stopping", Reason: "the node is shutting down", Retry: true,
	}}}); err != nil {
		return
	}
	// Closing a connection drops what was not delivered; the hub hangs up once it has read it.
	<-t.s.Done()
}
