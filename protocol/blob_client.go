package protocol

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/protocol/pb"
)

// GetBlob writes to w the bytes of a blob from offset on and returns the whole blob's
// size. From offset 0 it checks the digest as well and returns an error that matches
// ErrMismatch if w was given other bytes; after a resumed transfer the caller, who has
// the beginning, must. A *BlobError is the hub's refusal; any other failure may be
// tried again from where w ended.
func GetBlob(ctx context.Context, s Session, digest spare.Digest, offset int64, w io.Writer) (size int64, err error) {
	return getBlob(ctx, s, digest, -1, offset, w)
}

// GetBlobOf is GetBlob for a blob whose size is known: if the hub announces another,
// nothing is written.
func GetBlobOf(ctx context.Context, s Session, digest spare.Digest, size, offset int64, w io.Writer) error {
	if size < 0 {
		return fmt.Errorf("get blob %s: %d is no size", digest.Short(), size)
	}
	_, err := getBlob(ctx, s, digest, size, offset, w)
	return err
}

func getBlob(ctx context.Context, s Session, digest spare.Digest, want, offset int64, w io.Writer) (size int64, err error) {
	if !digest.Valid() || offset < 0 {
		return 0, fmt.Errorf("get blob %.80q from %d: not a digest and an offset", string(digest), offset)
	}
	defer func() {
		if err = because(ctx, err); err != nil {
			var refused *BlobError
			if !errors.As(err, &refused) {
				err = fmt.Errorf("get blob %s: %w", digest.Short(), err)
			}
		}
	}()
	st, err := s.OpenStream(ctx)
	if err != nil {
		return 0, err
	}
	defer st.Cancel(CodeNone)
	defer watch(ctx, st)()
	if err := ask(st, &pb.Frame{Body: &pb.Frame_BlobGet{BlobGet: &pb.BlobGet{Digest: string(digest), Offset: uint64(offset)}}}); err != nil {
		return 0, err
	}
	if err := st.CloseWrite(); err != nil {
		return 0, err
	}
	size, start, err := answer(st, "get", digest)
	if err != nil {
		return 0, err
	}
	if start != offset || start > size || (want >= 0 && size != want) {
		st.Cancel(CodeMalformed)
		return 0, fmt.Errorf("the hub offers %d bytes from %d, %d from %d were asked for: %w", size, start, want, offset, ErrMismatch)
	}
	return size, receive(ctx, st, digest, offset, size, w)
}

// ask writes the first frame of a stream.
func ask(st Stream, f *pb.Frame) error {
	st.SetPriority(PrioritySmall)
	if err := st.SetDeadline(time.Now().Add(StallTimeout)); err != nil {
		return err
	}
	return WriteFrame(st, f)
}

// answer reads the hub's answer to it.
func answer(st Stream, op string, digest spare.Digest) (size, offset int64, err error) {
	f, err := ReadFrame(st, MaxFirstFrame)
	if err != nil {
		return 0, 0, unexpected(err)
	}
	a := f.GetBlobAnswer()
	if a == nil {
		return 0, 0, fmt.Errorf("%w: want the answer to a blob request, got %T", ErrFrameMalformed, f.GetBody())
	}
	if a.ErrorCode != "" {
		return 0, 0, blobError(op, digest, a.ErrorCode, a.Error)
	}
	size, offset = int64(a.Size), int64(a.Offset)
	if size < 0 || offset < 0 {
		return 0, 0, fmt.Errorf("%w: the hub says the blob has %d bytes", ErrFrameMalformed, a.Size)
	}
	return size, offset, nil
}

func blobError(op string, digest spare.Digest, code, message string) error {
	return &BlobError{Op: op, Digest: digest, Code: BlobCode(printable(code, 32)), Message: printable(message, 512)}
}

// unexpected makes an end of the stream an error wherever it is not due.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// receive copies a blob's bytes, from offset to size and not one more, to w.
func receive(ctx context.Context, st Stream, digest spare.Digest, offset, size int64, w io.Writer) error {
	var sum hash.Hash
	if offset == 0 {
		sum = sha256.New()
	}
	buf := make([]byte, min(blobBlock, max(1, size-offset)))
	for offset < size {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		block := buf[:min(int64(len(buf)), size-offset)]
		n, err := readBlock(st, block, StallTimeout)
		if sum != nil {
			sum.Write(block[:n])
		}
		if n > 0 {
			if _, err := w.Write(block[:n]); err != nil {
				st.Cancel(CodeStorage)
				return fmt.Errorf("keep the bytes: %w", err)
			}
		}
		offset += int64(n)
		if err != nil {
			return fmt.Errorf("at byte %d of %d: %w", offset, size, unexpected(err))
		}
	}
	if err := ended(st); err != nil {
		st.Cancel(CodeMalformed)
		return err
	}
	if sum != nil && hex.EncodeToString(sum.Sum(nil)) != string(digest) {
		return ErrMismatch
	}
	return nil
}

// readBlock fills block within the time one block may take, so that a byte now and
// then does not keep a transfer alive.
func readBlock(st Stream, block []byte, stall time.Duration) (int, error) {
	if err := st.SetReadDeadline(time.Now().Add(stall)); err != nil {
		return 0, err
	}
	return io.ReadFull(st, block)
}

// ended wants nothing more on the stream.
func ended(st Stream) error {
	var one [1]byte
	switch n, err := st.Read(one[:]); {
	case n > 0:
		return fmt.Errorf("more bytes came than were announced: %w", ErrMismatch)
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	}
	return nil
}

// PutBlob gives the hub a blob. The hub may have part or all of it; open is called,
// unless all is there, with the offset to read from. A *BlobError is the hub's
// refusal; after any other failure PutBlob may be called again and goes on where the
// hub's copy ends.
func PutBlob(ctx context.Context, s Session, digest spare.Digest, size int64, open func(offset int64) (io.ReadCloser, error)) (err error) {
	if !digest.Valid() || size < 0 {
		return fmt.Errorf("put blob %.80q of %d bytes: not a digest and a size", string(digest), size)
	}
	defer func() {
		if err = because(ctx, err); err != nil {
			var refused *BlobError
			if !errors.As(err, &refused) {
				err = fmt.Errorf("put blob %s: %w", digest.Short(), err)
			}
		}
	}()
	st, err := s.OpenStream(ctx)
	if err != nil {
		return err
	}
	defer st.Cancel(CodeNone)
	defer watch(ctx, st)()
	if err := ask(st, &pb.Frame{Body: &pb.Frame_BlobPut{BlobPut: &pb.BlobPut{Digest: string(digest), Size: uint64(size)}}}); err != nil {
		return err
	}
	// The hub may first have to read what it has of the blob.
	if err := st.SetReadDeadline(time.Now().Add(commitTimeout)); err != nil {
		return err
	}
	total, offset, err := answer(st, "put", digest)
	if err != nil {
		return err
	}
	if total != size || offset > size {
		st.Cancel(CodeMalformed)
		return fmt.Errorf("%w: the hub has %d of %d bytes of a blob of %d", ErrFrameMalformed, offset, total, size)
	}
	sendErr := send(ctx, st, offset, size, open)
	var source *sourceError
	switch {
	case errors.As(sendErr, &source):
		st.Cancel(CodeStorage)
		return sendErr
	case sendErr != nil && ctx.Err() != nil:
		st.Cancel(CodeAborted)
		return sendErr
	}
	// When the hub stops reading, its last word says why.
	return done(st, digest, sendErr)
}

// A sourceError says that the bytes to send could not be read here.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return "read the bytes to send: " + e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// send writes a blob's bytes from offset to size.
func send(ctx context.Context, st Stream, offset, size int64, open func(int64) (io.ReadCloser, error)) error {
	st.SetPriority(blobPriority(size))
	if offset < size {
		r, err := open(offset)
		if err != nil {
			return &sourceError{err}
		}
		defer r.Close()
		buf := make([]byte, min(blobBlock, size-offset))
		for offset < size {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			block := buf[:min(int64(len(buf)), size-offset)]
			if _, err := io.ReadFull(r, block); err != nil {
				return &sourceError{fmt.Errorf("at byte %d of %d: %w", offset, size, unexpected(err))}
			}
			if err := writeBlock(st, block, StallTimeout); err != nil {
				return err
			}
			offset += int64(len(block))
		}
	}
	return st.CloseWrite()
}

func writeBlock(st Stream, block []byte, stall time.Duration) error {
	if err := st.SetWriteDeadline(time.Now().Add(stall)); err != nil {
		return err
	}
	_, err := st.Write(block)
	return err
}

// done reads how the put ended. sendErr is what sending came to.
func done(st Stream, digest spare.Digest, sendErr error) error {
	wait := commitTimeout
	if sendErr != nil {
		wait = StallTimeout
	}
	if err := st.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	f, err := ReadFrame(st, MaxFirstFrame)
	switch d := f.GetBlobDone(); {
	case err != nil && sendErr != nil:
		return sendErr
	case err != nil:
		return unexpected(err)
	case d == nil:
		return fmt.Errorf("%w: want the end of a put, got %T", ErrFrameMalformed, f.GetBody())
	case d.ErrorCode != "":
		return blobError("put", digest, d.ErrorCode, d.Error)
	}
	return sendErr
}
