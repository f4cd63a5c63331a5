package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/events"
	"github.com/spare-compute/spare/hub/scheduler"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/protocol/pb"
)

const (
	maxLog     = 64 << 10 // bytes of a log tail that are kept
	maxMessage = 4 << 10
)

// handle takes one message of an admitted node. Unknown ones are ignored, so that a
// newer node can talk to an older hub. An error ends the session.
func (s *session) handle(ctx context.Context, f *pb.Frame) error {
	post := func(ev scheduler.Event) error { return s.g.cfg.Dispatch.Post(ctx, ev) }
	s.touch()
	switch body := f.Body.(type) {
	case *pb.Frame_Heartbeat:
		h := body.Heartbeat
		if len(h.Attempts) > maxHeld {
			return fmt.Errorf("a heartbeat named %d attempts", len(h.Attempts))
		}
		if s.note(h) {
			if err := post(scheduler.NodeChanged{Node: s.node}); err != nil {
				return err
			}
		}
		s.send(&pb.Frame{Body: &pb.Frame_HeartbeatAck{HeartbeatAck: &pb.HeartbeatAck{Sequence: h.Sequence}}})
		return post(scheduler.Heartbeat{Node: s.node.ID, Attempts: attemptIDs(h.Attempts)})
	case *pb.Frame_Want:
		return post(scheduler.Wanted{
			Node: s.node.ID,
			Run:  int(min(body.Want.Run, maxHeld)), Prefetch: int(min(body.Want.Prefetch, maxHeld)),
		})
	case *pb.Frame_Report:
		return s.report(ctx, body.Report)
	case *pb.Frame_DeviceUpdate:
		device, err := parseDevice(body.DeviceUpdate.Device)
		if err != nil {
			return err
		}
		device.Software = s.node.Device.Software
		s.node.Device, s.node.LastSeen = device, time.Now()
		if err := s.g.cfg.Store.PutNode(ctx, s.node); err != nil {
			return err
		}
		s.g.cfg.Events.Publish(events.Event{Type: events.NodeChanged, Node: s.node.ID})
		return post(scheduler.NodeChanged{Node: s.node})
	case *pb.Frame_Goodbye:
		return fmt.Errorf("the node said goodbye: %s", printable(body.Goodbye.Reason, 200))
	}
	return nil
}

func attemptIDs(names []string) []spare.AttemptID {
	ids := make([]spare.AttemptID, len(names))
	for i, n := range names {
		ids[i] = spare.AttemptID(n)
	}
	return ids
}

func (s *session) touch() {
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	if live := s.g.states[s.node.ID]; live != nil {
		live.seen = time.Now()
	}
}

// note keeps what a heartbeat says of the node and its attempts. It reports whether the
// scheduler must hear of it too: of a pause, its end, or another reason for it.
func (s *session) note(h *pb.Heartbeat) (changed bool) {
	state := spare.NodeState(h.State)
	switch state {
	case spare.NodeWorking, spare.NodeIdle, spare.NodePaused:
	default:
		state = spare.NodeIdle
	}
	reason := spare.Reason{Code: printable(h.ReasonCode, 64), Detail: printable(h.ReasonDetail, 200)}
	changed = s.node.State != state || s.node.Reason != reason
	s.node.State, s.node.Reason = state, reason
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	live := s.g.states[s.node.ID]
	if live == nil {
		return changed
	}
	live.state, live.reason = state, reason
	live.progress = map[spare.AttemptID]float64{}
	for _, p := range h.Progress[:min(len(h.Progress), maxHeld)] {
		if p.Fraction != nil && *p.Fraction >= 0 && *p.Fraction <= 1 {
			live.progress[spare.AttemptID(p.Attempt)] = *p.Fraction
		}
	}
	return changed
}

// report turns ended attempts into events. What cannot be a result is a rejected one.
func (s *session) report(ctx context.Context, r *pb.Report) error {
	if len(r.Ended) > maxHeld {
		return fmt.Errorf("a report named %d attempts", len(r.Ended))
	}
	for _, e := range r.Ended {
		ev := scheduler.Reported{
			Node: s.node.ID, Attempt: spare.AttemptID(e.Attempt), ExitCode: int(e.ExitCode),
			Message: printable(e.Message, maxMessage), Log: string(bytes.ToValidUTF8(tail(e.Log, maxLog), []byte("\uFFFD"))),
			Usage: spare.Usage{
				Wall: time.Duration(e.WallMs) * time.Millisecond, CPU: time.Duration(e.CpuMs) * time.Millisecond,
				PeakMemory: int64(e.PeakMemory), Written: int64(e.Written),
			},
		}
		i := int(e.Outcome) - 1
		if i < 0 || i >= len(spare.Outcomes) {
			return fmt.Errorf("a report has the unknown outcome %d", e.Outcome)
		}
		ev.Outcome = spare.Outcomes[i]
		var err error
		if ev.Outcome == spare.Succeeded {
			var result *spare.Result
			result, err = s.result(ctx, e)
			var bad *badResult
			switch {
			case errors.As(err, &bad):
				ev.Outcome, ev.Message = spare.Rejected, "the hub cannot take the result: "+bad.why
			case err != nil:
				return err
			}
			ev.Result = result
		}
		if ev.Outcome == spare.Preempted && e.Checkpoint != nil {
			// One that cannot be taken is no reason to refuse the rest.
			if ev.Checkpoint, err = s.content(ctx, ev.Attempt, "checkpoint", e.Checkpoint); err != nil && !errors.As(err, new(*badResult)) {
				return err
			}
		}
		if err := s.g.cfg.Dispatch.Post(ctx, ev); err != nil {
			return err
		}
	}
	return nil
}

type badResult struct{ why string }

func (b *badResult) Error() string { return b.why }

// result checks that the hub holds what a successful report names.
func (s *session) result(ctx context.Context, e *pb.Ended) (*spare.Result, error) {
	if e.Result == nil {
		return nil, &badResult{"it names none"}
	}
	content, err := spare.ParseDigest(e.Content)
	if err != nil {
		return nil, &badResult{err.Error()}
	}
	r := &spare.Result{Content: content, Files: int(e.Files), Bytes: int64(e.Bytes)}
	if r.Bytes < 0 || r.Bytes > s.g.cfg.MaxResult {
		return nil, &badResult{fmt.Sprintf("it is larger than the %d bytes allowed", s.g.cfg.MaxResult)}
	}
	blob, err := s.content(ctx, spare.AttemptID(e.Attempt), "result", e.Result)
	if err != nil {
		return nil, err
	}
	r.Blob = *blob
	return r, nil
}

// content checks that the hub holds content that a report names, or stores it if it came
// along. An error other than a badResult is the hub's own.
func (s *session) content(ctx context.Context, attempt spare.AttemptID, name string, b *pb.Blob) (*spare.File, error) {
	digest, err := spare.ParseDigest(b.Digest)
	if err != nil {
		return nil, &badResult{err.Error()}
	}
	f := &spare.File{Name: name, Digest: digest, Size: int64(b.Size)}
	if f.Size < 0 || f.Size > s.g.cfg.MaxResult {
		return nil, &badResult{fmt.Sprintf("it is larger than the %d bytes allowed", s.g.cfg.MaxResult)}
	}
	if len(b.Inline) == 0 {
		size, err := s.g.cfg.Blobs.Stat(digest)
		if err != nil {
			return nil, &badResult{"it was not uploaded"}
		}
		if size != f.Size {
			return nil, &badResult{fmt.Sprintf("it was declared with %d bytes and has %d", f.Size, size)}
		}
		s.g.grants.claim(s.node.ID, attempt, digest)
		return f, nil
	}
	if len(b.Inline) > protocol.InlineLimit || int64(len(b.Inline)) != f.Size || spare.Sum(b.Inline) != digest {
		return nil, &badResult{"its bytes do not match its digest and size"}
	}
	if len(b.Inline) <= spare.InlineLimit {
		f.Inline = b.Inline
		return f, nil
	}
	if err := s.g.grants.mayPut(s.node.ID, digest, f.Size, s.g.cfg.MaxResult); errors.Is(err, protocol.ErrFull) {
		return nil, err
	} else if err != nil {
		return nil, &badResult{err.Error()}
	}
	if _, _, err := s.g.cfg.Blobs.Put(ctx, bytes.NewReader(b.Inline)); err != nil {
		return nil, err // the node reports again when the hub can take it
	}
	s.g.grants.claim(s.node.ID, attempt, digest)
	return f, nil
}

func tail(b []byte, most int) []byte {
	if len(b) > most {
		return b[len(b)-most:]
	}
	return b
}

// blob serves one blob stream of the node.
func (s *session) blob(ctx context.Context, st protocol.Stream, first *pb.Frame) {
	limits := protocol.BlobLimits{MaxBlob: s.g.cfg.MaxResult, Allow: s.mayMove}
	if err := protocol.ServeBlob(ctx, st, first, s.g.cfg.Blobs, limits); err != nil {
		s.log.Debug("blob transfer ended early", "error", err)
	}
}

// mayMove lets a node fetch what it has a lease on, and upload while it has one, or had
// one on a task that is still open.
func (s *session) mayMove(get bool, d spare.Digest, size int64) error {
	if !get {
		return s.g.grants.mayPut(s.node.ID, d, size, s.g.cfg.MaxResult)
	}
	public := func(f spare.File) bool { return f.Digest == d }
	if !slices.ContainsFunc(s.g.cfg.Runtimes, public) && !s.g.grants.mayGet(s.node.ID, d) {
		return errors.New("no lease of this node names this content")
	}
	return nil
}
