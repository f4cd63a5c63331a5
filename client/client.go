// Package client speaks to a hub's HTTP interface: jobs, uploads and downloads that go
// on where they were cut, events, and what is pushed. It tries again for a while when a
// hub it has reached before goes away, because a hub that restarts loses nothing. It
// prints nothing and keeps no state on disk but the files it is told to download. The
// program spare, the demo and tests call it.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

// Options say which hub, as whom and how patiently.
type Options struct {
	Hub  string        // its address, "http://127.0.0.1:8080"; the scheme may be left out
	Key  string        // API key or access token
	Log  func(string)  // told one sentence when a wait for the hub begins or ends; may be nil
	Wait time.Duration // how long to wait for a hub that was there before; 0 = 2 min, negative = not at all
}

const (
	defaultWait = 2 * time.Minute
	waitLeast   = 200 * time.Millisecond
	waitMost    = 5 * time.Second
	callTime    = time.Minute // for one try of an ordinary call
)

// A Client calls one hub. It is safe for concurrent use.
type Client struct {
	base    *url.URL
	key     string
	wait    time.Duration
	log     func(string)
	calls   *retryablehttp.Client // ordinary calls
	slow    *retryablehttp.Client // calls that may take as long as they take
	plain   *http.Client          // transfers and streams: tried again here, from where they were cut
	reached atomic.Bool
	waiting atomic.Bool
}

// New makes a client. It does not call the hub yet.
func New(opt Options) (*Client, error) {
	hub := strings.TrimSpace(opt.Hub)
	if !strings.Contains(hub, "://") {
		hub = "http://" + hub
	}
	base, err := url.Parse(hub)
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
		return nil, fmt.Errorf("hub address %q: want http://HOST:PORT or https://HOST", opt.Hub)
	}
	base.Path = strings.TrimRight(base.Path, "/")
	base.RawQuery, base.Fragment = "", ""
	c := &Client{base: base, key: opt.Key, wait: opt.Wait, log: opt.Log}
	if c.wait == 0 {
		c.wait = defaultWait
	}
	if c.log == nil {
		c.log = func(string) {}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	transport.DisableCompression = true // results are packed already, and Range must mean their bytes
	c.plain = &http.Client{Transport: transport}
	c.slow = c.retrying(0)
	c.calls = c.retrying(callTime)
	return c, nil
}

// retrying makes a client that tries again as long as the hub may be waited for.
func (c *Client) retrying(perTry time.Duration) *retryablehttp.Client {
	r := retryablehttp.NewClient()
	r.HTTPClient = &http.Client{Transport: c.plain.Transport, Timeout: perTry}
	r.Logger = nil
	r.RetryMax = 1 << 20 // the time decides, see patience
	r.CheckRetry = c.checkRetry
	r.Backoff = func(_, _ time.Duration, n int, _ *http.Response) time.Duration { return backoff(n) }
	r.ErrorHandler = retryablehttp.PassthroughErrorHandler
	return r
}

// backoff is a random wait that grows with the number of tries: full jitter keeps many
// clients of a restarted hub apart.
func backoff(n int) time.Duration {
	most := min(waitMost, waitLeast<<min(n, 10))
	return waitLeast/2 + rand.N(most)
}

// patience is when a call's trouble began.
type patience struct{ since time.Time }

type patienceKey struct{}

func (c *Client) checkRetry(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if !transient(resp, err) {
		return false, err
	}
	p, _ := ctx.Value(patienceKey{}).(*patience)
	return p != nil && c.patient(p), nil
}

// transient reports whether the same request may succeed a little later: there was no
// answer, or one that says that the hub or what stands before it is just not ready.
func transient(resp *http.Response, err error) bool {
	if err != nil {
		return true
	}
	switch resp.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusTooManyRequests:
		return true
	}
	return false
}

// patient reports whether to try again, and tells once that there is a wait. A hub that
// never answered is not waited for: its address is more likely wrong than it is away.
func (c *Client) patient(p *patience) bool {
	if p.since.IsZero() {
		p.since = time.Now()
	}
	if !c.reached.Load() || c.wait < 0 || time.Since(p.since) > c.wait {
		return false
	}
	if c.waiting.CompareAndSwap(false, true) {
		c.log(fmt.Sprintf("the hub at %s does not answer; trying again for up to %s", c.base, c.wait))
	}
	return true
}

// answered notes that the hub is there.
func (c *Client) answered() {
	c.reached.Store(true)
	if c.waiting.CompareAndSwap(true, false) {
		c.log("the hub is back; going on")
	}
}

// Hub is the hub's address.
func (c *Client) Hub() string { return c.base.String() }

// An Error is the hub's refusal.
type Error struct {
	Status    int
	Message   string
	Field     string
	Allowed   []string
	RequestID string
}

func (e *Error) Error() string { return e.Message }

// Unreachable says that no hub answered.
type Unreachable struct {
	Hub string
	Err error
}

func (e *Unreachable) Error() string {
	return fmt.Sprintf("no hub answers at %s (%s): start one with `spare-hub serve`, or name another with --hub or SPARE_HUB", e.Hub, root(e.Err))
}

// Unwrap gives the cause.
func (e *Unreachable) Unwrap() error { return e.Err }

// root is the innermost error: what the operating system said.
func root(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}

// IsNotFound reports whether the hub said that there is no such thing.
func IsNotFound(err error) bool { return status(err) == http.StatusNotFound }

// IsConflict reports whether the hub said that the thing's state forbids it.
func IsConflict(err error) bool { return status(err) == http.StatusConflict }

func status(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Status
	}
	return 0
}

// request makes a request with the key; the body is JSON, or nil.
func (c *Client) request(ctx context.Context, method, path string, body any) (*retryablehttp.Request, error) {
	var raw any
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		raw = b
	}
	ctx = context.WithValue(ctx, patienceKey{}, &patience{})
	req, err := retryablehttp.NewRequestWithContext(ctx, method, c.base.String()+path, raw)
	if err != nil {
		return nil, err
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

// call sends a request and reads the answer into out, unless that is nil.
func (c *Client) call(ctx context.Context, method, path string, body, out any) error {
	return c.callOn(ctx, c.calls, method, path, body, out)
}

func (c *Client) callOn(ctx context.Context, on *retryablehttp.Client, method, path string, body, out any) error {
	req, err := c.request(ctx, method, path, body)
	if err != nil {
		return err
	}
	resp, err := on.Do(req)
	if err != nil {
		return c.unreachable(ctx, err)
	}
	defer drain(resp.Body)
	c.answered()
	if resp.StatusCode >= 300 {
		return readError(resp)
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("read the hub's answer to %s %s: %w; is %s a Spare hub?", method, path, err, c.base)
	}
	return nil
}

func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return &Unreachable{Hub: c.base.String(), Err: err}
}

// drain lets the connection be used again.
func drain(body io.ReadCloser) {
	_, _ = io.Copy(io.Discard, io.LimitReader(body, 64<<10))
	_ = body.Close()
}

// readError reads a refusal. Something else than a hub may have answered.
func readError(resp *http.Response) error {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var body struct {
		Message   string   `json:"message"`
		Field     string   `json:"field"`
		Allowed   []string `json:"allowed"`
		RequestID string   `json:"requestId"`
	}
	e := &Error{Status: resp.StatusCode}
	if json.Unmarshal(b, &body) == nil && body.Message != "" {
		e.Message, e.Field, e.Allowed, e.RequestID = body.Message, body.Field, body.Allowed, body.RequestID
		return e
	}
	e.Message = fmt.Sprintf("%s answered %s", resp.Request.URL.Redacted(), resp.Status)
	if first, _, _ := bytes.Cut(bytes.TrimSpace(b), []byte("\n")); len(first) > 0 && len(first) < 200 {
		e.Message += ": " + string(first)
	}
	return e
}
