package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"time"

	"github.com/spare-compute/spare"
)

const (
	tries       = 6 // without a byte between them
	backoffMost = 5 * time.Second
)

// jitter is a random wait that grows with the number of tries.
func jitter(try int) time.Duration {
	most := min(backoffMost, 200*time.Millisecond<<min(try, 10))
	return most/2 + rand.N(most)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// document returns a manifest, index or configuration that hashes to its digest. What is
// fetched is kept, so that an interrupted pull need not ask for it again.
func (s *Store) document(ctx context.Context, d spare.Digest, get func() ([]byte, error)) ([]byte, error) {
	if raw, err := readSmall(s.path(blobs, string(d))); err == nil && spare.Sum(raw) == d {
		return raw, nil
	}
	var raw []byte
	var err error
	for try := 0; ; try++ {
		raw, err = get()
		if err == nil && spare.Sum(raw) != d {
			return nil, fmt.Errorf("its part %s: %w", d.Short(), ErrCorrupt)
		}
		if err == nil || ctx.Err() != nil || lasting(err) || errors.Is(err, ErrCorrupt) || try+1 == tries {
			break
		}
		if err := pause(ctx, s.backoff(try)); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	if err := s.reserve(int64(len(raw)), "its manifest"); err != nil {
		return nil, err
	}
	defer s.settle(int64(len(raw)))
	return raw, diskError(s.dir, writeWhole(s.path(tmp), s.path(blobs, string(d)), raw))
}

// configuration fetches one, and once more if it is not what was asked for: a mirror may
// lie, or have broken off.
func configuration(ctx context.Context, b Blob, from Source) ([]byte, error) {
	for try := 0; ; try++ {
		var raw bounded
		err := from.Blob(ctx, b, 0, &raw)
		if err != nil || spare.Sum(raw.bytes) == b.Digest || try > 0 {
			return raw.bytes, err // who called checks the digest
		}
		distrust(from)
	}
}

// distrust lets a source do without its mirrors.
func distrust(from Source) {
	if d, ok := from.(interface{ distrust() }); ok {
		d.distrust()
	}
}

// readSmall reads a file that should be a document.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var b bounded
	_, err = io.Copy(&b, f)
	return b.bytes, err
}

// blob has a layer's blob in place, whole and right. The caller holds the blob's key and
// needs it.
func (s *Store) blob(ctx context.Context, b Blob, what string, from Source) error {
	if s.haveBlob(b) {
		return nil
	}
	err := s.download(ctx, b, what, from)
	if errors.Is(err, ErrCorrupt) && ctx.Err() == nil {
		// What lay there from an earlier try may have been damaged, or a mirror is: once
		// more from the start.
		distrust(from)
		err = s.download(ctx, b, what, from)
	}
	return err
}

// haveBlob reports whether the blob is there and right. The first use in a process reads
// it through.
func (s *Store) haveBlob(b Blob) bool {
	key := blobs + "/" + string(b.Digest)
	path := s.path(blobs, string(b.Digest))
	info, err := os.Lstat(path)
	if err != nil || info.Size() != b.Size {
		return false
	}
	if s.wasChecked(key) {
		return true
	}
	if d, err := digestFile(path); err != nil || d != b.Digest {
		return false
	}
	s.setChecked(key)
	return true
}

func digestFile(path string) (spare.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	_, err = io.CopyBuffer(sum, f, make([]byte, copyBuffer))
	return digestOf(sum.Sum(nil)), err
}

// download completes the partial file, from where an earlier try stopped, and moves it
// into place.
func (s *Store) download(ctx context.Context, b Blob, what string, from Source) error {
	path := s.path(partials, string(b.Digest))
	defer s.need(partials + "/" + string(b.Digest))()
	if err := s.reserve(b.Size, what); err != nil {
		return err
	}
	defer s.settle(b.Size)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return diskError(s.dir, err)
	}
	defer func() { _ = f.Close() }()
	w := &partial{f: f, sum: sha256.New(), size: b.Size}
	if w.offset, err = io.CopyBuffer(w.sum, f, make([]byte, copyBuffer)); err != nil {
		return fmt.Errorf("read what is there of %s: %w", what, err)
	}
	if w.offset > b.Size {
		if err := w.restart(); err != nil {
			return err
		}
	}
	if err := s.complete(ctx, w, b, from); err != nil {
		if errors.Is(err, ErrCorrupt) {
			_ = os.Remove(path)
		}
		return fmt.Errorf("%s: %w", what, diskError(s.dir, err))
	}
	if got := digestOf(w.sum.Sum(nil)); got != b.Digest {
		_ = os.Remove(path)
		return fmt.Errorf("%s: %w: it has the digest %s and should have %s", what, ErrCorrupt, got.Short(), b.Digest.Short())
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return diskError(s.dir, err)
	}
	if err := os.Rename(path, s.path(blobs, string(b.Digest))); err != nil {
		return diskError(s.dir, err)
	}
	s.setChecked(blobs + "/" + string(b.Digest))
	return nil
}

// complete asks for the rest until it is there, as long as enough of it comes.
func (s *Store) complete(ctx context.Context, w *partial, b Blob, from Source) error {
	began := time.Now()
	for try := 0; w.offset < b.Size; try++ {
		before := w.offset
		err := from.Blob(ctx, b, w.offset, w)
		switch {
		case w.offset == b.Size: // all that was announced is here; the digest decides
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case w.err != nil:
			return w.err // the disk's, not the source's
		case err == nil:
			err = fmt.Errorf("%d of %d bytes came: %w", w.offset, b.Size, io.ErrUnexpectedEOF)
		}
		if errors.Is(err, ErrCorrupt) || lasting(err) {
			return err
		}
		// A source that gives a byte and breaks off, again and again, gives nothing.
		if n := w.offset - before; n > 0 && float64(n) >= leastRate*time.Since(began).Seconds() {
			try = 0
		}
		began = time.Now()
		if try+1 >= tries {
			return fmt.Errorf("%w; %d of %d bytes are kept for the next try", err, w.offset, b.Size)
		}
		if err := pause(ctx, s.backoff(try)); err != nil {
			return err
		}
	}
	return nil
}

// partial is the beginning of a blob. It refuses more than was announced.
type partial struct {
	f      *os.File
	sum    hash.Hash
	offset int64
	size   int64
	err    error // of the disk
}

func (p *partial) Write(b []byte) (int, error) {
	if p.offset+int64(len(b)) > p.size {
		return 0, fmt.Errorf("%w: more bytes came than were announced", ErrCorrupt)
	}
	n, err := p.f.Write(b)
	p.sum.Write(b[:n])
	p.offset += int64(n)
	p.err = err
	return n, err
}

func (p *partial) restart() error {
	p.offset = 0
	p.sum.Reset()
	_, err := p.f.Seek(0, io.SeekStart)
	return errors.Join(p.f.Truncate(0), err)
}

// diskError says of a full disk that it is one.
func diskError(dir string, err error) error {
	if noSpace(err) && !errors.Is(err, ErrFull) {
		return fmt.Errorf("%w: the disk that holds %s is full; free some space there (%w)", ErrFull, dir, err)
	}
	return err
}

func missing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}
