package image

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
)

// ways are how requests reach registries. Each has connections of its own: what was opened
// under one way's rule must not serve a request that another's holds for.
type ways struct {
	opt     RegistryOptions
	named   map[string]bool // hosts that the owner named
	public  http.RoundTripper
	private http.RoundTripper // to named hosts, wherever they stand
	proxied http.RoundTripper // to the owner's proxy, wherever it stands
}

func newWays(opt RegistryOptions) *ways {
	w := &ways{opt: opt, named: map[string]bool{}}
	for _, host := range opt.Named {
		w.named[strings.ToLower(canonical(host))] = true
	}
	for _, all := range opt.Mirrors {
		for _, m := range all {
			host, _ := mirrorHost(m)
			w.named[strings.ToLower(canonical(host))] = true
		}
	}
	free := &net.Dialer{Timeout: dialTime}
	ruled := &net.Dialer{Timeout: dialTime, ControlContext: opt.Rule.Control}
	w.public, w.private = opt.way(ruled, nil), opt.way(free, nil)
	w.proxied = opt.way(free, func(req *http.Request) (*url.URL, error) {
		p, err := opt.Proxy(req)
		if p == nil && err == nil {
			err = errors.New("its proxy is gone") // and this way knows no rule
		}
		return p, err
	})
	return w
}

func (opt RegistryOptions) way(d *net.Dialer, proxy func(*http.Request) (*url.URL, error)) http.RoundTripper {
	return &http.Transport{
		Proxy: proxy, DialContext: d.DialContext, ForceAttemptHTTP2: true, TLSHandshakeTimeout: dialTime,
		ResponseHeaderTimeout: opt.Stall, MaxResponseHeaderBytes: maxHeader, IdleConnTimeout: time.Minute,
		MaxIdleConnsPerHost: 4, DisableCompression: true, // offsets count the bytes as they are stored
	}
}

// RoundTrip implements http.RoundTripper.
func (w *ways) RoundTrip(req *http.Request) (*http.Response, error) {
	named := w.isNamed(req)
	proxy, err := w.opt.Proxy(req)
	switch {
	case err != nil:
		return nil, err
	case proxy != nil:
		if !named {
			if err := w.opt.Rule.CheckHost(req.URL.Hostname()); err != nil {
				return nil, err
			}
		}
		return w.proxied.RoundTrip(req)
	case named:
		return w.private.RoundTrip(req)
	}
	return w.public.RoundTrip(req)
}

// askedKey is the context's key of the registry that a request, or the first of those that
// led to it, went to.
type askedKey struct{}

// isNamed reports whether a request goes to a host that the owner named, on the way to
// one: other registries must not lead there.
func (w *ways) isNamed(req *http.Request) bool {
	asked, _ := req.Context().Value(askedKey{}).(string)
	return w.named[strings.ToLower(asked)] && w.named[strings.ToLower(req.URL.Host)]
}

// canonical is a registry's host as a Ref has it: docker.io has another.
func canonical(host string) string {
	if reg, err := name.NewRegistry(host); err == nil {
		return reg.RegistryStr()
	}
	return host
}

// mirrorHost reads "host:port", or "http://host:port" for one without TLS.
func mirrorHost(m string) (host string, plain bool) {
	host, plain = strings.CutPrefix(m, "http://")
	return strings.TrimSuffix(strings.TrimPrefix(host, "https://"), "/"), plain
}

var errStalled = errors.New("nothing, or next to nothing, came for too long")

// leastRate is how much has to come, in bytes a second: less is standing still. It is what
// a line is left with at the edge of a mobile network.
const leastRate = 1 << 10

// A watch ends a call that stands still.
type watch struct {
	timer *time.Timer
	stall time.Duration
	got   int // bytes since it was last put off
	end   func()
}

// watched is a context that ends when its watch is not put off.
func watched(ctx context.Context, stall time.Duration) (context.Context, *watch) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watch{stall: stall, timer: time.AfterFunc(stall, func() { cancel(errStalled) })}
	w.end = func() {
		w.timer.Stop()
		cancel(nil)
	}
	return ctx, w
}

// putOff lets the call go on for another while.
func (w *watch) putOff() {
	w.got = 0
	w.timer.Reset(w.stall)
}

// over reads what is watched.
func (w *watch) over(r io.Reader) io.Reader { return moving{r, w} }

type moving struct {
	r io.Reader
	w *watch
}

func (m moving) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if m.w.got += n; n > 0 && float64(m.w.got) >= leastRate*m.w.stall.Seconds() {
		m.w.putOff()
	}
	return n, err
}

func causeOf(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
