package egress

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
	"time"
)

// web is the half of a Proxy that speaks HTTP: a server of package net/http with the
// listener that feeds it.
type web struct {
	proxy     *Proxy
	server    *http.Server
	transport *http.Transport
	forward   *httputil.ReverseProxy

	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

type clientKey struct{}

func (p *Proxy) newWeb(ctx context.Context) *web {
	silent := log.New(io.Discard, "", 0) // what goes wrong is told to the client
	w := &web{proxy: p, conns: make(chan net.Conn), done: make(chan struct{})}
	w.transport = &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			conn, err := p.open(ctx, address)
			if err != nil { // a nil *metered is not a nil net.Conn
				return nil, err
			}
			return conn, nil
		},
		DisableCompression:     true,
		MaxIdleConns:           8,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: maxHeader,
		ExpectContinueTimeout:  time.Second,
	}
	w.forward = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			if _, named := r.Out.Header["User-Agent"]; !named {
				r.Out.Header["User-Agent"] = nil // else ours would be added
			}
		},
		Transport:     w.transport,
		FlushInterval: -1,
		ErrorLog:      silent,
		ErrorHandler:  func(rw http.ResponseWriter, r *http.Request, err error) { refuse(rw, r.URL.Host, err) },
	}
	w.server = &http.Server{
		Handler:           http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.handle(ctx, rw, r) }),
		ReadHeaderTimeout: p.Patience,
		IdleTimeout:       p.Idle,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          silent,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, clientKey{}, c)
		},
		ConnState: func(c net.Conn, s http.ConnState) {
			switch s {
			case http.StateHijacked: // the handler that took it lets it go
				c.(*client).hijacked.Store(true)
			case http.StateClosed:
				close(c.(*client).left)
			}
		},
	}
	return w
}

func (w *web) serve() { _ = w.server.Serve(w) }

// close ends the server. Its clients have been cut off before.
func (w *web) close() {
	_ = w.server.Close()
	w.transport.CloseIdleConnections()
}

// give hands a client to the server.
func (w *web) give(ctx context.Context, c *client) bool {
	select {
	case w.conns <- c:
		return true
	case <-w.done:
	case <-ctx.Done():
	}
	return false
}

// Accept implements net.Listener.
func (w *web) Accept() (net.Conn, error) {
	select {
	case c := <-w.conns:
		return c, nil
	case <-w.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (w *web) Close() error {
	w.once.Do(func() { close(w.done) })
	return nil
}

// Addr implements net.Listener.
func (w *web) Addr() net.Addr { return &net.UnixAddr{Name: "proxy", Net: "unix"} }

// handle serves one request.
func (w *web) handle(ctx context.Context, rw http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(clientKey{}).(*client)
	defer func() {
		if c.hijacked.Load() {
			close(c.left)
		}
	}()
	switch {
	case r.Method == http.MethodConnect:
		w.connect(ctx, rw, r)
	case r.URL.Scheme == "http" && r.URL.Host != "":
		out := &pacedAnswer{ResponseWriter: rw, control: http.NewResponseController(rw), idle: w.proxy.Idle}
		out.extend()
		w.forward.ServeHTTP(out, r)
	default:
		http.Error(rw, "this is a proxy: name the whole url, as http://server/path, or CONNECT to server:port", http.StatusBadRequest)
	}
}

// connect opens a tunnel. The request's own context ends when the client has said all it
// has to say, which is no reason not to answer.
func (w *web) connect(ctx context.Context, rw http.ResponseWriter, r *http.Request) {
	server, err := w.proxy.open(ctx, r.Host)
	if err != nil {
		refuse(rw, r.Host, err)
		return
	}
	conn, ahead, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		_ = server.Close()
		return
	}
	_ = conn.SetWriteDeadline(time.Now().Add(w.proxy.Idle))
	if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		_, _ = conn.Close(), server.Close()
		return
	}
	tunnel(conn, ahead, server)
}

// refuse says why a server is not reached, and nothing of this machine's networks.
func refuse(rw http.ResponseWriter, host string, err error) {
	var (
		address *AddressError
		rule    *refusal
		slow    net.Error
	)
	status, text := http.StatusBadGateway, "the server "+host+" cannot be reached"
	switch {
	case errors.As(err, &address):
		status, text = http.StatusForbidden, address.Error()
	case errors.As(err, &rule):
		status, text = http.StatusForbidden, rule.Error()
	case errors.Is(err, ErrRefused):
		status, text = http.StatusForbidden, errSpent.Error()
	case errors.As(err, &slow) && slow.Timeout():
		status, text = http.StatusGatewayTimeout, "the server "+host+" does not answer"
	}
	http.Error(rw, text, status)
}

// pacedAnswer is an answer that is given up when the client stops taking it.
type pacedAnswer struct {
	http.ResponseWriter
	control *http.ResponseController
	idle    time.Duration
}

// Unwrap is for http.ResponseController.
func (a *pacedAnswer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *pacedAnswer) extend() { _ = a.control.SetWriteDeadline(time.Now().Add(a.idle)) }

// WriteHeader sends the server's header as it is: without a guess of the content's type.
func (a *pacedAnswer) WriteHeader(status int) {
	if h := a.Header(); h.Get("Content-Type") == "" {
		h["Content-Type"] = nil
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *pacedAnswer) Write(b []byte) (int, error) {
	a.extend()
	return a.ResponseWriter.Write(b)
}
