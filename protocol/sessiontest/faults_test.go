package sessiontest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/protocol/pb"
)

func TestPipe_CutAnywhereThenResume(t *testing.T) {
	const size = 300_000
	content := Bytes(1, size)
	d := spare.Sum(content)
	rng := rand.New(rand.NewPCG(1, 1))
	for range 100 {
		store := NewStore(t)
		var back bytes.Buffer
		for tries := 0; back.Len() < size; tries++ {
			if tries > 100 {
				t.Fatal("the blob never got through")
			}
			p, link := openPipe(t)
			Serve(t, p.Hub, store, limits, nil)
			link.CutAfter(rng.Int64N(400_000))
			err := protocol.PutBlob(within(t), p.Node, d, size, from(content))
			if err == nil {
				_, err = protocol.GetBlob(within(t), p.Node, d, int64(back.Len()), &back)
			}
			if err != nil {
				var lost *protocol.SessionError
				if !errors.As(err, &lost) || lost.Code != protocol.CodeLost {
					t.Fatalf("over a cut link: %v, want the connection lost", err)
				}
			}
			if got := store.Content(t, d); got != nil && !bytes.Equal(got, content) {
				t.Fatal("other bytes were stored")
			}
		}
		checkBytes(t, back.Bytes(), content)
	}
}

func TestPipe_CutEndsBothSessionsAsLost(t *testing.T) {
	p, link := openPipe(t)
	node, _ := streams(t, p)
	link.Cut()
	waitDone(t, p.Node)
	waitDone(t, p.Hub)
	_, err := node.Read(make([]byte, 1))
	for _, err := range []error{err, p.Node.Err(), p.Hub.Err()} {
		checkClosed(t, err, protocol.CodeLost, false)
		if !strings.Contains(err.Error(), "the connection is lost: the link was cut") {
			t.Fatalf("the error reads %q", err)
		}
	}
}

func TestPipe_StallEndsWithResume(t *testing.T) {
	p, link := openPipe(t)
	node, hub := streams(t, p)
	link.Stall()
	must(t, writeAll(node, []byte("held up")))
	must(t, hub.SetReadDeadline(time.Now().Add(time.Millisecond)))
	if _, err := hub.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Read over a stalled link = %v", err)
	}
	must(t, hub.SetReadDeadline(time.Time{}))
	link.Resume()
	checkBytes(t, readAll(t, hub), []byte("held up"))
}

func TestPipe_DelayIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, link := openPipe(t)
		link.SetDelay(time.Minute / 2)
		start := time.Now()
		streams(t, p)
		if got := time.Since(start); got != time.Minute/2 {
			t.Fatalf("a byte took %v, want 30s", got)
		}
	})
}

func TestBlob_StalledTransferIsGivenUpAtBothEnds(t *testing.T) {
	for _, op := range []string{"get", "put"} {
		t.Run(op, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, link := openPipe(t)
				store, content := NewStore(t), Bytes(1, 2_000_000)
				failed := make(chan error, 1)
				Serve(t, p.Hub, store, limits, func(err error) { failed <- err })
				start := time.Now()
				var err error
				if op == "get" {
					_, err = protocol.GetBlob(t.Context(), p.Node, store.Add(t, content), 0, after{link.Stall})
				} else {
					err = protocol.PutBlob(t.Context(), p.Node, spare.Sum(content), int64(len(content)), func(int64) (io.ReadCloser, error) {
						return io.NopCloser(io.TeeReader(bytes.NewReader(content), after{link.Stall})), nil
					})
				}
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("at the node: %v, want a deadline", err)
				}
				if err := <-failed; err == nil {
					t.Fatal("the hub served a transfer that never ended")
				}
				if took := time.Since(start); took > 3*protocol.StallTimeout {
					t.Fatalf("it took %v", took)
				}
			})
		})
	}
}

func TestServeBlob_OneByteNowAndThenIsTooSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := openPipe(t)
		store, content := NewStore(t), Bytes(1, 200_000)
		failed := make(chan error, 1)
		Serve(t, p.Hub, store, limits, func(err error) { failed <- err })
		st, _ := rawPut(t, p, spare.Sum(content), uint64(len(content)))
		start := time.Now()
		var err error
		for i := 0; err == nil && i < len(content); i++ {
			_, err = st.Write(content[i : i+1])
			time.Sleep(time.Second) // the bubble's time
		}
		checkCancelled(t, err, protocol.CodeSlow, true)
		if took := time.Since(start); took > 2*protocol.StallTimeout {
			t.Fatalf("a byte a second was borne for %v", took)
		}
		if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("ServeBlob = %v, want a deadline", err)
		}
		// What came is kept for the next attempt.
		w, err := store.Partial(spare.Sum(content), int64(len(content)))
		must(t, err)
		if w.Offset() < 10 {
			t.Fatalf("%d bytes were kept", w.Offset())
		}
		must(t, w.Close())
	})
}

func TestServeBlob_NodeThatDoesNotReadIsTooSlow(t *testing.T) {
	for name, open := range map[string]Open{
		"quic": func(t *testing.T) Pair { return openQUIC(t, nil) },
		"pipe": func(t *testing.T) Pair { p, _ := openPipe(t); return p },
	} {
		t.Run(name, func(t *testing.T) {
			p, store := open(t), NewStore(t)
			failed := make(chan error, 1)
			l := limits
			l.Stall = 200 * time.Millisecond
			Serve(t, p.Hub, store, l, func(err error) { failed <- err })
			st, err := p.Node.OpenStream(within(t))
			must(t, err)
			get := &pb.BlobGet{Digest: string(store.Add(t, Bytes(1, 32<<20)))}
			must(t, protocol.WriteFrame(st, &pb.Frame{Body: &pb.Frame_BlobGet{BlobGet: get}}))
			select {
			case err := <-failed:
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("ServeBlob = %v, want a deadline", err)
				}
			case <-within(t).Done():
				t.Fatal("ServeBlob waits for a node that does not read")
			}
		})
	}
}

func TestServeStreams_HalfOpenStreamsTimeOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := openPipe(t)
		store := NewStore(t)
		Serve(t, p.Hub, store, limits, nil)
		d := store.Add(t, []byte("content"))
		start := time.Now()
		// Fewer than the session's limit on nonsense.
		for range 10 {
			st, err := p.Node.OpenStream(t.Context())
			must(t, err)
			_, err = st.Write([]byte{0, 0}) // half a length
			must(t, err)
			_, err = st.Read(make([]byte, 1))
			checkCancelled(t, err, protocol.CodeMalformed, true)
		}
		if took := time.Since(start); took != 10*protocol.FirstFrameTimeout {
			t.Fatalf("ten half-open streams were borne for %v", took)
		}
		_, err := protocol.GetBlob(t.Context(), p.Node, d, 0, io.Discard)
		must(t, err)
	})
}

func TestConn_PeerThatDoesNotReadBreaksIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := openPipe(t)
		node, hub := streams(t, p)
		must(t, node.SetDeadline(time.Time{}))
		conn := protocol.NewConn(node)
		big := &pb.Frame{Body: &pb.Frame_DeviceUpdate{DeviceUpdate: &pb.DeviceUpdate{Device: make([]byte, 1_000_000)}}}
		start := time.Now()
		if err := conn.Send(big); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("Send = %v, want its deadline", err)
		}
		if took := time.Since(start); took != protocol.SendTimeout {
			t.Fatalf("Send took %v", took)
		}
		// Half a message is out: even with room again, no other may follow.
		go func() { _, _ = io.Copy(io.Discard, hub) }()
		synctest.Wait()
		if err := conn.Send(heartbeat(1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("Send after half a message = %v, want the same error", err)
		}
		must(t, p.Node.Close(protocol.CodeNone, ""))
	})
}

func TestQUIC_LargeBlobs(t *testing.T) {
	p, store := openQUIC(t, nil), NewStore(t)
	Serve(t, p.Hub, store, limits, nil)
	content := Bytes(1, 32<<20)
	d := spare.Sum(content)
	start := time.Now()
	must(t, protocol.PutBlob(within(t), p.Node, d, int64(len(content)), from(content)))
	up := time.Since(start)
	var got bytes.Buffer
	got.Grow(len(content))
	start = time.Now()
	_, err := protocol.GetBlob(within(t), p.Node, d, 0, &got)
	must(t, err)
	checkBytes(t, got.Bytes(), content)
	t.Logf("32 MiB up in %v, down in %v", up, time.Since(start))
}

func TestQUIC_DeadPathEndsTransfersByTheirContext(t *testing.T) {
	path := &Path{}
	p, store := openQUIC(t, path), NewStore(t)
	Serve(t, p.Hub, store, limits, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := protocol.GetBlob(ctx, p.Node, store.Add(t, Bytes(1, 8<<20)), 0, after{path.Die})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("GetBlob over a dead path = %v", err)
	}
}

func TestQUIC_IdleSessionIsQuiet(t *testing.T) {
	path := &Path{}
	p := openQUIC(t, path)
	node, _ := streams(t, p)
	must(t, node.CloseWrite())
	// Once the path's MTU is known and all is acknowledged, nothing moves.
	const quiet = time.Second
	last, since := path.Packets(), time.Now()
	for deadline := time.Now().Add(20 * time.Second); time.Since(since) < quiet; time.Sleep(10 * time.Millisecond) {
		if n := path.Packets(); n != last {
			last, since = n, time.Now()
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %d packets an idle session still sends", last)
		}
	}
}
