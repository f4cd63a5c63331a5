package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/spare-compute/spare/protocol/pb"
)

// MaxFrame is the size in bytes of the largest message.
const MaxFrame = 1 << 20

// MaxFirstFrame is that of a stream's first message, which may come from a stranger.
const MaxFirstFrame = 256 << 10

// frameHeader is the length before each message: four bytes, big-endian.
const frameHeader = 4

// Errors of framing.
var (
	ErrFrameTooLarge  = errors.New("message too large")
	ErrFrameMalformed = errors.New("malformed message")
)

// ReadFrame reads one message of at most limit bytes. It looks at the length before
// it allocates, and reads not one byte past the message. io.EOF means that the stream
// ended between messages; io.ErrUnexpectedEOF, inside one.
func ReadFrame(r io.Reader, limit int) (*pb.Frame, error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[:])
	if int64(size) > int64(min(limit, MaxFrame)) {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrFrameTooLarge, size, min(limit, MaxFrame))
	}
	buf := make([]byte, size)
	if _, err := io.ReadFull(r, buf); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	f := new(pb.Frame)
	if err := proto.Unmarshal(buf, f); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFrameMalformed, err)
	}
	return f, nil
}

// WriteFrame writes one message.
func WriteFrame(w io.Writer, f *pb.Frame) error {
	size := proto.Size(f)
	if size > MaxFrame {
		return fmt.Errorf("send %T: %w: %d bytes, at most %d are allowed", f.GetBody(), ErrFrameTooLarge, size, MaxFrame)
	}
	buf := make([]byte, frameHeader, frameHeader+size)
	buf, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(buf, f)
	if err != nil {
		return fmt.Errorf("send %T: %w", f.GetBody(), err)
	}
	binary.BigEndian.PutUint32(buf, uint32(len(buf)-frameHeader))
	_, err = w.Write(buf)
	return err
}

// SendTimeout is how long a Conn's peer may take to make room for a message.
const SendTimeout = 30 * time.Second

// A Conn sends and receives messages on a stream. It reads no further than the
// message it returns, so that a stream may go on with other bytes.
type Conn struct {
	st Stream

	mu     sync.Mutex // one message at a time
	broken error      // a message went out in part: nothing can follow it
}

// NewConn sends and receives on st.
func NewConn(st Stream) *Conn { return &Conn{st: st} }

// Send sends one message. It is safe for concurrent use. A peer that leaves no room
// for it within SendTimeout breaks the Conn for good.
func (c *Conn) Send(f *pb.Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != nil {
		return c.broken
	}
	if err := c.st.SetWriteDeadline(time.Now().Add(SendTimeout)); err != nil {
		return err
	}
	err := WriteFrame(c.st, f)
	if err != nil && !errors.Is(err, ErrFrameTooLarge) {
		c.broken = err
	}
	return err
}

// Receive waits for the next message. A message whose body is nil is one that this
// release does not know; it is to be ignored. One goroutine at a time may call it.
func (c *Conn) Receive() (*pb.Frame, error) { return ReadFrame(c.st, MaxFrame) }

// Stream is what the Conn runs on.
func (c *Conn) Stream() Stream { return c.st }
