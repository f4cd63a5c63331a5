package blob

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/protocol"
)

// Writer takes one blob whose digest and size are known. What it was given is kept when
// it is closed without a commit, and the next Writer of the same blob goes on from there.
type Writer = protocol.PartialWriter

// Partial begins or goes on with a blob of known digest and size. Where the blob is here
// already, its offset is its size and Commit has nothing to do. Where somebody else is
// sending the same blob right now, this one begins anew and is not kept.
func (d *Disk) Partial(digest spare.Digest, size int64) (Writer, error) {
	if !digest.Valid() || size < 0 {
		return nil, fmt.Errorf("blob %.80q of %d bytes: %w", string(digest), size, ErrMismatch)
	}
	switch have, err := d.Stat(digest); {
	case err == nil && have == size:
		return &present{d: d, digest: digest, size: size}, d.refresh(digest)
	case err == nil:
		return nil, fmt.Errorf("blob %s has %d bytes, not %d: %w", digest.Short(), have, size, ErrMismatch)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	return d.begin(digest, size, string(digest)+"."+strconv.FormatInt(size, 10))
}

// PartialOf is Partial for one sender who has to show that he has the blob: whether it is
// here, or somebody else is sending it, makes no difference to him. What he sent of it
// before is gone on with; where the blob turns out to be here, Commit keeps one of both.
func (d *Disk) PartialOf(sender string, digest spare.Digest, size int64) (Writer, error) {
	if !digest.Valid() || size < 0 {
		return nil, fmt.Errorf("blob %.80q of %d bytes: %w", string(digest), size, ErrMismatch)
	}
	return d.begin(digest, size, string(digest)+"."+strconv.FormatInt(size, 10)+"."+string(spare.Sum([]byte(sender))[:32]))
}

// begin opens the beginning of a blob that is kept under key.
func (d *Disk) begin(digest spare.Digest, size int64, key string) (Writer, error) {
	p := &partial{d: d, digest: digest, size: size, sum: sha256.New()}
	if err := p.open(key); err != nil {
		return nil, err
	}
	if err := d.Room(size - p.offset); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// present is the Writer of a blob that is stored already.
type present struct {
	d      *Disk
	digest spare.Digest
	size   int64
}

func (p *present) Offset() int64 { return p.size }
func (p *present) Commit() error { return p.d.refresh(p.digest) }
func (p *present) Close() error  { return nil }

// refresh counts a blob's age from now on, as if it were put again.
func (d *Disk) refresh(digest spare.Digest) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	err := os.Chtimes(d.Path(digest), now, now)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("blob %s: %w", digest.Short(), ErrNotFound)
	}
	return err
}

func (p *present) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	return 0, fmt.Errorf("more than the blob's %d bytes: %w", p.size, ErrMismatch)
}

type partial struct {
	d       *Disk
	digest  spare.Digest
	size    int64
	key     string // the name this Writer holds in partials; "" if it works aside
	file    *os.File
	sum     hash.Hash
	offset  int64
	checked int64 // offset at the last look at the free space
}

// open takes the blob's partial file, or one aside if that is taken, and reads in what
// it holds so that the digest goes on from there.
func (p *partial) open(key string) error {
	p.d.mu.Lock()
	_, taken := p.d.partials[key]
	if !taken {
		p.d.partials[key] = struct{}{}
		p.key = key
	}
	p.d.mu.Unlock()

	var err error
	if taken {
		p.file, err = os.CreateTemp(p.d.tmp(), "blob-*")
	} else {
		p.file, err = os.OpenFile(filepath.Join(p.d.root, partialsDir, key), os.O_RDWR|os.O_CREATE, 0o600)
	}
	if err == nil {
		p.offset, err = io.CopyBuffer(p.sum, p.file, make([]byte, copyBuffer))
	}
	if err == nil && p.offset > p.size { // not ours, or a crash garbled it
		p.sum.Reset()
		p.offset = 0
		if err = p.file.Truncate(0); err == nil {
			_, err = p.file.Seek(0, io.SeekStart)
		}
	}
	if err != nil {
		return errors.Join(p.d.explain("begin blob "+p.digest.Short(), err), p.Close())
	}
	p.checked = p.offset
	return nil
}

func (p *partial) Offset() int64 { return p.offset }

func (p *partial) Write(b []byte) (int, error) {
	if p.file == nil {
		return 0, fmt.Errorf("write blob %s: %w", p.digest.Short(), fs.ErrClosed)
	}
	if p.offset+int64(len(b)) > p.size {
		return 0, fmt.Errorf("blob %s: more than the %d bytes announced: %w", p.digest.Short(), p.size, ErrMismatch)
	}
	if p.offset+int64(len(b))-p.checked > roomEvery {
		if err := p.d.Room(int64(len(b))); err != nil {
			return 0, err
		}
		p.checked = p.offset
	}
	n, err := p.file.Write(b)
	p.sum.Write(b[:n])
	p.offset += int64(n)
	if err != nil {
		return n, p.d.explain("write blob "+p.digest.Short(), err)
	}
	return n, nil
}

func (p *partial) Commit() error {
	if p.file == nil {
		return fmt.Errorf("commit blob %s: %w", p.digest.Short(), fs.ErrClosed)
	}
	if p.offset != p.size {
		return fmt.Errorf("blob %s ended after %d of %d bytes: %w", p.digest.Short(), p.offset, p.size, io.ErrUnexpectedEOF)
	}
	if got := digestOf(p.sum); got != p.digest {
		// Nobody can go on from wrong bytes.
		err := fmt.Errorf("what came as blob %s is %s: %w", p.digest.Short(), got.Short(), ErrMismatch)
		return errors.Join(err, p.drop())
	}
	err := p.d.seal(p.file, p.digest, p.size)
	if err != nil {
		return errors.Join(err, p.Close())
	}
	p.file = nil
	p.release()
	return nil
}

// Close keeps what came for the next Writer. After Commit it does nothing.
func (p *partial) Close() error {
	if p.file == nil {
		p.release()
		return nil
	}
	if p.offset == 0 || p.key == "" {
		return p.drop()
	}
	err := p.file.Close()
	p.file = nil
	p.release()
	if errors.Is(err, fs.ErrClosed) { // Commit got as far as closing it
		return nil
	}
	return err
}

// drop throws away what came.
func (p *partial) drop() error {
	p.file.Close()
	err := os.Remove(p.file.Name())
	p.file = nil
	p.release()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (p *partial) release() {
	if p.key == "" {
		return
	}
	p.d.mu.Lock()
	delete(p.d.partials, p.key)
	p.d.mu.Unlock()
	p.key = ""
}
