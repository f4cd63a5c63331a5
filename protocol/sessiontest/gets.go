package sessiontest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/protocol/pb"
)

const maxBlob = 64 << 20

var limits = protocol.BlobLimits{MaxBlob: maxBlob}

func runGets(t *testing.T, open Open) {
	t.Run("WholeAndFromAnyOffset", func(t *testing.T) {
		p, store := open(t), NewStore(t)
		Serve(t, p.Hub, store, limits, nil)
		for _, size := range []int{0, 1, 65535, 65536, 65537, 300_000} {
			content := Bytes(uint64(size), size)
			d := store.Add(t, content)
			for _, offset := range []int{0, 1, 65536, size - 1, size} {
				if offset < 0 || offset > size {
					continue
				}
				var got bytes.Buffer
				n, err := protocol.GetBlob(within(t), p.Node, d, int64(offset), &got)
				must(t, err)
				if n != int64(size) {
					t.Fatalf("size %d, want %d", n, size)
				}
				checkBytes(t, got.Bytes(), content[offset:])
			}
		}
	})
	t.Run("MissingIsNotFound", func(t *testing.T) {
		p := open(t)
		Serve(t, p.Hub, NewStore(t), limits, nil)
		_, err := protocol.GetBlob(within(t), p.Node, spare.Sum([]byte("none")), 0, io.Discard)
		checkRefused(t, err, protocol.BlobNotFound, protocol.ErrNotFound)
	})
	t.Run("OffsetBehindTheEndIsRefused", func(t *testing.T) {
		p, store := open(t), NewStore(t)
		Serve(t, p.Hub, store, limits, nil)
		_, err := protocol.GetBlob(within(t), p.Node, store.Add(t, []byte("four")), 5, io.Discard)
		checkRefused(t, err, protocol.BlobMalformed, nil)
	})
	t.Run("WhoMayNotLearnsNothing", func(t *testing.T) {
		p, store := open(t), NewStore(t)
		l := limits
		l.Allow = func(get bool, _ spare.Digest, _ int64) error { return errors.New("no lease names it") }
		Serve(t, p.Hub, store, l, nil)
		_, here := protocol.GetBlob(within(t), p.Node, store.Add(t, []byte("secret")), 0, io.Discard)
		_, gone := protocol.GetBlob(within(t), p.Node, spare.Sum([]byte("none")), 0, io.Discard)
		checkRefused(t, here, protocol.BlobDenied, protocol.ErrDenied)
		checkRefused(t, gone, protocol.BlobDenied, protocol.ErrDenied)
	})
}

func runGetFailures(t *testing.T, open Open) {
	t.Run("WrongBytesAreFoundOut", func(t *testing.T) {
		p, store := open(t), NewStore(t)
		Serve(t, p.Hub, store, limits, nil)
		d := spare.Sum([]byte("right"))
		store.AddAs(t, d, []byte("wrong"))
		_, err := protocol.GetBlob(within(t), p.Node, d, 0, io.Discard)
		if !errors.Is(err, protocol.ErrMismatch) {
			t.Fatalf("GetBlob = %v, want ErrMismatch", err)
		}
	})
	t.Run("OtherSizeThanAskedForMovesNothing", func(t *testing.T) {
		p, store := open(t), NewStore(t)
		Serve(t, p.Hub, store, limits, nil)
		d := store.Add(t, Bytes(1, 100_000))
		var got bytes.Buffer
		err := protocol.GetBlobOf(within(t), p.Node, d, 99_999, 0, &got)
		if !errors.Is(err, protocol.ErrMismatch) || got.Len() > 0 {
			t.Fatalf("GetBlobOf = %v with %d bytes, want ErrMismatch and none", err, got.Len())
		}
		must(t, protocol.GetBlobOf(within(t), p.Node, d, 100_000, 0, &got))
	})
	t.Run("HubThatLiesAboutTheSize", func(t *testing.T) { lyingHub(t, open) })
	t.Run("WriterThatFailsEndsIt", func(t *testing.T) {
		p, store := open(t), NewStore(t)
		Serve(t, p.Hub, store, limits, nil)
		full := errors.New("no space left")
		_, err := protocol.GetBlob(within(t), p.Node, store.Add(t, Bytes(1, 5<<20)), 0, failing{full})
		if !errors.Is(err, full) {
			t.Fatalf("GetBlob = %v, want the writer's error", err)
		}
		// The session goes on.
		_, err = protocol.GetBlob(within(t), p.Node, store.Add(t, []byte("next")), 0, io.Discard)
		must(t, err)
	})
	t.Run("ContextEndsIt", func(t *testing.T) {
		p, store := open(t), NewStore(t)
		Serve(t, p.Hub, store, limits, nil)
		why := errors.New("not wanted any more")
		ctx, cancel := context.WithCancelCause(t.Context())
		_, err := protocol.GetBlob(ctx, p.Node, store.Add(t, Bytes(1, 5<<20)), 0, after{func() { cancel(why) }})
		if !errors.Is(err, why) {
			t.Fatalf("GetBlob = %v, want the context's cause", err)
		}
	})
	t.Run("ManyAtOnce", func(t *testing.T) { transfers(t, open(t), NewStore(t)) })
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// after runs a function at each write.
type after struct{ run func() }

func (a after) Write(b []byte) (int, error) { a.run(); return len(b), nil }

func checkRefused(t *testing.T, err error, code protocol.BlobCode, target error) {
	t.Helper()
	var refused *protocol.BlobError
	if !errors.As(err, &refused) || refused.Code != code || refused.Message == "" {
		t.Fatalf("got %v, want the hub's refusal %s", err, code)
	}
	if target != nil && !errors.Is(err, target) {
		t.Fatalf("%v does not match %v", err, target)
	}
}

// lyingHub answers with a size and sends fewer or more bytes.
func lyingHub(t *testing.T, open Open) {
	for _, more := range []int{-1, 1} {
		p := open(t)
		content := Bytes(9, 100_000)
		go func() {
			_ = protocol.ServeStreams(within(t), p.Hub, func(_ context.Context, st protocol.Stream, _ *pb.Frame) {
				size := uint64(len(content) - more)
				_ = protocol.WriteFrame(st, &pb.Frame{Body: &pb.Frame_BlobAnswer{BlobAnswer: &pb.BlobAnswer{Size: size}}})
				_ = writeAll(st, content)
			})
		}()
		var got bytes.Buffer
		_, err := protocol.GetBlob(within(t), p.Node, spare.Sum(content), 0, &got)
		want := protocol.ErrMismatch
		if more < 0 {
			want = io.ErrUnexpectedEOF
		}
		if !errors.Is(err, want) {
			t.Fatalf("%+d bytes: GetBlob = %v, want %v", more, err, want)
		}
		if got.Len() > len(content)-more {
			t.Fatalf("%d bytes were written, %d were announced", got.Len(), len(content)-more)
		}
	}
}

// transfers moves blobs up and down at the same time.
func transfers(t *testing.T, p Pair, store *Store) {
	Serve(t, p.Hub, store, limits, nil)
	const each = 12
	move := func(n int) error {
		content := Bytes(uint64(n), 100_000+n*7919)
		d := spare.Sum(content)
		err := protocol.PutBlob(within(t), p.Node, d, int64(len(content)), from(content))
		if err != nil {
			return err
		}
		var got bytes.Buffer
		if _, err := protocol.GetBlob(within(t), p.Node, d, 0, &got); err != nil {
			return err
		}
		if !bytes.Equal(got.Bytes(), content) {
			return fmt.Errorf("blob %d came back as other bytes", n)
		}
		return nil
	}
	var wg sync.WaitGroup
	for n := range each {
		wg.Go(func() {
			if err := move(n); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// from opens content at an offset, as PutBlob asks.
func from(content []byte) func(int64) (io.ReadCloser, error) {
	return func(offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content[offset:])), nil
	}
}
