package protocol

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/protocol/pb"
)

// ServeBlob answers the stream whose first frame asks for a blob or offers one, and
// leaves the stream finished. The error is for the hub's log; the node was told.
func ServeBlob(ctx context.Context, st Stream, first *pb.Frame, store BlobStore, limits BlobLimits) (err error) {
	if limits.Stall <= 0 {
		limits.Stall = StallTimeout
	}
	if err := st.SetDeadline(time.Now().Add(limits.Stall)); err != nil {
		return err
	}
	defer watch(ctx, st)()
	v := &serving{st: st, store: store, limits: limits}
	switch body := first.GetBody().(type) {
	case *pb.Frame_BlobGet:
		v.op, v.digest = "get", spare.Digest(body.BlobGet.GetDigest())
		err = v.get(body.BlobGet.GetOffset())
	case *pb.Frame_BlobPut:
		v.op, v.digest = "put", spare.Digest(body.BlobPut.GetDigest())
		err = v.put(body.BlobPut.GetSize())
	default:
		st.Cancel(CodeMalformed)
		return fmt.Errorf("%w: %T does not begin a blob's stream", ErrFrameMalformed, body)
	}
	st.Cancel(CodeNone) // all that was to be sent is closed, or not wanted any more
	if err = because(ctx, err); err != nil {
		return fmt.Errorf("%s blob %.12q: %w", v.op, string(v.digest), err)
	}
	return nil
}

// serving is one blob's stream at the hub:
//
//	get: request → answer(size) → bytes → end
//	put: request → answer(offset) → bytes → end → commit → done
//
// An answer or a done with an error code ends it at once.
type serving struct {
	st     Stream
	op     string
	digest spare.Digest
	store  BlobStore
	limits BlobLimits
}

// refuse answers with err's code and returns err.
func (v *serving) refuse(err error) error {
	code, message := codeOf(err)
	return v.refuseAs(code, message, err)
}

func (v *serving) refuseAs(code BlobCode, message string, err error) error {
	return errors.Join(err, v.last(&pb.Frame{Body: &pb.Frame_BlobAnswer{
		BlobAnswer: &pb.BlobAnswer{ErrorCode: string(code), Error: message},
	}}))
}

// last sends the hub's last word on the stream.
func (v *serving) last(f *pb.Frame) error {
	if err := v.send(f); err != nil {
		return err
	}
	return v.st.CloseWrite()
}

func (v *serving) send(f *pb.Frame) error {
	if err := v.st.SetWriteDeadline(time.Now().Add(v.limits.Stall)); err != nil {
		return err
	}
	return WriteFrame(v.st, f)
}

func (v *serving) allow(get bool, size int64) error {
	if v.limits.Allow == nil {
		return nil
	}
	if err := v.limits.Allow(get, v.digest, size); err != nil {
		if errors.Is(err, ErrFull) || errors.Is(err, ErrTooLarge) || errors.Is(err, ErrNotFound) {
			return err
		}
		return fmt.Errorf("%w: %w", ErrDenied, err)
	}
	return nil
}

func (v *serving) get(from uint64) error {
	if !v.digest.Valid() {
		return v.refuseAs(BlobMalformed, "this is no digest", ErrFrameMalformed)
	}
	size, err := v.store.Stat(v.digest)
	if err == nil || errors.Is(err, ErrNotFound) {
		// Who may not have it does not learn whether it is here.
		if denied := v.allow(true, size); denied != nil {
			return v.refuse(denied)
		}
	}
	if err != nil {
		return v.refuse(err)
	}
	if from > uint64(size) {
		return v.refuseAs(BlobMalformed, fmt.Sprintf("the blob has %d bytes and ends before byte %d", size, from), ErrFrameMalformed)
	}
	r, size, err := v.store.Open(v.digest, int64(from))
	if err != nil {
		return v.refuse(err)
	}
	defer r.Close()
	v.st.SetPriority(blobPriority(size))
	if err := v.send(&pb.Frame{Body: &pb.Frame_BlobAnswer{BlobAnswer: &pb.BlobAnswer{Size: uint64(size), Offset: from}}}); err != nil {
		return err
	}
	buf := make([]byte, min(blobBlock, max(1, size-int64(from))))
	for at := int64(from); at < size; {
		block := buf[:min(int64(len(buf)), size-at)]
		if _, err := io.ReadFull(r, block); err != nil {
			v.st.Cancel(CodeStorage)
			return fmt.Errorf("read the stored blob at byte %d of %d: %w", at, size, unexpected(err))
		}
		if err := writeBlock(v.st, block, v.limits.Stall); err != nil {
			v.st.Cancel(CodeSlow)
			return fmt.Errorf("at byte %d of %d: %w", at, size, err)
		}
		at += int64(len(block))
	}
	return v.st.CloseWrite()
}

func (v *serving) put(announced uint64) error {
	size := int64(announced)
	switch {
	case !v.digest.Valid() || size < 0:
		return v.refuseAs(BlobMalformed, "this is no digest and size", ErrFrameMalformed)
	case size > v.limits.MaxBlob:
		return v.refuse(fmt.Errorf("%w: %d bytes, this hub takes at most %d", ErrTooLarge, size, v.limits.MaxBlob))
	}
	if err := v.allow(false, size); err != nil {
		return v.refuse(err)
	}
	w, err := v.begin(size)
	if err != nil {
		return v.refuse(err)
	}
	offset := size
	if w != nil {
		offset = w.Offset()
	}
	err = v.send(&pb.Frame{Body: &pb.Frame_BlobAnswer{BlobAnswer: &pb.BlobAnswer{Size: uint64(size), Offset: uint64(offset)}}})
	if err == nil {
		err = v.take(offset, size, w)
	}
	if w != nil {
		err = errors.Join(err, w.Close())
	}
	var gone *streamFailed
	if errors.As(err, &gone) {
		// The node hung up or was too slow: there is nobody to tell.
		v.st.Cancel(CodeSlow)
		return gone.err
	}
	last := new(pb.BlobDone)
	if err != nil {
		code, message := codeOf(err)
		last.ErrorCode, last.Error = string(code), message
	}
	return errors.Join(err, v.last(&pb.Frame{Body: &pb.Frame_BlobDone{BlobDone: last}}))
}

// begin finds out what of the blob is here. The writer is nil if all of it is. What
// came whole but was not committed, because the hub stopped in between, is committed
// now; if it is wrong it is thrown away, and the node begins anew.
func (v *serving) begin(size int64) (PartialWriter, error) {
	switch have, err := v.store.Stat(v.digest); {
	case err == nil && have == size:
		return nil, nil
	case err == nil:
		return nil, fmt.Errorf("%w: this blob has %d bytes, %d were announced", ErrMismatch, have, size)
	case !errors.Is(err, ErrNotFound):
		return nil, err
	}
	w, err := v.store.Partial(v.digest, size)
	if err != nil || w.Offset() < size {
		return w, err
	}
	err = errors.Join(w.Commit(), w.Close())
	if errors.Is(err, ErrMismatch) && size > 0 {
		if w, err = v.store.Partial(v.digest, size); err == nil && w.Offset() >= size {
			return nil, errors.Join(errors.New("the store kept wrong bytes"), w.Close())
		}
		return w, err
	}
	return nil, err
}

// A streamFailed is an error of the node's stream and not of the hub's store.
type streamFailed struct{ err error }

func (e *streamFailed) Error() string { return e.err.Error() }
func (e *streamFailed) Unwrap() error { return e.err }

// take reads what the node sends and commits it.
func (v *serving) take(offset, size int64, w PartialWriter) error {
	buf := make([]byte, min(blobBlock, max(1, size-offset)))
	for offset < size {
		block := buf[:min(int64(len(buf)), size-offset)]
		n, err := readBlock(v.st, block, v.limits.Stall)
		if n > 0 {
			if _, err := w.Write(block[:n]); err != nil {
				return fmt.Errorf("store byte %d of %d: %w", offset, size, err)
			}
		}
		offset += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%w: %d bytes were announced and %d came", ErrMismatch, size, offset)
		}
		if err != nil {
			return &streamFailed{fmt.Errorf("at byte %d of %d: %w", offset, size, err)}
		}
	}
	if err := v.st.SetReadDeadline(time.Now().Add(v.limits.Stall)); err != nil {
		return err
	}
	if err := ended(v.st); err != nil {
		if errors.Is(err, ErrMismatch) {
			return err
		}
		return &streamFailed{err}
	}
	if w == nil {
		return nil
	}
	return w.Commit()
}
