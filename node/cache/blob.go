package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"syscall"

	"github.com/spare-compute/spare"
)

// Blob returns the blob named d, fetching it or the rest of it if need be. The size
// is what the hub announced and bounds what is taken.
func (c *Cache) Blob(ctx context.Context, d spare.Digest, size int64, fetch Fetch) (*Pin, error) {
	if !d.Valid() {
		return nil, fmt.Errorf("fetch blob %.80q: not a digest", string(d))
	}
	if err := checkSize(size, "blob "+d.Short()); err != nil {
		return nil, err
	}
	unlock, err := c.lock(ctx, d)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return c.blobLocked(ctx, d, size, fetch)
}

func (c *Cache) blobLocked(ctx context.Context, d spare.Digest, size int64, fetch Fetch) (*Pin, error) {
	k := key{blob, d}
	if c.have(k) {
		return c.pin(k), nil
	}
	err := c.download(ctx, d, size, fetch)
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, ErrCorrupt):
		// What lay there from an earlier try may have been damaged: once more from the start.
		err = c.download(ctx, d, size, fetch)
	case DiskFull(err):
		// The owner needs the disk more than the cache does; what is in use may just fit.
		c.purge()
		err = c.download(ctx, d, size, fetch)
	}
	if err != nil {
		return nil, err
	}
	return c.pin(k), nil
}

// checkSize refuses a size that no disk has: whoever announces it is wrong or lies, and
// nothing is to be counted with it.
func checkSize(size int64, what string) error {
	const most = 1 << 50
	if size < 0 || size > most {
		return fmt.Errorf("fetch %s: %w: the hub says that it has %d bytes", what, ErrCorrupt, size)
	}
	return nil
}

// have reports whether the blob is there and right. The first use in a process reads
// it through: a power cut or a failing disk may have changed it since.
func (c *Cache) have(k key) bool {
	c.mu.Lock()
	e, ok := c.entries[k]
	verified := ok && e.verified
	c.mu.Unlock()
	if !ok {
		return false
	}
	if !verified {
		if d, _, err := digestFile(c.file(k)); err != nil || d != k.digest {
			c.forget(k)
			return false
		}
		c.mu.Lock()
		e.verified = true
		c.mu.Unlock()
	}
	return true
}

// download completes the partial file and moves it into place. The caller holds the
// digest's lock.
func (c *Cache) download(ctx context.Context, d spare.Digest, size int64, fetch Fetch) error {
	k := key{partial, d}
	path := c.file(k)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return c.diskError("open", d, err)
	}
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	offset, err := io.Copy(sum, f)
	if err != nil {
		return fmt.Errorf("read what is there of blob %s: %w", d.Short(), err)
	}
	if offset > size {
		offset = 0
		sum.Reset()
		if err := errors.Join(f.Truncate(0), seekStart(f)); err != nil {
			return fmt.Errorf("start blob %s over: %w", d.Short(), err)
		}
	}
	if err := c.reserve(k, size, "blob "+d.Short()); err != nil {
		return err
	}
	w := &counted{f: f, sum: sum, left: size - offset}
	if size > offset {
		err = fetch(ctx, offset, w)
	}
	c.track(k, size-w.left)
	if err != nil {
		if errors.Is(err, ErrCorrupt) {
			c.forget(k)
		}
		return c.diskError("fetch", d, err)
	}
	if got := spare.Digest(hex.EncodeToString(sum.Sum(nil))); w.left != 0 || got != d {
		c.forget(k)
		return fmt.Errorf("fetch blob %s: %w: %d of %d bytes came, with digest %s", d.Short(), ErrCorrupt, size-w.left, size, got.Short())
	}
	return c.commit(k, f)
}

// commit makes a verified partial file a blob that survives a power cut.
func (c *Cache) commit(from key, f *os.File) error {
	to := key{blob, from.digest}
	if err := errors.Join(f.Chmod(0o444), f.Sync(), f.Close()); err != nil {
		return c.diskError("store", from.digest, err)
	}
	if err := os.Rename(c.file(from), c.file(to)); err != nil {
		return c.diskError("store", from.digest, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[from]; e != nil {
		delete(c.entries, from)
		e.verified = true
		c.entries[to] = e
	}
	return nil
}

// track notes how much of a download lies on disk.
func (c *Cache) track(k key, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setBytes(k, bytes)
}

// diskError turns a full disk into ErrFull with a sentence.
func (c *Cache) diskError(did string, d spare.Digest, err error) error {
	if DiskFull(err) {
		return fmt.Errorf("%w: the disk that holds %s is full (%w); free some space there", ErrFull, c.dir, err)
	}
	return fmt.Errorf("%s blob %s: %w", did, d.Short(), err)
}

// DiskFull reports whether err says that a disk or a quota has no room left.
func DiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, errQuota)
}

func seekStart(f *os.File) error {
	_, err := f.Seek(0, io.SeekStart)
	return err
}

// counted writes to a file and its hash, and refuses more than was announced.
type counted struct {
	f    *os.File
	sum  hash.Hash
	left int64
}

func (w *counted) Write(p []byte) (int, error) {
	if int64(len(p)) > w.left {
		return 0, fmt.Errorf("%w: more bytes came than were announced", ErrCorrupt)
	}
	n, err := w.f.Write(p)
	w.left -= int64(n)
	w.sum.Write(p[:n])
	return n, err
}

func digestFile(path string) (spare.Digest, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	return spare.Digest(hex.EncodeToString(sum.Sum(nil))), n, err
}
