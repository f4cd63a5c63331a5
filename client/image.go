package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spare-compute/spare"
)

const imagesPath = "/v1/dev/images"

// Image is an image that the hub holds.
type Image struct {
	Name      string    `json:"name"`
	Digest    string    `json:"digest"` // "sha256:…"
	Ref       string    `json:"ref"`
	Current   bool      `json:"current"` // it is what the name means now
	Size      int64     `json:"size"`
	Platforms []string  `json:"platforms"`
	Owner     string    `json:"owner"`
	PushedAt  time.Time `json:"pushedAt"`
}

// ImagePart is one blob of an image.
type ImagePart struct {
	Digest spare.Digest `json:"digest"`
	Size   int64        `json:"size"`
	// Read writes the part from offset on.
	Read func(ctx context.Context, offset int64, w io.Writer) error `json:"-"`
}

// PushImage sends what the hub lacks of an image, and makes name mean it. A cut
// connection goes on where the hub has got to. progress, which may be nil, is told of
// bytes that are there, of all.
func (c *Client) PushImage(ctx context.Context, name string, digest spare.Digest, parts []ImagePart, progress func(there, total int64)) (Image, error) {
	var answer struct{ Missing []ImagePart }
	if err := c.callOn(ctx, c.slow, post, imagesPath+"/missing", map[string]any{"blobs": parts}, &answer); err != nil {
		return Image{}, err
	}
	missing := map[spare.Digest]bool{}
	for _, p := range answer.Missing {
		missing[p.Digest] = true
	}
	if progress == nil {
		progress = func(int64, int64) {}
	}
	var there, total int64
	for _, p := range parts {
		total += p.Size
		if !missing[p.Digest] {
			there += p.Size
		}
	}
	progress(there, total)
	for _, p := range parts {
		if !missing[p.Digest] {
			continue
		}
		if err := c.pushPart(ctx, p, func(n int64) { progress(there+n, total) }); err != nil {
			return Image{}, err
		}
		there += p.Size
	}
	var im Image
	err := c.callOn(ctx, c.slow, post, imagesPath, map[string]string{"name": name, "digest": string(digest)}, &im)
	return im, err
}

// pushPart has one part at the hub when it returns nil.
func (c *Client) pushPart(ctx context.Context, p ImagePart, sent func(int64)) error {
	var trouble patience
	damaged := false
	for try, best := 0, int64(-1); ; try++ {
		offset, err := c.partOffset(ctx, p)
		if err != nil {
			return err
		}
		sent(offset)
		if offset == p.Size && p.Size > 0 {
			return nil
		}
		if offset > best {
			best, trouble, try = offset, patience{}, 0 // it moved: that is no trouble yet
		}
		resp, err := c.putPart(ctx, p, offset, sent)
		var source *sourceError
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &source):
			return source.err
		case err == nil && resp.StatusCode < 300:
			c.answered()
			drain(resp.Body)
			return nil
		case err == nil && !transient(resp, nil):
			refusal := readError(resp)
			drain(resp.Body)
			// It wants another offset, got less than was announced, or something else.
			again := resp.StatusCode == http.StatusConflict || resp.StatusCode == http.StatusBadRequest
			if !again || try > 5 || damaged && offset == 0 {
				return refusal
			}
			damaged = resp.StatusCode == http.StatusConflict && offset == 0
			continue
		}
		if err == nil {
			drain(resp.Body)
		}
		if !c.patient(&trouble) {
			if err == nil {
				return fmt.Errorf("%s answered %s", c.base, resp.Status)
			}
			return c.unreachable(ctx, err)
		}
		if err := pause(ctx, backoff(try)); err != nil {
			return err
		}
	}
}

func partPath(p ImagePart) string { return imagesPath + "/blobs/" + string(p.Digest) }

// partOffset asks how much of a part the hub has.
func (c *Client) partOffset(ctx context.Context, p ImagePart) (int64, error) {
	n, _, err := c.uploaded(ctx, partPath(p)+"?size="+strconv.FormatInt(p.Size, 10))
	if err == nil && n > p.Size {
		err = fmt.Errorf("%s does not say how much of the image it has; is it a Spare hub?", c.base)
	}
	return n, err
}

// sourceError is trouble with what is sent, not with the hub.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }

// putPart sends a part from offset on.
func (c *Client) putPart(ctx context.Context, p ImagePart, offset int64, sent func(int64)) (*http.Response, error) {
	ctx, cancel := context.WithCancel(ctx)
	watch := time.AfterFunc(stall, cancel)
	defer watch.Stop()
	r, w := io.Pipe()
	reading, stopReading := context.WithCancel(ctx)
	defer stopReading()
	read := make(chan error, 1)
	go func() {
		err := p.Read(reading, offset, w)
		if err != nil && !errors.Is(err, io.ErrClosedPipe) {
			err = &sourceError{err}
		}
		read <- err
		_ = w.CloseWithError(err)
	}()
	body := &partBody{r: r, at: offset, moved: func(at int64) { watch.Reset(stall); sent(at) }}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, c.base.String()+partPath(p), body)
	if err != nil {
		cancel()
		return nil, err
	}
	req.ContentLength = p.Size - offset
	req.Header.Set("Content-Type", "application/octet-stream")
	if p.Size > offset {
		req.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", offset, p.Size-1, p.Size))
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	resp, err := c.plain.Do(req)
	_ = r.Close()
	var readErr error
	select {
	case readErr = <-read: // it may be why the call failed
	default:
		stopReading() // nobody takes the rest
		<-read
	}
	var source *sourceError
	if err != nil && errors.As(readErr, &source) && ctx.Err() == nil {
		err = source
	}
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &closing{resp.Body, cancel}
	return resp, nil
}

// partBody counts what is sent.
type partBody struct {
	r     *io.PipeReader
	at    int64
	moved func(at int64)
}

func (b *partBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.at += int64(n)
	b.moved(b.at)
	return n, err
}

func (b *partBody) Close() error { return b.r.Close() }

// Images lists the images that the hub holds, by name, of each the last push first.
func (c *Client) Images(ctx context.Context) ([]Image, error) {
	return pages[Image](ctx, c, imagesPath)
}

// RemoveImage takes a name away from the hub, with all that was pushed under it or, where
// it has a digest, that alone. It returns what is gone.
func (c *Client) RemoveImage(ctx context.Context, name string) ([]Image, error) {
	var out struct{ Data []Image }
	err := c.call(ctx, http.MethodDelete, imagesPath+"?"+url.Values{"name": {name}}.Encode(), nil, &out)
	return out.Data, err
}
