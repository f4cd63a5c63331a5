package gateway

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/store"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/protocol/pb"
)

func TestGateway_ARemovedNodeIsToldWhyAndNeedsANewTicket(t *testing.T) {
	r := newRig(t, nil)
	r.work()
	p := r.dial("worker")
	p.join(hello())
	p.lease()
	removed := make(chan error, 1)
	go func() { removed <- r.gate.Remove(t.Context(), id("worker")) }()
	bye := p.goodbye()
	if bye.Code != byeRemoved || bye.Retry || !strings.Contains(bye.Reason, "removed this machine") || !strings.Contains(bye.Reason, "new ticket") {
		t.Errorf("goodbye %q, %q, retry %v", bye.Code, bye.Reason, bye.Retry)
	}
	if err := p.conn.Close(protocol.CodeGoodbye, ""); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-removed:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("Remove did not return")
	}
	if all, err := r.gate.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("nodes %v, %v; want none", all, err)
	}

	again := r.dial("worker")
	h := hello()
	h.EnrolmentToken = nil
	again.say(&pb.Frame{Body: &pb.Frame_Hello{Hello: h}})
	if bye := again.goodbye(); bye.Code != byeEnrolment || bye.Retry || !strings.Contains(bye.Reason, "new ticket") {
		t.Errorf("it came back and heard %q, %q, retry %v", bye.Code, bye.Reason, bye.Retry)
	}
	r.dial("worker").join(hello()) // with a ticket
	if _, err := r.store.Node(t.Context(), id("worker")); err != nil {
		t.Errorf("a new ticket does not let it in: %v", err)
	}
}

func TestGateway_ARemovedNodeThatReportsItsDeviceMeanwhileIsGoneNevertheless(t *testing.T) {
	r := newRig(t, nil)
	p := r.dial("worker")
	p.join(hello())
	removed := make(chan error, 1)
	go func() { removed <- r.gate.Remove(t.Context(), id("worker")) }()
	p.goodbye()
	// It does not hang up, but talks on: each of these stores the node.
	for p.ctl.Send(&pb.Frame{Body: &pb.Frame_DeviceUpdate{DeviceUpdate: &pb.DeviceUpdate{Device: hello().Device}}}) == nil {
	}
	if err := <-removed; err != nil {
		t.Fatal(err)
	}
	if _, err := r.store.Node(t.Context(), id("worker")); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the node is back: %v", err)
	}
}

func TestGateway_RemovesANodeThatIsNotConnected(t *testing.T) {
	r := newRig(t, nil)
	if err := r.store.PutNode(t.Context(), spare.Node{ID: id("away")}); err != nil {
		t.Fatal(err)
	}
	if err := r.gate.Remove(t.Context(), id("away")); err != nil {
		t.Fatal(err)
	}
	if err := r.gate.Remove(t.Context(), id("away")); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("removing it again: %v, want ErrNotFound", err)
	}
}
