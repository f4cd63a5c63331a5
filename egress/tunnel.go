package egress

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// errSpent says that the traffic a program may cause is used up.
var errSpent = fmt.Errorf("the traffic that the program may cause is used up: %w", ErrRefused)

func (p *Proxy) spent() bool {
	return p.MaxBytes > 0 && p.in.Load()+p.out.Load() >= p.MaxBytes
}

// metered is a connection to a server: what goes through is counted, and it ends when it
// stands still or the traffic is used up.
type metered struct {
	*paced
	proxy *Proxy
}

func (p *Proxy) meter(c net.Conn) *metered {
	return &metered{paced: newPaced(c, p.Idle), proxy: p}
}

func (m *metered) Read(b []byte) (int, error) {
	if left := m.proxy.MaxBytes - m.proxy.in.Load() - m.proxy.out.Load(); m.proxy.MaxBytes > 0 && int64(len(b)) > left {
		b = b[:min(int64(len(b)), max(left, 1))]
	}
	n, err := m.paced.Read(b)
	return n, m.count(&m.proxy.in, n, err)
}

func (m *metered) Write(b []byte) (int, error) {
	if m.proxy.spent() {
		return 0, errSpent
	}
	n, err := m.paced.Write(b)
	return n, m.count(&m.proxy.out, n, err)
}

func (m *metered) count(sum *atomic.Int64, n int, err error) error {
	sum.Add(int64(n))
	if err == nil && m.proxy.spent() {
		_ = m.Close()
		return errSpent
	}
	return err
}

// paced is a connection that ends when nothing moves on it, in either direction, for
// longer than idle. Several can share what counts as moving.
type paced struct {
	net.Conn
	from  io.Reader // what the connection is read through
	idle  time.Duration
	start time.Time
	moved *atomic.Int64 // when something last did, in nanoseconds after start
}

func newPaced(c net.Conn, idle time.Duration) *paced {
	return &paced{Conn: c, from: c, idle: idle, start: time.Now(), moved: new(atomic.Int64)}
}

// with paces another connection together with this one.
func (p *paced) with(c net.Conn, from io.Reader) *paced {
	return &paced{Conn: c, from: from, idle: p.idle, start: p.start, moved: p.moved}
}

func (p *paced) touch() { p.moved.Store(int64(time.Since(p.start))) }

// until is when the connection ends if nothing moves.
func (p *paced) until() time.Time {
	return p.start.Add(time.Duration(p.moved.Load()) + p.idle)
}

func (p *paced) Read(b []byte) (int, error) {
	for {
		if err := p.SetReadDeadline(p.until()); err != nil {
			return 0, err
		}
		n, err := p.from.Read(b)
		if n > 0 {
			p.touch()
		}
		if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(p.until()) {
			continue // the other direction moved meanwhile
		}
		return n, err
	}
}

func (p *paced) Write(b []byte) (int, error) {
	if err := p.SetWriteDeadline(time.Now().Add(p.idle)); err != nil {
		return 0, err
	}
	n, err := p.Conn.Write(b)
	if n > 0 {
		p.touch()
	}
	return n, err
}

// CloseWrite tells the other end that no more comes.
func (p *paced) CloseWrite() error { return closeWrite(p.Conn) }

func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// tunnel carries bytes both ways until both ends are done, one breaks, or nothing moves.
// What the client has sent is read from ahead, which may hold some of it already.
func tunnel(c net.Conn, ahead io.Reader, server *metered) {
	near := server.with(c, ahead)
	var both sync.WaitGroup
	both.Go(func() { carry(server, near, near, server) })
	both.Go(func() { carry(near, server, near, server) })
	both.Wait()
	_ = c.Close()
	_ = server.Close()
}

// carry copies one direction to its end.
func carry(to interface {
	io.Writer
	CloseWrite() error
}, from io.Reader, ends ...io.Closer,
) {
	// The buffer's size is that of most systems' segments of a stream; io.Copy's shortcuts
	// would go around the pace and the count.
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, 32<<10))
	if err == nil {
		err = to.CloseWrite()
	}
	if err != nil {
		for _, e := range ends {
			_ = e.Close()
		}
	}
}
