package egress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener whose connections are made by the test, without a kernel: so that
// time can be the test's too.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	select {
	case <-l.done:
	default:
		close(l.done)
	}
	return nil
}

func (l *pipes) Addr() net.Addr { return &net.UnixAddr{} }

func (l *pipes) connect() net.Conn {
	near, far := net.Pipe()
	l.conns <- far
	return near
}

// timed runs a test in time of its own, with a proxy on pipes.
func timed(t *testing.T, p *Proxy, test func(t *testing.T, l *pipes)) {
	synctest.Test(t, func(t *testing.T) {
		p.Rule.own = nowhere
		l := newPipes()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Serve(ctx, l) }()
		test(t, l)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// cut is how long a connection lives on which the client does nothing more.
func cut(t *testing.T, c net.Conn) time.Duration {
	t.Helper()
	start := time.Now()
	_, _ = io.Copy(io.Discard, c)
	c.Close()
	return time.Since(start)
}

func TestProxy_ClientsThatDawdleAreCut(t *testing.T) {
	for name, said := range map[string]string{
		"nothing": "", "half a request": "GET http://web.example/ HTTP/1.1\r\nHos", "half a greeting": "\x05\x09\x00", "half a SOCKS request": "\x05\x01\x00\x05\x01\x00",
	} {
		t.Run(name, func(t *testing.T) {
			timed(t, &Proxy{}, func(t *testing.T, l *pipes) {
				c := l.connect()
				go func() { _, _ = io.WriteString(c, said) }()
				if took := cut(t, c); took > defaultPatience+time.Second {
					t.Errorf("it was kept for %v", took)
				}
			})
		})
	}
}

func TestProxy_ADripOfHeaderBytesDoesNotProlongIt(t *testing.T) {
	timed(t, &Proxy{}, func(t *testing.T, l *pipes) {
		c := l.connect()
		var dripping sync.WaitGroup
		defer dripping.Wait()
		dripping.Go(func() {
			_, _ = io.WriteString(c, "GET http://web.example/ HTTP/1.1\r\n")
			for {
				if _, err := io.WriteString(c, "X-Drip: 1\r\n"); err != nil {
					return
				}
				time.Sleep(time.Second) // of the test's own time
			}
		})
		if took := cut(t, c); took > defaultPatience+2*time.Second {
			t.Errorf("it was kept for %v", took)
		}
	})
}

func TestProxy_TunnelsThatStandStillAreCut(t *testing.T) {
	for name, hello := range map[string]string{
		"HTTP":   "CONNECT 93.184.216.34:443 HTTP/1.1\r\nHost: x\r\n\r\n",
		"SOCKS5": "\x05\x01\x00\x05\x01\x00\x01\x5d\xb8\xd8\x22\x01\xbb",
	} {
		t.Run(name, func(t *testing.T) {
			p := &Proxy{}
			timed(t, p, func(t *testing.T, l *pipes) {
				far, took := make(chan net.Conn, 1), make(chan time.Duration, 1)
				p.Dial = func(context.Context, string, string) (net.Conn, error) {
					near, server := net.Pipe()
					far <- server
					return near, nil
				}
				c := l.connect()
				go func() { _, _ = io.WriteString(c, hello) }()
				go func() { took <- cut(t, c) }()
				server := <-far
				// One direction moves for an hour, the other never does.
				go func() {
					for range 60 {
						time.Sleep(time.Minute)
						_, _ = server.Write([]byte("x"))
					}
				}()
				if kept := <-took; kept < time.Hour || kept > time.Hour+defaultIdle+time.Second {
					t.Errorf("it was kept for %v", kept)
				}
				server.Close()
			})
		})
	}
}

func TestProxy_AServerThatNeverAnswersIsGivenUp(t *testing.T) {
	dial := func(context.Context, string, string) (net.Conn, error) {
		near, server := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, server) }()
		return near, nil
	}
	timed(t, &Proxy{Dial: dial}, func(t *testing.T, l *pipes) {
		c := l.connect()
		go func() {
			_, _ = io.WriteString(c, "GET http://93.184.216.34/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		}()
		if took := cut(t, c); took > defaultIdle+time.Second {
			t.Errorf("it was kept for %v", took)
		}
	})
}

func TestProxy_AHugeHeaderIsRefused(t *testing.T) {
	w := &world{to: hello(t).Listener.Addr().String()}
	proxy := start(t, &Proxy{Dial: w.dial})
	head := "GET http://93.184.216.34/ HTTP/1.1\r\nHost: x\r\nX-Much: " + strings.Repeat("x", 4*maxHeader) + "\r\n\r\n"
	if answer := say(t, proxy, head); strings.Contains(answer, "200") {
		t.Errorf("it is answered %q", answer)
	}
	if calls := w.calls(); len(calls) > 0 {
		t.Errorf("dialled %v", calls)
	}
}

func TestProxy_AHugeAnswerHeaderIsRefused(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Much", strings.Repeat("x", 4*maxHeader))
	}))
	defer s.Close()
	proxy := start(t, &Proxy{Dial: (&world{to: s.Listener.Addr().String()}).dial})
	if status, _, _ := get(t, through(t, "http", proxy), "http://93.184.216.34/"); status != http.StatusBadGateway {
		t.Errorf("status %d", status)
	}
}

func TestProxy_OtherProtocolsAreCut(t *testing.T) {
	proxy := start(t, &Proxy{})
	for _, said := range []string{"\x04\x01\x00\x50\x7f\x00\x00\x01\x00", "\x16\x03\x01\x02\x00", "\x00\x00\x00\x00", "get / http/1.1\r\n\r\n"} {
		if answer := say(t, proxy, said); answer != "" {
			t.Errorf("%q is answered %q", said, answer)
		}
	}
	for _, said := range []string{"GET / HTTP/1.1\r\nHost: web.example\r\n\r\n", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "PRI * HTTP/2.0\r\n\r\n"} {
		if answer := say(t, proxy, said); strings.Contains(answer, "200") {
			t.Errorf("%q is answered %q", said, answer)
		}
	}
}

func TestProxy_ManyConnectionsWaitTheirTurn(t *testing.T) {
	const room, clients = 4, 40
	var now, most atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		_, _ = io.WriteString(w, "ok")
	}))
	defer s.Close()
	w := &world{to: s.Listener.Addr().String()}
	p := &Proxy{Connections: room, Dial: w.dial}
	proxy := start(t, p)
	failed := make(chan error, clients)
	for range clients {
		go func() {
			c := through(t, "socks5", proxy)
			c.Transport.(*http.Transport).DisableKeepAlives = true
			if status, body, _ := get(t, c, "http://93.184.216.34/"); status != 200 {
				failed <- fmt.Errorf("%d %s", status, body)
				return
			}
			failed <- nil
		}()
	}
	for range clients {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	if most.Load() > room {
		t.Errorf("%d connections at a time, with room for %d", most.Load(), room)
	}
	if n := p.Traffic().Connections; n < clients {
		t.Errorf("counted %d connections", n)
	}
}

func TestProxy_TrafficIsBounded(t *testing.T) {
	const limit = 1 << 20
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		block := bytes.Repeat([]byte("x"), 64<<10)
		for {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}))
	defer s.Close()
	for _, scheme := range []string{"http", "socks5"} {
		p := &Proxy{MaxBytes: limit, Dial: (&world{to: s.Listener.Addr().String()}).dial}
		c := through(t, scheme, start(t, p))
		res, err := c.Get("http://93.184.216.34/")
		if err != nil {
			t.Fatal(err)
		}
		n, _ := io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if n > limit || n < limit/2 {
			t.Errorf("%s: %d bytes of %d came through", scheme, n, limit)
		}
		if tr := p.Traffic(); tr.In+tr.Out > limit+64<<10 {
			t.Errorf("%s: counted %+v", scheme, tr)
		}
		if status, _, _ := get(t, c, "http://93.184.216.34/"); status == 200 {
			t.Errorf("%s: more is let through", scheme)
		}
	}
}

func TestProxy_EndsWithItsContextAndClosesTheListener(t *testing.T) {
	held := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		close(held)
		<-r.Context().Done()
	}))
	defer s.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Rule: Rule{own: nowhere}, Dial: (&world{to: s.Listener.Addr().String()}).dial}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Serve(ctx, l) }()
	res, err := through(t, "http", l.Addr().String()).Get("http://93.184.216.34/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	<-held
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := io.ReadAll(res.Body); err == nil {
		t.Error("a request outlived the proxy")
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is open: %v", err)
	}
}

func TestProxy_ABrokenListenerIsAnError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := (&Proxy{}).Serve(t.Context(), l); err == nil {
		t.Error("nothing is said of it")
	}
}

func FuzzProxy_DialsOnlyWhatTheRuleAllows(f *testing.F) {
	for _, seed := range []string{
		"GET http://127.0.0.1/ HTTP/1.1\r\nHost: x\r\n\r\n", "CONNECT [::1]:443 HTTP/1.1\r\n\r\n", "CONNECT 93.184.216.34:443 HTTP/1.0\r\n\r\nmore",
		"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50", "\x05\x01\x00\x05\x01\x00\x03\x0bweb.example\x01\xbb", "\x05\x02\x00\x02\x05\x03\x00\x04",
		"\x05\x01\x00\x05\x01\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x0a\x00\x00\x01\x00\x50", "\x05\x00", "\x05\x01\x00\x05\x01\x00\x03\x00\x00\x50",
		"POST http://web.example/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		p := &Proxy{Resolver: public, Dial: func(_ context.Context, _, address string) (net.Conn, error) {
			if !strings.HasPrefix(address, "93.184.216.34:") {
				if err := (Rule{own: nowhere}).Control(t.Context(), "tcp", address, nil); err != nil {
					t.Errorf("%q was dialled: %v", address, err)
				}
			}
			near, far := net.Pipe()
			far.Close()
			return near, nil
		}}
		p.Rule.own = nowhere
		l := newPipes()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Serve(ctx, l) }()
		c := l.connect()
		go func() { _, _ = io.Copy(io.Discard, c) }()
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = c.Write(said)
		c.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
