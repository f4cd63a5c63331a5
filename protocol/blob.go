package protocol

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
	"time"

	"github.com/spare-compute/spare"
)

// A BlobCode says in an answer why a blob is not moved.
type BlobCode string

// The codes.
const (
	BlobNotFound  BlobCode = "not_found" // the hub has no such blob
	BlobTooLarge  BlobCode = "too_large" // more than the hub takes
	BlobFull      BlobCode = "full"      // the hub's disk is full
	BlobDenied    BlobCode = "denied"    // this node may not
	BlobMismatch  BlobCode = "mismatch"  // the bytes are not what digest and size promise
	BlobMalformed BlobCode = "malformed" // the request makes no sense
	BlobFault     BlobCode = "fault"     // the hub failed; its log says how
)

// Errors that both a BlobStore returns and a *BlobError matches.
var (
	ErrNotFound = fs.ErrNotExist
	ErrFull     = errors.New("the disk is full")
	ErrMismatch = errors.New("the content is not what its digest and size promise")
	ErrTooLarge = errors.New("the blob is too large")
	ErrDenied   = errors.New("not allowed")
)

var codeErrors = map[BlobCode]error{
	BlobNotFound: ErrNotFound, BlobFull: ErrFull, BlobMismatch: ErrMismatch,
	BlobTooLarge: ErrTooLarge, BlobDenied: ErrDenied,
}

// A BlobError is the hub's reason for not moving a blob. It matches the error that
// stands for its code, as in errors.Is(err, ErrFull).
type BlobError struct {
	Op      string // "get" or "put"
	Digest  spare.Digest
	Code    BlobCode
	Message string
}

func (e *BlobError) Error() string {
	return fmt.Sprintf("%s blob %s: the hub says: %s (%s)", e.Op, e.Digest.Short(), e.Message, e.Code)
}

// Is matches the error that stands for the code.
func (e *BlobError) Is(target error) bool {
	err := codeErrors[e.Code]
	return err != nil && errors.Is(err, target)
}

// A BlobStore is what serving blobs needs. It is safe for concurrent use.
type BlobStore interface {
	// Stat is the size of a stored blob, or an error that matches ErrNotFound.
	Stat(d spare.Digest) (size int64, err error)
	// Open reads a stored blob from an offset of at most its size.
	Open(d spare.Digest, offset int64) (r io.ReadCloser, size int64, err error)
	// Partial begins a blob of known digest and size, or goes on with one. Where
	// there is no room it returns an error that matches ErrFull.
	Partial(d spare.Digest, size int64) (PartialWriter, error)
}

// A PartialWriter takes the bytes of one blob from Offset on.
type PartialWriter interface {
	io.Writer
	// Offset is how many bytes are here already.
	Offset() int64
	// Commit checks the digest over all bytes and stores the blob: durable and
	// visible when it returns, or not at all. If they are the wrong bytes it throws
	// them away and returns an error that matches ErrMismatch.
	Commit() error
	// Close keeps what came, if it was not committed, for the next Partial.
	Close() error
}

// BlobLimits bound what one stream may ask.
type BlobLimits struct {
	// MaxBlob is the size in bytes of the largest blob taken. 0 takes none.
	MaxBlob int64
	// Allow, if set, says whether this node may get or put this blob.
	Allow func(get bool, digest spare.Digest, size int64) error
	// Stall is how long the peer may take over 64 KiB. Default StallTimeout.
	Stall time.Duration
}

const (
	// StallTimeout is how long either end may take over 64 KiB of a blob, or over
	// its answer, before the other gives up.
	StallTimeout = 30 * time.Second
	// commitTimeout is how long the hub may take to make a blob durable.
	commitTimeout = 5 * time.Minute
	// blobBlock is the unit of copying, in bytes.
	blobBlock = 64 << 10
)

// codeOf finds the code and the sentence for a store's error. What went wrong inside
// the hub is not for every node to read.
func codeOf(err error) (BlobCode, string) {
	switch {
	case errors.Is(err, ErrNotFound):
		return BlobNotFound, "there is no such blob; it may have been removed with its job"
	case errors.Is(err, ErrFull), errors.Is(err, syscall.ENOSPC):
		return BlobFull, "the hub's disk is full; its operator must free space"
	case errors.Is(err, ErrMismatch):
		return BlobMismatch, "the bytes are not those that digest and size promise; nothing was stored"
	case errors.Is(err, ErrTooLarge):
		return BlobTooLarge, err.Error()
	case errors.Is(err, ErrDenied):
		return BlobDenied, err.Error()
	}
	return BlobFault, "the hub could not read or write the blob; its log says why"
}

// watch cancels st when ctx ends. The function it returns ends the watch.
func watch(ctx context.Context, st Stream) (stop func() bool) {
	return context.AfterFunc(ctx, func() { st.Cancel(CodeAborted) })
}

// because is the error to return: if ctx has ended, that is the cause of all others.
func because(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
