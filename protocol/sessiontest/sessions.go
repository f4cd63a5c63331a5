package sessiontest

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare/protocol"
)

func runSessions(t *testing.T, open Open) {
	t.Run("EachEndKnowsTheOther", func(t *testing.T) {
		p := open(t)
		if p.Node.Peer() != p.HubID || p.Hub.Peer() != p.NodeID {
			t.Fatalf("peers are %s and %s, want %s and %s", p.Node.Peer(), p.Hub.Peer(), p.HubID, p.NodeID)
		}
		if p.Node.RemoteAddr() == "" || p.Hub.RemoteAddr() == "" {
			t.Fatal("an end does not say where the other is")
		}
	})
	t.Run("CloseTellsThePeerWhy", func(t *testing.T) {
		p := open(t)
		if p.Node.Err() != nil || p.Hub.Err() != nil {
			t.Fatalf("a living session has errors %v and %v", p.Node.Err(), p.Hub.Err())
		}
		node, hub := streams(t, p)
		must(t, p.Hub.Close(protocol.CodeGoodbye, "the hub \x1b[1mshuts\n down"))
		<-p.Hub.Done()
		waitDone(t, p.Node)
		checkClosed(t, p.Hub.Err(), protocol.CodeGoodbye, false)
		checkClosed(t, p.Node.Err(), protocol.CodeGoodbye, true)
		if msg := p.Node.Err().Error(); !strings.Contains(msg, "the hub [1mshuts down") {
			t.Fatalf("the peer reads %q, want the reason without control characters", msg)
		}
		_, err := node.Read(make([]byte, 1))
		checkClosed(t, err, protocol.CodeGoodbye, true)
		_, err = hub.Write([]byte("x"))
		checkClosed(t, err, protocol.CodeGoodbye, false)
		_, err = p.Node.OpenStream(within(t))
		checkClosed(t, err, protocol.CodeGoodbye, true)
		_, err = p.Hub.AcceptStream(within(t))
		checkClosed(t, err, protocol.CodeGoodbye, false)
		must(t, p.Hub.Close(protocol.CodeNone, "again"))
		checkClosed(t, p.Hub.Err(), protocol.CodeGoodbye, false)
	})
}

func runWaits(t *testing.T, open Open) {
	t.Run("CloseWakesWhoWaits", func(t *testing.T) {
		p := open(t)
		node, hub := streams(t, p)
		must(t, hub.SetDeadline(time.Time{}))
		failed := make(chan error, 3)
		go func() { _, err := hub.Read(make([]byte, 1)); failed <- err }()
		go func() { _, err := p.Hub.AcceptStream(context.Background()); failed <- err }()
		go func() { _, err := io.Copy(hub, endless{}); failed <- err }()
		_, err := io.ReadFull(node, make([]byte, 100))
		must(t, err)
		must(t, p.Node.Close(protocol.CodeNone, ""))
		for range 3 {
			checkClosed(t, <-failed, protocol.CodeNone, true)
		}
	})
	t.Run("AcceptEndsWithItsContext", func(t *testing.T) {
		p := open(t)
		why := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(why)
		if _, err := p.Hub.AcceptStream(ctx); !errors.Is(err, why) {
			t.Fatalf("AcceptStream = %v, want the context's cause", err)
		}
	})
	t.Run("OpenWaitsAtTheLimit", func(t *testing.T) { openWaits(t, open(t)) })
}

// endless reads as zeros without end.
type endless struct{}

func (endless) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func waitDone(t *testing.T, s protocol.Session) {
	t.Helper()
	select {
	case <-s.Done():
	case <-within(t).Done():
		t.Fatal("the session does not end")
	}
}

func checkClosed(t *testing.T, err error, code protocol.Code, remote bool) {
	t.Helper()
	var closed *protocol.SessionError
	if !errors.As(err, &closed) || closed.Code != code || closed.Remote != remote || !errors.Is(err, net.ErrClosed) {
		t.Fatalf("got %#v, want the session closed with %v, remote %v", err, code, remote)
	}
}

// openWaits opens streams to the limit: one more must wait until one is over.
func openWaits(t *testing.T, p Pair) {
	const more = 1000 // than any transport allows
	var opened []protocol.Stream
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		st, err := p.Node.OpenStream(ctx)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
		must(t, err)
		must(t, st.CloseWrite())
		if opened = append(opened, st); len(opened) == more {
			t.Fatalf("%d streams are open and there is no limit", more)
		}
	}
	waiting := make(chan error, 1)
	go func() {
		_, err := p.Node.OpenStream(within(t))
		waiting <- err
	}()
	hub, err := p.Hub.AcceptStream(within(t))
	must(t, err)
	if _, err := io.ReadAll(hub); err != nil {
		t.Fatal(err)
	}
	must(t, hub.CloseWrite())
	// Streams are accepted in the order in which they were opened.
	if _, err := io.ReadAll(opened[0]); err != nil {
		t.Fatal(err)
	}
	must(t, <-waiting)
}

func runStreams(t *testing.T, open Open) {
	t.Run("BytesArriveInOrderBothWays", func(t *testing.T) {
		p := open(t)
		node, hub := streams(t, p)
		up, down := Bytes(1, 700_001), Bytes(2, 600_001)
		sent := make(chan error, 2)
		go func() { sent <- writeAll(node, up) }()
		go func() { sent <- writeAll(hub, down) }()
		got := make(chan []byte, 1)
		go func() { b, _ := io.ReadAll(node); got <- b }()
		checkBytes(t, readAll(t, hub), up)
		checkBytes(t, <-got, down)
		must(t, errors.Join(<-sent, <-sent))
	})
	t.Run("OneDirectionEndsAlone", func(t *testing.T) {
		p := open(t)
		node, hub := streams(t, p)
		must(t, node.CloseWrite())
		checkBytes(t, readAll(t, hub), nil)
		_, err := node.Write([]byte("x"))
		if err == nil {
			t.Fatal("a write after CloseWrite succeeded")
		}
		must(t, writeAll(hub, []byte("still here")))
		checkBytes(t, readAll(t, node), []byte("still here"))
	})
	t.Run("CancelReachesThePeerWithItsCode", func(t *testing.T) {
		p := open(t)
		node, hub := streams(t, p)
		node.Cancel(protocol.CodeStorage)
		_, err := hub.Read(make([]byte, 1))
		checkCancelled(t, err, protocol.CodeStorage, true)
		for err = nil; err == nil; {
			_, err = hub.Write(make([]byte, 1000))
		}
		checkCancelled(t, err, protocol.CodeStorage, true)
		_, err = node.Read(make([]byte, 1))
		checkCancelled(t, err, protocol.CodeStorage, false)
		_, err = node.Write([]byte("x"))
		checkCancelled(t, err, protocol.CodeStorage, false)
		if p.Node.Err() != nil {
			t.Fatalf("a cancelled stream ended its session: %v", p.Node.Err())
		}
	})
}

func runStreamEnds(t *testing.T, open Open) {
	t.Run("CancelAfterCloseWriteStillDelivers", func(t *testing.T) {
		p := open(t)
		node, hub := streams(t, p)
		want := Bytes(3, 20_000)
		must(t, writeAll(node, want))
		node.Cancel(protocol.CodeNone)
		checkBytes(t, readAll(t, hub), want)
	})
	t.Run("CloseWriteIsFineThoughThePeerStoppedReading", func(t *testing.T) {
		p := open(t)
		node, hub := streams(t, p)
		must(t, hub.CloseWrite())
		hub.Cancel(protocol.CodeNone)
		var err error
		for err == nil {
			_, err = node.Write(make([]byte, 1000))
		}
		checkCancelled(t, err, protocol.CodeNone, true)
		must(t, node.CloseWrite())
		checkBytes(t, readAll(t, node), nil)
	})
	t.Run("ReadDeadlinePassesAndIsLifted", func(t *testing.T) {
		p := open(t)
		node, hub := streams(t, p)
		must(t, hub.SetReadDeadline(time.Now().Add(time.Millisecond)))
		if _, err := hub.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("Read = %v, want its deadline", err)
		}
		must(t, hub.SetReadDeadline(time.Time{}))
		must(t, writeAll(node, []byte("late")))
		checkBytes(t, readAll(t, hub), []byte("late"))
	})
	t.Run("WriteDeadlinePassesWhenNobodyReads", func(t *testing.T) {
		p := open(t)
		node, _ := streams(t, p)
		must(t, node.SetWriteDeadline(time.Now().Add(200*time.Millisecond)))
		n, err := io.Copy(node, io.LimitReader(endless{}, 64<<20))
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("Write = %v after %d bytes, want its deadline", err, n)
		}
		if n > 8<<20 {
			t.Fatalf("%d bytes went out that nobody read", n)
		}
	})
	t.Run("HubOpensToo", func(t *testing.T) {
		p := open(t)
		st, err := p.Hub.OpenStream(within(t))
		must(t, err)
		must(t, writeAll(st, []byte("from the hub")))
		got, err := p.Node.AcceptStream(within(t))
		must(t, err)
		checkBytes(t, readAll(t, got), []byte("from the hub"))
	})
}

func writeAll(st protocol.Stream, b []byte) error {
	if _, err := st.Write(b); err != nil {
		return err
	}
	return st.CloseWrite()
}

func readAll(t *testing.T, r io.Reader) []byte {
	t.Helper()
	b, err := io.ReadAll(r)
	must(t, err)
	return b
}

func checkBytes(t *testing.T, got, want []byte) {
	t.Helper()
	if string(got) != string(want) {
		t.Fatalf("got %d bytes, want %d, or others", len(got), len(want))
	}
}

func checkCancelled(t *testing.T, err error, code protocol.Code, remote bool) {
	t.Helper()
	var cancelled *protocol.StreamError
	if !errors.As(err, &cancelled) || cancelled.Code != code || cancelled.Remote != remote {
		t.Fatalf("got %v, want the stream cancelled with %v, remote %v", err, code, remote)
	}
}
