package sessiontest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/protocol/pb"
)

func heartbeat(n int) *pb.Frame {
	return &pb.Frame{Body: &pb.Frame_Heartbeat{Heartbeat: &pb.Heartbeat{Sequence: uint64(n)}}}
}

func runControl(t *testing.T, open Open) {
	t.Run("ManySendersMessagesStayWhole", func(t *testing.T) {
		const senders, each = 8, 200
		p := open(t)
		ns, hs := streams(t, p)
		node, hub := protocol.NewConn(ns), protocol.NewConn(hs)
		var wg sync.WaitGroup
		for s := range senders {
			wg.Go(func() {
				for i := range each {
					if err := node.Send(heartbeat(s*each + i)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		next := make([]int, senders)
		for range senders * each {
			f, err := hub.Receive()
			must(t, err)
			n := int(f.GetHeartbeat().GetSequence())
			if n%each != next[n/each] {
				t.Fatalf("sender %d: message %d came when %d was due", n/each, n%each, next[n/each])
			}
			next[n/each]++
		}
		wg.Wait()
		must(t, ns.CloseWrite())
		if _, err := hub.Receive(); !errors.Is(err, io.EOF) {
			t.Fatalf("Receive = %v, want the end", err)
		}
	})
	t.Run("LargestMessagePassesAndLargerDoesNot", func(t *testing.T) {
		p := open(t)
		ns, hs := streams(t, p)
		node, hub := protocol.NewConn(ns), protocol.NewConn(hs)
		device := func(n int) *pb.Frame {
			return &pb.Frame{Body: &pb.Frame_DeviceUpdate{DeviceUpdate: &pb.DeviceUpdate{Device: make([]byte, n)}}}
		}
		largest := protocol.MaxFrame
		for proto.Size(device(largest)) > protocol.MaxFrame {
			largest--
		}
		if err := node.Send(device(largest + 1)); !errors.Is(err, protocol.ErrFrameTooLarge) {
			t.Fatalf("Send = %v, want ErrFrameTooLarge", err)
		}
		sent := make(chan error, 1)
		go func() { sent <- node.Send(device(largest)) }()
		f, err := hub.Receive()
		must(t, err)
		must(t, <-sent)
		if n := len(f.GetDeviceUpdate().GetDevice()); n != largest {
			t.Fatalf("%d bytes came, want %d", n, largest)
		}
	})
}

func runFirstFrames(t *testing.T, open Open) {
	t.Run("DeclaredTooLargeIsRefused", func(t *testing.T) {
		p := open(t)
		ns, hs := streams(t, p)
		_, err := ns.Write(binary.BigEndian.AppendUint32(nil, protocol.MaxFrame+1))
		must(t, err)
		if _, err := protocol.NewConn(hs).Receive(); !errors.Is(err, protocol.ErrFrameTooLarge) {
			t.Fatalf("Receive = %v, want ErrFrameTooLarge", err)
		}
	})
	t.Run("FirstFrameSaysWhatAStreamIsFor", func(t *testing.T) {
		p := open(t)
		st, err := p.Node.OpenStream(within(t))
		must(t, err)
		must(t, protocol.NewConn(st).Send(&pb.Frame{Body: &pb.Frame_Hello{Hello: &pb.Hello{Software: "x"}}}))
		must(t, protocol.NewConn(st).Send(heartbeat(7)))
		hs, first, err := protocol.AcceptFirst(within(t), p.Hub)
		must(t, err)
		if first.GetHello().GetSoftware() != "x" {
			t.Fatalf("first frame is %v", first)
		}
		f, err := protocol.NewConn(hs).Receive()
		must(t, err)
		if f.GetHeartbeat().GetSequence() != 7 {
			t.Fatalf("second frame is %v", f)
		}
	})
	t.Run("NonsenseCostsTheStreamThenTheSession", func(t *testing.T) { nonsense(t, open(t)) })
	t.Run("UnreadTransfersDoNotHoldItUp", func(t *testing.T) { unread(t, open(t)) })
	t.Run("ManyStreamsAtOnce", func(t *testing.T) { manyStreams(t, open(t)) })
}

// nonsense opens stream after stream that begins with no message.
func nonsense(t *testing.T, p Pair) {
	served := make(chan error, 1)
	go func() {
		served <- protocol.ServeStreams(within(t), p.Hub, func(_ context.Context, st protocol.Stream, _ *pb.Frame) {
			t.Error("nonsense was handled")
		})
	}()
	for i := range 100 {
		st, err := p.Node.OpenStream(within(t))
		if err == nil {
			_, err = io.WriteString(st, "GET / HTTP/1.1\r\n\r\n")
		}
		if err == nil {
			_, err = st.Read(make([]byte, 1))
		}
		var cancelled *protocol.StreamError
		if errors.As(err, &cancelled) && cancelled.Code == protocol.CodeMalformed {
			continue
		}
		if i == 0 {
			t.Fatalf("the first stream of nonsense got %v, want it cancelled", err)
		}
		break
	}
	waitDone(t, p.Node)
	checkClosed(t, p.Node.Err(), protocol.CodeMalformed, true)
	if err := <-served; err == nil || !strings.Contains(err.Error(), "too many streams") {
		t.Fatalf("ServeStreams = %v", err)
	}
}

// manyStreams asks 300 times over as many streams, some dozens at a time.
func manyStreams(t *testing.T, p Pair) {
	go func() {
		_ = protocol.ServeStreams(within(t), p.Hub, func(_ context.Context, st protocol.Stream, first *pb.Frame) {
			_ = protocol.WriteFrame(st, first)
			_ = st.CloseWrite()
		})
	}()
	ask := func(n int) error {
		st, err := p.Node.OpenStream(within(t))
		if err != nil {
			return err
		}
		defer st.Cancel(protocol.CodeNone)
		if err := protocol.WriteFrame(st, heartbeat(n)); err != nil {
			return err
		}
		f, err := protocol.ReadFrame(st, protocol.MaxFrame)
		if err == nil && f.GetHeartbeat().GetSequence() != uint64(n) {
			err = fmt.Errorf("asked %d, got %v", n, f)
		}
		return err
	}
	var wg sync.WaitGroup
	for n := range 300 {
		wg.Go(func() {
			if err := ask(n); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// unread fills some streams that nobody reads; a message must still come through.
func unread(t *testing.T, p Pair) {
	ns, hs := streams(t, p)
	node, hub := protocol.NewConn(ns), protocol.NewConn(hs)
	var filled sync.WaitGroup
	for range 4 {
		st, err := p.Node.OpenStream(within(t))
		must(t, err)
		st.SetPriority(protocol.PriorityBulk)
		must(t, st.SetWriteDeadline(time.Now().Add(500*time.Millisecond)))
		filled.Go(func() {
			if _, err := io.Copy(st, io.LimitReader(endless{}, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("nobody reads, and writing ended with %v", err)
			}
		})
	}
	for n := range 50 {
		must(t, node.Send(heartbeat(n)))
		f, err := hub.Receive()
		must(t, err)
		if f.GetHeartbeat().GetSequence() != uint64(n) {
			t.Fatalf("message %d is %v", n, f)
		}
	}
	filled.Wait()
	must(t, node.Send(heartbeat(50)))
	_, err := hub.Receive()
	must(t, err)
}
