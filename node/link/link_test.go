package link

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/protocol/pb"
)

const (
	nodeID = spare.NodeID("00000000000000000000000000000000000000000000000000000000000000aa")
	hubID  = spare.NodeID("00000000000000000000000000000000000000000000000000000000000000bb")
	within = 10 * time.Second
)

// desk is a Work whose parts a test sets and reads.
type desk struct {
	mu       sync.Mutex
	held     []spare.AttemptID
	reports  []*pb.Ended
	run, pre int
	granted  []*pb.Lease
	calls    []string
	news     chan struct{}
	called   chan struct{}
}

func newDesk() *desk {
	return &desk{news: make(chan struct{}, 1), called: make(chan struct{}, 100)}
}

func (d *desk) call(what string, change func()) {
	d.mu.Lock()
	d.calls = append(d.calls, what)
	if change != nil {
		change()
	}
	d.mu.Unlock()
	d.called <- struct{}{}
}

func (d *desk) Grant(l []*pb.Lease) {
	d.call("grant", func() {
		d.granted = append(d.granted, l...)
		for _, lease := range l {
			d.held = append(d.held, spare.AttemptID(lease.Attempt))
		}
	})
}

func (d *desk) Cancel(ids []spare.AttemptID, reason string) {
	d.call("cancel "+string(ids[0])+" "+reason, nil)
}

func (d *desk) Drop(ids []spare.AttemptID) {
	if len(ids) > 0 {
		d.call("drop "+string(ids[0]), nil)
	}
}

func (d *desk) Accepted(v []*pb.Verdict) {
	d.call("accepted "+v[0].Attempt, func() {
		d.reports = slices.DeleteFunc(d.reports, func(e *pb.Ended) bool { return e.Attempt == v[0].Attempt })
		d.held = slices.DeleteFunc(d.held, func(id spare.AttemptID) bool { return string(id) == v[0].Attempt })
	})
}

func (d *desk) Drain(on bool) {
	if on {
		d.call("drain", nil)
	}
}

func (d *desk) Want() (int, int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.run, d.pre
}

func (d *desk) Held() []spare.AttemptID {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.held)
}
func (d *desk) Progress() []*pb.Progress { return nil }
func (d *desk) Reports() []*pb.Ended {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.reports)
}
func (d *desk) News() <-chan struct{} { return d.news }

func (d *desk) set(change func()) {
	d.mu.Lock()
	change()
	d.mu.Unlock()
	poke(d.news)
}

// fakeHub is the other end of the sessions that the link dials.
type fakeHub struct {
	t        *testing.T
	sessions chan protocol.Session
	mu       sync.Mutex
	down     bool
	polite   bool // stays until the node has said goodbye
	ends     []protocol.Session
}

func newHub(t *testing.T) *fakeHub {
	return &fakeHub{t: t, sessions: make(chan protocol.Session, 10)}
}

func (h *fakeHub) dial(context.Context, string) (protocol.Session, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down {
		return nil, errors.New("connection refused")
	}
	node, hub := protocol.Pipe(nodeID, hubID)
	h.t.Cleanup(func() { _ = node.Close(protocol.CodeNone, ""); _ = hub.Close(protocol.CodeNone, "") })
	h.ends = append(h.ends, hub)
	h.sessions <- hub
	return node, nil
}

// peer is one session as the hub sees it.
type peer struct {
	t    *testing.T
	s    protocol.Session
	conn *protocol.Conn
}

func (h *fakeHub) accept() (*peer, *pb.Hello) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), within)
	defer cancel()
	var s protocol.Session
	select {
	case s = <-h.sessions:
	case <-ctx.Done():
		h.t.Fatal("the link did not dial")
	}
	st, err := s.AcceptStream(ctx)
	if err != nil {
		h.t.Fatal(err)
	}
	p := &peer{h.t, s, protocol.NewConn(st)}
	return p, next(p, (*pb.Frame).GetHello)
}

func (p *peer) send(f *pb.Frame) {
	p.t.Helper()
	if err := p.conn.Send(f); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) welcome(w *pb.Welcome) {
	p.t.Helper()
	if w == nil {
		w = &pb.Welcome{HubName: "attic", Pool: "trusted", HeartbeatBusyMs: 100, HeartbeatIdleMs: 60_000}
	}
	w.Version = protocol.Version
	p.send(&pb.Frame{Body: &pb.Frame_Welcome{Welcome: w}})
}

// next waits for the next message of one kind; others are passed over.
func next[T comparable](p *peer, get func(*pb.Frame) T) T {
	p.t.Helper()
	var none T
	got := make(chan T, 1)
	fail := make(chan error, 1)
	go func() {
		for {
			f, err := p.conn.Receive()
			if err != nil {
				fail <- err
				return
			}
			if v := get(f); v != none {
				got <- v
				return
			}
		}
	}()
	select {
	case v := <-got:
		return v
	case err := <-fail:
		p.t.Fatalf("wait for a %T: %v", none, err)
	case <-time.After(within):
		p.t.Fatalf("no %T came", none)
	}
	return none
}

func start(t *testing.T, h *fakeHub, d *desk) (l *Link, stop func() error) {
	t.Helper()
	l = New(Config{
		Hub: hubID, Addresses: []string{"hub:1"}, Dial: h.dial, Work: d, Log: slog.New(slog.DiscardHandler), Token: []byte("token"),
		Device: func() spare.Device { return spare.Device{Name: "bench", OS: "linux"} },
		State:  func() (spare.NodeState, spare.Reason) { return spare.NodeIdle, spare.Reason{Code: "no_work"} },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	return l, sync.OnceValue(func() error {
		cancel()
		h.mu.Lock()
		for _, s := range h.ends {
			if !h.polite {
				_ = s.Close(protocol.CodeNone, "the test is over")
			}
		}
		h.mu.Unlock()
		select {
		case err := <-done:
			return err
		case <-time.After(within):
			return errors.New("Run did not return")
		}
	})
}

func (d *desk) awaitCall(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(within)
	for {
		d.mu.Lock()
		found := slices.Contains(d.calls, want)
		calls := slices.Clone(d.calls)
		d.mu.Unlock()
		if found {
			return
		}
		select {
		case <-d.called:
		case <-deadline:
			t.Fatalf("no %q; there was %q", want, calls)
		}
	}
}

func TestLink_HelloNamesWhatIsHeldAndWho(t *testing.T) {
	h, d := newHub(t), newDesk()
	d.held = []spare.AttemptID{"j.0.1", "j.1.1"}
	_, stop := start(t, h, d)
	defer stop()
	p, hello := h.accept()
	p.welcome(&pb.Welcome{Drop: []string{"j.1.1"}})
	var device spare.Device
	if err := json.Unmarshal(hello.Device, &device); err != nil || device.Name != "bench" {
		t.Errorf("device = %s, %v", hello.Device, err)
	}
	if !slices.Equal(hello.Attempts, []string{"j.0.1", "j.1.1"}) || string(hello.EnrolmentToken) != "token" || len(hello.Instance) == 0 {
		t.Errorf("hello = %v", hello)
	}
	d.awaitCall(t, "drop j.1.1")
}

func TestLink_WantIsSaidWhenItChangesAndAfterEachGrant(t *testing.T) {
	h, d := newHub(t), newDesk()
	d.run, d.pre = 2, 1
	_, stop := start(t, h, d)
	defer stop()
	p, _ := h.accept()
	p.welcome(nil)
	if w := next(p, (*pb.Frame).GetWant); w.Run != 2 || w.Prefetch != 1 {
		t.Errorf("want = %v", w)
	}
	d.set(func() { d.run = 1 })
	if w := next(p, (*pb.Frame).GetWant); w.Run != 1 {
		t.Errorf("want = %v", w)
	}
	p.send(&pb.Frame{Body: &pb.Frame_Grant{Grant: &pb.Grant{Leases: []*pb.Lease{{Attempt: "j.0.1"}}}}})
	d.awaitCall(t, "grant")
	poke(d.news) // as an executor does; the numbers are the same as before
	if w := next(p, (*pb.Frame).GetWant); w.Run != 1 {
		t.Errorf("want = %v", w)
	}
}

func TestLink_AGrantStartsTheQuickHeartbeatAtOnce(t *testing.T) {
	h, d := newHub(t), newDesk()
	_, stop := start(t, h, d)
	defer stop()
	p, _ := h.accept()
	p.welcome(nil) // idle heartbeat: a minute
	if b := next(p, (*pb.Frame).GetHeartbeat); len(b.Attempts) != 0 || b.State != "idle" || b.ReasonCode != "no_work" {
		t.Errorf("first heartbeat = %v", b)
	}
	p.send(&pb.Frame{Body: &pb.Frame_Grant{Grant: &pb.Grant{Leases: []*pb.Lease{{Attempt: "j.0.1"}}}}})
	var sequence uint64
	for range 3 {
		b := next(p, (*pb.Frame).GetHeartbeat)
		if !slices.Equal(b.Attempts, []string{"j.0.1"}) || b.Sequence <= sequence {
			t.Errorf("heartbeat = %v", b)
		}
		sequence = b.Sequence
	}
}

func TestLink_ReportsAreSentOnceASessionUntilAccepted(t *testing.T) {
	h, d := newHub(t), newDesk()
	_, stop := start(t, h, d)
	defer stop()
	p, _ := h.accept()
	p.welcome(nil)
	big := bytes.Repeat([]byte{1}, 60<<10)
	d.set(func() {
		for i := range 20 {
			d.reports = append(d.reports, &pb.Ended{Attempt: string(spare.NewAttemptID(spare.NewTaskID("j", i), 1)), Log: big})
		}
	})
	seen := map[string]int{}
	for len(seen) < 20 {
		r := next(p, (*pb.Frame).GetReport)
		for _, e := range r.Ended {
			seen[e.Attempt]++
		}
	}
	p.send(&pb.Frame{Body: &pb.Frame_Accepted{Accepted: &pb.Accepted{Verdicts: []*pb.Verdict{{Attempt: "j.0.1", Taken: true}}}}})
	d.awaitCall(t, "accepted j.0.1")
	_ = p.s.Close(protocol.CodeLost, "cable cut")
	p, _ = h.accept()
	p.welcome(nil)
	again := map[string]bool{}
	for len(again) < 19 {
		for _, e := range next(p, (*pb.Frame).GetReport).Ended {
			seen[e.Attempt]++
			again[e.Attempt] = true
		}
	}
	for attempt, n := range seen {
		if want := map[bool]int{true: 1, false: 2}[attempt == "j.0.1"]; n != want {
			t.Errorf("%s was reported %d times, want %d", attempt, n, want)
		}
	}
}

func TestLink_HubsWordsReachTheDesk(t *testing.T) {
	h, d := newHub(t), newDesk()
	_, stop := start(t, h, d)
	defer stop()
	p, _ := h.accept()
	p.welcome(nil)
	p.send(&pb.Frame{}) // of a newer release
	p.send(&pb.Frame{Body: &pb.Frame_Cancel{Cancel: &pb.Cancel{Attempts: []string{"j.4.1"}, Reason: "job aborted"}}})
	d.awaitCall(t, "cancel j.4.1 job aborted")
	p.send(&pb.Frame{Body: &pb.Frame_Drain{Drain: &pb.Drain{}}})
	d.awaitCall(t, "drain")
}

func TestLink_GoodbyeForGoodEndsIt(t *testing.T) {
	for code, want := range map[string]string{"revoked": "you were removed", "duplicate": "new data folder"} {
		h, d := newHub(t), newDesk()
		l, stop := start(t, h, d)
		p, _ := h.accept()
		p.welcome(nil)
		p.send(&pb.Frame{Body: &pb.Frame_Goodbye{Goodbye: &pb.Goodbye{Code: code, Reason: "you were removed"}}})
		<-p.s.Done()
		err := stop()
		var refused *Refused
		if !errors.As(err, &refused) || refused.Code != code || !strings.Contains(err.Error(), want) {
			t.Errorf("Run = %v, want it refused with %q", err, want)
		}
		if s := l.Status(); s.Connected || s.Error == "" {
			t.Errorf("status = %+v", s)
		}
	}
}

func TestLink_RetryableGoodbyeAndLostSessionsDialAgain(t *testing.T) {
	h, d := newHub(t), newDesk()
	l, stop := start(t, h, d)
	defer stop()
	p, first := h.accept()
	p.welcome(nil)
	p.send(&pb.Frame{Body: &pb.Frame_Goodbye{Goodbye: &pb.Goodbye{Code: "shutdown", Retry: true}}})
	p, second := h.accept()
	if !bytes.Equal(first.Instance, second.Instance) {
		t.Error("one start of the program looks like two")
	}
	p.send(&pb.Frame{Body: &pb.Frame_RetryAfter{RetryAfter: &pb.RetryAfter{DelayMs: 50}}})
	p, _ = h.accept()
	p.welcome(nil)
	next(p, (*pb.Frame).GetHeartbeat)
	if s := l.Status(); !s.Connected || s.Hub != "attic" || s.Pool != "trusted" {
		t.Errorf("status = %+v", s)
	}
}

func TestLink_StopTellsTheLastReportsAndGoodbye(t *testing.T) {
	h, d := newHub(t), newDesk()
	h.polite = true
	_, stop := start(t, h, d)
	p, _ := h.accept()
	p.welcome(nil)
	next(p, (*pb.Frame).GetHeartbeat)
	d.mu.Lock() // no news of it: only parting can tell
	d.reports = []*pb.Ended{{Attempt: "j.0.1", Outcome: pb.Outcome_OUTCOME_PREEMPTED}}
	d.mu.Unlock()
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	if r := next(p, (*pb.Frame).GetReport); r.Ended[0].Outcome != pb.Outcome_OUTCOME_PREEMPTED {
		t.Errorf("report = %v", r)
	}
	if g := next(p, (*pb.Frame).GetGoodbye); !g.Retry {
		t.Errorf("goodbye = %v", g)
	}
	_ = p.s.Close(protocol.CodeGoodbye, "")
	if err := <-ended; err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestLink_UnreachableHubIsTriedAgainAndSaidSo(t *testing.T) {
	h, d := newHub(t), newDesk()
	h.down = true
	l, stop := start(t, h, d)
	defer stop()
	deadline := time.Now().Add(within)
	for l.Status().Next == nil {
		if time.Now().After(deadline) {
			t.Fatal("no next try is announced")
		}
		time.Sleep(time.Millisecond)
	}
	if s := l.Status(); !strings.Contains(s.Error, "connection refused") {
		t.Errorf("status = %+v", s)
	}
	h.mu.Lock()
	h.down = false
	h.mu.Unlock()
	p, _ := h.accept()
	p.welcome(nil)
}

func TestDial_TakesTheFirstAddressThatAnswers(t *testing.T) {
	h := newHub(t)
	l := New(Config{Addresses: []string{"dead:1", "slow:1", "good:1"}, Dial: func(ctx context.Context, address string) (protocol.Session, error) {
		switch address {
		case "dead:1":
			return nil, errors.New("refused")
		case "slow:1":
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return h.dial(ctx, address)
	}})
	_, address, err := l.dial(t.Context())
	if err != nil || address != "good:1" {
		t.Errorf("dial = %s, %v", address, err)
	}
}

func TestEnrol_TellsWhyNot(t *testing.T) {
	h := newHub(t)
	cfg := Config{
		Addresses: []string{"hub:1"}, Dial: h.dial, Token: []byte("used"), Log: slog.New(slog.DiscardHandler),
		Device: func() spare.Device { return spare.Device{} },
	}
	done := make(chan error, 1)
	go func() { _, err := Enrol(t.Context(), cfg); done <- err }()
	p, hello := h.accept()
	if string(hello.EnrolmentToken) != "used" {
		t.Errorf("hello = %v", hello)
	}
	p.send(&pb.Frame{Body: &pb.Frame_Goodbye{Goodbye: &pb.Goodbye{Code: "enrolment", Reason: "this ticket is used up"}}})
	var refused *Refused
	if err := <-done; !errors.As(err, &refused) || refused.Reason != "this ticket is used up" {
		t.Errorf("Enrol = %v", err)
	}
	h.down = true
	var unreachable *Unreachable
	if _, err := Enrol(t.Context(), cfg); !errors.As(err, &unreachable) || strings.Contains(err.Error(), "\n") {
		t.Errorf("Enrol = %v, want one sentence", err)
	}
}
