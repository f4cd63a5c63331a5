package protocol

import (
	"context"
	"errors"
	"io"
	"os"
	"time"
)

// A half is one direction of a Pipe's stream.
type half struct {
	segments []segment
	size     int // bytes in segments
	eof      bool
	reset    *Code // the writer gave up
	stopped  *Code // the reader gave up
	drained  bool  // the reader has seen the end
	changed  *signal

	readBy, writeBy time.Time // deadlines
}

// A segment is what one Write put in.
type segment struct {
	data  []byte
	ready time.Time // when it arrives
}

func (h *half) over() bool { return h.reset != nil || h.stopped != nil || h.drained }

// A pipeStream is one end of a Pipe's stream.
type pipeStream struct {
	session *pipeSession
	opener  *pipeSession
	other   *pipeStream
	in, out *half
	shown   bool // the peer knows of the stream
	settled bool // at the opener's end: its slot is free again
}

var errWriteClosed = errors.New("write after CloseWrite")

func past(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

// earlier is the earlier of two times, of which a zero one stands for never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

// show lets the peer accept the stream. The lock is held.
func (st *pipeStream) show() {
	if st.session != st.opener || st.shown {
		return
	}
	st.shown = true
	peer := st.other.session
	peer.waiting = append(peer.waiting, st.other)
	peer.changed.wake()
}

func (st *pipeStream) Read(b []byte) (int, error) {
	p, h := st.session.pipe, st.in
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case st.session.err != nil:
			return 0, st.session.err
		case h.stopped != nil:
			return 0, &StreamError{Code: *h.stopped}
		case h.reset != nil && !p.stalled:
			return 0, &StreamError{Code: *h.reset, Remote: true}
		case past(h.readBy):
			return 0, os.ErrDeadlineExceeded
		}
		var next time.Time
		if !p.stalled {
			var n int
			var err error
			if n, next, err = st.take(b); n > 0 || err != nil || len(b) == 0 {
				return n, err
			}
		}
		p.wait(context.Background(), h.changed, earlier(next, h.readBy))
	}
}

// take reads what has arrived, or says when something will. The lock is held.
func (st *pipeStream) take(b []byte) (n int, next time.Time, err error) {
	p, h := st.session.pipe, st.in
	for len(h.segments) > 0 && n < len(b) {
		head := &h.segments[0]
		if !head.ready.IsZero() && time.Now().Before(head.ready) {
			next = head.ready
			break
		}
		want := b[n:]
		if p.cutAfter >= 0 && int64(len(want)) > p.cutAfter {
			want = want[:p.cutAfter]
		}
		k := copy(want, head.data)
		n += k
		head.data = head.data[k:]
		h.size -= k
		if len(head.data) == 0 {
			h.segments = h.segments[1:]
		}
		if p.cutAfter >= 0 {
			if p.cutAfter -= int64(k); p.cutAfter == 0 {
				p.cut()
				break
			}
		}
	}
	if n > 0 {
		h.changed.wake()
		return n, time.Time{}, nil
	}
	if st.session.err != nil {
		return 0, time.Time{}, st.session.err
	}
	if len(h.segments) == 0 && h.eof && len(b) > 0 {
		h.drained = true
		p.settle(st)
		return 0, time.Time{}, io.EOF
	}
	return 0, next, nil
}

func (st *pipeStream) Write(b []byte) (int, error) {
	p, h := st.session.pipe, st.out
	p.mu.Lock()
	defer p.mu.Unlock()
	written := 0
	for {
		if err := st.writable(); err != nil {
			return written, err
		}
		st.show()
		if room := pipeWindow - h.size; h.stopped == nil && room > 0 && len(b) > 0 {
			k := min(room, len(b))
			s := segment{data: append([]byte(nil), b[:k]...)}
			if p.delay > 0 {
				s.ready = time.Now().Add(p.delay)
			}
			h.segments = append(h.segments, s)
			h.size += k
			written += k
			b = b[k:]
			h.changed.wake()
		}
		if len(b) == 0 {
			return written, nil
		}
		p.wait(context.Background(), h.changed, h.writeBy)
	}
}

// writable says why nothing can be written. The lock is held.
func (st *pipeStream) writable() error {
	h := st.out
	switch {
	case st.session.err != nil:
		return st.session.err
	case h.reset != nil:
		return &StreamError{Code: *h.reset}
	case h.stopped != nil && !st.session.pipe.stalled:
		return &StreamError{Code: *h.stopped, Remote: true}
	case h.eof:
		return errWriteClosed
	case past(h.writeBy):
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (st *pipeStream) CloseWrite() error {
	p := st.session.pipe
	p.mu.Lock()
	defer p.mu.Unlock()
	h := st.out
	if st.session.err != nil {
		return st.session.err
	}
	if h.reset != nil {
		return &StreamError{Code: *h.reset}
	}
	h.eof = true
	st.show()
	h.changed.wake()
	return nil
}

func (st *pipeStream) Cancel(code Code) {
	p := st.session.pipe
	p.mu.Lock()
	defer p.mu.Unlock()
	if st.session.err != nil {
		return
	}
	if !st.in.over() {
		st.in.stopped = &code
		st.in.changed.wake()
	}
	if !st.out.eof && !st.out.over() {
		st.out.reset = &code
		st.show()
		st.out.changed.wake()
	}
	p.settle(st)
}

func (st *pipeStream) SetDeadline(t time.Time) error {
	return errors.Join(st.SetReadDeadline(t), st.SetWriteDeadline(t))
}

func (st *pipeStream) SetReadDeadline(t time.Time) error {
	st.setDeadline(&st.in.readBy, st.in.changed, t)
	return nil
}

func (st *pipeStream) SetWriteDeadline(t time.Time) error {
	st.setDeadline(&st.out.writeBy, st.out.changed, t)
	return nil
}

func (st *pipeStream) setDeadline(which *time.Time, changed *signal, t time.Time) {
	st.session.pipe.mu.Lock()
	defer st.session.pipe.mu.Unlock()
	*which = t
	changed.wake()
}

// SetPriority has nothing to order: a Pipe is never the bottleneck.
func (st *pipeStream) SetPriority(Priority) {}
