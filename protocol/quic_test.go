package protocol

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/spare-compute/spare"
)

const patience = 60 * time.Second

// listen starts a hub on loopback that ends with the test.
func listen(t *testing.T, addr string, id *Identity, secrets QUICSecrets, opts QUICOptions) *quicListener {
	t.Helper()
	ln, err := ListenQUIC(addr, id, secrets, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.(*quicListener)
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func connect(t *testing.T, ln *quicListener, hub *Identity) (node, hubEnd Session) {
	t.Helper()
	node, err := DialQUIC(within(t, patience), ln.Addr().String(), newIdentity(t), hub.ID())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close(CodeNone, "") })
	hubEnd, err = ln.Accept(within(t, patience))
	if err != nil {
		t.Fatal(err)
	}
	return node, hubEnd
}

// eventually polls until ok, which must not take long.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("this never came true: %s", what)
		}
	}
}

func TestDialQUIC_WrongHubIsNamed(t *testing.T) {
	ln := listen(t, "127.0.0.1:0", newIdentity(t), QUICSecrets{}, QUICOptions{})
	other := newIdentity(t).ID()
	_, err := DialQUIC(within(t, patience), ln.Addr().String(), newIdentity(t), other)
	var wrong *WrongHubError
	if !errors.As(err, &wrong) || wrong.Want != other || wrong.Got == "" || wrong.Got == other {
		t.Fatalf("DialQUIC = %v, want a WrongHubError", err)
	}
	if !strings.Contains(err.Error(), "this ticket is for another hub") {
		t.Fatalf("the sentence is %q", err)
	}
}

func TestDialQUIC_NobodyThere(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0") // takes packets and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	addr := pc.LocalAddr().String()
	_, err = DialQUIC(within(t, 300*time.Millisecond), addr, newIdentity(t), newIdentity(t).ID())
	checkUnreachable(t, err, addr, "no answer")
	_, port, _ := net.SplitHostPort(addr)
	if !strings.Contains(err.Error(), "no firewall stops UDP port "+port) {
		t.Fatalf("the sentence is %q", err)
	}
}

func checkUnreachable(t *testing.T, err error, addr, says string) {
	t.Helper()
	var e *UnreachableError
	if !errors.As(err, &e) || e.Addr != addr || !strings.Contains(err.Error(), says) {
		t.Fatalf("got %v, want an UnreachableError for %s that says %q", err, addr, says)
	}
}

func TestDialQUIC_SomethingElseIsThere(t *testing.T) {
	id := newIdentity(t)
	tlsConfig := serverTLS(id)
	tlsConfig.NextProtos = []string{"other/1"}
	ln, err := quic.ListenAddr("127.0.0.1:0", tlsConfig, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := ln.Addr().String()
	_, err = DialQUIC(within(t, patience), addr, newIdentity(t), id.ID())
	checkUnreachable(t, err, addr, "no Spare hub")
}

func TestDialQUIC_AddressThatIsNone(t *testing.T) {
	for _, addr := range []string{"", "hub", "hub:", "hub:0", ":1", "hub:99999", "a b:1"} {
		if _, err := DialQUIC(within(t, patience), addr, newIdentity(t), newIdentity(t).ID()); err == nil || !strings.Contains(err.Error(), "want ") {
			t.Errorf("DialQUIC(%q) = %v, want what an address is", addr, err)
		}
	}
	if _, err := DialQUIC(within(t, patience), "127.0.0.1:1", newIdentity(t), "short"); err == nil {
		t.Error("a hub without a key was dialled")
	}
}

func TestDialAny_TakesTheFirstThatAnswers(t *testing.T) {
	hub := newIdentity(t)
	other := listen(t, "127.0.0.1:0", newIdentity(t), QUICSecrets{}, QUICOptions{})
	ln := listen(t, "127.0.0.1:0", hub, QUICSecrets{}, QUICOptions{})
	s, err := DialAny(within(t, patience), []string{other.Addr().String(), ln.Addr().String()}, newIdentity(t), hub.ID())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(CodeNone, "")
	_, err = DialAny(within(t, patience), []string{other.Addr().String(), "nowhere"}, newIdentity(t), hub.ID())
	var wrong *WrongHubError
	if !errors.As(err, &wrong) || !strings.Contains(err.Error(), "nowhere") {
		t.Fatalf("DialAny = %v, want both reasons", err)
	}
}

func TestListenQUIC_PortInUseSaysWhatToDo(t *testing.T) {
	ln := listen(t, "127.0.0.1:0", newIdentity(t), QUICSecrets{}, QUICOptions{})
	_, err := ListenQUIC(ln.Addr().String(), newIdentity(t), QUICSecrets{}, QUICOptions{})
	if err == nil || !strings.Contains(err.Error(), "choose another address") {
		t.Fatalf("ListenQUIC on a used port = %v", err)
	}
}

func TestListenQUIC_TakesOnlyWhoShowsOneEd25519Key(t *testing.T) {
	hub := newIdentity(t)
	ln := listen(t, "127.0.0.1:0", hub, QUICSecrets{}, QUICOptions{})
	key, other := newIdentity(t), newIdentity(t)
	for name, certificates := range map[string][]tls.Certificate{
		"none":           nil,
		"another's key":  {{Certificate: other.cert.Certificate, PrivateKey: key.key}},
		"two in a chain": {{Certificate: [][]byte{key.cert.Certificate[0], other.cert.Certificate[0]}, PrivateKey: key.key}},
	} {
		t.Run(name, func(t *testing.T) {
			config := clientTLS(key, "", hub.ID())
			config.Certificates = nil
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if certificates == nil {
					return new(tls.Certificate), nil
				}
				return &certificates[0], nil
			}
			conn, err := quic.DialAddr(within(t, patience), ln.Addr().String(), config, nodeConfig())
			if err == nil { // the hub's refusal comes after the client's part is done
				defer conn.CloseWithError(0, "")
				select {
				case <-conn.Context().Done():
					err = context.Cause(conn.Context())
				case <-within(t, patience).Done():
					t.Fatal("the hub does not hang up")
				}
			}
			var refused *quic.TransportError
			if !errors.As(err, &refused) || !refused.ErrorCode.IsCryptoError() {
				t.Fatalf("the session ended with %v", err)
			}
		})
	}
	// Honest nodes still get in, and are the next that Accept returns.
	node, hubEnd := connect(t, ln, hub)
	if hubEnd.Peer() == key.ID() || node.Peer() != hub.ID() {
		t.Fatal("the wrong one got in")
	}
}

func TestQUIC_NodesSocketTakesNoStrangers(t *testing.T) {
	hub := newIdentity(t)
	ln := listen(t, "127.0.0.1:0", hub, QUICSecrets{}, QUICOptions{})
	node, hubEnd := connect(t, ln, hub)
	_, port, err := net.SplitHostPort(node.(*quicSession).conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx := within(t, 300*time.Millisecond)
	if _, err := quic.DialAddr(ctx, net.JoinHostPort("127.0.0.1", port), clientTLS(newIdentity(t), "", hub.ID()), nodeConfig()); ctx.Err() == nil {
		t.Fatalf("a stranger got an answer from a node: %v", err)
	}
	checkAlive(t, node, hubEnd)
}

// checkAlive sends a byte from a to b.
func checkAlive(t *testing.T, a, b Session) {
	t.Helper()
	st, err := a.OpenStream(within(t, patience))
	if err == nil {
		_, err = st.Write([]byte("x"))
	}
	if err != nil {
		t.Fatal(err)
	}
	got, err := b.AcceptStream(within(t, patience))
	if err == nil {
		_, err = io.ReadFull(got, make([]byte, 1))
	}
	if err != nil {
		t.Fatal(err)
	}
	st.Cancel(CodeNone)
	got.Cancel(CodeNone)
}

func TestQUIC_HubThatWasKilledIsMissedAtOnce(t *testing.T) {
	hub := newIdentity(t)
	secrets := QUICSecrets{StatelessReset: []byte("kept over restarts, 32 bytes long"), TokenKey: []byte("so is this one")}
	ln := listen(t, "127.0.0.1:0", hub, secrets, QUICOptions{})
	addr := ln.Addr().String()
	node, _ := connect(t, ln, hub)
	ln.pc.Close() // as a kill does: no goodbye gets out
	eventually(t, "the port is free", func() bool {
		again, err := ListenQUIC(addr, hub, secrets, QUICOptions{})
		if err == nil {
			t.Cleanup(func() { again.Close() })
		}
		return err == nil
	})
	start := time.Now()
	st, err := node.OpenStream(within(t, patience))
	if err != nil {
		t.Fatal(err)
	}
	for time.Since(start) < 10*time.Second && node.Err() == nil {
		_, _ = st.Write(make([]byte, 100))
		time.Sleep(time.Millisecond)
	}
	var lost *SessionError
	if !errors.As(node.Err(), &lost) || lost.Code != CodeLost || !strings.Contains(lost.Error(), "has restarted") {
		t.Fatalf("after %v the session's error is %v", time.Since(start), node.Err())
	}
}

func TestQUIC_SessionLeavesNothingBehind(t *testing.T) {
	hub := newIdentity(t)
	ln := listen(t, "127.0.0.1:0", hub, QUICSecrets{}, QUICOptions{})
	node, hubEnd := connect(t, ln, hub)
	local := node.(*quicSession).conn.LocalAddr().String()
	if err := node.Close(CodeNone, "done"); err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp4", local)
	if err != nil {
		t.Fatalf("the node's socket is still open: %v", err)
	}
	pc.Close()
	<-hubEnd.Done()
	eventually(t, "the gate counts nobody", func() bool {
		ln.gate.mu.Lock()
		defer ln.gate.mu.Unlock()
		return ln.gate.sessions == 0 && ln.gate.handshakes == 0 && len(ln.gate.windows) == 0
	})
}

func TestQUIC_OneWayStreamsAreNotTaken(t *testing.T) {
	hub := newIdentity(t)
	ln := listen(t, "127.0.0.1:0", hub, QUICSecrets{}, QUICOptions{})
	node, hubEnd := connect(t, ln, hub)
	for _, s := range []Session{node, hubEnd} {
		if _, err := s.(*quicSession).conn.OpenUniStream(); err == nil {
			t.Fatal("the peer takes streams of one way")
		}
		if err := s.(*quicSession).conn.SendDatagram([]byte("x")); err == nil {
			t.Fatal("the peer takes datagrams")
		}
	}
}

// muteSocket sends and hears nothing: who floods does not listen.
type muteSocket struct{ *net.UDPConn }

func (s muteSocket) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		if _, _, err := s.UDPConn.ReadFrom(b); err != nil {
			return 0, nil, err
		}
	}
}

// flood starts handshakes with ln that never go on.
func flood(t *testing.T, ln *quicListener, hub spare.NodeID, n int) {
	t.Helper()
	id := newIdentity(t)
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Error(err)
				return
			}
			defer udp.Close()
			// A wrapped socket is no *net.UDPConn, so each read goes through ReadFrom.
			tr := &quic.Transport{Conn: struct{ net.PacketConn }{muteSocket{udp}}}
			defer tr.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if _, err := tr.Dial(ctx, ln.Addr(), clientTLS(id, "", hub), nodeConfig()); err == nil {
				t.Error("a mute client completed a handshake")
			}
		})
	}
	wg.Wait()
}

func (g *gate) unfinished() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.handshakes
}

func TestListenQUIC_FloodAboveTheRateCostsNoMemory(t *testing.T) {
	hub := newIdentity(t)
	ln := listen(t, "127.0.0.1:0", hub, QUICSecrets{}, QUICOptions{HandshakesPerSecond: 1})
	flood(t, ln, hub.ID(), 30)
	// Two at once and one for each second that passed may begin; the rest got a Retry.
	if n := ln.gate.unfinished(); n == 0 || n > 8 {
		t.Fatalf("%d handshakes of 30 in a flood were begun", n)
	}
	connect(t, ln, hub) // an honest node proves its address and gets in
}

func TestListenQUIC_UnfinishedHandshakesAreFewAndEnd(t *testing.T) {
	hub := newIdentity(t)
	ln := listen(t, "127.0.0.1:0", hub, QUICSecrets{}, QUICOptions{MaxHandshakes: 3})
	flood(t, ln, hub.ID(), 20)
	if n := ln.gate.unfinished(); n != 3 {
		t.Fatalf("%d handshakes are unfinished, 3 are allowed", n)
	}
	addr := ln.Addr().String()
	_, err := DialQUIC(within(t, patience), addr, newIdentity(t), hub.ID())
	checkUnreachable(t, err, addr, "takes no new connections now")
	eventually(t, "the flood's handshakes have timed out", func() bool { return ln.gate.unfinished() == 0 })
	connect(t, ln, hub)
}

func TestListenQUIC_SessionsAreCounted(t *testing.T) {
	hub := newIdentity(t)
	ln := listen(t, "127.0.0.1:0", hub, QUICSecrets{}, QUICOptions{MaxSessions: 2})
	first, _ := connect(t, ln, hub)
	connect(t, ln, hub)
	addr := ln.Addr().String()
	_, err := DialQUIC(within(t, patience), addr, newIdentity(t), hub.ID())
	checkUnreachable(t, err, addr, "takes no new connections now")
	if err := first.Close(CodeNone, ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a place is free", func() bool {
		s, err := DialQUIC(within(t, patience), addr, newIdentity(t), hub.ID())
		if err == nil {
			s.Close(CodeNone, "")
		}
		return err == nil
	})
}

func TestGate_WindowsStayWithinTheBudget(t *testing.T) {
	g := newGate(QUICOptions{WindowBudget: 100}.withDefaults())
	a, b := new(quic.Conn), new(quic.Conn)
	if !g.widen(a, 60) || g.widen(b, 60) || !g.widen(b, 40) || g.widen(a, 1) {
		t.Fatal("the budget of 100 bytes is not kept")
	}
	g.forget(a)
	if !g.widen(b, 60) || g.widen(b, 1) {
		t.Fatal("what an ended session had is not free again")
	}
	g.forget(b)
	if g.granted != 0 {
		t.Fatalf("%d bytes are granted to nobody", g.granted)
	}
}

// A hub without budget is slow but goes on.
func TestQUIC_TransfersGoOnWithoutWindowBudget(t *testing.T) {
	hub := newIdentity(t)
	ln := listen(t, "127.0.0.1:0", hub, QUICSecrets{}, QUICOptions{WindowBudget: 1})
	node, hubEnd := connect(t, ln, hub)
	st, err := node.OpenStream(within(t, patience))
	if err != nil {
		t.Fatal(err)
	}
	const size = 8 << 20
	go func() {
		_, _ = st.Write(make([]byte, size))
		_ = st.CloseWrite()
	}()
	got, err := hubEnd.AcceptStream(within(t, patience))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, got); err != nil || n != size {
		t.Fatalf("%d of %d bytes came, %v", n, size, err)
	}
	ln.gate.mu.Lock()
	defer ln.gate.mu.Unlock()
	if ln.gate.granted > 1 {
		t.Fatalf("%d bytes were granted beyond the budget", ln.gate.granted)
	}
}

func TestKeyID_NamesTheKey(t *testing.T) {
	a, b := make(ed25519.PublicKey, 32), make(ed25519.PublicKey, 32)
	b[31] = 1
	if KeyID(a) == KeyID(b) || KeyID(a) != KeyID(make(ed25519.PublicKey, 32)) {
		t.Fatal("keys and names do not match one to one")
	}
}

func TestSessionError_ReadsAsASentence(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{&SessionError{Code: CodeSlow, Reason: "r", Remote: true}, "the other end closed the session: r"},
		{&SessionError{Code: CodeSlow, Remote: true}, "the other end closed the session (too slow)"},
		{&SessionError{Code: CodeLost, Err: io.ErrNoProgress}, "the connection is lost: " + io.ErrNoProgress.Error()},
		{&SessionError{Code: 99}, "the session was closed here (code 99)"},
		{&StreamError{Code: CodeStorage, Remote: true}, "the other end cancelled the stream (storage failed)"},
		{&BlobError{Op: "put", Digest: spare.Sum(nil), Code: BlobFull, Message: "m"}, "put blob e3b0c44298fc: the hub says: m (full)"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}
