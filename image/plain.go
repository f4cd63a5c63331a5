package image

import (
	"bufio"
	"bytes"
	"context"
	"hash"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// counted counts what is read of the compressed layer.
type counted struct {
	u *unpacker
	r io.Reader
}

func (c counted) Read(p []byte) (int, error) {
	if c.u.ctx.Err() != nil {
		return 0, context.Cause(c.u.ctx)
	}
	n, err := c.r.Read(p)
	c.u.packed += int64(n)
	return n, err
}

// plainTar sums the uncompressed archive and bounds it.
type plainTar struct {
	u   *unpacker
	r   io.Reader
	sum hash.Hash // nil if nobody asks for it
}

func (p *plainTar) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if p.sum != nil {
		p.sum.Write(b[:n])
	}
	p.u.plain += int64(n)
	if bomb := p.u.bomb(p.u.plain); bomb != nil {
		return n, bomb
	}
	return n, err
}

// bomb refuses what grows out of all proportion.
func (u *unpacker) bomb(size int64) error {
	switch {
	case size > u.lim.Bytes:
		return refuse("a layer unpacks to more than %d MiB", u.lim.Bytes>>20)
	case size > ratioFree && size/u.lim.Ratio > u.packed:
		return refuse("a layer of %d KiB unpacks to more than %d MiB: %d times as much is the most", u.packed>>10, size>>20, u.lim.Ratio)
	}
	return nil
}

// decompress finds out how a layer is compressed by its first bytes: what its type says
// is often wrong, and the digest of what comes out is checked in any case.
func decompress(r io.Reader) (plain io.Reader, stop func(), err error) {
	b := bufio.NewReaderSize(r, copyBuffer)
	first, _ := b.Peek(4)
	switch {
	case bytes.HasPrefix(first, []byte("\x1f\x8b")):
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, nil, refuse("a layer is no whole gzip archive (%v)", err)
		}
		return z, func() { _ = z.Close() }, nil
	case bytes.HasPrefix(first, []byte("\x28\xb5\x2f\xfd")), len(first) == 4 && bytes.Equal(first[1:], []byte("\x2a\x4d\x18")) && first[0]&0xf0 == 0x50:
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(2*maxWindow))
		if err != nil {
			return nil, nil, refuse("a layer is no whole zstd archive (%v)", err)
		}
		return z, z.Close, nil
	}
	return b, func() {}, nil
}
