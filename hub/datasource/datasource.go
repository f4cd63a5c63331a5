// Package datasource brings a job's input into the blob store: it fetches what a url
// names, and stands in for an input where a job has none. Which addresses the hub speaks
// to on a submitter's behalf is package egress's rule, which holds for every request and
// redirect. Uploads do not pass through here; the API takes them. The pipeline calls
// Fetch, the API checks sources and destinations when they are set.
package datasource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/egress"
)

// Blobs takes what is fetched; blob.Disk is one.
type Blobs interface {
	Put(ctx context.Context, r io.Reader) (spare.Digest, int64, error)
}

// Options bound what a Fetcher does. Zero values mean the defaults.
type Options struct {
	Allow    []netip.Prefix // addresses that may be fetched from although they are not public
	MaxBytes int64          // largest input; 0 means no limit but the disk's
	Stall    time.Duration  // how long a transfer or an answer may stand still; 30 s
	Retries  int            // tries after the first, of a request and of a cut transfer; 5
	Backoff  time.Duration  // longest first wait between tries, doubling; 500 ms
}

const (
	defaultStall   = 30 * time.Second
	defaultRetries = 5
	defaultBackoff = 500 * time.Millisecond
	// maxStarts is how often a transfer begins anew because the content changed on the
	// way or the server cannot go on where it was cut.
	maxStarts = 3
)

// A Fetcher fetches inputs under the address rule. It is safe for concurrent use.
type Fetcher struct {
	opt    Options
	rule   egress.Rule
	client *http.Client
}

// New makes a Fetcher.
func New(opt Options) *Fetcher {
	if opt.Stall <= 0 {
		opt.Stall = defaultStall
	}
	if opt.Retries <= 0 {
		opt.Retries = defaultRetries
	}
	if opt.Backoff <= 0 {
		opt.Backoff = defaultBackoff
	}
	f := &Fetcher{opt: opt, rule: egress.Rule{Allow: opt.Allow, Hint: "an operator can allow it with --allow-fetch"}}
	f.client = f.newClient()
	return f
}

// Fetch brings a job's input into the blob store: what a "url" names, or for "bypass" a
// small file that stands for none.
func (f *Fetcher) Fetch(ctx context.Context, dp spare.DataPoint, blobs Blobs) (spare.File, error) {
	if err := f.Check(dp); err != nil {
		return spare.File{}, err
	}
	switch dp.Descriptor {
	case "bypass":
		digest, size, err := blobs.Put(ctx, strings.NewReader("bypass\n"))
		return spare.File{Name: "bypass", Digest: digest, Size: size}, err
	case "url":
		return f.fetchURL(ctx, dp, blobs)
	}
	return spare.File{}, errors.New("no file was uploaded for this job: upload it, report uploadcompleted, then run the job again")
}

func (f *Fetcher) fetchURL(ctx context.Context, dp spare.DataPoint, blobs Blobs) (spare.File, error) {
	for start := 1; ; start++ {
		t, err := f.open(ctx, dp)
		if err != nil {
			return spare.File{}, err
		}
		digest, size, err := blobs.Put(ctx, readerFunc(func(p []byte) (int, error) { return t.next(ctx, p) }))
		t.close()
		switch {
		case err == nil:
			return spare.File{Name: t.name, Digest: digest, Size: size}, nil
		case errors.Is(err, errRestart) && start < maxStarts:
			continue
		case errors.Is(err, errRestart):
			return spare.File{}, fmt.Errorf("fetch %s: %w; begun %d times: try again later", show(t.url), err, start)
		}
		return spare.File{}, err
	}
}

// Check reports, without any traffic, why a data source cannot be served.
func (f *Fetcher) Check(dp spare.DataPoint) error {
	switch dp.Descriptor {
	case "file", "local", "bypass":
		return nil
	case "url":
		_, err := f.parse(dp)
		return err
	case "":
		return errors.New("the job has no data source; use file or url")
	}
	return fmt.Errorf("data source %.40q is not served yet; use file or url", dp.Descriptor)
}

// CheckDestination reports why a destination cannot be served.
func CheckDestination(dp spare.DataPoint) error {
	if dp.Descriptor == "" || dp.Descriptor == "bucket" {
		return nil
	}
	return fmt.Errorf("data destination %.40q is not served yet; use bucket, or leave it out", dp.Descriptor)
}

var urlParams = []string{"url", "name", "username", "password", "@type"}

// parse reads a url source.
func (f *Fetcher) parse(dp spare.DataPoint) (*url.URL, error) {
	for key := range dp.Params {
		if !slices.Contains(urlParams, key) {
			return nil, fmt.Errorf("data source url knows no parameter %.40q; it takes url, name, username and password", key)
		}
	}
	text := strings.TrimSpace(dp.Params["url"])
	if text == "" {
		return nil, errors.New(`data source url: the parameter "url" is missing`)
	}
	u, err := url.Parse(text)
	if err != nil {
		var parse *url.Error
		if errors.As(err, &parse) {
			err = parse.Err // without the text, which may hold a password
		}
		return nil, fmt.Errorf("data source url: it cannot be read: %w", err)
	}
	if err := checkScheme(u); err != nil {
		return nil, fmt.Errorf("data source url: %w", err)
	}
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
		if err := f.rule.Check(addr); err != nil {
			return nil, fmt.Errorf("fetch %s: %w", show(u), err)
		}
	}
	return u, nil
}

func checkScheme(u *url.URL) error {
	if u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%.20q cannot be fetched; only http and https can", u.Scheme+":")
	}
	if u.Hostname() == "" {
		return errors.New("it names no server; write it as https://server/path")
	}
	return nil
}

// show is a url without what may be secret in it.
func show(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}
