package sandbox

import (
	"context"
	"net"
	"strconv"
	"sync"

	"github.com/spare-compute/spare/egress"
)

// proxyPort is where the proxy listens inside, at 127.0.0.1. It is the run's own network:
// nothing else is there.
const proxyPort = 3128

// A wayOut is how a program with Outbound reaches public addresses: a proxy in this
// process, on a listener that the first process made inside. A nil one is that of a
// program without a network.
type wayOut struct {
	way    *net.UnixConn // the listener comes by it
	proxy  *egress.Proxy
	cancel context.CancelFunc
	served sync.WaitGroup
}

// newWayOut orders the listener. It comes before start.
func (r *run) newWayOut(rule egress.Rule) (*wayOut, error) {
	if r.spec.Network != Outbound {
		return nil, nil
	}
	way, err := r.listenInside(proxyPort)
	if err != nil {
		return nil, err
	}
	return &wayOut{way: way, proxy: &egress.Proxy{Rule: rule}, cancel: func() {}}, nil
}

// serve begins to serve what the program asks for. It comes after start. A first process
// that ends without a listener has said why in its report.
func (w *wayOut) serve() {
	if w == nil {
		return
	}
	var ctx context.Context
	ctx, w.cancel = context.WithCancel(context.Background())
	w.served.Go(func() {
		if l, err := receiveListener(w.way); err == nil {
			_ = w.proxy.Serve(ctx, l)
		}
	})
}

// close cuts the program off. When it returns, nothing of the proxy is left.
func (w *wayOut) close() {
	if w == nil {
		return
	}
	w.cancel()
	_ = w.way.Close()
	w.served.Wait()
}

// proxyEnv names the proxy to all that asks variables for one. It speaks SOCKS5 too, but
// ALL_PROXY names it by HTTP: clients that were built without SOCKS refuse to start when
// they find that word.
func proxyEnv(n Network) []string {
	if n != Outbound {
		return nil
	}
	url := "http://127.0.0.1:" + strconv.Itoa(proxyPort)
	return []string{
		"HTTP_PROXY=" + url, "HTTPS_PROXY=" + url, "ALL_PROXY=" + url, "NO_PROXY=",
		"http_proxy=" + url, "https_proxy=" + url, "all_proxy=" + url, "no_proxy=",
	}
}
