// Package link keeps a node in touch with one hub: it dials, says Hello, renews leases
// by heartbeats, says what the node wants and how its work ended, carries blobs, and
// dials again when the connection is gone, for as long as the hub has not said that it
// does not want this node any more. It only dials; it never listens. It knows nothing
// of Apps or policy: what it carries is behind the Work interface. Package node runs a
// link for each hub.
package link

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/protocol/pb"
)

// Work is what a link carries between a hub and the node's executor.
type Work interface {
	Grant(leases []*pb.Lease)
	Cancel(attempts []spare.AttemptID, reason string)
	Drop(attempts []spare.AttemptID)
	Accepted(verdicts []*pb.Verdict)
	Drain(draining bool)
	Want() (run, prefetch int)
	Held() []spare.AttemptID
	Progress() []*pb.Progress
	Reports() []*pb.Ended
	News() <-chan struct{} // Want, Held or Reports may have changed
}

// Config is what a Link needs.
type Config struct {
	Hub       spare.NodeID // the key to expect
	Addresses []string     // host:port, the likeliest first
	Identity  *protocol.Identity
	Token     []byte // of the ticket; nil once enrolled
	Device    func() spare.Device
	State     func() (spare.NodeState, spare.Reason)
	Work      Work
	Log       *slog.Logger
	Offered   func(runtimes []*pb.Blob) // told at each connection what interpreters the hub has; may be nil
	// Dial opens a session; nil dials QUIC.
	Dial func(ctx context.Context, address string) (protocol.Session, error)
}

// Refused means that the hub does not want this node, or not this program: dialling
// again would not help.
type Refused struct {
	Code   string
	Reason string
}

func (r *Refused) Error() string { return r.Reason }

// Unreachable means that no address of the hub answered.
type Unreachable struct {
	Addresses []string
	Errs      []error // each address's
}

func (u *Unreachable) Error() string {
	if len(u.Errs) == 0 {
		return "no address of the hub is known; join again with a new ticket"
	}
	reasons := make([]string, len(u.Errs))
	for i, err := range u.Errs {
		reasons[i] = err.Error()
	}
	return strings.Join(reasons, "; ")
}

func (u *Unreachable) Unwrap() []error { return u.Errs }

const (
	dialLimit  = 10 * time.Second       // one address
	dialApart  = 300 * time.Millisecond // before the next address is tried beside the first
	helloLimit = 10 * time.Second       // from session to Welcome
	partLimit  = 5 * time.Second        // for the last reports and Goodbye to be read

	firstDelay = 250 * time.Millisecond
	mostDelay  = 20 * time.Second // below the time a restarted hub waits for its nodes
	steady     = 30 * time.Second // a session that held this long resets the back-off
)

// Status is what "status" shows of a link.
type Status struct {
	Connected bool       `json:"connected"`
	Address   string     `json:"address,omitempty"`
	Hub       string     `json:"hub_name,omitempty"`
	Pool      string     `json:"pool,omitempty"`
	Since     *time.Time `json:"since,omitempty"`
	Error     string     `json:"error,omitempty"` // why it is not connected
	Next      *time.Time `json:"next_try,omitempty"`
}

// A Link is one hub's. Use Run once.
type Link struct {
	cfg      Config
	instance []byte
	update   chan struct{} // the device changed
	beat     chan struct{} // say now how things are

	mu      sync.Mutex
	session protocol.Session // nil while there is none
	up      chan struct{}    // closed while there is a session
	status  Status
}

// New returns a link that is not connected.
func New(cfg Config) *Link {
	if cfg.Dial == nil {
		cfg.Dial = func(ctx context.Context, address string) (protocol.Session, error) {
			return protocol.DialQUIC(ctx, address, cfg.Identity, cfg.Hub)
		}
	}
	return &Link{
		cfg: cfg, instance: []byte(rand.Text()), update: make(chan struct{}, 1), beat: make(chan struct{}, 1), up: make(chan struct{}),
	}
}

// Status tells how the link stands.
func (l *Link) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status
}

// DeviceChanged makes the link report the device again.
func (l *Link) DeviceChanged() { poke(l.update) }

// StateChanged makes the link tell the node's state now instead of at the next heartbeat.
func (l *Link) StateChanged() { poke(l.beat) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run stays connected until ctx ends, which is no error, or until the hub refuses the
// node, which is a *Refused.
func (l *Link) Run(ctx context.Context) error {
	var delay time.Duration
	for {
		began := time.Now()
		asked, err := l.once(ctx)
		var refused *Refused
		if errors.As(err, &refused) {
			l.note(err, 0)
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > steady {
			delay = 0
		}
		delay = min(max(firstDelay, 2*delay), mostDelay)
		wait := time.Duration(mathrand.Int64N(int64(delay)))
		if asked > 0 {
			// The hub spreads its nodes: a little after what it asked, not exactly then.
			wait = asked + time.Duration(mathrand.Int64N(int64(asked/4+1)))
		}
		l.note(err, wait)
		l.cfg.Log.Info("hub not connected", "error", err, "again_in", wait.Round(time.Millisecond))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

func (l *Link) note(err error, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.Connected, l.status.Since, l.status.Next = false, nil, nil
	if err != nil {
		l.status.Error = err.Error()
	}
	if wait > 0 {
		next := time.Now().Add(wait)
		l.status.Next = &next
	}
}

// once connects, and works until the session ends. It returns how long the hub asked
// to stay away, if it did.
func (l *Link) once(ctx context.Context) (retryAfter time.Duration, err error) {
	s, address, err := l.dial(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = s.Close(protocol.CodeNone, "") }()
	conn, welcome, err := l.hello(ctx, s)
	var away *away
	if errors.As(err, &away) {
		return away.delay, err
	}
	if err != nil {
		return 0, err
	}
	l.cfg.Log.Info("hub connected", "address", address, "hub_name", welcome.HubName, "pool", welcome.Pool)
	l.connected(s, address, welcome)
	defer l.disconnected()
	l.cfg.Work.Drain(false)
	l.cfg.Work.Drop(attemptIDs(welcome.Drop))
	err = l.talk(ctx, s, conn, welcome)
	if errors.As(err, &away) {
		return away.delay, err
	}
	return 0, err
}

// away is a session's end that the hub asked for.
type away struct {
	delay  time.Duration
	reason string
}

func (a *away) Error() string { return "the hub asked to come back later: " + a.reason }

func (l *Link) connected(s protocol.Session, address string, w *pb.Welcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.session = s
	l.status = Status{Connected: true, Address: address, Hub: w.HubName, Pool: w.Pool, Since: &now}
	close(l.up)
	if l.cfg.Offered != nil {
		l.cfg.Offered(w.Runtimes)
	}
	// What answered is tried first the next time.
	if i := slices.Index(l.cfg.Addresses, address); i > 0 {
		l.cfg.Addresses = slices.Insert(slices.Delete(slices.Clone(l.cfg.Addresses), i, i+1), 0, address)
	}
}

func (l *Link) disconnected() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.session, l.up = nil, make(chan struct{})
}

// current waits for a session.
func (l *Link) current(ctx context.Context) (protocol.Session, error) {
	for {
		l.mu.Lock()
		s, up := l.session, l.up
		l.mu.Unlock()
		if s != nil {
			return s, nil
		}
		select {
		case <-up:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// dial tries all addresses, each a little after the one before, and takes the first
// that answers with the right key.
func (l *Link) dial(ctx context.Context) (protocol.Session, string, error) {
	if len(l.cfg.Addresses) == 0 {
		return nil, "", &Unreachable{}
	}
	ctx, cancel := context.WithTimeout(ctx, dialLimit+time.Duration(len(l.cfg.Addresses))*dialApart)
	defer cancel()
	type answer struct {
		s       protocol.Session
		address string
		err     error
	}
	answers := make(chan answer)
	var wg sync.WaitGroup
	for i, address := range l.cfg.Addresses {
		wg.Go(func() {
			select {
			case <-time.After(time.Duration(i) * dialApart):
			case <-ctx.Done():
				return
			}
			s, err := l.cfg.Dial(ctx, address)
			select {
			case answers <- answer{s, address, err}:
			case <-ctx.Done():
				if err == nil {
					_ = s.Close(protocol.CodeNone, "another address answered first")
				}
			}
		})
	}
	defer wg.Wait()
	defer cancel()
	var errs []error
	for range l.cfg.Addresses {
		select {
		case a := <-answers:
			if a.err == nil {
				return a.s, a.address, nil
			}
			errs = append(errs, a.err)
		case <-ctx.Done():
			errs = append(errs, ctx.Err())
		}
	}
	return nil, "", &Unreachable{Addresses: l.cfg.Addresses, Errs: errs}
}

// hello introduces the node and waits to be welcomed.
func (l *Link) hello(ctx context.Context, s protocol.Session) (*protocol.Conn, *pb.Welcome, error) {
	ctx, cancel := context.WithTimeout(ctx, helloLimit)
	defer cancel()
	st, err := s.OpenStream(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("open the control stream: %w", err)
	}
	st.SetPriority(protocol.PriorityControl)
	deadline, _ := ctx.Deadline()
	if err := st.SetDeadline(deadline); err != nil {
		return nil, nil, fmt.Errorf("open the control stream: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close(protocol.CodeNone, "gave up") })
	defer stop()
	device, err := json.Marshal(l.cfg.Device())
	if err != nil {
		return nil, nil, fmt.Errorf("encode the device report: %w", err)
	}
	conn := protocol.NewConn(st)
	err = conn.Send(&pb.Frame{Body: &pb.Frame_Hello{Hello: &pb.Hello{
		MinVersion: protocol.Version, MaxVersion: protocol.Version, Software: spare.Version, EnrolmentToken: l.cfg.Token,
		Device: device, Attempts: names(l.cfg.Work.Held()), Instance: l.instance,
	}}})
	if err != nil {
		return nil, nil, fmt.Errorf("greet the hub: %w", err)
	}
	for {
		f, err := conn.Receive()
		if err != nil {
			return nil, nil, fmt.Errorf("wait for the hub's welcome: %w", err)
		}
		switch body := f.Body.(type) {
		case *pb.Frame_Welcome:
			if v := body.Welcome.Version; v != protocol.Version {
				return nil, nil, &Refused{"version", fmt.Sprintf("the hub speaks protocol version %d and this program version %d; update the older of the two", v, protocol.Version)}
			}
			return conn, body.Welcome, st.SetDeadline(time.Time{})
		case *pb.Frame_Goodbye:
			return nil, nil, farewell(body.Goodbye)
		case *pb.Frame_RetryAfter:
			return nil, nil, &away{millis(body.RetryAfter.DelayMs), body.RetryAfter.Reason}
		}
	}
}

// farewell is what a Goodbye means.
func farewell(g *pb.Goodbye) error {
	if g.Retry {
		return fmt.Errorf("the hub ended the session: %s", g.Reason)
	}
	if g.Code == codeDuplicate {
		return &Refused{g.Code, "another machine uses this node's key; join again with a new data folder"}
	}
	return &Refused{g.Code, g.Reason}
}

// codeDuplicate is the hub's word for a second machine with this node's key.
const codeDuplicate = "duplicate"

func millis(ms uint32) time.Duration { return time.Duration(ms) * time.Millisecond }

func names(ids []spare.AttemptID) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = string(id)
	}
	return out
}

func attemptIDs(names []string) []spare.AttemptID {
	out := make([]spare.AttemptID, len(names))
	for i, n := range names {
		out[i] = spare.AttemptID(n)
	}
	return out
}

// talk runs one session's goroutines until one of them ends it.
func (l *Link) talk(ctx context.Context, s protocol.Session, conn *protocol.Conn, w *pb.Welcome) error {
	t := &talk{l: l, s: s, conn: conn, busy: millis(w.HeartbeatBusyMs), idle: millis(w.HeartbeatIdleMs), sent: map[string]time.Time{}}
	group, gctx := errgroup.WithContext(ctx)
	group.Go(t.read)
	group.Go(func() error { return t.write(gctx) })
	group.Go(func() error { return t.heartbeat(gctx) })
	group.Go(func() error {
		// The reader only ends with the session.
		<-gctx.Done()
		if ctx.Err() != nil {
			t.part()
		}
		_ = s.Close(protocol.CodeNone, "")
		return context.Cause(gctx)
	})
	return group.Wait()
}

// Enrol connects once, is welcomed, and says goodbye: all it takes to join a hub.
func Enrol(ctx context.Context, cfg Config) (*pb.Welcome, error) {
	cfg.Work = nothing{}
	l := New(cfg)
	s, _, err := l.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close(protocol.CodeNone, "") }()
	conn, welcome, err := l.hello(ctx, s)
	if err != nil {
		return nil, err
	}
	t := &talk{l: l, s: s, conn: conn}
	t.part()
	return welcome, nil
}

// nothing is the Work of a node that only joins.
type nothing struct{}

func (nothing) Grant([]*pb.Lease)                {}
func (nothing) Cancel([]spare.AttemptID, string) {}
func (nothing) Drop([]spare.AttemptID)           {}
func (nothing) Accepted([]*pb.Verdict)           {}
func (nothing) Drain(bool)                       {}
func (nothing) Want() (run, prefetch int)        { return 0, 0 }
func (nothing) Held() []spare.AttemptID          { return nil }
func (nothing) Progress() []*pb.Progress         { return nil }
func (nothing) Reports() []*pb.Ended             { return nil }
func (nothing) News() <-chan struct{}            { return nil }
