package protocol

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/quic-go/quic-go"
	"golang.org/x/time/rate"
)

// QUICSecrets are what a hub must remember over a restart, 32 random bytes or more
// each: by the first, its nodes learn at once that their sessions are gone; by the
// second, they prove their address. Empty ones live as long as the listener.
type QUICSecrets struct {
	StatelessReset []byte
	TokenKey       []byte
}

// QUICOptions bound what strangers and nodes may cost the hub. Zero is the default.
type QUICOptions struct {
	// HandshakesPerSecond is the rate above which a stranger must first prove that it
	// is at the address it writes from. Default 100, in bursts of twice that.
	HandshakesPerSecond int
	// MaxHandshakes is how many unfinished handshakes there may be. Default 1000.
	MaxHandshakes int
	// MaxSessions is how many sessions there may be. Default 20000.
	MaxSessions int
	// WindowBudget is how many bytes all sessions together may have received but not
	// read, beyond each session's first MiB. Default 512 MiB.
	WindowBudget int64
}

func (o QUICOptions) withDefaults() QUICOptions {
	or := func(v, def int) int {
		if v <= 0 {
			return def
		}
		return v
	}
	o.HandshakesPerSecond = or(o.HandshakesPerSecond, 100)
	o.MaxHandshakes = or(o.MaxHandshakes, 1000)
	o.MaxSessions = or(o.MaxSessions, 20000)
	if o.WindowBudget <= 0 {
		o.WindowBudget = 512 << 20
	}
	return o
}

// ListenQUIC takes sessions on the UDP address addr, as the hub with identity id.
func ListenQUIC(addr string, id *Identity, secrets QUICSecrets, opts QUICOptions) (Listener, error) {
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for nodes on UDP %s: %w; if another program has this port, stop it or choose another address (--nodes)", addr, err)
	}
	opts = opts.withDefaults()
	gate := newGate(opts)
	tr := &quic.Transport{
		Conn:                pc,
		VerifySourceAddress: gate.mustProveAddress,
		ConnContext:         gate.admit,
	}
	if len(secrets.StatelessReset) > 0 {
		key := quic.StatelessResetKey(deriveKey("stateless reset", secrets.StatelessReset))
		tr.StatelessResetKey = &key
	}
	if len(secrets.TokenKey) > 0 {
		key := quic.TokenGeneratorKey(deriveKey("address token", secrets.TokenKey))
		tr.TokenGeneratorKey = &key
	}
	config := hubConfig()
	config.AllowConnectionWindowIncrease = gate.widen
	ln, err := tr.Listen(serverTLS(id), config)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen for nodes on UDP %s: %w", addr, err), pc.Close())
	}
	return &quicListener{pc: pc, tr: tr, ln: ln, gate: gate}, nil
}

func deriveKey(use string, secret []byte) [32]byte {
	return sha256.Sum256(append([]byte("spare "+use+"\x00"), secret...))
}

type quicListener struct {
	pc   net.PacketConn
	tr   *quic.Transport
	ln   *quic.Listener
	gate *gate
}

func (l *quicListener) Addr() net.Addr { return l.pc.LocalAddr() }

func (l *quicListener) Accept(ctx context.Context) (Session, error) {
	for {
		conn, err := l.ln.Accept(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, fmt.Errorf("listen for nodes: %w", err)
		}
		l.gate.shaken(conn.Context())
		peer, err := peerID(conn.ConnectionState().TLS.PeerCertificates)
		if err != nil { // the handshake has checked this already
			_ = conn.CloseWithError(quic.ApplicationErrorCode(CodeMalformed), err.Error())
			continue
		}
		return newQUICSession(conn, peer, func() { l.gate.forget(conn) }), nil
	}
}

func (l *quicListener) Close() error {
	return errors.Join(l.ln.Close(), l.tr.Close(), l.pc.Close())
}

// A gate counts what comes in through a listener and turns away what is too much.
type gate struct {
	opts    QUICOptions
	limiter *rate.Limiter

	mu         sync.Mutex
	sessions   int                   // from the first packet on
	handshakes int                   // those of them that are not complete
	windows    map[*quic.Conn]uint64 // what each was granted beyond its first window
	granted    uint64                // the sum of that
}

func newGate(opts QUICOptions) *gate {
	return &gate{
		opts:    opts,
		limiter: rate.NewLimiter(rate.Limit(opts.HandshakesPerSecond), 2*opts.HandshakesPerSecond),
		windows: map[*quic.Conn]uint64{},
	}
}

// mustProveAddress makes handshakes above the rate cost their sender a round trip from
// its true address, and the hub no memory until then.
func (g *gate) mustProveAddress(net.Addr) bool { return !g.limiter.Allow() }

var errGateFull = errors.New("too many connections")

// handshakeKey finds, in a connection's context, the function that ends its handshake.
type handshakeKey struct{}

// admit counts a connection from its first packet until its context ends.
func (g *gate) admit(ctx context.Context, _ *quic.ClientInfo) (context.Context, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sessions >= g.opts.MaxSessions || g.handshakes >= g.opts.MaxHandshakes {
		return nil, errGateFull
	}
	g.sessions++
	g.handshakes++
	shaken := sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.handshakes--
	})
	context.AfterFunc(ctx, func() {
		shaken()
		g.mu.Lock()
		defer g.mu.Unlock()
		g.sessions--
	})
	return context.WithValue(ctx, handshakeKey{}, shaken), nil
}

// shaken says that a connection's handshake is complete.
func (g *gate) shaken(ctx context.Context) {
	if done, ok := ctx.Value(handshakeKey{}).(func()); ok {
		done()
	}
}

// widen lets a connection hold more bytes that nobody has read yet, within the budget.
func (g *gate) widen(conn *quic.Conn, delta uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.granted+delta > uint64(g.opts.WindowBudget) {
		return false
	}
	g.granted += delta
	g.windows[conn] += delta
	return true
}

// forget takes back what an ended connection was granted.
func (g *gate) forget(conn *quic.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.granted -= g.windows[conn]
	delete(g.windows, conn)
}
