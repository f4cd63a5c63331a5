package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/spare-compute/spare"
)

// stall is how long a transfer may stand still before its connection counts as dead.
const stall = 60 * time.Second

// Upload sends a file as the input of a draft whose source is "file", and has the hub
// check that it arrived as it was sent. A cut connection goes on where the hub has got
// to. progress, which may be nil, is told of bytes sent.
func (c *Client) Upload(ctx context.Context, job Job, path string, progress func(sent, total int64)) (spare.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s is not a file: name one, or pack a folder into an archive first", path)
	case info.Size() == 0:
		return "", fmt.Errorf("%s is empty: there is nothing to work on", path)
	}
	u := &upload{
		client: c, job: job, file: f, size: info.Size(), name: filepath.Base(path),
		sum: sha256.New(), progress: progress,
	}
	for range 2 { // twice: what arrived may have been damaged on the way
		if err := u.send(ctx); err != nil {
			return "", err
		}
		digest := hex.EncodeToString(u.sum.Sum(nil))
		err = c.callOn(ctx, c.slow, patch, jobPath(job.ID)+"/uploadcompleted", map[string]string{"sha256": digest}, nil)
		if err == nil {
			return spare.Digest(digest), nil
		}
		if s := status(err); s != http.StatusConflict && s != http.StatusBadRequest {
			return "", err
		}
	}
	return "", err
}

// upload is one file on its way.
type upload struct {
	client   *Client
	job      Job
	file     *os.File
	size     int64
	name     string
	progress func(sent, total int64)

	sum    hash.Hash // over the first summed bytes
	summed int64
}

// send has the whole file at the hub when it returns nil.
func (u *upload) send(ctx context.Context) error {
	var p patience
	for try := 0; ; try++ {
		offset, err := u.offset(ctx)
		if err != nil {
			return err
		}
		if offset == u.size {
			return u.readTo(u.size)
		}
		before := u.summed
		resp, err := u.put(ctx, offset)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errFileChanged):
			return fmt.Errorf("%s changed while it was sent: try again when nothing writes to it", u.name)
		case err == nil && resp.StatusCode < 300:
			u.client.answered()
			drain(resp.Body)
			return nil
		case err == nil && !transient(resp, nil) && resp.StatusCode != http.StatusConflict && resp.StatusCode != http.StatusBadRequest:
			defer drain(resp.Body)
			return readError(resp)
		}
		if u.summed > before {
			p, try = patience{}, 0 // it moved: that is no trouble yet
		}
		if err == nil && !transient(resp, nil) { // it wants another offset, or less of a file
			refusal := readError(resp)
			drain(resp.Body)
			if try > 5 {
				return refusal
			}
			continue
		}
		if !u.client.patient(&p) {
			if err == nil {
				defer drain(resp.Body)
				return readError(resp)
			}
			return u.client.unreachable(ctx, err)
		}
		if err == nil {
			drain(resp.Body)
		}
		if err := pause(ctx, backoff(try)); err != nil {
			return err
		}
	}
}

// offset asks how much the hub has.
func (u *upload) offset(ctx context.Context) (int64, error) {
	c := u.client
	n, header, err := c.uploaded(ctx, jobPath(u.job.ID)+"/upload")
	if errors.As(err, new(*Error)) {
		// An answer to HEAD has no body: the job says what is wrong.
		if _, err := c.Job(ctx, u.job.ID); err != nil {
			return 0, err
		}
	}
	if err != nil {
		return 0, err
	}
	if total, err := strconv.ParseInt(header.Get("Upload-Length"), 10, 64); n > u.size || (err == nil && total != u.size) {
		return 0, nil // of another file
	}
	return n, nil
}

// uploaded asks how many bytes the hub has of what is uploaded to a path.
func (c *Client) uploaded(ctx context.Context, path string) (int64, http.Header, error) {
	req, err := c.request(ctx, http.MethodHead, path, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := c.calls.Do(req)
	if err != nil {
		return 0, nil, c.unreachable(ctx, err)
	}
	defer drain(resp.Body)
	c.answered()
	if resp.StatusCode >= 300 {
		return 0, nil, readError(resp)
	}
	n, err := strconv.ParseInt(resp.Header.Get("Upload-Offset"), 10, 64)
	if err != nil || n < 0 {
		return 0, nil, fmt.Errorf("%s does not say how much of the upload it has; is it a Spare hub?", c.base)
	}
	return n, resp.Header, nil
}

var errFileChanged = errors.New("the file changed")

// put sends the file from offset on.
func (u *upload) put(ctx context.Context, offset int64) (*http.Response, error) {
	if err := u.readTo(offset); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	watch := time.AfterFunc(stall, cancel)
	defer watch.Stop()
	body := &uploadBody{upload: u, at: offset, moved: func() { watch.Reset(stall) }, atEnd: func() { watch.Stop() }}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, u.client.base.String()+jobPath(u.job.ID)+"/upload", body)
	if err != nil {
		cancel()
		return nil, err
	}
	req.ContentLength = u.size - offset
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": u.name}))
	req.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", offset, u.size-1, u.size))
	if u.client.key != "" {
		req.Header.Set("Authorization", "Bearer "+u.client.key)
	}
	resp, err := u.client.plain.Do(req)
	if body.changed.Load() {
		err = errFileChanged
	}
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &closing{resp.Body, cancel}
	return resp, nil
}

// readTo brings the sum up to offset, for bytes that the hub had already.
func (u *upload) readTo(offset int64) error {
	for u.summed < offset {
		n, err := io.Copy(u.sum, io.NewSectionReader(u.file, u.summed, offset-u.summed))
		u.summed += n
		if err != nil {
			return err
		}
		if n == 0 {
			return errFileChanged
		}
	}
	return nil
}

// closing is a body whose end also frees what its request held.
type closing struct {
	io.ReadCloser
	free func()
}

func (b *closing) Close() error {
	defer b.free()
	return b.ReadCloser.Close()
}

// uploadBody reads the file and sums each byte once, however often it is sent.
type uploadBody struct {
	*upload
	at      int64
	moved   func()
	atEnd   func()
	changed atomic.Bool
}

func (b *uploadBody) Read(p []byte) (int, error) {
	left := b.size - b.at
	if left == 0 {
		b.atEnd() // the hub may take its time to keep what it has
		return 0, io.EOF
	}
	n, err := b.file.ReadAt(p[:min(int64(len(p)), left)], b.at)
	if n == 0 {
		b.changed.Store(true)
		return 0, errFileChanged
	}
	if fresh := b.at + int64(n) - b.summed; fresh > 0 {
		b.sum.Write(p[int64(n)-fresh : n])
		b.summed += fresh
	}
	b.at += int64(n)
	b.moved()
	if b.progress != nil {
		b.progress(b.at, b.size)
	}
	if err == io.EOF {
		err = nil // told at the next read
	}
	return n, err
}

// pause waits, or less if ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
