package datasource

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/egress"
)

const (
	maxRedirects = 5
	maxBackoff   = 30 * time.Second
	// maxRetryAfter is the longest wait that a server may ask for and get.
	maxRetryAfter = time.Minute
	dialTimeout   = 15 * time.Second
	maxHeader     = 64 << 10 // bytes of an answer's header
)

// errRedirect is matched by errors that say a redirect is not followed.
var errRedirect = errors.New("the redirect is not followed")

// newClient makes the client that every request goes through. It knows no proxy: through
// one, the address rule could not be enforced.
func (f *Fetcher) newClient() *http.Client {
	dialer := &net.Dialer{Timeout: dialTimeout, ControlContext: f.rule.Control}
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            dialer.DialContext,
			ForceAttemptHTTP2:      true,
			TLSHandshakeTimeout:    dialTimeout,
			ResponseHeaderTimeout:  f.opt.Stall,
			MaxResponseHeaderBytes: maxHeader,
			IdleConnTimeout:        time.Minute,
			MaxIdleConnsPerHost:    2,
			DisableCompression:     true, // offsets count the bytes as they are stored
		},
		CheckRedirect: checkRedirect,
	}
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("%w: there were %d before it", errRedirect, maxRedirects)
	}
	if err := checkScheme(req.URL); err != nil {
		return fmt.Errorf("%w: %w", errRedirect, err)
	}
	first := via[0]
	if first.URL.Scheme == "https" && req.URL.Scheme == "http" && first.Header.Get("Authorization") != "" {
		return fmt.Errorf("%w: it leads from https to http, which would show the password", errRedirect)
	}
	return nil
}

// get sends one request, again where that may help. The answer's body ends with cancel.
func (f *Fetcher) get(ctx context.Context, u *url.URL, dp spare.DataPoint, header http.Header) (*http.Response, error) {
	req, err := retryablehttp.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header = header
	req.Header.Set("User-Agent", "Spare/"+spare.Version)
	req.Header.Set("Accept-Encoding", "identity")
	user, password := dp.Params["username"], dp.Params["password"]
	if u.User != nil && user == "" {
		user = u.User.Username()
		password, _ = u.User.Password()
	}
	if user != "" || password != "" {
		req.SetBasicAuth(user, password)
	}
	client := &retryablehttp.Client{
		HTTPClient:   f.client,
		RetryMax:     f.opt.Retries,
		RetryWaitMin: f.opt.Backoff,
		RetryWaitMax: maxBackoff,
		CheckRetry:   mayRetry,
		Backoff:      backoff,
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
	}
	res, err := client.Do(req)
	if err != nil {
		if res != nil {
			res.Body.Close()
		}
		var outer *url.Error
		if errors.As(err, &outer) {
			err = outer.Err // its text repeats the url with all that is secret in it
		}
		return nil, err
	}
	return res, nil
}

// mayRetry reports whether the same request could succeed later.
func mayRetry(ctx context.Context, res *http.Response, err error) (bool, error) {
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	if err != nil {
		var (
			address *egress.AddressError
			name    *net.DNSError
			cert    *tls.CertificateVerificationError
			record  tls.RecordHeaderError
		)
		hopeless := errors.As(err, &address) || errors.Is(err, errRedirect) || errors.As(err, &cert) ||
			errors.As(err, &record) || errors.As(err, &name) && name.IsNotFound
		return !hopeless, nil
	}
	switch res.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true, nil
	}
	return false, nil
}

// backoff waits as long as the server asks, within reason, or a random time below a
// bound that doubles with every try.
func backoff(first, most time.Duration, try int, res *http.Response) time.Duration {
	if res != nil {
		if seconds, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && seconds >= 0 {
			return min(time.Duration(seconds)*time.Second, maxRetryAfter)
		}
	}
	bound := min(first<<min(try, 16), most)
	return rand.N(bound) + time.Millisecond
}
