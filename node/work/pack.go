package work

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/bundle"
	"github.com/spare-compute/spare/node/cache"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/protocol/pb"
	"github.com/spare-compute/spare/stage"
)

// pack is a result packed in the scratch folder. Whoever keeps it moves the file away.
type pack struct{ path, dir string }

// discard removes the scratch folder.
func (p *pack) discard() {
	if p != nil {
		_ = cache.RemoveAll(p.dir)
	}
}

// pack packs what a successful run made and completes its report. Small results go
// into the report itself. The scratch folder is gone afterwards, or is in the pack.
func (a *attempt) pack(run stage.Ended, ended *pb.Ended, dir string) (_ *pack, err error) {
	keep := false
	defer func() {
		if !keep {
			_ = cache.RemoveAll(dir)
		}
	}()
	if run.Outcome != spare.Succeeded {
		return nil, nil
	}
	p, packed, blob, err := packFolder(a.ctx, run.Results, dir)
	if err != nil {
		return nil, fmt.Errorf("pack the result: %w", err)
	}
	blob.Name = "result"
	ended.Result, ended.Content = blob, string(packed.Content)
	ended.Files, ended.Bytes = uint32(packed.Files), uint64(packed.Bytes)
	keep = true
	return p, nil
}

// packFolder packs a folder into a file of the scratch folder. What is small is in the
// blob too.
func packFolder(ctx context.Context, folder, scratch string) (*pack, bundle.Packed, *pb.Blob, error) {
	p := &pack{path: filepath.Join(scratch, "packed"), dir: scratch}
	f, err := os.OpenFile(p.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, bundle.Packed{}, nil, err
	}
	defer func() { _ = f.Close() }()
	sum, size := sha256.New(), counter(0)
	buf := bufio.NewWriterSize(io.MultiWriter(f, sum, &size), 256<<10)
	packed, err := bundle.PackResult(ctx, folder, buf)
	if err := errors.Join(err, buf.Flush(), f.Sync()); err != nil {
		return nil, packed, nil, err
	}
	blob := &pb.Blob{Digest: hex.EncodeToString(sum.Sum(nil)), Size: uint64(size)}
	if size <= protocol.InlineLimit {
		blob.Inline = make([]byte, size)
		if _, err := f.ReadAt(blob.Inline, 0); err != nil {
			return nil, packed, nil, err
		}
	}
	return p, packed, blob, nil
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
