package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/bundle"
	"github.com/spare-compute/spare/node/cache"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/protocol/pb"
	"github.com/spare-compute/spare/sandbox"
	"github.com/spare-compute/spare/sandbox/wasm"
)

func TestMain(m *testing.M) {
	sandbox.Init()
	wasm.Init()
	os.Exit(m.Run())
}

const idleBeat = 1000 // milliseconds

const within = 60 * time.Second

// aHub is a hub's side of the wire over real QUIC on loopback, played by a test.
type aHub struct {
	t        *testing.T
	id       *protocol.Identity
	listener protocol.Listener
	refuse   atomic.Pointer[pb.Goodbye] // instead of a welcome
	sessions chan *session

	mu    sync.Mutex
	blobs map[spare.Digest][]byte
}

// session is one welcomed node.
type session struct {
	hub    *aHub
	s      protocol.Session
	conn   *protocol.Conn
	hello  *pb.Hello
	frames chan *pb.Frame
}

func newHub(t *testing.T) *aHub {
	t.Helper()
	id, err := protocol.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	l, err := protocol.ListenQUIC("127.0.0.1:0", id, protocol.QUICSecrets{}, protocol.QUICOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h := &aHub{t: t, id: id, listener: l, sessions: make(chan *session, 10), blobs: map[spare.Digest][]byte{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			s, err := l.Accept(context.Background())
			if err != nil {
				return
			}
			wg.Go(func() { h.serve(s) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return h
}

func (h *aHub) serve(s protocol.Session) {
	st, err := s.AcceptStream(context.Background())
	if err != nil {
		return
	}
	p := &session{hub: h, s: s, conn: protocol.NewConn(st), frames: make(chan *pb.Frame, 1000)}
	first, err := p.conn.Receive()
	if err != nil {
		return
	}
	p.hello = first.GetHello()
	if bye := h.refuse.Load(); bye != nil {
		_ = p.conn.Send(&pb.Frame{Body: &pb.Frame_Goodbye{Goodbye: bye}})
		<-s.Done()
		return
	}
	_ = p.conn.Send(&pb.Frame{Body: &pb.Frame_Welcome{Welcome: &pb.Welcome{
		Version: protocol.Version, HubName: "attic", Pool: "trusted", HeartbeatBusyMs: 200, HeartbeatIdleMs: idleBeat, LeaseMs: 8000,
	}}})
	h.sessions <- p
	go p.serveBlobs()
	defer close(p.frames)
	for {
		f, err := p.conn.Receive()
		if err != nil {
			return
		}
		if f.GetGoodbye() != nil {
			defer func() { _ = s.Close(protocol.CodeGoodbye, "") }()
		}
		p.frames <- f
		if f.GetGoodbye() != nil {
			return
		}
	}
}

func (p *session) serveBlobs() {
	for {
		st, err := p.s.AcceptStream(context.Background())
		if err != nil {
			return
		}
		if first, err := protocol.NewConn(st).Receive(); err == nil {
			_ = protocol.ServeBlob(context.Background(), st, first, p.hub, protocol.BlobLimits{MaxBlob: 1 << 30})
		}
	}
}

func (h *aHub) Stat(d spare.Digest) (int64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b, ok := h.blobs[d]; ok {
		return int64(len(b)), nil
	}
	return 0, protocol.ErrNotFound
}

func (h *aHub) Open(d spare.Digest, offset int64) (io.ReadCloser, int64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b, ok := h.blobs[d]
	if !ok {
		return nil, 0, protocol.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(b[offset:])), int64(len(b)), nil
}

func (h *aHub) Partial(d spare.Digest, _ int64) (protocol.PartialWriter, error) {
	return &upload{hub: h, digest: d}, nil
}

type upload struct {
	bytes.Buffer
	hub    *aHub
	digest spare.Digest
}

func (u *upload) Offset() int64 { return 0 }
func (u *upload) Close() error  { return nil }
func (u *upload) Commit() error {
	if spare.Sum(u.Bytes()) != u.digest {
		return protocol.ErrMismatch
	}
	u.hub.add(u.Bytes())
	return nil
}

func (h *aHub) add(b []byte) *pb.Blob {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := spare.Sum(b)
	h.blobs[d] = b
	return &pb.Blob{Digest: string(d), Size: uint64(len(b))}
}

func (h *aHub) accept() *session {
	h.t.Helper()
	select {
	case s := <-h.sessions:
		return s
	case <-time.After(within):
		h.t.Fatal("no node came")
		return nil
	}
}

// until passes over messages until one satisfies the test.
func (p *session) until(what string, ok func(*pb.Frame) bool) {
	p.hub.t.Helper()
	deadline := time.After(within)
	for {
		select {
		case f, open := <-p.frames:
			if !open {
				p.hub.t.Fatalf("the session ended before %s", what)
			}
			if ok(f) {
				return
			}
		case <-deadline:
			p.hub.t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (p *session) send(f *pb.Frame) {
	p.hub.t.Helper()
	if err := p.conn.Send(f); err != nil {
		p.hub.t.Fatal(err)
	}
}

func (h *aHub) ticket() protocol.Ticket {
	token := make([]byte, 16)
	_, _ = rand.Read(token)
	return protocol.Ticket{
		Version: 1, HubName: "attic", Addresses: []string{h.listener.Addr().String()}, HubKey: h.id.ID(), Pool: "trusted",
		Token: token, Expires: time.Now().Add(time.Hour),
	}
}

func (h *aHub) lease(chunk int, program string) *pb.Lease {
	h.t.Helper()
	app := h.t.TempDir()
	if err := os.WriteFile(filepath.Join(app, "main.py"), []byte(program), 0o644); err != nil {
		h.t.Fatal(err)
	}
	var packed bytes.Buffer
	if _, err := bundle.Pack(app, &packed); err != nil {
		h.t.Fatal(err)
	}
	return &pb.Lease{
		Attempt: fmt.Sprintf("6a1f0c1e-0000-4000-8000-000000000000.%d.1", chunk), Chunk: uint32(chunk), TimeoutS: 60, ExpiresMs: 8000,
		App:    &pb.App{Name: "test", Version: "0.1", Entrypoint: "main.py", Platform: "python", Root: ".", Bundle: h.add(packed.Bytes())},
		Params: []byte("{}"), Input: h.add(bytes.Repeat([]byte("input "), 50_000)), JobName: "job",
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// joined is a data folder that has joined the hub.
func joined(t *testing.T, h *aHub) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	t.Cleanup(func() { _ = cache.RemoveAll(dir) })
	if _, err := Join(t.Context(), dir, h.ticket(), quiet()); err != nil {
		t.Fatal(err)
	}
	h.accept()
	return dir
}

// run starts a node on a data folder. The function it returns stops it.
func run(t *testing.T, dir string) (stop func() error) {
	t.Helper()
	home, err := OpenHome(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	n, err := New(t.Context(), home, quiet())
	if err != nil {
		home.Close()
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { defer home.Close(); done <- n.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(within):
			return errors.New("the node does not stop")
		}
	})
	t.Cleanup(func() { _ = stop() })
	return stop
}
