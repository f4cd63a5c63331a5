package protocol

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/spare-compute/spare/protocol/pb"
)

const (
	// FirstFrameTimeout is how long a stream may take over its first frame.
	FirstFrameTimeout = 10 * time.Second
	// maxBadStreams is how many streams of one session may begin with nonsense.
	maxBadStreams = 16
)

// AcceptFirst waits for the next stream and its first frame: what the stream is for.
// A peer that takes longer than FirstFrameTimeout over it, or sends something else,
// loses the stream; err is then the stream's and the session goes on, unless s.Err
// says otherwise.
func AcceptFirst(ctx context.Context, s Session) (Stream, *pb.Frame, error) {
	st, err := s.AcceptStream(ctx)
	if err != nil {
		return nil, nil, err
	}
	f, err := readFirst(ctx, st)
	if err != nil {
		return nil, nil, err
	}
	return st, f, nil
}

func readFirst(ctx context.Context, st Stream) (*pb.Frame, error) {
	defer watch(ctx, st)()
	err := st.SetReadDeadline(time.Now().Add(FirstFrameTimeout))
	var f *pb.Frame
	if err == nil {
		f, err = ReadFrame(st, MaxFirstFrame)
	}
	if err == nil && f.GetBody() == nil {
		err = fmt.Errorf("%w: it has no content that this release knows", ErrFrameMalformed)
	}
	if err == nil {
		err = st.SetReadDeadline(time.Time{})
	}
	if err != nil {
		st.Cancel(CodeMalformed)
		return nil, fmt.Errorf("first message of a stream: %w", unexpected(err))
	}
	return f, nil
}

// ServeStreams gives each stream that the peer opens, with its first frame, to handle,
// in a goroutine of its own. It returns when ctx or the session ends and all handlers
// have returned. The transport's limit on streams is that on goroutines. A peer whose
// streams keep beginning with nonsense loses the session.
func ServeStreams(ctx context.Context, s Session, handle func(ctx context.Context, st Stream, first *pb.Frame)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	var mu sync.Mutex
	bad := 0
	for {
		st, err := s.AcceptStream(ctx)
		if err != nil {
			cancel()
			return err
		}
		wg.Go(func() {
			// What a handler leaves open would count against the peer for good.
			defer st.Cancel(CodeNone)
			first, err := readFirst(ctx, st)
			if err == nil {
				handle(ctx, st, first)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if bad++; bad == maxBadStreams {
				_ = s.Close(CodeMalformed, "too many streams began with something else than a message")
			}
		})
	}
}
