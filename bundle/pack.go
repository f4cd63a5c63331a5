package bundle

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/spare-compute/spare"
)

// Pack writes a folder as its canonical archive: tar, zstd, sorted, without times and
// owners, so that equal folders give equal bytes. Empty folders are left out.
func Pack(dir string, w io.Writer) (Manifest, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Manifest{}, err
	}
	defer func() { _ = root.Close() }()
	entries, err := list(root, Limits{}, false)
	if err != nil {
		return Manifest{}, err
	}
	sum := &summed{w: w, hash: sha256.New()}
	// One at a time: the encoder's output must not depend on how many cores there are.
	z, err := zstd.NewWriter(sum, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return Manifest{}, err
	}
	files, err := writeTar(context.Background(), root, entries, z)
	if err := errors.Join(err, z.Close()); err != nil {
		return Manifest{}, fmt.Errorf("pack %s: %w", dir, err)
	}
	m := Manifest{Digest: sum.digest(), Size: sum.size, Files: files}
	for _, f := range files {
		m.Bytes += f.Size
	}
	return m, nil
}

// PackResult writes a run's results folder as a tar, compressed where that gains
// something: most results are media or archives, and compressing those again only costs
// time. Empty folders are left out.
func PackResult(ctx context.Context, dir string, w io.Writer) (Packed, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Packed{}, err
	}
	defer func() { _ = root.Close() }()
	entries, err := list(root, Limits{}, true)
	if err != nil {
		return Packed{}, err
	}
	p := Packed{Files: len(entries), Compressed: shrinks(root, entries)}
	out := w
	var z *zstd.Encoder
	if p.Compressed {
		if z, err = zstd.NewWriter(w, zstd.WithEncoderConcurrency(1)); err != nil {
			return Packed{}, err
		}
		out = z
	}
	files, err := writeTar(ctx, root, entries, out)
	if z != nil {
		err = errors.Join(err, z.Close())
	}
	if err != nil {
		return Packed{}, fmt.Errorf("pack the results: %w", err)
	}
	for _, f := range files {
		p.Bytes += f.Size
	}
	p.Content = content(files, entries)
	return p, nil
}

// content is the digest of files however they are packed: of a line for each, sorted by
// name, with the executable bit and the digest of the bytes. A name holds no line break.
func content(files []spare.File, entries []Entry) spare.Digest {
	sum := sha256.New()
	for i, f := range files {
		bit := "-"
		if entries[i].Exec {
			bit = "x"
		}
		_, _ = fmt.Fprintf(sum, "%s %s %s\n", bit, f.Digest, f.Name)
	}
	return spare.Digest(hex.EncodeToString(sum.Sum(nil)))
}

// writeTar writes the files in the order of entries.
func writeTar(ctx context.Context, root *os.Root, entries []Entry, w io.Writer) ([]spare.File, error) {
	tw := tar.NewWriter(w)
	files := make([]spare.File, 0, len(entries))
	for _, e := range entries {
		f, err := writeFile(ctx, root, e, tw)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, tw.Close()
}

func writeFile(ctx context.Context, root *os.Root, e Entry, tw *tar.Writer) (spare.File, error) {
	in, err := root.Open(e.Name)
	if err != nil {
		return spare.File{}, err
	}
	defer func() { _ = in.Close() }()
	mode := int64(0o644)
	if e.Exec {
		mode = 0o755
	}
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: e.Name, Size: e.Size, Mode: mode, ModTime: time.Unix(0, 0)}); err != nil {
		return spare.File{}, err
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(tw, sum), contextReader{ctx, in})
	if err != nil {
		return spare.File{}, err
	}
	if n != e.Size {
		return spare.File{}, fmt.Errorf("%s changed while it was packed: %d bytes became %d", e.Name, e.Size, n)
	}
	return spare.File{Name: e.Name, Digest: spare.Digest(hex.EncodeToString(sum.Sum(nil))), Size: n}, nil
}

const (
	sampleAll  = 1 << 20 // bytes tried
	sampleFile = 128 << 10
	gain       = 0.95 // of the sample must suffice, or compressing is not worth it
)

// shrinks tries a sample of the largest files, from their middle: headers at the start
// of media files compress well and say nothing of the rest.
func shrinks(root *os.Root, entries []Entry) bool {
	largest := slices.SortedStableFunc(slices.Values(entries), func(a, b Entry) int { return int(min(max(b.Size-a.Size, -1), 1)) })
	var sample []byte
	for _, e := range largest {
		if len(sample) >= sampleAll || e.Size == 0 {
			break
		}
		f, err := root.Open(e.Name)
		if err != nil {
			continue // packing it tells why
		}
		part := make([]byte, min(e.Size, sampleFile))
		n, _ := f.ReadAt(part, (e.Size-int64(len(part)))/2)
		sample = append(sample, part[:n]...)
		_ = f.Close()
	}
	if len(sample) == 0 {
		return false
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return false
	}
	defer func() { _ = z.Close() }()
	return float64(len(z.EncodeAll(sample, nil))) < gain*float64(len(sample))
}

// summed counts and hashes what passes.
type summed struct {
	w    io.Writer
	hash hash.Hash
	size int64
}

func (s *summed) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.size += int64(n)
	_, _ = s.hash.Write(p[:n])
	return n, err
}

func (s *summed) digest() spare.Digest { return spare.Digest(hex.EncodeToString(s.hash.Sum(nil))) }

// contextReader stops when ctx ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
