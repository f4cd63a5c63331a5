package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/protocol"
)

// How often a transfer may fail without the connection being the cause. A finished result
// is kept and offered until the hub has it or says that it may be dropped, whatever keeps
// the hub from taking it: its disk may be full until somebody comes to work.
const (
	getTries = 5
	putTries = 0 // as often as it takes
)

// Get writes a blob's bytes from offset on. While the hub cannot be reached it waits;
// a broken transfer goes on at the byte where it stopped.
func (l *Link) Get(ctx context.Context, d spare.Digest, offset int64, w io.Writer) error {
	progress := &advance{w: w, offset: offset}
	return l.persist(ctx, getTries, func(s protocol.Session) error {
		_, err := protocol.GetBlob(ctx, s, d, progress.offset, progress)
		if progress.err != nil {
			return &final{progress.err} // our disk, not the line
		}
		return err
	})
}

// Put hands a blob over. While the hub cannot be reached, or cannot take it, it waits;
// the hub says from which byte to go on. Only what the hub will never take is an error.
func (l *Link) Put(ctx context.Context, d spare.Digest, size int64, open func(int64) (io.ReadCloser, error)) error {
	return l.persist(ctx, putTries, func(s protocol.Session) error {
		var failed error
		err := protocol.PutBlob(ctx, s, d, size, func(offset int64) (io.ReadCloser, error) {
			r, err := open(offset)
			failed = err
			return r, err
		})
		if failed != nil {
			return &final{failed}
		}
		return err
	})
}

// final is an error that trying again does not cure.
type final struct{ error }

func (f *final) Unwrap() error { return f.error }

// persist does something with the hub until it succeeds, cannot, or ctx ends. A lost
// connection does not count as a try: the work waits for the hub. No tries is no limit.
func (l *Link) persist(ctx context.Context, tries int, do func(protocol.Session) error) error {
	delay := firstDelay
	for n := 1; ; {
		s, err := l.current(ctx)
		if err != nil {
			return err
		}
		err = do(s)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var f *final
		if errors.As(err, &f) {
			return f.error
		}
		if permanent(err) {
			return err
		}
		gone := false
		select {
		case <-s.Done():
			gone = true
		default:
		}
		if !gone {
			if n++; tries > 0 && n > tries {
				return fmt.Errorf("after %d tries: %w", tries, err)
			}
		}
		delay = min(2*delay, mostDelay)
		select {
		case <-time.After(time.Duration(mathrand.Int64N(int64(delay)))):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// permanent reports whether the hub will say the same again.
func permanent(err error) bool {
	for _, e := range []error{protocol.ErrNotFound, protocol.ErrDenied, protocol.ErrTooLarge, protocol.ErrMismatch} {
		if errors.Is(err, e) {
			return true
		}
	}
	var said *protocol.BlobError
	return errors.As(err, &said) && said.Code == protocol.BlobMalformed
}

// advance counts what was written, so that the next try asks for the rest.
type advance struct {
	w      io.Writer
	offset int64
	err    error
}

func (a *advance) Write(p []byte) (int, error) {
	n, err := a.w.Write(p)
	a.offset += int64(n)
	a.err = err
	return n, err
}
