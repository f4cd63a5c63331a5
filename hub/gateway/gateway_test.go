package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/blob"
	"github.com/spare-compute/spare/hub/dispatch"
	"github.com/spare-compute/spare/hub/events"
	"github.com/spare-compute/spare/hub/scheduler"
	"github.com/spare-compute/spare/hub/store"
	"github.com/spare-compute/spare/hub/store/sqlite"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/protocol/pb"
)

// rig is a gateway over a real store, blob store and dispatcher; nodes reach it by pipes.
type rig struct {
	t     *testing.T
	store store.Store
	blobs *blob.Disk
	gate  *Gateway
	conns chan protocol.Session
}

const token = "the enrolment token"

func newRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	st, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "hub.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	disk, err := blob.OpenDisk(filepath.Join(t.TempDir(), "blobs"), 0)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, store: st, blobs: disk, conns: make(chan protocol.Session)}
	log := slog.New(slog.DiscardHandler)
	cfg := Config{
		Store: st, Blobs: disk, Events: events.New(time.Now()), HubName: "hub", Log: log,
		Lease: 8 * time.Second, HeartbeatBusy: 2 * time.Second, HeartbeatIdle: 20 * time.Second, MaxResult: 1 << 20,
	}
	if change != nil {
		change(&cfg)
	}
	d := dispatch.New(dispatch.Config{
		Core: scheduler.New(scheduler.Config{Lease: cfg.Lease}, 1), Ledger: st, Log: log,
		Effect: func(dec scheduler.Decision) { r.gate.Decided(dec) }, EndTurn: func() { r.gate.Flush() },
	})
	cfg.Dispatch = d
	r.gate = New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- d.Run(ctx) }()
	go func() { ended <- r.gate.Serve(ctx, r) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	put := store.Token{Hash: spare.Sum([]byte(token)), Pool: "trusted", Owner: "me", Uses: 10, Created: time.Now(), Expires: time.Now().Add(time.Hour)}
	if err := st.PutToken(t.Context(), put); err != nil {
		t.Fatal(err)
	}
	return r
}

// Accept makes the rig the gateway's listener.
func (r *rig) Accept(ctx context.Context) (protocol.Session, error) {
	select {
	case s := <-r.conns:
		return s, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *rig) Addr() net.Addr { return &net.UDPAddr{} }
func (r *rig) Close() error   { return nil }

// peer is a node's end of a session.
type peer struct {
	t    *testing.T
	conn protocol.Session
	ctl  *protocol.Conn
}

func id(name string) spare.NodeID { return spare.NodeID(spare.Sum([]byte(name))) }

func (r *rig) dial(name string) *peer {
	r.t.Helper()
	near, far := protocol.Pipe(id(name), id("hub"))
	r.conns <- far
	st, err := near.OpenStream(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = near.Close(protocol.CodeNone, "the test is over") })
	return &peer{t: r.t, conn: near, ctl: protocol.NewConn(st)}
}

func hello() *pb.Hello {
	device, _ := json.Marshal(spare.Device{
		Name: "a laptop", OS: "linux", Arch: "amd64", CPU: spare.CPU{Cores: 2}, Offer: spare.Offer{Cores: 2},
		Runtimes: []spare.Capability{{Runtime: "linux", OK: true, Platforms: []spare.Platform{spare.PlatformPython}}},
	})
	return &pb.Hello{MinVersion: 1, MaxVersion: 1, Device: device, EnrolmentToken: []byte(token), Instance: []byte("one")}
}

func (p *peer) say(f *pb.Frame) {
	p.t.Helper()
	if err := p.ctl.Send(f); err != nil {
		p.t.Fatal(err)
	}
}

// hear returns the next message that is of the wanted kind.
func hear[T any](p *peer, pick func(*pb.Frame) T, is func(T) bool) T {
	p.t.Helper()
	if err := p.ctl.Stream().SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		p.t.Fatal(err)
	}
	for {
		f, err := p.ctl.Receive()
		if err != nil {
			p.t.Fatalf("the session ended before the message came: %v", err)
		}
		if v := pick(f); is(v) {
			return v
		}
	}
}

func (p *peer) goodbye() *pb.Goodbye {
	p.t.Helper()
	return hear(p, (*pb.Frame).GetGoodbye, func(g *pb.Goodbye) bool { return g != nil })
}

func (p *peer) join(h *pb.Hello) *pb.Welcome {
	p.t.Helper()
	p.say(&pb.Frame{Body: &pb.Frame_Hello{Hello: h}})
	return hear(p, (*pb.Frame).GetWelcome, func(w *pb.Welcome) bool { return w != nil })
}

func TestGateway_RefusesWithTheReason(t *testing.T) {
	r := newRig(t, nil)
	expired := store.Token{Hash: spare.Sum([]byte("old")), Uses: 1, Expires: time.Now().Add(-time.Minute)}
	if err := r.store.PutToken(t.Context(), expired); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, code, reason string
		change             func(*pb.Hello)
	}{
		{"a stranger without a ticket", byeEnrolment, "does not know this machine", func(h *pb.Hello) { h.EnrolmentToken = nil }},
		{"another hub's ticket", byeEnrolment, "did not issue this ticket", func(h *pb.Hello) { h.EnrolmentToken = []byte("x") }},
		{"an expired ticket", byeEnrolment, "expired", func(h *pb.Hello) { h.EnrolmentToken = []byte("old") }},
		{"a release from the future", byeVersion, "version", func(h *pb.Hello) { h.MinVersion, h.MaxVersion = 90, 99 }},
		{"a device report of nonsense", byeMalformed, "device report", func(h *pb.Hello) { h.Device = []byte("{") }},
		{"a device without cores", byeMalformed, "cores", func(h *pb.Hello) { h.Device = []byte(`{"os":"linux","arch":"amd64"}`) }},
		{"a Hello that names a million attempts", byeMalformed, "at most", func(h *pb.Hello) { h.Attempts = make([]string, maxHeld+1) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := r.dial(c.name)
			p.t = t
			h := hello()
			c.change(h)
			p.say(&pb.Frame{Body: &pb.Frame_Hello{Hello: h}})
			bye := p.goodbye()
			if bye.Code != c.code || !strings.Contains(bye.Reason, c.reason) || bye.Retry {
				t.Errorf("goodbye %q, %q, retry %v; want %q and %q, no retry", bye.Code, bye.Reason, bye.Retry, c.code, c.reason)
			}
			if _, err := r.store.Node(t.Context(), id(c.name)); err == nil {
				t.Error("a refused node was stored")
			}
		})
	}
}

func TestGateway_FirstMessageMustBeAHello(t *testing.T) {
	p := newRig(t, nil).dial("a")
	p.say(&pb.Frame{Body: &pb.Frame_Want{Want: &pb.Want{Run: 1}}})
	if bye := p.goodbye(); bye.Code != byeMalformed {
		t.Errorf("goodbye %q", bye.Code)
	}
}

func TestGateway_KnownNodeNeedsNoTicketAndKeepsItsPool(t *testing.T) {
	r := newRig(t, nil)
	first := r.dial("a")
	if w := first.join(hello()); w.Pool != "trusted" || w.LeaseMs != 8000 {
		t.Errorf("welcome %v", w)
	}
	h := hello()
	h.EnrolmentToken = nil
	if w := r.dial("a").join(h); w.Pool != "trusted" {
		t.Errorf("welcome %v", w)
	}
}

func TestGateway_NewerSessionOfOneKeyWins(t *testing.T) {
	for _, c := range []struct {
		instance, code string
		retry          bool
	}{
		{"one", byeReplaced, true},   // the same program, dialling again
		{"two", byeDuplicate, false}, // another machine with a copy of the key
	} {
		r := newRig(t, nil)
		older := r.dial("a")
		older.join(hello())
		h := hello()
		h.Instance = []byte(c.instance)
		newer := r.dial("a")
		newer.join(h)
		if bye := older.goodbye(); bye.Code != c.code || bye.Retry != c.retry {
			t.Errorf("instance %s: the older session was told %q, retry %v", c.instance, bye.Code, bye.Retry)
		}
		newer.say(&pb.Frame{Body: &pb.Frame_Heartbeat{Heartbeat: &pb.Heartbeat{Sequence: 7}}})
		if ack := hear(newer, (*pb.Frame).GetHeartbeatAck, func(a *pb.HeartbeatAck) bool { return a != nil }); ack.Sequence != 7 {
			t.Errorf("acknowledged %d", ack.Sequence)
		}
	}
}

// work opens a job of one task with a large input and returns the input.
func (r *rig) work() []byte {
	r.t.Helper()
	input := bytes.Repeat([]byte("chunk "), 20_000)
	digest, size, err := r.blobs.Put(r.t.Context(), bytes.NewReader(input))
	if err != nil {
		r.t.Fatal(err)
	}
	job := spare.Job{
		ID: "j", Name: "a job", State: spare.JobRunning, Chunks: 1,
		Plan: &spare.Plan{AppParams: json.RawMessage(`{"a":1,"b":2}`), App: spare.App{Name: "app", Bundle: spare.Sum([]byte("bundle"))}, TaskTimeout: time.Minute},
	}
	task := spare.Task{
		ID: "j.0", Job: "j", State: spare.TaskReady, Params: json.RawMessage(`{"b":3}`),
		Input: spare.File{Name: "data.bin", Digest: digest, Size: size},
	}
	if err := r.store.CreateJob(r.t.Context(), job); err != nil {
		r.t.Fatal(err)
	}
	if err := r.store.AddTasks(r.t.Context(), []spare.Task{task}); err != nil {
		r.t.Fatal(err)
	}
	err = r.gate.cfg.Dispatch.Post(r.t.Context(),
		scheduler.JobOpened{Job: "j", App: "app", Around: spare.Environment{Platform: spare.PlatformPython}, Owner: "o", Total: -1},
		scheduler.TasksAdded{Job: "j", Tasks: []spare.Task{task}})
	if err != nil {
		r.t.Fatal(err)
	}
	return input
}

func (p *peer) lease() *pb.Lease {
	p.t.Helper()
	p.say(&pb.Frame{Body: &pb.Frame_Want{Want: &pb.Want{Run: 1}}})
	return hear(p, (*pb.Frame).GetGrant, func(g *pb.Grant) bool { return g != nil && len(g.Leases) > 0 }).Leases[0]
}

func TestGateway_ABlobIsForWhoHoldsALeaseOnIt(t *testing.T) {
	r := newRig(t, nil)
	input := r.work()
	worker, other := r.dial("worker"), r.dial("other")
	worker.join(hello())
	other.join(hello())
	l := worker.lease()
	if string(l.Params) != `{"a":1,"b":3}` || l.TimeoutS != 60 || l.Cores != 1 {
		t.Errorf("lease %v", l)
	}
	var got bytes.Buffer
	if _, err := protocol.GetBlob(t.Context(), worker.conn, spare.Digest(l.Input.Digest), 0, &got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), input) {
		t.Error("the holder of the lease got other bytes")
	}
	if _, err := protocol.GetBlob(t.Context(), other.conn, spare.Digest(l.Input.Digest), 0, io.Discard); err == nil {
		t.Error("a node without a lease got the input")
	}
}

func TestGateway_WhatCannotBeAResultIsNotTaken(t *testing.T) {
	content := string(spare.Sum([]byte("content")))
	for _, c := range []struct {
		name string
		blob *pb.Blob
	}{
		{"none", nil},
		{"never uploaded", &pb.Blob{Digest: string(spare.Sum([]byte("x"))), Size: 1}},
		{"no digest", &pb.Blob{Digest: "../../etc/passwd", Size: 1}},
		{"other bytes inline", &pb.Blob{Digest: string(spare.Sum([]byte("x"))), Size: 1, Inline: []byte("y")}},
		{"other size inline", &pb.Blob{Digest: string(spare.Sum([]byte("x"))), Size: 2, Inline: []byte("x")}},
		{"larger than allowed", &pb.Blob{Digest: string(spare.Sum([]byte("x"))), Size: 1 << 40}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, nil)
			r.work()
			p := r.dial("worker")
			p.join(hello())
			l := p.lease()
			p.say(&pb.Frame{Body: &pb.Frame_Report{Report: &pb.Report{Ended: []*pb.Ended{{
				Attempt: l.Attempt, Outcome: pb.Outcome_OUTCOME_SUCCEEDED, Result: c.blob, Content: content,
			}}}}})
			hear(p, (*pb.Frame).GetAccepted, func(a *pb.Accepted) bool { return a != nil })
			tasks, err := r.store.Tasks(t.Context(), "j", 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			attempts, err := r.store.Attempts(t.Context(), "j")
			if err != nil {
				t.Fatal(err)
			}
			if tasks[0].State == spare.TaskDone || attempts[0].Outcome != spare.Rejected {
				t.Errorf("task %s, attempt %s %q; want the attempt rejected", tasks[0].State, attempts[0].Outcome, attempts[0].Message)
			}
		})
	}
}

func TestGateway_AGoodResultIsInTheLedgerBeforeItIsAcknowledged(t *testing.T) {
	r := newRig(t, nil)
	r.work()
	p := r.dial("worker")
	p.join(hello())
	l := p.lease()
	result := []byte("small result")
	report := &pb.Frame{Body: &pb.Frame_Report{Report: &pb.Report{Ended: []*pb.Ended{{
		Attempt: l.Attempt, Outcome: pb.Outcome_OUTCOME_SUCCEEDED, Content: string(spare.Sum([]byte("content"))), Files: 1, Bytes: 12,
		Result: &pb.Blob{Digest: string(spare.Sum(result)), Size: uint64(len(result)), Inline: result},
		Log:    []byte("a line\nbad \xff bytes\n"),
	}}}}}
	p.say(report)
	verdict := hear(p, (*pb.Frame).GetAccepted, func(a *pb.Accepted) bool { return a != nil }).Verdicts[0]
	if !verdict.Taken {
		t.Fatalf("not taken: %s", verdict.Reason)
	}
	tasks, err := r.store.Tasks(t.Context(), "j", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if tasks[0].State != spare.TaskDone || string(tasks[0].Result.Blob.Inline) != "small result" {
		t.Errorf("task %+v was acknowledged and is not in the ledger", tasks[0])
	}
	p.say(report) // the answer may be lost: a node repeats its report
	if again := hear(p, (*pb.Frame).GetAccepted, func(a *pb.Accepted) bool { return a != nil }).Verdicts[0]; again.Attempt != l.Attempt {
		t.Errorf("verdict %v", again)
	}
}

func TestGateway_SilentNodeWithALeaseLosesItsSession(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Lease = 1500 * time.Millisecond })
	r.work()
	p := r.dial("worker")
	p.join(hello())
	p.lease()
	select {
	case <-p.conn.Done():
	case <-time.After(15 * time.Second):
		t.Fatal("the session of a silent node lived on")
	}
}

func TestGateway_TooMuchInOneMessageEndsTheSession(t *testing.T) {
	for name, f := range map[string]*pb.Frame{
		"heartbeat": {Body: &pb.Frame_Heartbeat{Heartbeat: &pb.Heartbeat{Attempts: make([]string, maxHeld+1)}}},
		"report":    {Body: &pb.Frame_Report{Report: &pb.Report{Ended: make([]*pb.Ended, maxHeld+1)}}},
		"outcome":   {Body: &pb.Frame_Report{Report: &pb.Report{Ended: []*pb.Ended{{Attempt: "j.0.1", Outcome: 99}}}}},
		"device":    {Body: &pb.Frame_DeviceUpdate{DeviceUpdate: &pb.DeviceUpdate{Device: []byte("no")}}},
	} {
		t.Run(name, func(t *testing.T) {
			if r := f.GetReport(); r != nil {
				for i := range r.Ended {
					if r.Ended[i] == nil {
						r.Ended[i] = &pb.Ended{}
					}
				}
			}
			p := newRig(t, nil).dial("a")
			p.join(hello())
			p.say(f)
			select {
			case <-p.conn.Done():
			case <-time.After(10 * time.Second):
				t.Error("the session lived on")
			}
		})
	}
}

func FuzzHandle(f *testing.F) {
	f.Add("j.0.1", []byte(`{"os":"linux","arch":"amd64","cpu":{"cores":1}}`), "a\x1b[31mname")
	f.Add("", []byte("{"), strings.Repeat("é", 100))
	f.Fuzz(func(t *testing.T, attempt string, device []byte, text string) {
		if job := jobOf(spare.AttemptID(attempt)); strings.Contains(string(job), ".") {
			t.Errorf("job %q of attempt %q", job, attempt)
		}
		d, err := parseDevice(device)
		if err == nil && (d.CPU.Cores < 1 || d.OS == "") {
			t.Errorf("took device %+v", d)
		}
		if clean := printable(text, 64); strings.ContainsAny(clean, "\x1b\n\r\x00") || len([]rune(clean)) > 64 {
			t.Errorf("%q became %q", text, clean)
		}
	})
}

func TestGateway_AHandedBackTaskTakesItsCheckpointToTheNextNode(t *testing.T) {
	r := newRig(t, nil)
	r.work()
	first, next := r.dial("first"), r.dial("next")
	first.join(hello())
	next.join(hello())
	l := first.lease()
	if l.Checkpoint != nil {
		t.Errorf("the first attempt was given the checkpoint %v", l.Checkpoint)
	}
	left := bytes.Repeat([]byte("state "), 20_000)
	digest := spare.Sum(left)
	if _, err := protocol.GetBlob(t.Context(), next.conn, digest, 0, io.Discard); err == nil {
		t.Error("a node got content that is not there")
	}
	open := func(at int64) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(left[at:])), nil }
	if err := protocol.PutBlob(t.Context(), first.conn, digest, int64(len(left)), open); err != nil {
		t.Fatal(err)
	}
	first.say(&pb.Frame{Body: &pb.Frame_Report{Report: &pb.Report{Ended: []*pb.Ended{{
		Attempt: l.Attempt, Outcome: pb.Outcome_OUTCOME_PREEMPTED, Checkpoint: &pb.Blob{Digest: string(digest), Size: uint64(len(left))},
	}}}}})
	again := next.lease()
	if c := again.Checkpoint; c == nil || c.Digest != string(digest) || c.Name != "1" {
		t.Fatalf("the next attempt was given the checkpoint %v", c)
	}
	var got bytes.Buffer
	if _, err := protocol.GetBlob(t.Context(), next.conn, digest, 0, &got); err != nil || !bytes.Equal(got.Bytes(), left) {
		t.Errorf("the next node got %d bytes, %v", got.Len(), err)
	}
}

func TestGateway_ACheckpointThatIsNotThereCostsOnlyItself(t *testing.T) {
	r := newRig(t, nil)
	r.work()
	p, next := r.dial("first"), r.dial("next")
	p.join(hello())
	next.join(hello())
	p.say(&pb.Frame{Body: &pb.Frame_Report{Report: &pb.Report{Ended: []*pb.Ended{{
		Attempt: p.lease().Attempt, Outcome: pb.Outcome_OUTCOME_PREEMPTED, Checkpoint: &pb.Blob{Digest: string(spare.Sum([]byte("x"))), Size: 7},
	}}}}})
	if l := next.lease(); l.Checkpoint != nil {
		t.Errorf("the next attempt was given the checkpoint %v", l.Checkpoint)
	}
}
