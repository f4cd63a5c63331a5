package protocol

import (
	"context"
	"io"
	"net"
	"time"

	"github.com/spare-compute/spare"
)

// A Session is an authenticated connection between a node and its hub that carries
// many streams. It is safe for concurrent use.
type Session interface {
	// OpenStream starts a stream. It waits while the peer allows no more of them. The
	// peer learns of a stream with the first bytes written to it.
	OpenStream(ctx context.Context) (Stream, error)
	// AcceptStream waits for the next stream the peer opened.
	AcceptStream(ctx context.Context) (Stream, error)
	// Peer is who the other end has proved to be.
	Peer() spare.NodeID
	// RemoteAddr is where the other end is, for people.
	RemoteAddr() string
	// Close ends the session and all its streams. What was written but not delivered
	// is lost. The peer's Err carries code and reason.
	Close(code Code, reason string) error
	// Done is closed when the session has ended, for whatever reason.
	Done() <-chan struct{}
	// Err is nil while the session lives, then a *SessionError.
	Err() error
}

// A Stream is one of a session's two-way byte streams. One goroutine may read while
// another writes. Both directions must come to an end, or the stream counts against
// the peer's limit for as long as the session lives: read to io.EOF and CloseWrite,
// or Cancel.
type Stream interface {
	io.Reader
	io.Writer
	// CloseWrite says that nothing more will be written; the peer reads io.EOF. That
	// the peer has stopped reading is no error: it may have heard enough. CloseWrite
	// must not be called while a Write is going on.
	CloseWrite() error
	// Cancel gives up what is still open: nothing more will be read, and unless
	// CloseWrite was called before, what was written is not promised to arrive. The
	// peer gets a *StreamError with the code.
	Cancel(code Code)
	// SetDeadline sets both deadlines. After one passes, the call fails with an error
	// that matches os.ErrDeadlineExceeded. The zero time is no deadline.
	SetDeadline(t time.Time) error
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
	// SetPriority says which bytes go first when the connection is the bottleneck.
	SetPriority(p Priority)
}

// A Listener takes sessions from nodes.
type Listener interface {
	// Accept waits for the next session. Its handshake is complete.
	Accept(ctx context.Context) (Session, error)
	Addr() net.Addr
	// Close stops listening and ends all sessions that came from here.
	Close() error
}

// Priority orders streams: what has a lower value goes first.
type Priority uint8

// The priorities, most urgent first.
const (
	PriorityControl Priority = iota
	PrioritySmall
	PriorityBulk
)

// smallBlob is the size in bytes up to which a blob goes before bulk.
const smallBlob = 1 << 20

func blobPriority(size int64) Priority {
	if size <= smallBlob {
		return PrioritySmall
	}
	return PriorityBulk
}
