package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/events"
	"github.com/spare-compute/spare/hub/scheduler"
	"github.com/spare-compute/spare/hub/store"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/protocol/pb"
)

const (
	helloWithin = 10 * time.Second // from connection to Hello
	outbound    = 1024             // messages a node may leave unread
	perSecond   = 2000             // messages a node may send, in the long run
	burst       = 4000
	maxHeld     = 4096 // attempts one message may name
)

// The codes of a Goodbye.
const (
	byeVersion   = "version"
	byeEnrolment = "enrolment"
	byeMalformed = "malformed"
	byeDuplicate = "duplicate"
	byeShutdown  = "shutdown"
	byeReplaced  = "replaced"
	byeFault     = "hub_fault"
)

// session is one connected node.
type session struct {
	g        *Gateway
	conn     protocol.Session
	ctl      *protocol.Conn
	node     spare.Node
	instance string
	log      *slog.Logger
	out      chan outgoing

	mu       sync.Mutex
	verdicts []*pb.Verdict
}

// outgoing is a message for the node, or leases that are yet to be put into messages.
type outgoing struct {
	frame  *pb.Frame
	leases []scheduler.Leased
}

// refusal ends a session with a Goodbye.
type refusal struct {
	code   string
	retry  bool
	reason string
}

func (r *refusal) Error() string { return r.reason }

func refuse(code string, retry bool, format string, args ...any) error {
	return &refusal{code: code, retry: retry, reason: fmt.Sprintf(format, args...)}
}

// serve runs one session from its first stream to its end.
func (g *Gateway) serve(ctx context.Context, conn protocol.Session) {
	log := g.cfg.Log.With("node", conn.Peer().Short(), "remote", conn.RemoteAddr())
	s, err := g.admit(ctx, conn, log)
	if err != nil {
		var r *refusal
		if errors.As(err, &r) {
			log.Warn("node refused", "code", r.code, "reason", r.reason)
		} else if ctx.Err() == nil {
			log.Warn("session ended before it began", "error", err)
		}
		conn.Close(protocol.CodeNone, "refused")
		return
	}
	log.Info("node connected", "name", s.node.Device.Name, "pool", s.node.Pool)
	shutdown := context.AfterFunc(ctx, func() { s.end(byeShutdown, "the hub is shutting down", true) })
	life, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { s.write(life) })
	wg.Go(func() {
		if err := protocol.ServeStreams(life, conn, s.blob); err != nil {
			log.Debug("no more blob streams", "error", err)
		}
	})
	wg.Go(func() { s.watch(life) })
	err = s.read(life)
	cancel()
	if shutdown() {
		s.conn.Close(protocol.CodeNone, "the session has ended")
	}
	wg.Wait()
	g.leave(s)
	log.Info("node disconnected", "error", err)
}

// admit takes the Hello, and either registers the session or says goodbye.
func (g *Gateway) admit(ctx context.Context, conn protocol.Session, log *slog.Logger) (*session, error) {
	hctx, cancel := context.WithTimeout(ctx, helloWithin)
	defer cancel()
	st, first, err := protocol.AcceptFirst(hctx, conn)
	if err != nil {
		return nil, err
	}
	ctl := protocol.NewConn(st)
	s := &session{g: g, conn: conn, ctl: ctl, log: log, out: make(chan outgoing, outbound)}
	welcome, held, err := s.hello(hctx, first.GetHello())
	if err != nil {
		var r *refusal
		if !errors.As(err, &r) {
			log.Error("cannot admit a node", "error", err)
			r = &refusal{code: byeFault, retry: true, reason: "the hub cannot admit nodes now; its log says why"}
		}
		s.goodbye(r.code, r.reason, r.retry)
		return nil, r
	}
	st.SetPriority(protocol.PriorityControl)
	for _, f := range g.cfg.Runtimes {
		welcome.Runtimes = append(welcome.Runtimes, &pb.Blob{Name: f.Name, Digest: string(f.Digest), Size: uint64(f.Size)})
	}
	if err := ctl.Send(&pb.Frame{Body: &pb.Frame_Welcome{Welcome: welcome}}); err != nil {
		return nil, err
	}
	g.enter(s)
	if err := g.cfg.Dispatch.Post(ctx, scheduler.NodeUp{Node: s.node, Held: held}); err != nil {
		g.leave(s)
		return nil, err
	}
	return s, nil
}

// hello checks who this is and admits it.
func (s *session) hello(ctx context.Context, h *pb.Hello) (*pb.Welcome, []spare.AttemptID, error) {
	if h == nil {
		return nil, nil, refuse(byeMalformed, false, "the first message was no Hello")
	}
	version, err := protocol.Negotiate(h.MinVersion, h.MaxVersion)
	if err != nil {
		return nil, nil, refuse(byeVersion, false, "%v", err)
	}
	if len(h.Attempts) > maxHeld {
		return nil, nil, refuse(byeMalformed, false, "a Hello may name at most %d attempts", maxHeld)
	}
	device, err := parseDevice(h.Device)
	if err != nil {
		return nil, nil, refuse(byeMalformed, false, "%v", err)
	}
	device.Software = printable(h.Software, 64)
	now := time.Now()
	s.instance = string(h.Instance)
	s.node = spare.Node{ID: s.conn.Peer(), Device: device, Joined: now, LastSeen: now, State: spare.NodeIdle}
	if err := s.register(ctx, h.EnrolmentToken, now); err != nil {
		return nil, nil, err
	}
	held := make([]spare.AttemptID, len(h.Attempts))
	for i, a := range h.Attempts {
		held[i] = spare.AttemptID(a)
	}
	if err := s.g.grants.restore(ctx, s.node.ID, held); err != nil {
		return nil, nil, err
	}
	cfg := s.g.cfg
	return &pb.Welcome{
		Version: version, HubName: cfg.HubName, Pool: s.node.Pool,
		HeartbeatBusyMs: uint32(cfg.HeartbeatBusy.Milliseconds()),
		HeartbeatIdleMs: uint32(cfg.HeartbeatIdle.Milliseconds()),
		LeaseMs:         uint32(cfg.Lease.Milliseconds()),
	}, held, nil
}

// register stores a known node's new report, or enrols an unknown one by its token.
func (s *session) register(ctx context.Context, token []byte, now time.Time) error {
	st := s.g.cfg.Store
	known, err := st.Node(ctx, s.node.ID)
	if err == nil {
		s.node.Pool, s.node.Owner, s.node.Joined = known.Pool, known.Owner, known.Joined
		return st.PutNode(ctx, s.node)
	}
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if len(token) == 0 {
		return refuse(byeEnrolment, false, "this hub does not know this machine; join it again with a new ticket (on the hub: spare-hub ticket)")
	}
	const again = "ask the hub's operator for a new ticket (spare-hub ticket)"
	node, err := st.Enrol(ctx, spare.Sum(token), s.node, now)
	switch {
	case errors.Is(err, store.ErrTokenExpired):
		return refuse(byeEnrolment, false, "this ticket has expired; %s", again)
	case errors.Is(err, store.ErrTokenUsed):
		return refuse(byeEnrolment, false, "this ticket is used up; %s", again)
	case errors.Is(err, store.ErrNotFound):
		return refuse(byeEnrolment, false, "this hub did not issue this ticket, or has withdrawn it; %s", again)
	case err != nil:
		return err
	}
	s.node = node
	return nil
}

// enter makes s its node's session. Of two with the same key the newer wins; the older
// is told why, and whether it should try again: a second machine should not.
func (g *Gateway) enter(s *session) {
	g.mu.Lock()
	old := g.sessions[s.node.ID]
	g.sessions[s.node.ID] = s
	g.states[s.node.ID] = &liveness{seen: time.Now(), state: spare.NodeIdle}
	g.mu.Unlock()
	if old != nil {
		if old.instance == s.instance {
			old.end(byeReplaced, "a newer session of this node took over", true)
		} else {
			old.end(byeDuplicate, "another machine uses this node's key; give this one a data folder of its own and join again", false)
		}
	}
	g.cfg.Events.Publish(events.Event{Type: events.NodeUp, Node: s.node.ID, Data: map[string]any{"name": s.node.Device.Name, "pool": s.node.Pool}})
}

// leave ends s's time as its node's session, if it still is that.
func (g *Gateway) leave(s *session) {
	g.mu.Lock()
	current := g.sessions[s.node.ID] == s
	if current {
		delete(g.sessions, s.node.ID)
	}
	g.mu.Unlock()
	if !current {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), helloWithin)
	defer cancel()
	if err := g.cfg.Dispatch.Post(ctx, scheduler.NodeDown{Node: s.node.ID}); err != nil {
		s.log.Debug("cannot tell the scheduler that a node left", "error", err)
	}
	g.cfg.Events.Publish(events.Event{Type: events.NodeDown, Node: s.node.ID})
}

// end closes the session with a reason.
func (s *session) end(code, reason string, retry bool) {
	s.goodbye(code, reason, retry)
	s.conn.Close(protocol.CodeGoodbye, reason)
}

// goodbye tells the node why, and gives it a moment to read it before the connection
// goes: closing a connection drops what was not delivered.
func (s *session) goodbye(code, reason string, retry bool) {
	f := &pb.Frame{Body: &pb.Frame_Goodbye{Goodbye: &pb.Goodbye{Code: code, Reason: reason, Retry: retry}}}
	if err := s.ctl.Send(f); err != nil {
		return
	}
	wait, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	select {
	case <-wait.Done():
	case <-s.conn.Done(): // the node hangs up once it has read it
	}
}

func (s *session) send(f *pb.Frame) { s.queue(outgoing{frame: f}) }

// queue keeps what is to be sent; a node that leaves too much unread loses its session.
func (s *session) queue(o outgoing) {
	select {
	case s.out <- o:
	default:
		s.log.Warn("node reads too slowly; closing its session")
		s.conn.Close(protocol.CodeSlow, "messages were not read in time")
	}
}

func (s *session) verdict(v *pb.Verdict) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.verdicts = append(s.verdicts, v)
}

func (s *session) flush() {
	s.mu.Lock()
	verdicts := s.verdicts
	s.verdicts = nil
	s.mu.Unlock()
	if len(verdicts) > 0 {
		s.send(&pb.Frame{Body: &pb.Frame_Accepted{Accepted: &pb.Accepted{Verdicts: verdicts}}})
	}
}

// write sends what is queued until ctx ends.
func (s *session) write(ctx context.Context) {
	for {
		select {
		case o := <-s.out:
			var err error
			if o.frame != nil {
				err = s.ctl.Send(o.frame)
			} else {
				err = s.hand(ctx, o.leases)
			}
			switch {
			case err == nil:
			case errors.Is(err, protocol.ErrFrameTooLarge): // nothing of it was sent
				s.log.Error("a message is too large for the node and was left out", "error", err)
			default:
				s.conn.Close(protocol.CodeNone, "cannot send")
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// silent ends a session on which nothing is heard any more: the node may find another way.
func (s *session) silent() {
	s.log.Warn("node is silent; closing its session", "silent", time.Since(s.seen()).Round(time.Millisecond))
	s.conn.Close(protocol.CodeSilent, "nothing was heard in time")
}

// watch closes the session of a node that holds no leases and went silent. Of those that
// hold some the scheduler tells.
func (s *session) watch(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.conn.Done():
			return
		case now := <-tick.C:
			if now.Sub(s.seen()) > 3*s.g.cfg.HeartbeatIdle {
				s.silent()
				return
			}
		}
	}
}

func (s *session) seen() time.Time {
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	if live := s.g.states[s.node.ID]; live != nil {
		return live.seen
	}
	return time.Now()
}

// read handles the node's messages until the session ends.
func (s *session) read(ctx context.Context) error {
	limiter := rate.NewLimiter(perSecond, burst)
	for {
		f, err := s.ctl.Receive()
		if err != nil {
			return err
		}
		// A node that sends more is slowed down by not being read.
		if err := limiter.Wait(ctx); err != nil {
			return err
		}
		if err := s.handle(ctx, f); err != nil {
			return err
		}
	}
}
