package sessiontest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/protocol/pb"
)

func runPuts(t *testing.T, open Open) {
	t.Run("StoredWhenItReturns", func(t *testing.T) {
		p, store := open(t), NewStore(t)
		Serve(t, p.Hub, store, limits, nil)
		for _, size := range []int{0, 1, 65536, 65537, 3_000_000} {
			content := Bytes(uint64(size), size)
			d := spare.Sum(content)
			must(t, protocol.PutBlob(within(t), p.Node, d, int64(size), from(content)))
			if got := store.Content(t, d); got == nil || !bytes.Equal(got, content) {
				t.Fatalf("a blob of %d bytes is stored as %d", size, len(got))
			}
		}
	})
	t.Run("WhatIsThereIsNotSentAgain", func(t *testing.T) {
		p, store := open(t), NewStore(t)
		Serve(t, p.Hub, store, limits, nil)
		content := Bytes(1, 100_000)
		d := store.Add(t, content)
		must(t, protocol.PutBlob(within(t), p.Node, d, int64(len(content)), func(int64) (io.ReadCloser, error) {
			return nil, errors.New("the bytes were asked for")
		}))
	})
	t.Run("WrongBytesStoreNothing", func(t *testing.T) {
		p, store := open(t), NewStore(t)
		Serve(t, p.Hub, store, limits, nil)
		content := Bytes(1, 200_000)
		d := spare.Sum(content)
		wrong := bytes.Clone(content)
		wrong[150_000] ^= 1
		err := protocol.PutBlob(within(t), p.Node, d, int64(len(content)), from(wrong))
		checkRefused(t, err, protocol.BlobMismatch, protocol.ErrMismatch)
		if store.Content(t, d) != nil {
			t.Fatal("wrong bytes were stored")
		}
		// They do not stand in the way of the right ones.
		must(t, protocol.PutBlob(within(t), p.Node, d, int64(len(content)), from(content)))
		checkBytes(t, store.Content(t, d), content)
	})
}

func runPutLies(t *testing.T, open Open) {
	t.Run("MoreThanDeclaredIsRefused", func(t *testing.T) {
		p, store := open(t), NewStore(t)
		Serve(t, p.Hub, store, limits, nil)
		content := Bytes(1, 100_000)
		checkRefusedRaw(t, p, store, content, int64(len(content))-1, protocol.BlobMismatch)
	})
	t.Run("LessThanDeclaredIsRefused", func(t *testing.T) {
		p, store := open(t), NewStore(t)
		Serve(t, p.Hub, store, limits, nil)
		content := Bytes(1, 100_000)
		checkRefusedRaw(t, p, store, content, int64(len(content))+1, protocol.BlobMismatch)
	})
	t.Run("BeyondTheLimitIsRefusedBeforeAnyByte", func(t *testing.T) {
		p, store := open(t), NewStore(t)
		Serve(t, p.Hub, store, protocol.BlobLimits{MaxBlob: 999}, nil)
		content := Bytes(1, 1000)
		err := protocol.PutBlob(within(t), p.Node, spare.Sum(content), 1000, func(int64) (io.ReadCloser, error) {
			t.Error("the bytes were asked for")
			return nil, errors.New("no")
		})
		checkRefused(t, err, protocol.BlobTooLarge, protocol.ErrTooLarge)
		if !strings.Contains(err.Error(), "999") || store.Partials() != 0 {
			t.Fatalf("%v; the store was asked %d times", err, store.Partials())
		}
		must(t, protocol.PutBlob(within(t), p.Node, spare.Sum(content[1:]), 999, from(content[1:])))
	})
	t.Run("AbsurdSizeIsRefused", func(t *testing.T) {
		p, store := open(t), NewStore(t)
		Serve(t, p.Hub, store, limits, nil)
		st, a := rawPut(t, p, spare.Sum([]byte("x")), 1<<63)
		st.Cancel(protocol.CodeNone)
		if a.ErrorCode != string(protocol.BlobMalformed) {
			t.Fatalf("the hub answers %v", a)
		}
	})
}

func runPutFailures(t *testing.T, open Open) {
	t.Run("WhoMayNotIsTold", func(t *testing.T) {
		p, store := open(t), NewStore(t)
		l := limits
		l.Allow = func(bool, spare.Digest, int64) error { return errors.New("no lease expects it") }
		Serve(t, p.Hub, store, l, nil)
		err := protocol.PutBlob(within(t), p.Node, spare.Sum([]byte("x")), 1, from([]byte("x")))
		checkRefused(t, err, protocol.BlobDenied, protocol.ErrDenied)
		if !strings.Contains(err.Error(), "no lease expects it") || store.Partials() != 0 {
			t.Fatalf("%v; the store was asked %d times", err, store.Partials())
		}
	})
	t.Run("FullAtOnceOrOnTheWay", func(t *testing.T) { fullStore(t, open(t), NewStore(t)) })
	t.Run("SourceThatFailsStoresNothing", func(t *testing.T) {
		p, store := open(t), NewStore(t)
		Serve(t, p.Hub, store, limits, nil)
		content := Bytes(1, 500_000)
		d := spare.Sum(content)
		err := protocol.PutBlob(within(t), p.Node, d, int64(len(content)), from(content[:300_000]))
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("PutBlob = %v, want the source's end", err)
		}
		if store.Content(t, d) != nil {
			t.Fatal("half a blob was stored")
		}
	})
	t.Run("ContextEndsIt", func(t *testing.T) {
		p, store := open(t), NewStore(t)
		Serve(t, p.Hub, store, limits, nil)
		content := Bytes(1, 5<<20)
		why := errors.New("not wanted any more")
		ctx, cancel := context.WithCancelCause(t.Context())
		err := protocol.PutBlob(ctx, p.Node, spare.Sum(content), int64(len(content)), func(int64) (io.ReadCloser, error) {
			return io.NopCloser(io.TeeReader(bytes.NewReader(content), after{func() { cancel(why) }})), nil
		})
		if !errors.Is(err, why) {
			t.Fatalf("PutBlob = %v, want the context's cause", err)
		}
	})
}

// rawPut offers a blob by hand and returns the stream and the hub's answer.
func rawPut(t *testing.T, p Pair, d spare.Digest, size uint64) (protocol.Stream, *pb.BlobAnswer) {
	t.Helper()
	st, err := p.Node.OpenStream(within(t))
	must(t, err)
	must(t, protocol.WriteFrame(st, &pb.Frame{Body: &pb.Frame_BlobPut{BlobPut: &pb.BlobPut{Digest: string(d), Size: size}}}))
	f, err := protocol.ReadFrame(st, protocol.MaxFrame)
	must(t, err)
	return st, f.GetBlobAnswer()
}

// checkRefusedRaw declares one size and sends another.
func checkRefusedRaw(t *testing.T, p Pair, store *Store, content []byte, declared int64, code protocol.BlobCode) {
	t.Helper()
	d := spare.Sum(content)
	st, a := rawPut(t, p, d, uint64(declared))
	if a.GetErrorCode() != "" {
		t.Fatalf("the hub answers %v", a)
	}
	_ = writeAll(st, content) // it may stop reading before the end
	f, err := protocol.ReadFrame(st, protocol.MaxFrame)
	must(t, err)
	if got := f.GetBlobDone().GetErrorCode(); got != string(code) {
		t.Fatalf("the hub ends with %q, want %q", got, code)
	}
	for _, stored := range []spare.Digest{d, spare.Sum(content[:min(len(content), int(declared))])} {
		if store.Content(t, stored) != nil {
			t.Fatal("something was stored")
		}
	}
	st.Cancel(protocol.CodeNone)
}

func fullStore(t *testing.T, p Pair, store *Store) {
	Serve(t, p.Hub, store, limits, nil)
	content := Bytes(1, 5_000_000)
	d := spare.Sum(content)
	put := func() error {
		return protocol.PutBlob(within(t), p.Node, d, int64(len(content)), from(content))
	}
	store.Room(0)
	checkRefused(t, put(), protocol.BlobFull, protocol.ErrFull)
	store.Room(1_000_000)
	checkRefused(t, put(), protocol.BlobFull, protocol.ErrFull)
	if store.Content(t, d) != nil {
		t.Fatal("half a blob was stored")
	}
	// Once there is room it goes on where it stopped.
	store.Room(4_000_000)
	must(t, put())
	checkBytes(t, store.Content(t, d), content)
}
