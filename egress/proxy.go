package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/things-go/go-socks5"
	"github.com/things-go/go-socks5/statute"
)

// A Proxy lets one program, which has no network of its own, call what its Rule allows.
// One listener speaks HTTP (CONNECT, and plain requests with a whole url) and SOCKS5
// (CONNECT alone); the first byte tells which. It looks names up itself. Zero values mean
// the defaults. It must not be copied, and serves once.
type Proxy struct {
	Rule        Rule
	Connections int           // at a time; more wait to be accepted; 64
	Patience    time.Duration // how long a client may take to say what it wants; 10 s
	Idle        time.Duration // how long a connection may stand still; 2 min
	MaxBytes    int64         // in both directions together; then all is cut; 0 = no limit

	Resolver Resolver // nil is the system's
	// Dial connects to an address that has been checked. Nil is a plain dialer, which
	// checks it once more. Tests put servers of their own behind public addresses.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	in, out  atomic.Int64
	accepted atomic.Int64
	refused  atomic.Int64

	mu    sync.Mutex
	conns map[net.Conn]struct{} // the clients'
	tasks sync.WaitGroup
}

// Traffic is what went through a Proxy.
type Traffic struct {
	In, Out     int64 // bytes from and to the servers
	Connections int64 // by the program
	Refused     int64 // calls against the rules
}

// Traffic counts what went through so far.
func (p *Proxy) Traffic() Traffic {
	return Traffic{In: p.in.Load(), Out: p.out.Load(), Connections: p.accepted.Load(), Refused: p.refused.Load()}
}

const (
	defaultConnections = 64
	defaultPatience    = 10 * time.Second
	defaultIdle        = 2 * time.Minute

	maxHeader   = 64 << 10 // bytes of a request's or an answer's header
	acceptPause = 100 * time.Millisecond
)

// Serve serves clients until ctx ends, which is no error, and closes the listener. When
// it returns, no connection and no goroutine of it is left.
func (p *Proxy) Serve(ctx context.Context, l net.Listener) error {
	if p.Connections <= 0 {
		p.Connections = defaultConnections
	}
	if p.Patience <= 0 {
		p.Patience = defaultPatience
	}
	if p.Idle <= 0 {
		p.Idle = defaultIdle
	}
	ctx, cancel := context.WithCancel(ctx)
	web := p.newWeb(ctx)
	p.tasks.Go(web.serve)
	stop := context.AfterFunc(ctx, func() {
		_ = l.Close()
		p.hangUp()
	})
	err := p.accept(ctx, l, p.newSocks(ctx), web)
	cancel()
	stop()
	_ = l.Close()
	p.hangUp()
	web.close()
	p.tasks.Wait()
	return err
}

// accept takes clients in as long as there is room for them.
func (p *Proxy) accept(ctx context.Context, l net.Listener, socks *socks5.Server, web *web) error {
	slots := make(chan struct{}, p.Connections)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := l.Accept()
		var passing net.Error
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case errors.As(err, &passing) && !errors.Is(err, net.ErrClosed): // no descriptor left, say
			<-slots
			if !wait(ctx, acceptPause) {
				return nil
			}
			continue
		case err != nil:
			return fmt.Errorf("accept a connection to the sandbox's proxy: %w", err)
		}
		p.accepted.Add(1)
		p.tasks.Go(func() {
			defer func() { <-slots }()
			p.serve(ctx, conn, socks, web)
		})
	}
}

// serve finds out what a client speaks and hands it over. It returns when the client has
// left.
func (p *Proxy) serve(ctx context.Context, raw net.Conn, socks *socks5.Server, web *web) {
	c := &client{Conn: raw, proxy: p, left: make(chan struct{})}
	if !p.remember(ctx, c) {
		_ = raw.Close()
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(p.Patience))
	first, err := c.peek()
	switch {
	case err != nil:
	case first == statute.VersionSocks5:
		_ = socks.ServeConn(c)
	case 'A' <= first && first <= 'Z':
		_ = c.SetDeadline(time.Time{}) // the server sets its own
		if web.give(ctx, c) {
			<-c.left
		}
	}
}

// remember notes a client, so that it is cut when ctx ends.
func (p *Proxy) remember(ctx context.Context, c *client) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx.Err() != nil {
		return false
	}
	if p.conns == nil {
		p.conns = map[net.Conn]struct{}{}
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) forget(c *client) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// hangUp closes all clients' connections.
func (p *Proxy) hangUp() {
	p.mu.Lock()
	conns := make([]net.Conn, 0, len(p.conns))
	for c := range p.conns {
		conns = append(conns, c)
	}
	p.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

// wait waits, and reports whether ctx still lives.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// A client is a connection whose first byte may be looked at.
type client struct {
	net.Conn
	proxy  *Proxy
	first  [1]byte
	peeked bool          // first has been read and not yet been handed on
	left   chan struct{} // closed when the web server is done with it

	hijacked atomic.Bool // by one of the web server's handlers
}

func (c *client) peek() (byte, error) {
	_, err := c.Conn.Read(c.first[:])
	c.peeked = err == nil
	return c.first[0], err
}

func (c *client) Read(b []byte) (int, error) {
	if c.peeked && len(b) > 0 {
		c.peeked = false
		b[0] = c.first[0]
		return 1, nil
	}
	return c.Conn.Read(b)
}

func (c *client) Close() error {
	c.proxy.forget(c)
	return c.Conn.Close()
}

// CloseWrite ends what is sent to the client, where that can be done alone.
func (c *client) CloseWrite() error { return closeWrite(c.Conn) }
