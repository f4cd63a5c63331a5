// Package sessiontest is the conformance suite of protocol's sessions: what hub and
// node rely on, whatever carries their bytes. It owns the suite, a blob store on disk
// small enough to be read at a glance, and a UDP path that loses and delays packets.
// It holds no tests of one transport's own ways. Each transport's tests call Run.
package sessiontest

import (
	"context"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/protocol/pb"
)

// A Pair is both ends of a new session.
type Pair struct {
	Node, Hub     protocol.Session
	NodeID, HubID spare.NodeID
}

// Open makes a new session that ends with the test.
type Open func(t *testing.T) Pair

// patience is how long anything in the suite may take; nothing waits for it to pass.
const patience = 60 * time.Second

// Run checks a transport.
func Run(t *testing.T, open Open) {
	t.Run("Session", func(t *testing.T) {
		runSessions(t, open)
		runWaits(t, open)
	})
	t.Run("Stream", func(t *testing.T) {
		runStreams(t, open)
		runStreamEnds(t, open)
	})
	t.Run("Control", func(t *testing.T) {
		runControl(t, open)
		runFirstFrames(t, open)
	})
	t.Run("Get", func(t *testing.T) {
		runGets(t, open)
		runGetFailures(t, open)
	})
	t.Run("Put", func(t *testing.T) {
		runPuts(t, open)
		runPutLies(t, open)
		runPutFailures(t, open)
	})
	t.Run("Resume", func(t *testing.T) { runResumes(t, open) })
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// within is a context for what should not take long.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// Bytes are n bytes that look random and depend on the seed alone.
func Bytes(seed uint64, n int) []byte {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b)
	return b
}

// streams opens a stream from node to hub, shown by one byte that is read off.
func streams(t *testing.T, p Pair) (node, hub protocol.Stream) {
	t.Helper()
	ctx := within(t)
	node, err := p.Node.OpenStream(ctx)
	must(t, err)
	_, err = node.Write([]byte{'!'})
	must(t, err)
	hub, err = p.Hub.AcceptStream(ctx)
	must(t, err)
	for _, st := range []protocol.Stream{node, hub} {
		must(t, st.SetDeadline(time.Now().Add(patience)))
	}
	_, err = io.ReadFull(hub, make([]byte, 1))
	must(t, err)
	return node, hub
}

// Serve answers a session's blob streams from store until the session ends, and gives
// every error to report, if that is set.
func Serve(t *testing.T, hub protocol.Session, store protocol.BlobStore, limits protocol.BlobLimits, report func(error)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		_ = protocol.ServeStreams(ctx, hub, func(ctx context.Context, st protocol.Stream, first *pb.Frame) {
			if err := protocol.ServeBlob(ctx, st, first, store, limits); err != nil && report != nil {
				report(err)
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-over
	})
}
