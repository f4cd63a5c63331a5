package protocol

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/spare-compute/spare"
)

const (
	// pipeWindow is how many bytes a Pipe's stream holds that nobody has read.
	pipeWindow = 256 << 10
	// pipeStreams is how many streams each end of a Pipe may have open.
	pipeStreams = 64
)

// Pipe is a session inside one process: what one end opens and writes, the other
// accepts and reads. It keeps the promises of QUIC sessions and no others: an opened
// stream shows with its first bytes, and closing a session drops what is on its way.
func Pipe(node, hub spare.NodeID) (nodeEnd, hubEnd Session) {
	nodeEnd, hubEnd, _ = LinkedPipe(node, hub)
	return nodeEnd, hubEnd
}

// LinkedPipe is a Pipe over a Link that can be made slow, be held up and be cut.
func LinkedPipe(node, hub spare.NodeID) (nodeEnd, hubEnd Session, link *Link) {
	p := &pipe{cutAfter: -1, all: newSignal()}
	for i, peer := range []spare.NodeID{hub, node} {
		p.ends[i] = &pipeSession{
			pipe: p, side: i, peer: peer, slots: pipeStreams,
			done: make(chan struct{}), changed: newSignal(),
		}
	}
	return p.ends[0], p.ends[1], &Link{p}
}

// A pipe is what both ends of a Pipe share. One lock guards all of it.
type pipe struct {
	mu   sync.Mutex
	ends [2]*pipeSession
	all  *signal // of what concerns every stream: the link stalls, the sessions end

	delay    time.Duration
	stalled  bool
	cutAfter int64 // bytes that may still be read; below 0, any number
}

// A signal wakes all who wait for a change.
type signal struct{ ch chan struct{} }

func newSignal() *signal { return &signal{make(chan struct{})} }

// wake must be called with the pipe's lock held.
func (s *signal) wake() {
	close(s.ch)
	s.ch = make(chan struct{})
}

// wait gives up the lock until one of the signals s and p.all, the end of ctx, or the
// time at, if any.
func (p *pipe) wait(ctx context.Context, s *signal, at time.Time) {
	ch, all := s.ch, p.all.ch
	p.mu.Unlock()
	defer p.mu.Lock()
	var timer <-chan time.Time
	if !at.IsZero() {
		t := time.NewTimer(time.Until(at))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-ch:
	case <-all:
	case <-ctx.Done():
	case <-timer:
	}
}

// end ends both sessions and all streams. The lock is held.
func (p *pipe) end(errs [2]error) {
	for i, s := range p.ends {
		if s.err == nil {
			s.err = errs[i]
			close(s.done)
		}
	}
	p.all.wake()
}

// A pipeSession is one end of a Pipe.
type pipeSession struct {
	pipe    *pipe
	side    int
	peer    spare.NodeID
	slots   int // streams this end may still open
	waiting []*pipeStream
	changed *signal // of slots and waiting
	done    chan struct{}
	err     error
}

func (s *pipeSession) Peer() spare.NodeID    { return s.peer }
func (s *pipeSession) RemoteAddr() string    { return "pipe" }
func (s *pipeSession) Done() <-chan struct{} { return s.done }

func (s *pipeSession) Err() error {
	s.pipe.mu.Lock()
	defer s.pipe.mu.Unlock()
	return s.err
}

func (s *pipeSession) Close(code Code, reason string) error {
	s.pipe.mu.Lock()
	defer s.pipe.mu.Unlock()
	reason = printable(reason, maxReason)
	var errs [2]error
	errs[s.side] = &SessionError{Code: code, Reason: reason}
	errs[1-s.side] = &SessionError{Code: code, Reason: reason, Remote: true}
	s.pipe.end(errs)
	return nil
}

// until waits until ready says so, the session ends or ctx does. The lock is held.
func (s *pipeSession) until(ctx context.Context, ready func() bool) error {
	for {
		switch {
		case s.err != nil:
			return s.err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case ready():
			return nil
		}
		s.pipe.wait(ctx, s.changed, time.Time{})
	}
}

func (s *pipeSession) OpenStream(ctx context.Context) (Stream, error) {
	p := s.pipe
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := s.until(ctx, func() bool { return s.slots > 0 }); err != nil {
		return nil, err
	}
	s.slots--
	there, back := &half{changed: newSignal()}, &half{changed: newSignal()}
	mine := &pipeStream{session: s, opener: s, in: back, out: there}
	mine.other = &pipeStream{session: p.ends[1-s.side], opener: s, in: there, out: back, other: mine}
	return mine, nil
}

func (s *pipeSession) AcceptStream(ctx context.Context) (Stream, error) {
	p := s.pipe
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := s.until(ctx, func() bool { return len(s.waiting) > 0 && !p.stalled }); err != nil {
		return nil, err
	}
	st := s.waiting[0]
	s.waiting = s.waiting[1:]
	return st, nil
}

// settle frees a stream's slot once both its directions are over. The lock is held.
func (p *pipe) settle(st *pipeStream) {
	if st.session != st.opener {
		st = st.other
	}
	if !st.settled && st.in.over() && st.out.over() {
		st.settled = true
		st.opener.slots++
		st.opener.changed.wake()
	}
}

// A Link is what a LinkedPipe runs over.
type Link struct{ p *pipe }

// errCut is what the transport of a cut link says.
var errCut = errors.New("the link was cut")

// SetDelay makes bytes written from now on arrive d later.
func (l *Link) SetDelay(d time.Duration) {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	l.p.delay = d
}

// Stall holds up all that is on its way in streams and all that follows, until
// Resume. Neither end learns of it.
func (l *Link) Stall() { l.stall(true) }

// Resume ends a Stall.
func (l *Link) Resume() { l.stall(false) }

func (l *Link) stall(on bool) {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	l.p.stalled = on
	l.p.all.wake()
}

// Cut breaks the connection: both sessions end as lost.
func (l *Link) Cut() {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	l.p.cut()
}

// CutAfter cuts the link once n more bytes have arrived.
func (l *Link) CutAfter(n int64) {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	l.p.cutAfter = n
}

func (p *pipe) cut() {
	lost := &SessionError{Code: CodeLost, Err: errCut}
	p.end([2]error{lost, lost})
}
