package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spare-compute/spare"
)

// ErrExists is matched when a download would overwrite a file of other content.
var ErrExists = errors.New("a different file is already there")

// DownloadOptions say how a result is written.
type DownloadOptions struct {
	Overwrite bool                    // replace files of the same name
	Progress  func(have, total int64) // may be nil
}

// Download writes a job's result into dir under the result's name and returns its path.
// It goes on with what an earlier try left, checks length and digest, and only then
// gives the file its name. A file that is there already with that content is kept.
func (c *Client) Download(ctx context.Context, job string, r Result, dir string, opt DownloadOptions) (string, error) {
	name := filepath.FromSlash(r.Name)
	if !filepath.IsLocal(name) || !r.Digest.Valid() {
		return "", fmt.Errorf("the hub names a result %q: refused, it would leave %s", r.Name, dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	if parent := filepath.Dir(name); parent != "." {
		if err := root.MkdirAll(parent, 0o755); err != nil {
			return "", err
		}
	}
	d := &download{client: c, job: job, result: r, root: root, name: name, opt: opt}
	d.temp = filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+"."+r.Digest.Short()+".part")
	target := filepath.Join(dir, name)
	same, err := d.there()
	if err != nil || same {
		return target, err
	}
	if err := d.fetch(ctx); err != nil {
		return target, err
	}
	return target, d.place()
}

// download is one result on its way.
type download struct {
	client *Client
	job    string
	result Result
	root   *os.Root
	name   string // in root
	temp   string // in root
	opt    DownloadOptions
}

// there reports whether the file is there already; another one in its place is an error.
func (d *download) there() (bool, error) {
	info, err := d.root.Lstat(d.name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if info.Mode().IsRegular() && info.Size() == d.result.Size {
		if sum, err := d.sum(d.name); err == nil && sum == d.result.Digest {
			return true, nil
		}
	}
	if d.opt.Overwrite && !info.IsDir() {
		return false, nil
	}
	return false, fmt.Errorf("%s: %w: choose another folder with -o, or replace it with --overwrite", filepath.Join(d.root.Name(), d.name), ErrExists)
}

func (d *download) sum(name string) (spare.Digest, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return spare.Digest(hex.EncodeToString(h.Sum(nil))), nil
}

// fetch has the whole file under its temporary name when it returns nil.
func (d *download) fetch(ctx context.Context) error {
	f, err := d.root.OpenFile(d.temp, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	for damaged := 0; ; {
		if err := d.fill(ctx, f); err != nil {
			return err
		}
		sum, err := d.sum(d.temp)
		if err != nil {
			return err
		}
		if sum == d.result.Digest {
			return errors.Join(f.Sync(), f.Close())
		}
		if err := f.Truncate(0); err != nil {
			return err
		}
		if damaged++; damaged == 3 {
			_ = f.Close()
			return errors.Join(fmt.Errorf("%s arrived damaged three times: the network or the hub's disk changes what it carries", d.result.Name), d.root.Remove(d.temp))
		}
	}
}

// fill appends what is missing, as often as the connection is cut.
func (d *download) fill(ctx context.Context, f *os.File) error {
	var p patience
	for try := 0; ; try++ {
		have, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return err
		}
		if have > d.result.Size {
			if err := f.Truncate(0); err != nil {
				return err
			}
			continue
		}
		if have == d.result.Size {
			return nil
		}
		moved, err := d.get(ctx, f, have)
		var refusal *Error
		var local *os.PathError
		switch {
		case err == nil:
			continue
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &local), errors.As(err, &refusal) && !transient(&http.Response{StatusCode: refusal.Status}, nil):
			return err
		}
		if moved {
			p, try = patience{}, 0
		}
		if !d.client.patient(&p) {
			return d.client.unreachable(ctx, err)
		}
		if err := pause(ctx, backoff(try)); err != nil {
			return err
		}
	}
}

// get asks for the file from have on and appends what comes.
func (d *download) get(ctx context.Context, f *os.File, have int64) (moved bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch := time.AfterFunc(stall, cancel)
	defer watch.Stop()
	req, err := d.client.request(ctx, http.MethodGet, jobPath(d.job)+"/files/"+escapePath(d.result.Name), nil)
	if err != nil {
		return false, err
	}
	if have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
		req.Header.Set("If-Range", `"`+string(d.result.Digest)+`"`)
	}
	resp, err := d.client.plain.Do(req.Request)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	d.client.answered()
	switch {
	case resp.StatusCode == http.StatusOK && have > 0:
		if err := f.Truncate(0); err != nil {
			return false, err
		}
		if have, err = f.Seek(0, io.SeekStart); err != nil {
			return false, err
		}
	case resp.StatusCode >= 300:
		return false, readError(resp)
	}
	n, err := io.Copy(f, &meter{r: resp.Body, at: have, d: d, watch: watch})
	return n > 0, err
}

// meter tells of what comes and keeps the watch from biting.
type meter struct {
	r     io.Reader
	at    int64
	d     *download
	watch *time.Timer
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if n > 0 {
		m.watch.Reset(stall)
		m.at += int64(n)
		if m.d.opt.Progress != nil {
			m.d.opt.Progress(m.at, m.d.result.Size)
		}
	}
	return n, err
}

// place gives the finished file its name. A link refuses to replace what came there
// meanwhile; where the file system has none, a look before the rename must do.
func (d *download) place() error {
	if d.opt.Overwrite {
		return d.root.Rename(d.temp, d.name)
	}
	err := d.root.Link(d.temp, d.name)
	switch {
	case err == nil:
		return d.root.Remove(d.temp)
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%s: %w: choose another folder with -o, or replace it with --overwrite", filepath.Join(d.root.Name(), d.name), ErrExists)
	}
	if same, err := d.there(); err != nil || same {
		return errors.Join(err, d.root.Remove(d.temp))
	}
	return d.root.Rename(d.temp, d.name)
}

// escapePath escapes each element of a slash-separated name.
func escapePath(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return strings.Join(parts, "/")
}
