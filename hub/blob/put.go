package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/spare-compute/spare"
)

const (
	copyBuffer = 256 << 10
	// roomEvery is how many bytes are written between two looks at the free space.
	roomEvery = 8 << 20
)

// Put stores all that r gives. The blob is durable when Put returns; after an error
// nothing of it is left.
func (d *Disk) Put(ctx context.Context, r io.Reader) (spare.Digest, int64, error) {
	if err := d.Room(0); err != nil {
		return "", 0, err
	}
	f, err := os.CreateTemp(d.tmp(), "put-*")
	if err != nil {
		return "", 0, d.explain("make a file in the blob store", err)
	}
	defer os.Remove(f.Name()) // gone already once it is committed
	defer f.Close()
	sum := sha256.New()
	size, err := d.copy(ctx, f, sum, r)
	if err != nil {
		return "", 0, err
	}
	digest := digestOf(sum)
	if err := d.seal(f, digest, size); err != nil {
		return "", 0, err
	}
	return digest, size, nil
}

// PutFile takes the file at path into the store, without copying it where both lie on
// one volume. On success path is gone.
func (d *Disk) PutFile(ctx context.Context, path string) (spare.Digest, int64, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", 0, fmt.Errorf("store file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return "", 0, fmt.Errorf("store file %s: it is no regular file", path)
	}
	digest, size, moved, err := d.adopt(ctx, path, info)
	if err != nil {
		return "", 0, err
	}
	if moved {
		return digest, size, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", 0, fmt.Errorf("store file: %w", err)
	}
	defer f.Close()
	if digest, size, err = d.Put(ctx, f); err != nil {
		return "", 0, err
	}
	f.Close() // Windows removes no open file
	if err := os.Remove(path); err != nil {
		return "", 0, fmt.Errorf("store file: remove what is stored now: %w", err)
	}
	return digest, size, nil
}

// adopt moves the file itself into the store, or drops it where its content is here. It
// declines, with moved false, where that cannot be done or where the file has a second
// name by which it could still be changed.
func (d *Disk) adopt(ctx context.Context, path string, before os.FileInfo) (digest spare.Digest, size int64, moved bool, err error) {
	digest, size, err = sumAndFlush(ctx, path)
	if err != nil {
		return "", 0, false, d.explain("store file "+path, err)
	}
	if have, err := d.Stat(digest); err == nil && have == size && d.refresh(digest) == nil {
		if err := os.Remove(path); err != nil {
			return "", 0, false, fmt.Errorf("store file: remove what is stored already: %w", err)
		}
		return digest, size, true, nil
	}
	if names(before) > 1 {
		return "", 0, false, nil
	}
	held, err := os.CreateTemp(d.tmp(), "file-*")
	if err != nil {
		return "", 0, false, d.explain("make a file in the blob store", err)
	}
	held.Close()
	defer os.Remove(held.Name()) // gone already once it is committed
	if os.Rename(path, held.Name()) != nil {
		return "", 0, false, nil // another volume
	}
	after, err := os.Lstat(held.Name())
	if err == nil && (!os.SameFile(before, after) || after.Size() != size || !after.ModTime().Equal(before.ModTime())) {
		err = fmt.Errorf("it was changed meanwhile")
	}
	if err == nil {
		err = d.commit(held.Name(), digest, size)
	}
	if err != nil {
		return "", 0, false, errors.Join(fmt.Errorf("store file %s: %w", path, err), os.Rename(held.Name(), path))
	}
	return digest, size, true, nil
}

// sumAndFlush reads a file's digest and size and makes its content durable.
func sumAndFlush(ctx context.Context, path string) (spare.Digest, int64, error) {
	f, err := openForSync(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.CopyBuffer(sum, contextReader{ctx, f}, make([]byte, copyBuffer))
	if err != nil {
		return "", 0, err
	}
	return digestOf(sum), size, f.Sync()
}

// seal flushes a written file, closes it and commits it.
func (d *Disk) seal(f *os.File, digest spare.Digest, size int64) error {
	if err := f.Sync(); err != nil {
		return d.explain("flush blob "+digest.Short(), err)
	}
	if err := f.Close(); err != nil {
		return d.explain("write blob "+digest.Short(), err)
	}
	return d.commit(f.Name(), digest, size)
}

// copy writes r to f, watching the free space, and feeds sum.
func (d *Disk) copy(ctx context.Context, f *os.File, sum hash.Hash, r io.Reader) (int64, error) {
	var size, checked int64
	buf := make([]byte, copyBuffer)
	src := contextReader{ctx, r}
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if size+int64(n)-checked > roomEvery {
				if err := d.Room(roomEvery); err != nil {
					return size, err
				}
				checked = size
			}
			sum.Write(buf[:n])
			if _, err := f.Write(buf[:n]); err != nil {
				return size, d.explain("write blob", err)
			}
			size += int64(n)
		}
		if err == io.EOF {
			return size, nil
		}
		if err != nil {
			return size, err
		}
	}
}

// contextReader ends reading when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

func digestOf(sum hash.Hash) spare.Digest { return spare.Digest(hex.EncodeToString(sum.Sum(nil))) }
