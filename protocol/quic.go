package protocol

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/spare-compute/spare"
)

// Limits of a QUIC session; sizes in bytes.
const (
	// handshakeIdle is how long a handshake may stand still; all of it, twice that.
	handshakeIdle = 5 * time.Second
	// maxIdle ends a session on which nothing was heard. The node's heartbeat keeps it
	// alive: QUIC's own keep-alive stays off, so an idle session costs nothing else.
	maxIdle = 60 * time.Second
	// hubStreams is how many streams a node may have open at a time: its control
	// stream and its transfers.
	hubStreams = 64
	// nodeStreams is the same for the hub, which opens none today.
	nodeStreams = 8

	// What may have come and not been read: of one stream, and of all of a session
	// together, at first and at most. All streams share the latter, so it has room for
	// several that nobody reads beside the control stream.
	streamWindow    = 128 << 10
	maxStreamWindow = 1 << 20
	hubWindow       = 1 << 20
	maxHubWindow    = 8 << 20
	nodeWindow      = 4 << 20
	maxNodeWindow   = 16 << 20
)

// hubConfig is the hub's end of a session. Strangers may have one, so it begins small.
func hubConfig() *quic.Config { return quicConfig(hubStreams, hubWindow, maxHubWindow) }

// nodeConfig is the node's end.
func nodeConfig() *quic.Config { return quicConfig(nodeStreams, nodeWindow, maxNodeWindow) }

// quicConfig is what both ends have in common.
func quicConfig(streams int64, window, maxWindow uint64) *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           handshakeIdle,
		MaxIdleTimeout:                 maxIdle,
		InitialStreamReceiveWindow:     streamWindow,
		MaxStreamReceiveWindow:         maxStreamWindow,
		InitialConnectionReceiveWindow: window,
		MaxConnectionReceiveWindow:     maxWindow,
		MaxIncomingStreams:             streams,
		MaxIncomingUniStreams:          -1,
	}
}

// quicSession is a Session on a QUIC connection.
type quicSession struct {
	conn    *quic.Conn
	peer    spare.NodeID
	cleaned <-chan struct{} // closed when what belongs to the ended session is freed
}

// newQUICSession wraps a connection. free runs once, when it has ended.
func newQUICSession(conn *quic.Conn, peer spare.NodeID, free func()) *quicSession {
	cleaned := make(chan struct{})
	context.AfterFunc(conn.Context(), func() {
		free()
		close(cleaned)
	})
	return &quicSession{conn: conn, peer: peer, cleaned: cleaned}
}

func (s *quicSession) Peer() spare.NodeID    { return s.peer }
func (s *quicSession) RemoteAddr() string    { return s.conn.RemoteAddr().String() }
func (s *quicSession) Done() <-chan struct{} { return s.conn.Context().Done() }

func (s *quicSession) Err() error {
	if s.conn.Context().Err() == nil {
		return nil
	}
	return sessionError(context.Cause(s.conn.Context()))
}

func (s *quicSession) OpenStream(ctx context.Context) (Stream, error) {
	st, err := s.conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, s.explain(ctx, err)
	}
	return &quicStream{Stream: st}, nil
}

func (s *quicSession) AcceptStream(ctx context.Context) (Stream, error) {
	st, err := s.conn.AcceptStream(ctx)
	if err != nil {
		return nil, s.explain(ctx, err)
	}
	return &quicStream{Stream: st}, nil
}

func (s *quicSession) explain(ctx context.Context, err error) error {
	if e := s.Err(); e != nil {
		return e
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return sessionError(err)
}

// maxReason is how many bytes of a reason are sent, or believed; it must fit a packet.
const maxReason = 256

func (s *quicSession) Close(code Code, reason string) error {
	err := s.conn.CloseWithError(quic.ApplicationErrorCode(code), printable(reason, maxReason))
	<-s.cleaned
	return err
}

// sessionError says in our terms how a QUIC connection ended.
func sessionError(err error) error {
	var app *quic.ApplicationError
	var idle *quic.IdleTimeoutError
	var reset *quic.StatelessResetError
	switch {
	case errors.As(err, &app):
		return &SessionError{Code: Code(app.ErrorCode), Reason: printable(app.ErrorMessage, maxReason), Remote: app.Remote}
	case errors.As(err, &idle):
		return &SessionError{Code: CodeLost, Reason: fmt.Sprintf("nothing was heard for %v", maxIdle), Err: err}
	case errors.As(err, &reset):
		return &SessionError{Code: CodeLost, Reason: "the other end has restarted", Err: err}
	}
	return &SessionError{Code: CodeLost, Err: err}
}

// quicStream is a Stream on a QUIC stream.
type quicStream struct {
	*quic.Stream
	closed atomic.Bool // CloseWrite was called
}

func (s *quicStream) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	return n, s.explain(err)
}

func (s *quicStream) Write(b []byte) (int, error) {
	n, err := s.Stream.Write(b)
	return n, s.explain(err)
}

func (s *quicStream) CloseWrite() error {
	s.closed.Store(true)
	err := s.Stream.Close()
	var stopped *quic.StreamError
	if err != nil && errors.As(context.Cause(s.Context()), &stopped) && stopped.Remote {
		return nil
	}
	return s.explain(err)
}

func (s *quicStream) Cancel(code Code) {
	s.CancelRead(quic.StreamErrorCode(code))
	// QUIC would take back what was closed but is still on its way.
	if !s.closed.Load() {
		s.CancelWrite(quic.StreamErrorCode(code))
	}
}

// SetPriority maps to the urgencies of RFC 9218. Streams of equal priority share.
func (s *quicStream) SetPriority(p Priority) {
	urgency := map[Priority]int8{PriorityControl: 0, PrioritySmall: 2, PriorityBulk: 5}
	s.Stream.SetPriority(urgency[min(p, PriorityBulk)], true)
}

// explain says in our terms why a stream's call failed.
func (s *quicStream) explain(err error) error {
	var cancelled *quic.StreamError
	switch {
	case err == nil || errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded):
		return err
	case errors.As(err, &cancelled):
		return &StreamError{Code: Code(cancelled.ErrorCode), Remote: cancelled.Remote}
	case errors.Is(err, net.ErrClosed):
		return sessionError(err)
	}
	return err
}
