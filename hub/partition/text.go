package partition

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

const (
	zstdWindow  = 128 << 20 // bytes; zstd's own tools stop there too unless told otherwise
	bombBytes   = 1 << 30   // unpacked bytes from which on the ratio is looked at
	bombRatio   = 1000      // text packs 3 to 30 times, logs of one line 100 times
	maxUnpacked = 1 << 42
)

// errBomb says that a packed input expands beyond reason.
var errBomb = errors.New("it unpacks to more than 1000 times its size")

// openText opens an input file and unpacks it if its first bytes say gzip or zstd.
func (in Input) openText(name string) (io.ReadCloser, error) {
	f, err := in.open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open input %q: %w", name, err)
	}
	r := bufio.NewReaderSize(f, lineBuffer)
	magic, err := r.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		f.Close()
		return nil, fmt.Errorf("read input %q: %w", name, err)
	}
	t := &text{file: f, r: r, packed: max(info.Size(), 1)}
	switch {
	case len(magic) >= 2 && magic[0] == 0x1f && magic[1] == 0x8b:
		z, err := gzip.NewReader(r)
		if err != nil {
			f.Close()
			return nil, textFault(name, err)
		}
		t.r, t.unpacks = z, true
	case string(magic) == "\x28\xb5\x2f\xfd":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			f.Close()
			return nil, textFault(name, err)
		}
		t.r, t.unpacks, t.close = z, true, z.Close
	}
	return t, nil
}

// text is an input being read, unpacked where needed.
type text struct {
	file    *os.File
	r       io.Reader
	close   func()
	unpacks bool
	packed  int64
	read    int64
}

func (t *text) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.read += int64(n)
	if t.unpacks && (t.read > maxUnpacked || (t.read > bombBytes && t.read/t.packed > bombRatio)) {
		return n, errBomb
	}
	return n, err
}

func (t *text) Close() error {
	if t.close != nil {
		t.close()
	}
	return t.file.Close()
}

// textFault turns an unpacking error into a sentence for the submitter.
func textFault(name string, err error) error {
	var path *os.PathError
	switch {
	case errors.As(err, &path):
		return fmt.Errorf("read input %q: %w", name, err)
	case errors.Is(err, errBomb):
		return refuse("input %q: %v; unpack it and submit the plain file", name, err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return refuse("input %q is cut off in the middle: its packed data end too early; make or upload it again", name)
	}
	return refuse("input %q cannot be unpacked (%v); make or upload it again", name, err)
}
