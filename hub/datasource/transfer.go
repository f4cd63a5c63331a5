package datasource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spare-compute/spare"
)

// goodProgress is how much must come between two cuts for the later one to be the first
// again: a slow, shaky line gets through, a server that gives a byte a time does not.
const goodProgress = 1 << 20

var (
	errRestart = errors.New("the content changed on the way, or the server cannot go on where it was cut")
	errStalled = errors.New("the transfer stood still")
)

// A transfer reads one url to its end, going on after cuts.
type transfer struct {
	f      *Fetcher
	url    *url.URL
	source spare.DataPoint
	name   string

	body      io.ReadCloser
	cancel    context.CancelCauseFunc // of the request that body belongs to
	validator string                  // what If-Range may say, "" if the server gave nothing fit
	etag      string                  // a strong one
	total     int64                   // bytes, -1 while unknown
	offset    int64
	stalled   atomic.Bool // the watch ended the request
	cuts      int
	lastCut   int64 // offset at the last cut
}

// open begins a transfer and reads what the server says of the content.
func (f *Fetcher) open(ctx context.Context, dp spare.DataPoint) (*transfer, error) {
	u, err := f.parse(dp)
	if err != nil {
		return nil, err
	}
	t := &transfer{f: f, url: u, source: dp, total: -1}
	res, err := t.request(ctx, http.Header{})
	if err != nil {
		return nil, t.explain(err)
	}
	if res.StatusCode != http.StatusOK {
		t.close()
		return nil, t.explain(statusError(res))
	}
	t.total = res.ContentLength
	if err := t.fits(t.total); err != nil {
		t.close()
		return nil, t.explain(err)
	}
	if e := res.Header.Get("ETag"); strings.HasPrefix(e, `"`) {
		t.etag, t.validator = e, e
	} else {
		t.validator = res.Header.Get("Last-Modified")
	}
	t.name = fileName(dp.Params["name"], res.Header.Get("Content-Disposition"), u, res.Request.URL)
	return t, nil
}

// request sends a request and makes its body the one that is read.
func (t *transfer) request(ctx context.Context, header http.Header) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	res, err := t.f.get(ctx, t.url, t.source, header)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	t.body, t.cancel = res.Body, cancel
	t.stalled.Store(false)
	return res, nil
}

func (t *transfer) close() {
	if t.body == nil {
		return
	}
	t.cancel(nil)
	t.body.Close()
	t.body = nil
}

// next reads on, also after a cut where the content is provably the same.
func (t *transfer) next(ctx context.Context, p []byte) (int, error) {
	for {
		n, err := t.read(p)
		if n > 0 {
			t.offset += int64(n)
			if err := t.fits(t.offset); err != nil {
				return 0, t.explain(err)
			}
			return n, nil // what else there is comes again with the next read
		}
		switch {
		case err == nil:
			continue
		case err == io.EOF && (t.total < 0 || t.offset == t.total):
			return 0, io.EOF
		case ctx.Err() != nil:
			return 0, context.Cause(ctx)
		}
		if err := t.resume(ctx, err); err != nil {
			return 0, t.explain(err)
		}
	}
}

// read reads the body and gives up when nothing comes.
func (t *transfer) read(p []byte) (int, error) {
	cancel := t.cancel
	watch := time.AfterFunc(t.f.opt.Stall, func() {
		t.stalled.Store(true)
		cancel(errStalled)
	})
	defer watch.Stop()
	n, err := t.body.Read(p)
	if err != nil && err != io.EOF && t.stalled.Load() {
		err = errStalled
	}
	return n, err
}

// resume opens the rest of the content after a cut.
func (t *transfer) resume(ctx context.Context, cut error) error {
	if t.offset-t.lastCut >= goodProgress {
		t.cuts = 0
	}
	t.cuts++
	t.lastCut = t.offset
	t.close()
	if t.cuts > t.f.opt.Retries {
		return fmt.Errorf("cut off %d times, at last after %d bytes: %w", t.cuts, t.offset, cut)
	}
	select {
	case <-time.After(backoff(t.f.opt.Backoff, maxBackoff, t.cuts, nil)):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	header := http.Header{}
	if t.offset > 0 && t.validator != "" {
		header.Set("Range", "bytes="+strconv.FormatInt(t.offset, 10)+"-")
		header.Set("If-Range", t.validator)
	}
	res, err := t.request(ctx, header)
	if err != nil {
		return err
	}
	if err := t.goesOn(res); err != nil {
		t.close()
		return err
	}
	return nil
}

// goesOn checks that an answer holds the rest of the same content, and skips what is here
// already where the server sends the whole.
func (t *transfer) goesOn(res *http.Response) error {
	switch res.StatusCode {
	case http.StatusPartialContent:
		start, total, err := contentRange(res.Header.Get("Content-Range"))
		if err != nil || start != t.offset || t.total >= 0 && total >= 0 && total != t.total {
			return errRestart
		}
		if t.total < 0 {
			t.total = total
		}
		return nil
	case http.StatusOK:
		if t.offset == 0 {
			t.total = res.ContentLength
			return nil
		}
		if t.etag == "" || res.Header.Get("ETag") != t.etag {
			return errRestart
		}
		skip := io.LimitReader(readerFunc(t.read), t.offset)
		if n, err := io.Copy(io.Discard, skip); err != nil || n < t.offset {
			return errRestart
		}
		return nil
	case http.StatusRequestedRangeNotSatisfiable:
		return errRestart
	}
	return statusError(res)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// contentRange reads "bytes 10-99/100"; the total is -1 if it is "*".
func contentRange(s string) (start, total int64, err error) {
	span, size, ok := strings.Cut(strings.TrimPrefix(s, "bytes "), "/")
	first, _, dash := strings.Cut(span, "-")
	if !ok || !dash || !strings.HasPrefix(s, "bytes ") {
		return 0, 0, fmt.Errorf("content range %.60q", s)
	}
	// No sign is part of a number here.
	from, err := strconv.ParseUint(first, 10, 63)
	if err != nil {
		return 0, 0, err
	}
	if size == "*" {
		return int64(from), -1, nil
	}
	all, err := strconv.ParseUint(size, 10, 63)
	if err != nil || all < from {
		return 0, 0, fmt.Errorf("content range %.60q", s)
	}
	return int64(from), int64(all), nil
}

// fits refuses content that is larger than an input may be.
func (t *transfer) fits(size int64) error {
	if most := t.f.opt.MaxBytes; most > 0 && size > most {
		return fmt.Errorf("it is larger than the %d bytes that an input may have", most)
	}
	return nil
}

// explain says of what an error speaks, once.
func (t *transfer) explain(err error) error {
	if errors.Is(err, errStalled) {
		err = fmt.Errorf("%w for %v: try again later", errStalled, t.f.opt.Stall)
	}
	return fmt.Errorf("fetch %s: %w", show(t.url), err)
}

func statusError(res *http.Response) error {
	status := fmt.Sprintf("%d %s", res.StatusCode, http.StatusText(res.StatusCode))
	switch res.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("the server answers %s; check username and password, or whether the link has expired", status)
	case http.StatusNotFound, http.StatusGone:
		return fmt.Errorf("the server answers %s; check the address", status)
	}
	return fmt.Errorf("the server answers %s; try again later", status)
}
