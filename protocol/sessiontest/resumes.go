package sessiontest

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/protocol"
)

func runResumes(t *testing.T, open Open) {
	t.Run("PutGoesOnFromAnyOffset", func(t *testing.T) {
		p, store := open(t), NewStore(t)
		Serve(t, p.Hub, store, limits, nil)
		const size = 200_000
		for i, offset := range []int64{1, 65535, 65536, 65537, size - 1, size} {
			content := Bytes(uint64(i), size)
			d := spare.Sum(content)
			store.Begin(t, d, size, content[:offset])
			asked := int64(-1)
			must(t, protocol.PutBlob(within(t), p.Node, d, size, func(at int64) (io.ReadCloser, error) {
				asked = at
				return from(content)(at)
			}))
			if offset < size && asked != offset {
				t.Fatalf("asked for the bytes from %d, want %d", asked, offset)
			}
			checkBytes(t, store.Content(t, d), content)
		}
	})
	t.Run("WrongBeginningIsThrownAway", func(t *testing.T) {
		p, store := open(t), NewStore(t)
		Serve(t, p.Hub, store, limits, nil)
		content := Bytes(1, 100_000)
		d := spare.Sum(content)
		put := func() error {
			return protocol.PutBlob(within(t), p.Node, d, int64(len(content)), from(content))
		}
		store.Begin(t, d, int64(len(content)), Bytes(2, 50_000))
		checkRefused(t, put(), protocol.BlobMismatch, protocol.ErrMismatch)
		must(t, put())
		checkBytes(t, store.Content(t, d), content)
	})
	t.Run("WholeButWrongIsTakenAnew", func(t *testing.T) {
		p, store := open(t), NewStore(t)
		Serve(t, p.Hub, store, limits, nil)
		content := Bytes(1, 100_000)
		d := spare.Sum(content)
		store.Begin(t, d, int64(len(content)), Bytes(2, len(content)))
		must(t, protocol.PutBlob(within(t), p.Node, d, int64(len(content)), from(content)))
		checkBytes(t, store.Content(t, d), content)
	})
	t.Run("SessionsThatBreakOnTheWay", func(t *testing.T) { breaking(t, open) })
}

// breaking closes session after session somewhere in a transfer: what the next one
// goes on with must come to the whole blob, and none starts from the beginning.
func breaking(t *testing.T, open Open) {
	rng := rand.New(rand.NewPCG(1, 2))
	store := NewStore(t)
	content := Bytes(5, 3_000_000)
	d := spare.Sum(content)
	size := int64(len(content))

	for tries := 0; store.Content(t, d) == nil; tries++ {
		if tries == 50 {
			t.Fatal("the blob never got through")
		}
		p := open(t)
		Serve(t, p.Hub, store, limits, nil)
		left := rng.IntN(1_000_000)
		err := protocol.PutBlob(within(t), p.Node, d, size, func(at int64) (io.ReadCloser, error) {
			return io.NopCloser(&breaker{r: bytes.NewReader(content[at:]), left: left, s: p.Node}), nil
		})
		if err == nil {
			checkBytes(t, store.Content(t, d), content)
		}
	}

	var got bytes.Buffer
	for tries := 0; int64(got.Len()) < size; tries++ {
		if tries == 50 {
			t.Fatal("the blob never came")
		}
		p := open(t)
		Serve(t, p.Hub, store, limits, nil)
		left := rng.IntN(1_000_000)
		_, _ = protocol.GetBlob(within(t), p.Node, d, int64(got.Len()), thenTell(&got, func(n int) {
			if left -= n; left < 0 {
				_ = p.Hub.Close(protocol.CodeNone, "broken on purpose")
			}
		}))
	}
	checkBytes(t, got.Bytes(), content)
}

// A breaker closes a session once some bytes were read.
type breaker struct {
	r    io.Reader
	left int
	s    protocol.Session
}

func (b *breaker) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= n; b.left < 0 {
		_ = b.s.Close(protocol.CodeNone, "broken on purpose")
	}
	return n, err
}

// thenTell writes to w and then says how much.
func thenTell(w io.Writer, then func(int)) io.Writer {
	return writerFunc(func(b []byte) (int, error) {
		n, err := w.Write(b)
		then(n)
		return n, err
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
